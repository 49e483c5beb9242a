"""MOSES metrics during training, as a Lightning callback."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from hyperkit_mol.moses._evaluate import evaluate
from hyperkit_mol.moses.results import MosesReport

__all__ = ["MosesCallback"]


class MosesCallback(pl.Callback):
    """Sample molecules at the end of an epoch, evaluate them and log the figures as ``moses/<metric>``.

    Sampling runs on the first process with the model in evaluation mode, without gradients, and with a random
    state of its own, so that training goes on as if nothing had been sampled. All processes log the same
    values, so a checkpoint can be chosen by them (``monitor="moses/FCD/Test"``). A metric that is not defined
    (say, no valid molecule yet) is not logged.

    Parameters
    ----------
    sample : callable
        ``sample(module, n)`` returns n SMILES (None or an unparsable string where it fails).
    n : int
        Molecules to sample. FCD and Scaf depend on it: compare epochs, and compare with ``report.floor``.
    every_n_epochs : int
    metrics : iterable of str, optional
        As in `hyperkit_mol.moses.evaluate`.
    out_dir : path, optional
        Where to write ``moses-epoch=<epoch>.json`` and ``.html``.
    seed : int
        Of the sampling, the same in every epoch.
    **settings
        Passed on to `evaluate` (``n_jobs``, ``reference``, ``train``, ``device``, ...).

    Attributes
    ----------
    report : MosesReport or None
        The latest report, on the first process.
    """

    def __init__(
        self,
        sample: Callable[[pl.LightningModule, int], Sequence[str | None]],
        *,
        n: int = 1000,
        every_n_epochs: int = 1,
        metrics: Iterable[str] | None = None,
        out_dir: str | Path | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__()
        for name, value in (("n", n), ("every_n_epochs", every_n_epochs)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self._sample = sample
        self._n = n
        self._every = every_n_epochs
        self._metrics = None if metrics is None else list(metrics)
        self._out_dir = None if out_dir is None else Path(out_dir)
        self._seed = seed
        self._settings = settings
        self.report: MosesReport | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate where the epoch's number says so."""
        if trainer.sanity_checking or (trainer.current_epoch + 1) % self._every:
            return
        values: dict[str, float] = {}
        if trainer.is_global_zero:
            self.report = self._evaluate(pl_module, trainer.current_epoch)
            values = {
                f"moses/{name}": value for name, value in self.report.metrics.items() if value is not None
            }
        values = trainer.strategy.broadcast(values, src=0)
        pl_module.log_dict(values)

    def _evaluate(self, module: pl.LightningModule, epoch: int) -> MosesReport:
        training = module.training
        module.eval()
        try:
            with isolate_rng(), torch.no_grad():
                pl.seed_everything(self._seed, verbose=False)
                smiles = self._sample(module, self._n)
        finally:
            module.train(training)
        report = evaluate(smiles, metrics=self._metrics, source=f"epoch {epoch}", **self._settings)
        if self._out_dir is not None:
            report.to_json(self._out_dir / f"moses-epoch={epoch}.json")
            report.to_html(self._out_dir / f"moses-epoch={epoch}.html")
        return report
