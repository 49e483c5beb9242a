"""The configuration of a potential: YAML checked by pydantic, with shipped presets."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hyperkit_mol.generator.config import ConfigError
from hyperkit_mol.potentials.units import ENERGY_UNITS, LENGTH_UNITS, force_unit, named_unit

__all__ = [
    "MODELS",
    "PRESETS",
    "ConfigError",
    "DataConfig",
    "ModelConfig",
    "PotentialConfig",
    "PretrainingConfig",
    "TrainingConfig",
    "load_config",
]

MODELS = ("escaip", "transformer")
PRESETS = ("small", "medium", "large")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Strict):
    """Which structures to train on."""

    train: str | None = Field(None, description="file of structures that ASE reads")
    validation: str | float = Field(0.1, description="a file, a fraction below 1, or a number of structures")
    isolated_atoms: str | None = Field(
        None, description="file of single atoms with energies; least squares if left out"
    )
    limit: int | None = Field(None, ge=2, description="train and validate on a random part of this many")
    energy_key: str = "energy"
    forces_key: str = "forces"
    charge_key: str = "charge"
    spin_key: str = "spin"
    energy_unit: str = Field("eV", description=f"of the files: {', '.join(ENERGY_UNITS)}")
    length_unit: str = Field("Å", description=f"of the files: {', '.join(LENGTH_UNITS)}")
    force_unit: str | None = Field(None, description="energy_unit/length_unit if left out; e.g. Hartree/bohr")
    cache: bool = Field(True, description="keep parsed copies of large files in the user's cache folder")

    @field_validator("energy_unit", "length_unit", "force_unit")
    @classmethod
    def _named(cls, value: str | None, info: ValidationInfo) -> str | None:
        field = str(info.field_name)
        try:
            if value is None or field == "force_unit":
                return None if value is None else force_unit(value)
            return named_unit(value, ENERGY_UNITS if field == "energy_unit" else LENGTH_UNITS, field)
        except ValueError as err:
            # What was got is said where this is caught.
            raise ValueError(str(err).rpartition(", got ")[0]) from None


class ModelConfig(_Strict):
    """Sizes of a model. Fields that only one of the two models reads say which."""

    kind: Literal["escaip", "transformer"] = "escaip"
    attention: Literal["euclidean", "lorentz"] = "euclidean"
    curvature: float = Field(1.0, gt=0, description="c of the Lorentz attention; the curvature is -c")
    forces: Literal["conservative", "direct"] = "conservative"
    width: int = Field(64, ge=4)
    layers: int = Field(3, ge=1)
    heads: int = Field(4, ge=1)
    feed_forward: int = Field(2, ge=1, description="width of a feed-forward layer, as a multiple of width")
    cutoff: float = Field(5.0, gt=0.2, description="Å (escaip)")
    max_neighbors: int | None = Field(
        None, ge=2, description="fade out all but about this many nearest neighbours (escaip)"
    )
    radial: int = Field(16, ge=2, description="radial functions (escaip)")
    radial_basis: Literal["bessel", "gaussian"] = Field("bessel", description="(escaip)")
    degrees: int = Field(4, ge=1, description="Legendre degrees 0 to degrees - 1 in a logit (escaip)")

    @model_validator(mode="after")
    def _divides(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got width {self.width} and heads {self.heads}")
        per_head = self.width // self.heads
        if self.kind == "escaip" and per_head % self.degrees:
            raise ValueError(
                f"degrees must divide width/heads, got width/heads {per_head} and degrees {self.degrees}"
            )
        return self


class TrainingConfig(_Strict):
    """Optimisation."""

    steps: int = Field(5000, ge=1)
    batch_size: int = Field(10, ge=1)
    optimizer: Literal["muon", "adam"] = Field("muon", description="for matrices in blocks; others Adam")
    lr: float = Field(3e-3, gt=0, description="of Adam")
    matrix_lr: float = Field(0.01, gt=0, description="of Muon: how far singular values move in a step")
    warmup: int = Field(100, ge=0)
    final_lr: float = Field(0.01, ge=0, le=1, description="learning rate at the end, as a part of lr")
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(1e-4, ge=0, description="of matrices that Adam moves")
    matrix_decay: float = Field(0.1, ge=0, description="of matrices that Muon moves; bounds their size")
    clip: float = Field(10.0, gt=0, description="largest gradient norm")
    ema: float = Field(0.995, ge=0, lt=1, description="decay of the averaged weights that are saved")
    energy_weight: float = Field(1.0, ge=0, description="of |E - E'| per atom, over the force scale x 1 Å")
    forces_weight: float = Field(1.0, ge=0, description="of the mean |F - F'|, over the force scale")
    rotate: bool | None = Field(None, description="rotation augmentation; by default where it is needed")
    schedule: Literal["cosine", "plateau"] = Field(
        "cosine", description="plateau: x 0.8 where the validation force error has not fallen for `patience`"
    )
    patience: int = Field(10, ge=1, description="validations without progress (schedule: plateau)")
    dtype: Literal["float32", "float64", "bfloat16"] = Field(
        "float32", description="bfloat16: float32 weights, matrix products in bfloat16 while training"
    )
    compile: bool = Field(False, description="compile energy and forces into one graph (a minute to begin)")
    start: str | None = Field(None, description="model folder to begin from: its weights, not its references")
    save_every: int = Field(100, ge=1, description="steps between checkpoints")
    validate_every: int = Field(500, ge=1, description="steps between validations")


class PretrainingConfig(_Strict):
    """The Transformer's first stage: cross-entropy on discretised structures. 0 steps leave it out."""

    steps: int = Field(0, ge=0)
    batch_size: int = Field(32, ge=1)
    lr: float = Field(3e-4, gt=0)
    warmup: int = Field(100, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    bins: int = Field(10, ge=2, le=32, description="of each coordinate; three of them are one token")
    energy_bins: int = Field(2048, ge=2, description="at most one for each structure")
    save_every: int = Field(100, ge=1, description="steps between checkpoints")
    validate_every: int = Field(500, ge=1, description="steps between validations")


class PotentialConfig(_Strict):
    """Everything that decides a run."""

    seed: int = Field(0, ge=0)
    data: DataConfig = DataConfig()  # pyright: ignore[reportCallIssue]
    model: ModelConfig = ModelConfig()  # pyright: ignore[reportCallIssue]
    pretraining: PretrainingConfig = PretrainingConfig()  # pyright: ignore[reportCallIssue]
    training: TrainingConfig = TrainingConfig()  # pyright: ignore[reportCallIssue]

    @model_validator(mode="after")
    def _stages(self) -> PotentialConfig:
        if self.pretraining.steps and self.model.kind != "transformer":
            raise ValueError("pretraining is the Transformer's first stage: set model.kind to transformer")
        if self.pretraining.steps and self.training.start:
            raise ValueError(
                "give pretraining.steps or training.start, not both: each decides the first weights"
            )
        if self.training.compile and self.model.forces != "conservative":
            raise ValueError(
                "training.compile is for forces: conservative; direct ones need no second derivative"
            )
        return self


def load_config(
    source: str | Path = "small", model: str = "escaip", overrides: dict[str, Any] | None = None
) -> PotentialConfig:
    """Read a preset by name, or a YAML file, and check it.

    Parameters
    ----------
    source : str or Path
        One of :data:`PRESETS`, or a YAML file.
    model : str
        One of :data:`MODELS`; with a preset only, a file says it itself by ``model.kind``.
    overrides : dict, optional
        Values by dotted key (``{"model.width": 64}``), set last.

    Raises
    ------
    ConfigError
        Naming the wrong key or value and what is accepted.
    """
    if str(source) in PRESETS:
        if model not in MODELS:
            raise ConfigError(f"model must be one of {', '.join(MODELS)}, got {model!r}")
        name = f"{model}-{source}.yaml"
        text = resources.files("hyperkit_mol.potentials").joinpath("presets", name).read_text()
    else:
        path = Path(source)
        if not path.is_file():
            raise ConfigError(f"{source}: neither a preset ({', '.join(PRESETS)}) nor a file")
        text = path.read_text(errors="replace")
    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as err:
        raise ConfigError(f"{source}: not YAML ({err})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: expected settings as 'key: value', found {type(data).__name__}")
    for key, value in (overrides or {}).items():
        target = data
        *folders, last = key.split(".")
        for folder in folders:
            target = target.setdefault(folder, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{key}: {folder} is a value, not a group of settings")
        target[last] = value
    try:
        return PotentialConfig.model_validate(data)
    except ValidationError as err:
        raise ConfigError(_explain(err, str(source))) from None


def _explain(err: ValidationError, source: str) -> str:
    rows = []
    for e in err.errors():
        key = ".".join(str(part) for part in e["loc"])
        if e["type"] == "extra_forbidden":
            group = PotentialConfig.model_fields.get(str(e["loc"][0])) if len(e["loc"]) > 1 else None
            known = getattr(group.annotation if group else PotentialConfig, "model_fields", {})
            rows.append(f"  {key}: no such key; known here: {', '.join(sorted(known))}")
        else:
            rows.append(f"  {key or 'configuration'}: {e['msg']}, got {e['input']!r}")
    return f"{source}: wrong configuration\n" + "\n".join(rows)
