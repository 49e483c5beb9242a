"""From a configuration to a trained potential, and from a potential to its errors on a file."""

from __future__ import annotations

import json
import platform
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from rich.console import Console

from hyperkit_mol import runs
from hyperkit_mol.chem.prepare import cpu_count
from hyperkit_mol.generator.callbacks import (
    TrainingProgress,
    progress_bar,
)
from hyperkit_mol.potentials.batch import Structure
from hyperkit_mol.potentials.config import DataConfig, PotentialConfig, load_config
from hyperkit_mol.potentials.data import DataKeys, read_structures, split_structures
from hyperkit_mol.potentials.errors import DataError, telling
from hyperkit_mol.potentials.model_files import load_potential, save_potential
from hyperkit_mol.potentials.potential import Potential
from hyperkit_mol.potentials.statistics import describe, isolated_energies, normalization
from hyperkit_mol.potentials.training import LabelledSet, PotentialTraining
from hyperkit_mol.potentials.transfer import take_weights
from hyperkit_mol.potentials.units import Units
from hyperkit_mol.runs import claim_run, open_run, quiet, sole_owner
from hyperkit_mol.terminal import say

__all__ = ["Errors", "TrainResult", "evaluate", "load_data", "predict", "train"]


@dataclass
class TrainResult:
    """Where the model is, and what was measured on the way."""

    model: Path
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class Errors:
    """Errors on a labelled set: energies in meV, forces in meV/Å over components."""

    structures: int
    energy_rmse: float
    energy_mae: float
    energy_rmse_per_atom: float
    force_rmse: float
    force_mae: float
    seconds: float


class _Progress(TrainingProgress):
    """The generator's bar with a potential's figures."""

    @staticmethod
    def _losses(trainer: L.Trainer) -> str:
        found = trainer.callback_metrics
        parts = []
        if "train/loss" in found:
            parts.append(f"loss {float(found['train/loss']):.4f}")
        if "val/loss" in found:
            parts.append(f"val {float(found['val/loss']):.4f}")
        for stage, name in (("train", "batch"), ("val", "val")):
            if f"{stage}/force_rmse" in found:
                e, f = (float(found[f"{stage}/{k}_rmse"]) for k in ("energy", "force"))
                parts.append(f"{name} RMSE {e:.1f} meV {f:.1f} meV/Å")
        return "  ".join(parts)


def load_data(
    config: DataConfig, seed: int = 0
) -> tuple[list[Structure], list[Structure], dict[int, float] | None]:
    """Read what a run trains on, what it validates on, and the isolated atoms (None: to be fitted).

    Frames of a single atom in the training file count as isolated atoms, as in many public sets.

    Raises
    ------
    DataError, StructureError
        See :func:`~hyperkit_mol.potentials.data.read_structures`.
    """
    if config.train is None:
        raise DataError("no data: name a file of structures by --data (or data.train)")
    keys = DataKeys(config.energy_key, config.forces_key, config.charge_key, config.spin_key)
    units = Units(config.energy_unit, config.length_unit, config.force_unit)
    read = read_structures(config.train, keys, units=units, cache=config.cache)
    molecules = [s for s in read if len(s) > 1]
    atoms = [s for s in read if len(s) == 1]
    if config.isolated_atoms is not None:
        energy_only = DataKeys(keys.energy, keys.forces)  # such a file need not have a charge
        atoms = read_structures(config.isolated_atoms, energy_only, units=units)
    if len(molecules) < 2:
        raise DataError(
            f"{config.train}: at least 2 structures of 2 or more atoms are needed, found {len(molecules)}"
        )
    if config.limit is not None and config.limit < len(molecules):
        chosen = np.random.default_rng([seed, 5]).permutation(len(molecules))[: config.limit]
        molecules = [molecules[k] for k in sorted(chosen)]
    share = _number(config.validation)
    if share is None:
        held = read_structures(str(config.validation), keys, units=units, cache=config.cache)
        held = [s for s in held if len(s) > 1]
        if not held:
            raise DataError(f"{config.validation}: no structures of more than one atom")
        return molecules, held, isolated_energies(atoms) if atoms else None
    part, held = split_structures(molecules, share, seed)
    return part, held, isolated_energies(atoms) if atoms else None


def _number(value: str | float) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def train(
    config: PotentialConfig,
    output: str | Path,
    *,
    resume: bool = False,
    max_seconds: float | None = None,
    devices: int | str = 1,
    console: Console | None = None,
) -> TrainResult:
    """Train a potential; write ``output/model``.

    Parameters
    ----------
    config : PotentialConfig
    output : str or Path
        Folder of the run: configuration, logs (CSV and TensorBoard), checkpoint, model.
    resume : bool
        Go on from the checkpoint in `output`; the losses are those of a run that was never stopped.
    max_seconds : float, optional
        Stop training in time for this; what is trained by then is kept and saved.
    devices : int or str
        Lightning's ``devices``.

    Raises
    ------
    RunError
        If `output` cannot be written, holds another run, or its checkpoint is damaged.
    DataError, StructureError, ModelError
        For data that cannot be trained on.
    """
    with sole_owner(Path(output)):
        return _train(config, Path(output), resume, max_seconds, devices, console or Console())


