"""From a configuration to a trained model folder, in stages that can each be resumed."""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from hyperkit_mol import runs
from hyperkit_mol.chem.prepare import TreeDataset, cpu_count, prepare
from hyperkit_mol.chem.reading import read_smiles_file
from hyperkit_mol.files import replacing
from hyperkit_mol.generator.autoencoder import Autoencoder, Latent
from hyperkit_mol.generator.callbacks import TrainingProgress, progress_bar
from hyperkit_mol.generator.config import RunConfig, load_config
from hyperkit_mol.generator.lightning_modules import AutoencoderTraining, GANTraining
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.generator.stream import split
from hyperkit_mol.generator.takeover import take_autoencoder
from hyperkit_mol.runs import RunError, claim_run, open_run, quiet, sole_owner
from hyperkit_mol.terminal import say

__all__ = ["RunError", "TrainResult", "load_data", "train"]

# Part of the time that the latent GAN may use when --max-time is given.
_GAN_SHARE = 0.25


@dataclass
class TrainResult:
    """Where the model is, and what was measured on the way."""

    model: Path
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)


def default_cache() -> Path:
    """Folder for prepared data (``HYPERKIT_CACHE`` overrides it)."""
    return Path(os.environ.get("HYPERKIT_CACHE") or platformdirs.user_cache_dir("hyperkit")) / "molecules"


def load_data(
    config: RunConfig, console: Console, jobs: int | None = None, cache: Path | None = None
) -> TreeDataset:
    """Read and prepare the molecules of a run."""
    data = config.data
    lines: list[int] | None = None
    if data.source == "moses":
        from hyperkit_mol.moses.data import load_split

        smiles, name = load_split("train"), "MOSES train"
    else:
        file = read_smiles_file(data.source)
        smiles, lines, name = file.smiles, file.lines, data.source
    if data.limit is not None and data.limit < len(smiles):
        chosen = np.sort(
            np.random.default_rng([config.seed, 0]).permutation(len(smiles))[: data.limit]
        ).tolist()
        smiles = [smiles[i] for i in chosen]
        lines = [lines[i] for i in chosen] if lines is not None else [i + 1 for i in chosen]
    begin = time.monotonic()
    with progress_bar(console) as bar:
        task = bar.add_task("Preparing molecules", total=len(smiles), note="")
        found = prepare(
            smiles,
            lines=lines,
            min_count=data.min_count,
            max_atoms=data.max_atoms,
            keep_largest_fragment=data.keep_largest_fragment,
            max_bad=data.max_bad,
            jobs=jobs,
            cache=cache or default_cache(),
            source=name,
            progress=lambda done, _: bar.update(task, completed=done),
        )
        bar.update(task, completed=len(smiles))
    seconds = time.monotonic() - begin
    motifs = f"vocabulary of {len(found.vocabulary):,} motifs"
    say(console, f"{name}: {len(smiles):,} molecules in {seconds:.1f} s; {motifs}")
    for line in found.report.lines():
        say(console, f"  {line}")
    return found


def train(
    config: RunConfig,
    output: str | Path,
    *,
    resume: bool = False,
    max_seconds: float | None = None,
    devices: int | str = 1,
    jobs: int | None = None,
    cache: Path | None = None,
    console: Console | None = None,
) -> TrainResult:
    """Train autoencoder and prior; write ``output/model``.

    Parameters
    ----------
    config : RunConfig
    output : str or Path
        Folder of the run: configuration, logs (CSV and TensorBoard), checkpoints, model.
    resume : bool
        Go on from the checkpoints in `output`; the losses are those of a run that was never stopped.
    max_seconds : float, optional
        Stop training in time for this; what is trained by then is kept and saved.
    devices : int or str
        Lightning's ``devices``.
    jobs : int, optional
        Processes for preprocessing.
    cache : Path, optional
        Folder for prepared data.

    Raises
    ------
    RunError
        If `output` cannot be written, holds another run, or there is nothing to resume.
    """
    with sole_owner(Path(output)):
        return _train(config, Path(output), resume, max_seconds, devices, jobs, cache, console or Console())


