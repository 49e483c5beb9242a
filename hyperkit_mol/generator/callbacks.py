"""Progress for people, and checkpoints that are whole or not there."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hyperkit_mol.files import replacing

__all__ = ["AtomicCheckpointIO", "BlockCheckpoint", "TrainingProgress", "progress_bar"]


def progress_bar(console: Console) -> Progress:
    """The one progress bar of the command line: done, speed, time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames; reads tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        # Into memory first: torch's own writer hides "no space left" behind an internal error.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: Any = True
    ) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


class BlockCheckpoint(L.Callback):
    """Saves ``last.ckpt`` after every block of steps.

    Not in the middle of a block, where a time limit may end it: Lightning resumes between epochs to the same
    bits, and within one it does not. Not on an exception either: an interrupt may strike in the middle of an
    optimiser's step, and half a step must not replace a whole checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._saved = -1

    def _save(self, trainer: L.Trainer, module: Any) -> None:
        whole = module.step % module.block == 0 or module.step == module.steps
        if whole and module.step != self._saved:
            trainer.save_checkpoint(self.path)
            self._saved = module.step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._save(trainer, pl_module)


class TrainingProgress(L.Callback):
    """A bar over all steps with losses, speed and time left; plain lines where there is no terminal."""

    def __init__(self, console: Console, title: str, per_step: int, max_seconds: float | None = None) -> None:
        self.console, self.title, self.per_step, self.max_seconds = console, title, per_step, max_seconds
        self.progress = progress_bar(console)
        self._begin = self._last_line = 0.0
        self._first = 0
        self.rate = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._begin = self._last_line = time.monotonic()
        self._first = pl_module.step
        self.progress.start()
        self._task = self.progress.add_task(
            self.title, total=pl_module.steps, completed=pl_module.step, note=""
        )

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        now = time.monotonic()
        done = pl_module.step + 1 - self._first  # this hook runs before the module counts the step
        self.rate = done * self.per_step / max(now - self._begin, 1e-9)
        if done % 5 and pl_module.step + 1 != pl_module.steps:
            return
        note = f"{self.rate:,.0f}/s  {self._losses(trainer)}"
        self.progress.update(self._task, completed=pl_module.step + 1, note=note)
        if not self.console.is_terminal and (
            now - self._last_line > 30 or pl_module.step + 1 == pl_module.steps
        ):
            self._last_line = now
            left = (pl_module.steps - pl_module.step - 1) * (now - self._begin) / done
            if self.max_seconds is not None:
                left = min(left, max(0.0, self.max_seconds - (now - self._begin)))
            step = f"step {pl_module.step + 1:,}/{pl_module.steps:,}"
            line = f"{self.title}: {step}, {note}, about {left / 60:.1f} min left"
            self.console.print(line, highlight=False, soft_wrap=True)

    @staticmethod
    def _losses(trainer: L.Trainer) -> str:
        shown = {
            "train/loss": "loss",
            "val/loss": "val",
            "val/reconstruction": "reconstructed",
            "gan/wasserstein": "wasserstein",
            "gan/penalty": "penalty",
        }
        found = trainer.callback_metrics
        return "  ".join(f"{name} {float(found[key]):.3f}" for key, name in shown.items() if key in found)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.progress.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.progress.stop()
        sys.stdout.flush()
