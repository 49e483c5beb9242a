"""First stage of the graph-free Transformer: predict discretised structures token by token.

The recipe of arXiv:2510.02259: a molecule is written as charge and spin, the positions of its atoms, the
force on the first of them, and the energy; each value is a bin of quantiles, three coordinates together one
token, and carries its continuous value along. The network reads from the left and is trained by cross-
entropy on the next token. Atoms come in another random order, the molecule in another orientation, at every
step. The second stage (:mod:`hyperkit_mol.potentials.training`) begins from these weights.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hyperkit_mol.potentials.batch import CHARGES, AtomicBatch, Structure
from hyperkit_mol.potentials.config import PretrainingConfig
from hyperkit_mol.potentials.errors import TrainingError
from hyperkit_mol.potentials.statistics import Normalization
from hyperkit_mol.potentials.training import LabelledSet, SteppedBatches, random_rotations
from hyperkit_mol.potentials.transformer import Transformer

__all__ = ["Autoregressive", "Discretizer", "Pretraining"]


class Discretizer(nn.Module):
    """Bins of equal counts, for each coordinate of positions and forces, and for energies.

    Tokens: ``bins^3`` of positions, one for the end of the atoms, ``bins^3`` of forces, then energies.

    Parameters
    ----------
    positions, forces : array
        ``(n, 3)``: what the bins are made from, in the units in which they will be read.
    energies : array
        ``(n,)``.
    bins : int
        Of a coordinate.
    energy_bins : int

    Examples
    --------
    >>> import numpy as np, torch
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> bins = Discretizer(x, x, x[:, 0], bins=4, energy_bins=8)
    >>> bins.vocabulary, bins.positions(torch.as_tensor(x)).max().item() < 64
    (137, True)
    """

    edges: Tensor
    energy_edges: Tensor

    def __init__(
        self,
        positions: npt.NDArray[np.float64],
        forces: npt.NDArray[np.float64],
        energies: npt.NDArray[np.float64],
        bins: int = 10,
        energy_bins: int = 2048,
    ) -> None:
        super().__init__()
        inner = np.linspace(0.0, 1.0, bins + 1)[1:-1]
        # One set of edges for the three coordinates: a turned molecule has no preferred axis.
        edges = [np.quantile(np.asarray(x).ravel(), inner) for x in (positions, forces)]
        self.register_buffer("edges", torch.as_tensor(np.stack(edges), dtype=torch.float64))
        inner = np.linspace(0.0, 1.0, energy_bins + 1)[1:-1]
        energy = np.quantile(np.asarray(energies), inner)
        self.register_buffer("energy_edges", torch.as_tensor(energy, dtype=torch.float64))
        self.bins, self.energy_bins = bins, energy_bins

    @property
    def end(self) -> int:
        """Token after the last atom."""
        return self.bins**3

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return 2 * self.bins**3 + 1 + self.energy_bins

    def positions(self, x: Tensor) -> Tensor:
        """Tokens ``(*,)`` of positions ``(*, 3)``."""
        return self._joint(x, self.edges[0])

    def forces(self, x: Tensor) -> Tensor:
        """Tokens ``(*,)`` of forces ``(*, 3)``."""
        return self.end + 1 + self._joint(x, self.edges[1])

    def energies(self, x: Tensor) -> Tensor:
        """Tokens ``(*,)`` of energies ``(*,)``."""
        return 2 * self.bins**3 + 1 + torch.bucketize(x.double().contiguous(), self.energy_edges)

    def _joint(self, x: Tensor, edges: Tensor) -> Tensor:
        a, b, c = torch.bucketize(x.double().contiguous(), edges).unbind(-1)
        return (a * self.bins + b) * self.bins + c


class Autoregressive(nn.Module):
    """A Transformer reading its molecule from the left, with a head over the tokens.

    Parameters
    ----------
    backbone : Transformer
        Its embeddings of elements, coordinates, charge and spin and its blocks are what is trained here for
        the second stage.
    discretizer : Discretizer
    units : Normalization
        Scales of energies and forces.
    """

    def __init__(self, backbone: Transformer, discretizer: Discretizer, units: Normalization) -> None:
        super().__init__()
        self.backbone, self.discretizer, self.units = backbone, discretizer, units
        width = backbone.config.width
        self.begin = nn.Parameter(torch.zeros(width))
        self.token = nn.Embedding(discretizer.vocabulary, width)
        nn.init.normal_(self.token.weight, std=0.02)
        self.head = nn.Linear(width, discretizer.vocabulary)

    def forward(self, batch: AtomicBatch, order: Tensor) -> Tensor:
        """Mean cross-entropy of the next token, in nats.

        Parameters
        ----------
        batch : AtomicBatch
            With energies and forces.
        order : Tensor
            ``(N,)``: numbers by which the atoms of a structure are sorted.
        """
        assert batch.forces is not None
        net, bins = self.backbone, self.discretizer
        place, mask = net.layout(batch)
        size, longest, first = batch.size, mask.shape[1] - 2, batch.counts.cumsum(0) - batch.counts
        # Atoms of each structure by `order`: sort within structures, then structures together.
        by = torch.argsort(order)
        by = by[torch.argsort(batch.index[by], stable=True)]
        x = batch.positions - batch.positions.new_zeros(size, 3).index_add(0, batch.index, batch.positions)[
            batch.index
        ] / batch.counts[batch.index].unsqueeze(-1)
        x, numbers = x[by], batch.numbers[by]
        force = batch.forces[by][first] / self.units.scale
        energy = self._gained(batch)
        width = net.config.width
        # Slots: beginning, charge, spin, the atoms, their end, force. The energy is only predicted.
        rows = x.new_zeros(size, longest + 5, width)
        tokens = torch.full((size, longest + 6), -100, dtype=torch.long, device=x.device)
        slot = place + 1
        atom_tokens = bins.positions(x)
        atoms = self.token(atom_tokens) + net.coordinates(x) + net.element(net.lookup[numbers])
        rows = rows.index_put((batch.index, slot), atoms)
        tokens[batch.index, slot] = atom_tokens
        each = torch.arange(size, device=x.device)
        end = batch.counts + 3
        force_tokens = bins.forces(force)
        state = torch.stack(
            [
                self.begin.expand(size, width),
                net.charge(batch.charge - CHARGES[0]),
                net.spin(batch.spin),
            ],
            1,
        )
        rows = torch.cat([state.to(rows.dtype), rows[:, 3:]], 1)
        rows = rows.index_put((each, end), self.token.weight[bins.end].expand(size, width).to(rows.dtype))
        rows = rows.index_put((each, end + 1), self.token(force_tokens) + net.coordinates(force))
        tokens[each, end], tokens[each, end + 1] = bins.end, force_tokens
        tokens[each, end + 2] = bins.energies(energy)
        rows = rows + _places(rows.shape[1], width).to(rows)
        for block in net.blocks:
            rows = block(rows, None, causal=True)
        logits = self.head(net.norm(rows[:, 2:]))
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 3:].flatten(), ignore_index=-100)

    def _gained(self, batch: AtomicBatch) -> Tensor:
        """Energy of each structure above its atoms and the mean gain, in units of the force scale."""
        assert batch.energy is not None
        table = torch.zeros(119, dtype=torch.float64, device=batch.energy.device)
        for z, value in self.units.references.items():
            table[z] = value + self.units.shift
        base = torch.zeros_like(batch.energy).index_add(0, batch.index, table[batch.numbers])
        return (batch.energy - base) / self.units.scale


def discretizer_of(
    structures: list[Structure], units: Normalization, config: PretrainingConfig
) -> Discretizer:
    """Bins from the training set, turned at random as it will be in training."""
    random = torch.Generator().manual_seed(0)
    turns = random_rotations(len(structures), random).numpy()
    x = [(s.positions - s.positions.mean(0)) @ r.T for s, r in zip(structures, turns, strict=True)]
    f = [np.asarray(s.forces) @ r.T / units.scale for s, r in zip(structures, turns, strict=True)]
    base = {z: e + units.shift for z, e in units.references.items()}
    e = [(float(s.energy or 0.0) - sum(base[int(z)] for z in s.numbers)) / units.scale for s in structures]
    return Discretizer(
        np.concatenate(x),
        np.concatenate(f),
        np.array(e),
        config.bins,
        min(config.energy_bins, len(structures)),
    )


def _places(count: int, width: int) -> Tensor:
    """Sinusoidal position embedding ``(count, width)`` (Vaswani et al., 2017); only this stage has one."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
    angle = torch.arange(count).unsqueeze(-1) * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width]