def _train(
    config: RunConfig,
    output: Path,
    resume: bool,
    max_seconds: float | None,
    devices: int | str,
    jobs: int | None,
    cache: Path | None,
    console: Console,
) -> TrainResult:
    begin = time.monotonic()
    config = open_run(config, output, resume, load_config)
    quiet()
    data = load_data(config, console, jobs, cache)
    claim_run(config, output)  # not before: a file that cannot be used leaves the folder free
    train_index, held_index = split(data, config.data.validation, None, config.seed)

    torch.manual_seed(config.seed)
    model = MoleculeGenerator(data.vocabulary, config)
    count = sum(p.numel() for p in model.parameters())
    say(
        console,
        f"{len(train_index):,} molecules to train on, {len(held_index):,} to validate on; "
        f"{count:,} parameters, {config.model.geometry} geometry",
    )

    def left() -> float | None:
        return None if max_seconds is None else max(1.0, max_seconds - (time.monotonic() - begin))

    remaining = left()
    share = 1 - _GAN_SHARE if config.prior == "gan" else 1.0
    stage = AutoencoderTraining(model.autoencoder, config, data, train_index, held_index)
    limit = None if remaining is None else remaining * share
    metrics: dict[str, float] = {}
    if config.autoencoder_from is not None:
        stage.before = take_autoencoder(model, Path(config.autoencoder_from))
        say(console, f"Autoencoder of {config.autoencoder_from} ({stage.before:,} steps)")
    if config.autoencoder_from is None or config.finetune:
        metrics = _fit(
            stage,
            output,
            "autoencoder",
            config.autoencoder.batch_size,
            limit,
            devices,
            console,
            validate_every=max(1, round(config.autoencoder.validate_every / config.autoencoder.save_every)),
        )
    model.info = {
        "source": config.data.source,
        "molecules": len(train_index),
        "autoencoder_steps": stage.before + stage.step,
        "seed": config.seed,
        "machine": f"{platform.machine()}, {cpu_count()} processors",
    }
    model.autoencoder.eval()
    if not _leave_group():
        return TrainResult(output / "model", time.monotonic() - begin, metrics)

    if config.prior != "vae":
        index = train_index if config.prior != "gan" else train_index[: config.gan.latents]
        steps = stage.before + stage.step
        path = output / "latents.safetensors"
        latents, fresh = _latents(model.autoencoder, data, index, path, steps, console)
        if fresh:  # a GAN of an earlier state of the autoencoder is of no use
            shutil.rmtree(output / "gan", ignore_errors=True)
        if model.normal is not None:
            torch.manual_seed(config.seed)
            with torch.no_grad():
                blurred = model.autoencoder.blur(latents, fade=config.fade)
            model.normal.fit(torch.cat([model.autoencoder.latents.log0(x) for x in blurred], -1))
        if model.gan is not None:
            gan = GANTraining(model.gan, model.autoencoder, latents, config)
            metrics |= _fit(gan, output, "gan", config.gan.batch_size, left(), 1, console)
            model.gan.load_state_dict(gan.average.state_dict())
            model.info["gan_steps"] = gan.step

    seconds = time.monotonic() - begin
    model.info |= {"seconds": round(seconds, 1), "metrics": metrics}
    model.save(output / "model")
    console.print(f"Model written to {output / 'model'} after {seconds / 60:.1f} min")
    return TrainResult(output / "model", seconds, metrics)


def _leave_group() -> bool:
    """End the distributed part of a run; True in the process that goes on alone.

    The latents fit in memory and the GAN is small: it trains in the first process. The others' variables
    would make Lightning wait for them.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        first = torch.distributed.get_rank() == 0
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        single = "RANK LOCAL_RANK NODE_RANK GROUP_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT"
        several = [k for k in os.environ if k.startswith(("TORCHELASTIC_", "SLURM_"))]
        for name in single.split() + several:
            os.environ.pop(name, None)
        return first
    return True


def _fit(
    module: Any,
    output: Path,
    name: str,
    per_step: int,
    limit: float | None,
    devices: int | str,
    console: Console,
    validate_every: int = 1,
) -> dict[str, float]:
    """Train one stage in its own folder. Returns the last metrics."""
    titles = {"autoencoder": "Training the autoencoder", "gan": "Training the latent GAN"}
    progress = TrainingProgress(console, titles[name], per_step, limit)
    found = runs.fit(
        module,
        progress,
        last=output / name / "last.ckpt",
        tensorboard=output / name,
        limit=limit,
        devices=devices,
        console=console,
        validate_every=validate_every,
        clip=getattr(module.config, name).clip if module.automatic_optimization else None,
    )
    if found is None:
        return {}
    metrics = {k: round(float(v), 5) for k, v in found.items()}
    return metrics | {f"{name}/molecules_per_second": round(progress.rate, 1)}


def _latents(
    model: Autoencoder, data: TreeDataset, index: Any, path: Path, step: int, console: Console
) -> tuple[Latent, bool]:
    """Latents of `index`, computed once and kept beside the run; and whether they were computed now."""
    mark = {"step": str(step), "count": str(len(index))}
    if path.exists():
        from safetensors import safe_open

        with safe_open(str(path), "pt") as stream:
            if stream.metadata() == mark:
                kept = load_file(str(path))
                return Latent(kept["tree"], kept["graph"]), False
    with progress_bar(console) as bar:
        task = bar.add_task("Encoding", total=len(index), note="")
        latents = model.encode_all(data, index, lambda count: bar.advance(task, count))
    with replacing(path) as temporary:
        save_file(latents._asdict(), str(temporary), metadata=mark)
    return latents, True
