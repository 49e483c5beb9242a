"""A CSV log that a resumed run continues."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["ContinuedCSVLogger"]


class ContinuedCSVLogger(Logger):
    """Rows of metrics by step in one file, across resumptions.

    Lightning's own logger deletes the earlier file. This one keeps its rows up to the step at which
    training goes on: later ones are about to be computed again.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        super().__init__()
        self.path = path
        self._columns: list[str] = ["step"]
        self._rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as stream:
                reader = csv.DictReader(stream)
                self._rows = [row for row in reader if int(row["step"]) < first_step]
                self._columns = list(reader.fieldnames or self._columns)
        self._dirty = True

    @property
    def name(self) -> str:
        return self.path.parent.name

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Hyperparameters stand in the run's config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a row; metrics of the same step share one."""
        values = {k: v for k, v in metrics.items() if k != "epoch"}
        if not values or step is None:
            return
        if self._rows and int(self._rows[-1]["step"]) == step:
            self._rows[-1].update(values)
        else:
            self._rows.append({"step": step, **values})
        self._columns += [k for k in values if k not in self._columns]
        self._dirty = True

    @rank_zero_only
    def save(self) -> None:
        """Write the file by a temporary name and a rename."""
        if not self._dirty:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with temporary.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, self._columns)
                writer.writeheader()
                writer.writerows(self._rows)
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)
        self._dirty = False

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()