class Pretraining(SteppedBatches):
    """Lightning module of the first stage.

    Parameters
    ----------
    model : Autoregressive
    config : PretrainingConfig
    seed : int
    data, held : LabelledSet
        To train and to validate on.
    """

    def __init__(
        self,
        model: Autoregressive,
        config: PretrainingConfig,
        seed: int,
        data: LabelledSet,
        held: LabelledSet,
    ) -> None:
        super().__init__(seed, config, data, held)
        self.model, self.settings = model, config
        self._sum = [0.0, 0]

    def configure_optimizers(self) -> Any:
        cfg = self.settings
        matrices = [p for p in self.model.parameters() if p.ndim == 2 and p.requires_grad]
        rest = [p for p in self.model.parameters() if p.ndim != 2 and p.requires_grad]
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": cfg.weight_decay}, {"params": rest, "weight_decay": 0.0}],
            lr=cfg.lr,
        )

        def factor(step: int) -> float:
            if step < cfg.warmup:
                return (step + 1) / cfg.warmup
            part = min(1.0, (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup))
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Leave the optimiser's state as it was loaded: Adam reads its step counts as tensors."""

    def _loss(self, batch: AtomicBatch, generator: torch.Generator) -> Tensor:
        batch = batch.rotated(random_rotations(batch.size, generator))
        return self.model(
            batch, torch.rand(len(batch.numbers), generator=generator).to(batch.positions.device)
        )

    def training_step(self, batch: AtomicBatch, _: int) -> Tensor:
        self.seed_step()
        loss = self._loss(batch, torch.Generator().manual_seed(torch.initial_seed()))
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss became {loss.item()} at step {self.step}: lower pretraining.lr; "
                "the last checkpoint is whole"
            )
        self.log_dict({"train/loss": loss.detach(), "step": float(self.step)}, batch_size=batch.size)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._sum = [0.0, 0]

    def validation_step(self, batch: AtomicBatch, index: int) -> None:
        loss = self._loss(batch, torch.Generator().manual_seed(index))
        self._sum[0] += float(loss) * batch.size
        self._sum[1] += batch.size

    def on_validation_epoch_end(self) -> None:
        self.log_dict({"val/loss": self._sum[0] / max(1, self._sum[1]), "step": float(self.step - 1)})