def _train(
    config: PotentialConfig,
    output: Path,
    resume: bool,
    max_seconds: float | None,
    devices: int | str,
    console: Console,
) -> TrainResult:
    begin = time.monotonic()
    config = open_run(config, output, resume, load_config)
    quiet()
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # the average, on purpose
    with telling(lambda text: say(console, text)):
        structures, held, given = load_data(config.data, config.seed)
    units = normalization(structures, given)
    say(console, f"{config.data.train}: training on")
    for line in describe(structures, units.references):
        say(console, f"  {line}")
    source = "isolated atoms" if given else "least squares over the training set"
    say(console, f"  reference energies from {source}; force scale {units.scale:.3f} eV/Å")

    dtype = torch.float64 if config.training.dtype == "float64" else torch.float32
    cutoff = config.model.cutoff if config.model.kind == "escaip" else None
    data = LabelledSet(structures, cutoff, dtype)
    old = None if config.training.start is None else load_potential(config.training.start)
    torch.manual_seed(config.seed)
    # Weights belong to sums that were divided by this number.
    neighbors = data.mean_neighbors if old is None else old.neighbors
    potential = Potential(config.model, units, neighbors).to(dtype)
    potential.check([*structures, *held])
    kept = LabelledSet(held, cutoff, dtype)
    if old is not None:
        strange = take_weights(potential, old)
        note = f"; new to it: {', '.join(strange)}" if strange else ""
        say(console, f"beginning from the weights of {config.training.start}{note}")
    # Not before everything has been read and checked: a mistake in a file name must not occupy the folder.
    claim_run(config, output)
    count = sum(p.numel() for p in potential.parameters())
    graph = "" if cutoff is None else f", {data.mean_neighbors:.1f} neighbours within {cutoff:g} Å"
    say(
        console,
        f"{len(structures):,} structures to train on, {len(held):,} to validate on; {config.model.kind} with "
        f"{count:,} parameters, {config.model.attention} attention, {config.model.forces} forces{graph}",
    )

    def left() -> float | None:
        return None if max_seconds is None else max(1.0, max_seconds - (time.monotonic() - begin))

    if config.pretraining.steps and not _pretrain(
        potential, config, data, kept, output, left(), devices, console
    ):
        say(console, f"Time was up in pre-training; go on with --resume in {output}")
        return TrainResult(output / "model", time.monotonic() - begin)
    module = PotentialTraining(potential, config, data, kept)
    metrics = _fit(module, output, left(), devices, console)
    seconds = time.monotonic() - begin
    if runs.rank() > 0:  # the model is the first process's to write
        return TrainResult(output / "model", seconds, metrics)
    final = module.average
    final.requires_grad_(True)
    info = {
        "train": config.data.train,
        "structures": len(structures),
        "steps": module.step,
        "seed": config.seed,
        "seconds": round(seconds, 1),
        "machine": f"{platform.machine()}, {cpu_count()} processors, torch {torch.__version__}",
        "metrics": metrics,
    }
    save_potential(output / "model", final, info)
    say(console, f"Model written to {output / 'model'} after {seconds / 60:.1f} min")
    if "val/force_rmse" in metrics:
        e, f = metrics["val/energy_rmse"], metrics["val/force_rmse"]
        say(console, f"Validation RMSE: energy {e:.2f} meV, forces {f:.2f} meV/Å")
    return TrainResult(output / "model", seconds, metrics)


def _pretrain(
    potential: Potential,
    config: PotentialConfig,
    data: LabelledSet,
    held: LabelledSet,
    output: Path,
    limit: float | None,
    devices: int | str,
    console: Console,
) -> bool:
    """The Transformer's first stage; False if there was no time to end it."""
    from hyperkit_mol.potentials.pretraining import Autoregressive, Pretraining, discretizer_of

    backbone: Any = potential.backbone
    bins = discretizer_of(data.structures, potential.normalization, config.pretraining)
    model = Autoregressive(backbone, bins, potential.normalization).to(potential.dtype)
    module = Pretraining(model, config.pretraining, config.seed, data, held)
    folder = output / "pretraining"
    folder.mkdir(exist_ok=True)
    runs.fit(
        module,
        _Progress(console, "Pre-training on tokens", config.pretraining.batch_size, limit),
        last=folder / "last.ckpt",
        tensorboard=folder / "tensorboard",
        limit=limit,
        devices=devices,
        console=console,
        validate_every=max(1, round(config.pretraining.validate_every / module.block)),
        clip=1.0,
    )
    # Where a device was used, and validation came last, this stage has moved and switched what they share.
    backbone.to("cpu")
    potential.train()
    return module.step >= module.steps


