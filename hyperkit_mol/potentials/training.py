"""The Lightning module of both models. Every step is a function of (seed, step), as in the generator."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperkit_mol.generator.lightning_modules import _SteppedModule
from hyperkit_mol.potentials.batch import AtomicBatch, Structure, collate
from hyperkit_mol.potentials.config import PotentialConfig, PretrainingConfig, TrainingConfig
from hyperkit_mol.potentials.errors import TrainingError
from hyperkit_mol.potentials.neighbors import NeighborTable, neighbor_table
from hyperkit_mol.potentials.optim import MuonAdam
from hyperkit_mol.potentials.potential import Potential

__all__ = ["LabelledSet", "PotentialTraining", "SteppedBatches", "random_rotations"]

# Narrower matrices (a bias for each head) have hardly a spectrum; Adam is as good and cheaper there.
_MUON_SIZE = 16


def random_rotations(count: int, generator: torch.Generator) -> Tensor:
    """Uniform rotations ``(count, 3, 3)`` from normal quaternions (Shoemake, 1992)."""
    q = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, -1).view(count, 3, 3)


class LabelledSet:
    """Structures with their neighbours, found once, and batches of them.

    Parameters
    ----------
    structures : list of Structure
    cutoff : float or None
        None for a model without a graph.
    dtype : torch.dtype
    """

    def __init__(self, structures: list[Structure], cutoff: float | None, dtype: torch.dtype) -> None:
        self.structures, self.dtype = structures, dtype
        self.atoms = np.array([len(s) for s in structures])
        self._pass: tuple[tuple[int, int, int], npt.NDArray[np.int64]] | None = None
        self.tables: list[NeighborTable] | None = None
        if cutoff is not None:
            self.tables = [neighbor_table(s.positions, cutoff, s.cell, s.pbc, s.name) for s in structures]  # pyright: ignore[reportArgumentType]

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def mean_neighbors(self) -> float:
        """Neighbours of an atom on average; 1 without a graph."""
        if self.tables is None:
            return 1.0
        atoms = sum(len(s) for s in self.structures)
        return sum(int(t.mask.sum()) for t in self.tables) / atoms

    def batch(self, rows: npt.ArrayLike) -> AtomicBatch:
        """The structures `rows` as a batch."""
        chosen = [int(k) for k in np.asarray(rows)]
        tables = None if self.tables is None else [self.tables[k] for k in chosen]
        return collate([self.structures[k] for k in chosen], tables, self.dtype)

    def plan(self, step: int, size: int, seed: int, rank: int = 0, world: int = 1) -> npt.NDArray[np.int64]:
        """Rows of the batch of a step: whole passes in random order, alike sizes together.

        Padding costs time where sizes differ, so that each stretch of 16 batches is sorted by size and cut;
        their order is random again.
        """
        size = min(size, len(self) // world) or 1
        per_pass = max(1, len(self) // (size * world))
        epoch, place = divmod(step, per_pass)
        key = (epoch, size * world, seed)
        if self._pass is None or self._pass[0] != key:
            self._pass = key, self._order(epoch, size * world, per_pass, seed)
        begin = place * size * world
        return self._pass[1][begin + rank : begin + size * world : world]

    def _order(self, epoch: int, size: int, batches: int, seed: int) -> npt.NDArray[np.int64]:
        random = np.random.default_rng([seed, 1, epoch])
        order = random.permutation(len(self))[: batches * size]
        if self.atoms.min() == self.atoms.max():
            return order
        cut = []
        for begin in range(0, len(order), 16 * size):
            stretch = order[begin : begin + 16 * size]
            cut.append(stretch[np.argsort(self.atoms[stretch], kind="stable")].reshape(-1, size))
        joined = np.concatenate(cut)
        return joined[random.permutation(len(joined))].reshape(-1)


class _Stretch(Iterable[Any]):
    """Batches of the rest of a block, begun where the module stands when it is iterated."""

    def __init__(self, module: SteppedBatches) -> None:
        self.module = module

    def __len__(self) -> int:
        return self.module.block_end - self.module.step // self.module.block * self.module.block

    def __iter__(self) -> Iterator[AtomicBatch]:
        m, size = self.module, self.module.settings.batch_size
        for step in range(m.step, m.block_end):
            rows = m.data.plan(step, size, m.seed, m.global_rank, m.trainer.world_size)
            yield m.data.batch(rows)


class _Held(Iterable[Any]):
    def __init__(self, data: LabelledSet, size: int) -> None:
        self.data, self.size = data, size

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.size)

    def __iter__(self) -> Iterator[AtomicBatch]:
        order = np.argsort(self.data.atoms, kind="stable")
        return (self.data.batch(order[k : k + self.size]) for k in range(0, len(order), self.size))


class SteppedBatches(_SteppedModule):
    """A module whose step k sees the batch that `data` plans for (seed, k).

    Parameters
    ----------
    seed : int
    settings : TrainingConfig or PretrainingConfig
        Steps, block and size of a batch.
    data, held : LabelledSet
        To train and to validate on.
    """

    def __init__(
        self, seed: int, settings: TrainingConfig | PretrainingConfig, data: LabelledSet, held: LabelledSet
    ) -> None:
        super().__init__(seed, settings.steps, settings.save_every)
        self.settings: Any = settings
        self.data, self.held = data, held

    def train_dataloader(self) -> Any:
        return _Stretch(self)

    def val_dataloader(self) -> Any:
        return _Held(self.held, max(32, self.settings.batch_size))

    def transfer_batch_to_device(self, batch: AtomicBatch, device: torch.device, _: int) -> AtomicBatch:
        return batch.to(device)


class PotentialTraining(SteppedBatches):
    """Trains a potential on energies and forces; `average` holds the averaged weights that are used later.

    The loss is ``w_E |E - E'|/n + w_F mean_i |F_i - F_i'|`` in units of the force scale, the absolute energy
    error per atom and the length of the force error: both papers' loss.

    Parameters
    ----------
    model : Potential
    config : PotentialConfig
    data, held : LabelledSet
        To train and to validate on.
    """

    def __init__(
        self, model: Potential, config: PotentialConfig, data: LabelledSet, held: LabelledSet
    ) -> None:
        super().__init__(config.seed, config.training, data, held)
        self.model = model
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.model.mixed = self.settings.dtype == "bfloat16"
        if self.settings.compile:
            self.model.compiled()
        # Distances and angles know nothing of orientation; coordinates do.
        rotate = self.settings.rotate
        self.rotate = config.model.kind == "transformer" if rotate is None else rotate
        self._sums: dict[str, float] = {}
        # Lightning steps such a schedule after it has saved the checkpoint, so that a resumed run would
        # differ: here it turns a number of its own, by which the schedule multiplies.
        self._turned = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self._turned, factor=0.8, patience=self.settings.patience, min_lr=self.settings.final_lr
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["plateau"] = self._plateau.state_dict() | {"lr": self._turned.param_groups[0]["lr"]}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if found := dict(checkpoint.get("plateau", {})):
            self._turned.param_groups[0]["lr"] = found.pop("lr")
            self._plateau.load_state_dict(found)

    def configure_optimizers(self) -> Any:
        cfg = self.settings
        # Decay is for weight matrices, not for biases, norms, embeddings and temperatures.
        embeddings = {id(m.weight) for m in self.model.modules() if isinstance(m, torch.nn.Embedding)}
        matrices, others, rest = [], [], []
        for name, p in self.model.named_parameters():
            if p.ndim != 2 or id(p) in embeddings:
                rest.append(p)
            elif cfg.optimizer == "muon" and ".blocks." in name and min(p.shape) >= _MUON_SIZE:
                matrices.append(p)
            else:
                others.append(p)
        groups = [
            # A Muon step has the same size whatever the gradient: only decay keeps a long run's weights
            # finite (singular values settle below 1/decay), and with them the logits.
            {"params": matrices, "lr": cfg.matrix_lr, "weight_decay": cfg.matrix_decay, "muon": True},
            {"params": others, "lr": cfg.lr, "weight_decay": cfg.weight_decay},
            {"params": rest, "lr": cfg.lr},
        ]
        optimizer = MuonAdam([g for g in groups if g["params"]], betas=cfg.betas)

        def factor(step: int) -> float:
            if step < cfg.warmup:
                return (step + 1) / cfg.warmup
            if cfg.schedule == "plateau":
                return self._turned.param_groups[0]["lr"]
            part = min(1.0, (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup))
            return cfg.final_lr + (1 - cfg.final_lr) * 0.5 * (1 + math.cos(math.pi * part))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Leave the optimiser's state as it was loaded; its step counts are plain numbers."""

    def training_step(self, batch: AtomicBatch, _: int) -> Tensor:
        self.seed_step()
        if self.rotate:
            generator = torch.Generator().manual_seed(torch.initial_seed())
            batch = batch.rotated(random_rotations(batch.size, generator))
        found = self.model(batch)
        energy, forces = self._labels(batch)
        scale = self.model.normalization.scale
        per_atom = ((found.energy - energy) / batch.counts).abs().mean() / scale
        # The square root's slope is infinite at 0; 1e-4 of the force scale is far below any error.
        square = ((found.forces - forces) / scale).square().sum(-1)
        lengths = (square + 1e-8).sqrt().mean()
        cfg = self.settings
        loss = cfg.energy_weight * per_atom.to(lengths.dtype) + cfg.forces_weight * lengths
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss became {loss.item()} at step {self.step}: lower training.lr, or look at the data; "
                "the last checkpoint is whole"
            )
        self.log_dict(
            {
                "train/loss": loss.detach(),
                "train/energy_rmse": 1e3 * _rms(found.energy.detach() - energy),
                "train/force_rmse": 1e3 * _rms(found.forces.detach() - forces),
                "lr": self.trainer.optimizers[0].param_groups[-1]["lr"],
                "step": float(self.step),
            },
            batch_size=batch.size,
        )
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        # The average starts as the mean of what there is: with a fixed decay it would remember its start.
        decay = min(self.settings.ema, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        super().on_train_batch_end()

    def on_validation_epoch_start(self) -> None:
        self.average.eval()
        self._sums = {"energy": 0.0, "per_atom": 0.0, "structures": 0.0, "forces": 0.0, "components": 0.0}

    def validation_step(self, batch: AtomicBatch, _: int) -> None:
        found = self.average(batch)
        energy, forces = self._labels(batch)
        off = found.energy - energy
        self._sums["energy"] += float(off.square().sum())
        self._sums["per_atom"] += float((off / batch.counts).square().sum())
        self._sums["structures"] += batch.size
        self._sums["forces"] += float((found.forces.double() - forces).square().sum())
        self._sums["components"] += forces.numel()

    def on_validation_epoch_end(self) -> None:
        s = self._sums
        values = {
            "val/energy_rmse": 1e3 * (s["energy"] / s["structures"]) ** 0.5,
            "val/energy_rmse_per_atom": 1e3 * (s["per_atom"] / s["structures"]) ** 0.5,
            "val/force_rmse": 1e3 * (s["forces"] / s["components"]) ** 0.5,
        }
        self._plateau.step(values["val/force_rmse"])
        # Under the step that was finished last: a resumed log keeps the rows before the step it begins with.
        self.log_dict(values | {"step": float(self.step - 1)})

    @staticmethod
    def _labels(batch: AtomicBatch) -> tuple[Tensor, Tensor]:
        assert batch.energy is not None
        assert batch.forces is not None
        return batch.energy, batch.forces


def _rms(x: Tensor) -> Tensor:
    return x.double().square().mean().sqrt()
