"""The one configuration of a run: YAML checked by pydantic, with shipped presets."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = [
    "PRESETS",
    "AutoencoderConfig",
    "ConfigError",
    "DataConfig",
    "GANConfig",
    "ModelConfig",
    "RunConfig",
    "load_config",
]

PRESETS = ("demo", "moses-cpu", "moses-gpu")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Strict):
    """Which molecules to train on."""

    source: str = Field("moses", description="'moses', or a file of SMILES (plain, CSV, gzip)")
    limit: int | None = Field(None, ge=10, description="train on a random part of this many molecules")
    validation: int = Field(5000, ge=1, description="molecules set aside to validate on")
    min_count: int = Field(1, ge=1, description="leave out motifs that are seen less often")
    max_atoms: int = Field(64, ge=1, description="skip molecules with more heavy atoms")
    keep_largest_fragment: bool = Field(False, description="of salts, keep the largest fragment")
    max_bad: int = Field(100, ge=0, description="fail when more SMILES than this cannot be parsed")


class ModelConfig(_Strict):
    """Sizes of the autoencoder. Widths are dimensions of the manifold: a point has one coordinate more."""

    geometry: Literal["lorentz", "euclidean"] = "lorentz"
    curvature: float = Field(1.0, gt=0, description="c: the sectional curvature is -c")
    width: int = Field(128, ge=8)
    latent: int = Field(64, ge=2, description="width of each of the two latents (tree and graph)")
    site_width: int = Field(32, ge=4, description="width of the points that stand for attachment sites")
    encoder_layers: int = Field(4, ge=1)
    decoder_layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    feed_forward: int = Field(256, ge=8)
    dropout: float = Field(0.0, ge=0, lt=1)
    head_size: int = Field(512, ge=8, description="labels in the first level of the two-level softmax")
    posterior: Literal["point", "normal"] = Field(
        "point",
        description="a point with noise of fixed size, or a wrapped normal with a KL term",
    )
    latent_noise: float = Field(0.15, ge=0, description="std of the noise on a point latent in training")
    kl_weight: float = Field(0.05, ge=0, description="weight of the KL term (normal posterior only)")
    prior_std: float = Field(0.25, gt=0, description="std of the wrapped normal of the KL term and of fading")
    faded: float = Field(
        0.0,
        ge=0,
        le=1,
        description="part of the molecules whose latents are faded by a random amount in training; above 0 "
        "the decoder is told the amount, and `fade` can be chosen",
    )

    mass: bool = Field(
        False,
        description="tell the decoder the molar mass of what it has built: it keeps to the range of the data",
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got width {self.width} and heads {self.heads}")
        return self


class AutoencoderConfig(_Strict):
    """Training of the autoencoder."""

    batch_size: int = Field(512, ge=1)
    steps: int = Field(20_000, ge=1)
    lr: float = Field(2e-3, gt=0)
    warmup: int = Field(500, ge=0)
    kl_warmup: int = Field(0, ge=0, description="steps over which the weight of the KL term rises from 0")
    final_lr: float = Field(0.02, ge=0, le=1, description="learning rate at the end, as a part of lr")
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = Field(1.0, gt=0, description="largest gradient norm")
    by_size: bool = Field(
        False,
        description="batches of molecules of one size, as they were once: large molecules, whose gradients "
        "are clipped the most, then count for less than they should",
    )
    validate_every: int = Field(500, ge=1)
    save_every: int = Field(200, ge=1)


class GANConfig(_Strict):
    """Training of the latent GAN (arXiv:2201.12825, section 4)."""

    base: Literal["normal", "noise"] = Field(
        "normal",
        description="where the generator starts: the wrapped normal fitted to the latents, or noise",
    )
    noise: int = Field(64, ge=2)
    hidden: int = Field(256, ge=8)
    depth: int = Field(3, ge=1)
    batch_size: int = Field(512, ge=2)
    steps: int = Field(5000, ge=1)
    critic_steps: int = Field(5, ge=1)
    penalty: float = Field(10.0, ge=0)
    lr: float = Field(2e-4, gt=0)
    decay: float = Field(0.3, ge=0, le=1, description="last part of the steps, in which lr falls to 0")
    betas: tuple[float, float] = (0.0, 0.9)
    dropout: float = Field(0.0, ge=0, lt=1)
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the averaged generator that is sampled")
    latents: int = Field(200_000, ge=2, description="latents of at most this many molecules are used")
    save_every: int = Field(500, ge=1)


class RunConfig(_Strict):
    """Everything that decides a run."""

    prior: Literal["gan", "wrapped-normal", "vae"] = Field(
        "gan", description="where latents come from when molecules are sampled"
    )
    seed: int = Field(0, ge=0)
    autoencoder_from: str | None = Field(
        None,
        description="run or model folder whose trained autoencoder is taken over: only the prior is trained",
    )
    finetune: bool = Field(False, description="train the autoencoder that was taken over further")
    fade: float = Field(
        0.0,
        ge=0,
        le=1,
        description="how far the latents that the prior learns and samples are faded: 0 tells the decoder "
        "everything, 1 nothing (needs model.faded > 0)",
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="of the decoder's choices when molecules are sampled: 1 samples the model as it is, "
        "less keeps to what is likelier",
    )
    data: DataConfig = DataConfig()  # pyright: ignore[reportCallIssue]
    model: ModelConfig = ModelConfig()  # pyright: ignore[reportCallIssue]
    autoencoder: AutoencoderConfig = AutoencoderConfig()  # pyright: ignore[reportCallIssue]
    gan: GANConfig = GANConfig()  # pyright: ignore[reportCallIssue]

    @model_validator(mode="after")
    def _has_a_source(self) -> RunConfig:
        if self.finetune and self.autoencoder_from is None:
            raise ValueError("finetune needs autoencoder_from, the run or model to go on from")
        if self.fade > 0 and self.model.faded == 0:
            raise ValueError("fade > 0 needs model.faded > 0: a decoder that was trained on faded latents")
        return self


def load_config(source: str | Path = "moses-cpu", overrides: dict[str, Any] | None = None) -> RunConfig:
    """Read a preset by name or a YAML file, and check it.

    Parameters
    ----------
    source : str or Path
        One of :data:`PRESETS`, or a YAML file. A file may begin from a preset by the key ``preset``.
    overrides : dict, optional
        Values by dotted key (``{"model.width": 64}``), set last.

    Raises
    ------
    ConfigError
        Naming the wrong key or value and what is accepted.
    """
    data = _read(source)
    for key, value in (overrides or {}).items():
        target = data
        *folders, name = key.split(".")
        for folder in folders:
            target = target.setdefault(folder, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{key}: {folder} is a value, not a group of settings")
        target[name] = value
    try:
        return RunConfig.model_validate(data)
    except ValidationError as err:
        raise ConfigError(_explain(err, str(source))) from None


def _read(source: str | Path) -> dict[str, Any]:
    if str(source) in PRESETS:
        text = resources.files("hyperkit_mol.generator").joinpath("presets", f"{source}.yaml").read_text()
    else:
        path = Path(source)
        if not path.is_file():
            raise ConfigError(f"{source}: neither a preset ({', '.join(PRESETS)}) nor a file")
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as err:
            raise ConfigError(f"{source}: cannot be read ({err})") from err
    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as err:
        raise ConfigError(f"{source}: not YAML ({err})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: expected settings as 'key: value', found {type(data).__name__}")
    preset = data.pop("preset", None)
    if preset is not None:
        if preset not in PRESETS:
            raise ConfigError(f"{source}: preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        data = _merge(_read(preset), data)
    return data


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merge(out[key], value) if both else value
    return out


def _explain(err: ValidationError, source: str) -> str:
    rows = []
    for e in err.errors():
        key = ".".join(str(part) for part in e["loc"])
        if e["type"] == "extra_forbidden":
            group: Any = RunConfig
            for part in e["loc"][:-1]:
                field = group.model_fields.get(str(part))
                if field is None or not isinstance(field.annotation, type):
                    break
                group = field.annotation
            rows.append(f"  {key}: no such key; known here: {', '.join(sorted(group.model_fields))}")
        else:
            rows.append(f"  {key or 'configuration'}: {e['msg']}, got {e['input']!r}")
    return f"{source}: wrong configuration\n" + "\n".join(rows)