def _fit(
    module: PotentialTraining, output: Path, limit: float | None, devices: int | str, console: Console
) -> dict[str, float]:
    progress = _Progress(console, "Training the potential", module.settings.batch_size, limit)
    found = runs.fit(
        module,
        progress,
        last=output / "last.ckpt",
        tensorboard=output / "tensorboard",
        limit=limit,
        devices=devices,
        console=console,
        validate_every=max(1, round(module.settings.validate_every / module.block)),
        clip=module.settings.clip,
        inference_mode=False,  # forces are gradients, in validation too
    )
    if found is None:
        return load_metrics(output)
    # Whatever the last validation saw, the figures belong to the weights that are saved.
    module.average.to(module.device)
    errors = _measure(module.average, module.held)
    metrics = {
        "val/energy_rmse": errors.energy_rmse,
        "val/energy_rmse_per_atom": errors.energy_rmse_per_atom,
        "val/force_rmse": errors.force_rmse,
        "structures_per_second": progress.rate,
    }
    return {k: round(v, 4) for k, v in metrics.items()}


def load_metrics(output: Path) -> dict[str, float]:
    """Metrics that an earlier, finished training left in its model."""
    path = output / "model" / "potential.json"
    return json.loads(path.read_text()).get("info", {}).get("metrics", {}) if path.exists() else {}


def predict(
    potential: Potential, structures: list[Structure], batch_size: int = 32, console: Console | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Energies ``(B,)`` in eV and forces ``(n, 3)`` in eV/Å of structures, by batches of like sizes."""
    order = np.argsort([len(s) for s in structures], kind="stable")
    energies, forces = np.empty(len(structures)), [np.empty(0)] * len(structures)
    with progress_bar(console or Console(quiet=True)) as bar:
        task = bar.add_task("Evaluating", total=len(order), note="")
        for begin in range(0, len(order), batch_size):
            rows = order[begin : begin + batch_size]
            found = potential(potential.prepare([structures[k] for k in rows]))
            energies[rows] = found.energy.detach().cpu().numpy()
            parts = found.forces.detach().cpu().double().numpy()
            ends = np.cumsum([len(structures[k]) for k in rows])[:-1]
            for k, part in zip(rows, np.split(parts, ends), strict=True):
                forces[k] = part
            bar.advance(task, len(rows))
    return energies, forces


def _errors(
    structures: list[Structure], energies: np.ndarray, forces: list[np.ndarray], seconds: float
) -> Errors:
    off = 1e3 * (energies - np.array([s.energy for s in structures], dtype=float))
    atoms = np.array([len(s) for s in structures])
    wrong = [
        1e3 * (f - s.forces).ravel() for f, s in zip(forces, structures, strict=True) if s.forces is not None
    ]
    bad = np.concatenate(wrong) if wrong else np.zeros(0)
    return Errors(
        structures=len(structures),
        energy_rmse=float(np.sqrt(np.mean(off**2))),
        energy_mae=float(np.mean(np.abs(off))),
        energy_rmse_per_atom=float(np.sqrt(np.mean((off / atoms) ** 2))),
        force_rmse=float(np.sqrt(np.mean(bad**2))) if bad.size else float("nan"),
        force_mae=float(np.mean(np.abs(bad))) if bad.size else float("nan"),
        seconds=seconds,
    )


def _measure(potential: Potential, data: LabelledSet, console: Console | None = None) -> Errors:
    begin = time.monotonic()
    energies, forces = predict(potential, data.structures, console=console)
    return _errors(data.structures, energies, forces, time.monotonic() - begin)


def evaluate(
    model: str | Path | Potential,
    path: str | Path,
    keys: DataKeys | None = None,
    *,
    units: Units | None = None,
    batch_size: int = 32,
    console: Console | None = None,
) -> Errors:
    """Errors of a potential on a labelled file.

    Parameters
    ----------
    model : str, Path or Potential
        A model folder, or what :func:`~hyperkit_mol.potentials.load_potential` returned.
    path : str or Path
        File of labelled structures; single atoms count as structures.
    keys : DataKeys, optional
    units : Units, optional
        What the file's numbers are in; errors are in meV and meV/Å whatever they are.
    batch_size : int

    Raises
    ------
    ModelError, DataError, StructureError
        For a model or file that cannot be used, and for elements that the model does not know.
    """
    potential = model if isinstance(model, Potential) else load_potential(model)
    potential.eval().requires_grad_(False)
    with telling(lambda text: say(console or Console(quiet=True), text)):
        structures = read_structures(path, keys, units=units, cache=True)
    begin = time.monotonic()
    energies, forces = predict(potential, structures, batch_size, console)
    return _errors(structures, energies, forces, time.monotonic() - begin)
