"""What every training run shares: its folder, its checkpoint, the way Lightning is driven, its time limit."""

from __future__ import annotations

import logging
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
import yaml
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers import TensorBoardLogger
from pydantic import BaseModel
from rich.console import Console

from hyperkit_mol.files import replacing
from hyperkit_mol.generator.callbacks import AtomicCheckpointIO, BlockCheckpoint, TrainingProgress
from hyperkit_mol.generator.logs import ContinuedCSVLogger
from hyperkit_mol.terminal import say

__all__ = [
    "RunError",
    "TimeLimit",
    "claim_run",
    "fit",
    "open_run",
    "placement",
    "quiet",
    "rank",
    "read_checkpoint",
    "sole_owner",
]

Config = TypeVar("Config", bound=BaseModel)

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None


class RunError(RuntimeError):
    """A run that cannot start or go on; the message says what to do."""


def rank() -> int:
    """Rank among the processes of a distributed run (torchrun, Slurm, or Lightning's own)."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def placement(devices: int | str) -> tuple[int | str, int]:
    """Processes on this machine and number of machines: what torchrun or Slurm started, else as asked for."""
    if TorchElasticEnvironment.detect():
        return int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ.get("GROUP_WORLD_SIZE", 1))
    if SLURMEnvironment.detect():
        machines = int(os.environ.get("SLURM_NNODES", 1))
        return int(os.environ["SLURM_NTASKS"]) // machines, machines
    return devices, 1


def open_run(config: Config, output: Path, resume: bool, load: Callable[[Path], Config]) -> Config:
    """Check that `output` can be written and holds the run that is meant; the configuration to go on with.

    Raises
    ------
    RunError
        If it cannot be written, holds another run, or holds none to resume.
    """
    path = output / "config.yaml"
    if rank() > 0:
        # Lightning's own launcher starts the others when the first has opened the run; torchrun and Slurm
        # start all at once, with the same command line.
        return load(path) if path.exists() else config
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / f".write-{uuid.uuid4().hex}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as err:
        raise RunError(f"{output}: cannot write there ({err.strerror or err})") from err
    if path.exists():
        if not resume:
            raise RunError(f"{output} already holds a run: go on with --resume, or name another folder")
        stored = load(path)
        if stored != config:
            before, now = _flat(stored.model_dump()), _flat(config.model_dump())
            changed = ", ".join(f"{k} ({before[k]!r} -> {now[k]!r})" for k in before if before[k] != now[k])
            raise RunError(
                f"{output} was begun with another configuration: {changed}. Resume with its own, {path}"
            )
        return stored
    if resume:
        raise RunError(f"{output} holds no run to resume ({path.name} is missing)")
    return config


@contextmanager
def sole_owner(output: Path, doing: str = "training") -> Iterator[None]:
    """A block in which this process is the only one at work in `output`; its end, or its death, frees it.

    Raises
    ------
    RunError
        If another process is `doing` the same there.
    """
    path, stream = output / ".lock", None
    if rank() == 0 and fcntl is not None:
        with suppress(OSError):  # open_run has the words for a folder that cannot be written
            output.mkdir(parents=True, exist_ok=True)
            stream = path.open("a")
    if stream is None or fcntl is None:
        yield
        return
    busy = RunError(f"{output}: another process is {doing} there; wait for it or stop it")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:  # a file system without locks
            yield
            return
        # The file may have been removed by its last owner, and made anew by another, since it was opened.
        if not path.exists() or not os.path.samestat(os.fstat(stream.fileno()), path.stat()):
            raise busy
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def claim_run(config: BaseModel, output: Path) -> None:
    """Make `output` the folder of this run; to be called once its data have been read."""
    path = output / "config.yaml"
    if rank() > 0 or path.exists():
        return
    with replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def quiet() -> None:
    """Silence what Lightning and torch say about things that are so on purpose here."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",
        ".*GPU available.*",
        ".*torch.jit.*",
        ".*IterableDataset.*",
        ".*dataloader is not resumable.*",
        ".*LeafSpec.*",
        ".*isinstance.treespec.*",
        ".*litlogger.*",
        ".*smaller than the logging interval.*",
    ):
        warnings.filterwarnings("ignore", text)


class TimeLimit(L.Callback):
    """Ends training in good order when the time is up."""

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        self.struck = False

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if time.monotonic() > self.until:
            trainer.should_stop = self.struck = True


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A training checkpoint, with its ``step`` and ``state_dict``; nothing in the file is executed.

    Raises
    ------
    RunError
        If it is damaged, or not a checkpoint.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found["step"], int) or not isinstance(found["state_dict"], dict):
            raise TypeError("neither a step nor a state")
    except Exception as err:
        raise RunError(
            f"{path}: damaged checkpoint ({type(err).__name__}); delete it to train this again"
        ) from err
    return found


def fit(
    module: Any,
    progress: TrainingProgress,
    *,
    last: Path,
    tensorboard: Path,
    limit: float | None,
    devices: int | str,
    console: Console,
    validate_every: int,
    clip: float | None,
    inference_mode: bool = True,
) -> dict[str, Any] | None:
    """Train a module, from its checkpoint where there is one.

    Parameters
    ----------
    module : LightningModule
        With ``step``, ``steps`` and ``blocks``: a Lightning epoch is one block of steps.
    progress : TrainingProgress
        Its title names the training in messages.
    last : Path
        Checkpoint; ``metrics.csv`` is written beside it.
    tensorboard : Path
        Folder of TensorBoard's events.
    limit : float, optional
        Seconds.
    devices : int or str
        Lightning's ``devices``; where torchrun or Slurm started several processes, these are taken.
    console : Console
    validate_every : int
        Blocks.
    clip : float, optional
        Largest gradient norm.
    inference_mode : bool
        Whether validation needs no gradients.

    Returns
    -------
    dict or None
        Lightning's last metrics; None if the checkpoint is of a training that had ended.

    Raises
    ------
    RunError
        If the checkpoint is damaged.
    """
    title, begun = progress.title, 0
    if last.exists():
        found = read_checkpoint(last)
        begun = found["step"]
        if begun >= module.steps:
            module.load_state_dict(found["state_dict"])
            module.step = begun
            say(console, f"{title}: already done ({begun:,} steps)")
            return None
        say(console, f"{title}: going on from step {begun:,}")
    callbacks: list[L.Callback] = [progress, BlockCheckpoint(last)]
    clock = None
    if limit is not None:
        callbacks.append(clock := TimeLimit(limit))
    devices, machines = placement(devices)
    trainer = L.Trainer(
        accelerator="auto" if torch.cuda.is_available() else "cpu",
        devices=devices,
        num_nodes=machines,
        strategy="auto" if str(devices) == "1" and machines == 1 else "ddp_find_unused_parameters_true",
        max_epochs=module.blocks,
        callbacks=callbacks,
        logger=[
            ContinuedCSVLogger(last.parent / "metrics.csv", begun),
            TensorBoardLogger(tensorboard.parent, name=tensorboard.name, version=""),
        ],
        log_every_n_steps=10,
        check_val_every_n_epoch=validate_every,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        gradient_clip_val=clip,
        inference_mode=inference_mode,
        plugins=[AtomicCheckpointIO()],
    )
    try:
        trainer.fit(module, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    if clock is not None and clock.struck:
        say(console, f"{title}: time is up after {module.step:,} of {module.steps:,} steps")
    return dict(trainer.callback_metrics)
