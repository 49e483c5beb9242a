"""From a network's numbers to energies, forces and stress in eV and Å."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hyperkit_mol.potentials.batch import AtomicBatch, Structure, collate
from hyperkit_mol.potentials.config import ModelConfig
from hyperkit_mol.potentials.errors import ModelError
from hyperkit_mol.potentials.escaip import EScAIP
from hyperkit_mol.potentials.neighbors import neighbor_table
from hyperkit_mol.potentials.statistics import Normalization
from hyperkit_mol.potentials.transformer import Transformer

__all__ = ["Potential", "Prediction"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a potential says of a batch.

    Parameters
    ----------
    energy : Tensor
        ``(B,)``, eV, float64.
    forces : Tensor, optional
        ``(N, 3)``, eV/Å.
    stress : Tensor, optional
        ``(B, 3, 3)``, eV/Å³: ``dE/d strain / volume``, positive under tension.
    atomic : Tensor
        ``(N,)``, eV, float64: the parts of the energy, references included.
    """

    energy: Tensor
    forces: Tensor | None
    stress: Tensor | None
    atomic: Tensor


class Potential(nn.Module):
    """A network with the units, elements and reference energies that it was trained with.

    ``E = sum_i ref[Z_i] + p_i (shift + scale * f_i)`` with f the network's output and p its presence factor,
    so that a lone atom has exactly its reference energy. References are added in float64: float32 holds a
    total energy of 10,000 eV to 1 meV.

    Parameters
    ----------
    config : ModelConfig
    normalization : Normalization
        Its references say which elements the model knows.
    neighbors : float
        Mean number of neighbours in the training set (escaip).

    Examples
    --------
    >>> import numpy as np
    >>> from hyperkit_mol.potentials import ModelConfig, Normalization, Potential, Structure
    >>> water = Structure(np.array([[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]]), np.array([8, 1, 1]))
    >>> model = Potential(ModelConfig(), Normalization({1: -13.6, 8: -2043.0}, -3.0, 1.0))
    >>> found = model(model.prepare([water]))
    >>> found.energy.shape, found.forces.shape
    (torch.Size([1]), torch.Size([3, 3]))
    """

    def __init__(self, config: ModelConfig, normalization: Normalization, neighbors: float = 1.0) -> None:
        super().__init__()
        self.config, self.normalization, self.neighbors = config, normalization, neighbors
        self.elements = sorted(normalization.references)
        self.backbone: nn.Module
        if config.kind == "escaip":
            self.backbone = EScAIP(config, self.elements, neighbors)
        else:
            self.backbone = Transformer(config, self.elements)
        self.info: dict[str, Any] = {}
        self._tables: dict[torch.device, Tensor] = {}
        self._compiled: Any = None
        self.mixed = False

    @property
    def cutoff(self) -> float | None:
        """Å; None for a model without a graph."""
        return self.config.cutoff if self.config.kind == "escaip" else None

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.parameters()).dtype

    def check(self, structures: Sequence[Structure]) -> None:
        """Refuse elements, charges and spins that the model was not trained on, and periodic structures where
        it has no images.

        Raises
        ------
        ModelError
            Naming the structure and what is new in it.
        """
        known = set(self.elements)
        for s in structures:
            strange = sorted({int(z) for z in s.numbers} - known)
            if strange:
                from rdkit import Chem

                symbol = Chem.GetPeriodicTable().GetElementSymbol
                raise ModelError(
                    f"{s.name}: the model does not know {', '.join(map(symbol, strange))}; "
                    f"it was trained on {', '.join(map(symbol, self.elements))}"
                )
            for field, value, seen in (
                ("charge", s.charge, self.normalization.charges),
                ("spin", s.spin, self.normalization.spins),
            ):
                if value not in seen:
                    raise ModelError(
                        f"{s.name}: the model does not know {field} {value}; "
                        f"it was trained on {', '.join(map(str, seen))}"
                    )
            if self.cutoff is None and bool(np.any(s.pbc)):  # pyright: ignore[reportArgumentType]
                raise ModelError(
                    f"{s.name}: it is periodic, and a {self.config.kind} has no periodic images; use escaip"
                )

    def prepare(self, structures: Sequence[Structure]) -> AtomicBatch:
        """Check structures and make a batch of them, with neighbours where the model needs them.

        Raises
        ------
        ModelError
            See :meth:`check`.
        StructureError
            For overlapping atoms.
        """
        self.check(structures)
        tables = None
        if self.cutoff is not None:
            tables = [neighbor_table(s.positions, self.cutoff, s.cell, s.pbc, s.name) for s in structures]  # pyright: ignore[reportArgumentType]
        return collate(structures, tables, self.dtype).to(next(self.parameters()).device)

    def forward(self, batch: AtomicBatch, *, forces: bool = True, stress: bool = False) -> Prediction:
        """Energies, and their derivatives on request.

        Parameters
        ----------
        batch : AtomicBatch
        forces : bool
        stress : bool
            Of periodic structures; needs conservative forces.

        Raises
        ------
        ModelError
            If stress is asked of a model with direct forces or of a structure that has no volume.
        """
        conservative = self.config.forces == "conservative"
        if stress and not conservative:
            raise ModelError("stress is a derivative of the energy: train with forces: conservative")
        gradient = conservative and (forces or stress)
        # Second derivatives are kept where somebody trains on the first ones.
        create = torch.is_grad_enabled() and self.training
        if gradient and self._compiled is not None:
            gained, slopes = self._compiled(batch, stress, create)
            direct = None
        else:
            gained, direct, slopes = self._in_pieces(batch, gradient, stress, create)
        if not create and gradient:
            gained = gained.detach()
        atomic = gained + self._references(batch.numbers.device)[batch.numbers]
        energy = torch.zeros(batch.size, dtype=torch.float64, device=atomic.device)
        energy = energy.index_add(0, batch.index, atomic)
        found = None
        if forces:
            found = -slopes[0] if conservative else direct
        pressure = None
        if stress:
            volume = batch.cell.detach().det().abs()
            if bool((volume < 1e-6).any()):
                raise ModelError("stress needs a cell with a volume; one structure has none")
            pressure = slopes[1] / volume[:, None, None]
        return Prediction(energy, found, pressure, atomic)

    def compiled(self, backend: str | None = "inductor") -> Potential:
        """Compute conservative forces by one compiled graph from here on; `backend` None goes back to eager.

        Energy and gradient are traced into one graph, which ``torch.compile`` turns into machine code with
        its derivative: attention differentiated twice, which no fused kernel of PyTorch's offers. Each new
        shape of a batch is compiled once (a minute on a CPU; up to eight shapes, others run eagerly), so it
        pays for long work on structures of one size, such as dynamics of one system and training on it.

        Parameters
        ----------
        backend : str or None
            Of ``torch.compile``; the default needs a C++ compiler.

        Returns
        -------
        Potential
            Itself.
        """
        from hyperkit_mol.potentials.compiled import CompiledGradient

        self._compiled = None if backend is None else CompiledGradient(self, backend)
        return self

    def _in_pieces(
        self, batch: AtomicBatch, gradient: bool, stress: bool, create: bool
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """:meth:`_evaluate`, a few structures at a time where nobody wants a graph over all of them: the same
        time, and memory for a few."""
        pieces = [batch]
        if isinstance(self.backbone, EScAIP) and not create and (gradient or not torch.is_grad_enabled()):
            pieces = batch.split(self.backbone.rows(batch.neighbors.shape[1]))
        if len(pieces) == 1:
            return self._evaluate(batch, gradient, stress, create)
        found = []
        for piece in pieces:
            gained, direct, slopes = self._evaluate(piece, gradient, stress, create)
            found.append((gained.detach(), direct if direct is None else direct.detach(), slopes))
        gained, direct, slopes = zip(*found, strict=True)
        return (
            torch.cat(gained),
            None if direct[0] is None else torch.cat(direct),
            [torch.cat(parts) for parts in zip(*slopes, strict=True)],
        )

    def _evaluate(
        self,
        batch: AtomicBatch,
        gradient: bool,
        stress: bool,
        create: bool,
        layout: tuple[Tensor, ...] | None = None,
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Energy of each atom above its reference (float64), direct forces, dE/dx and dE/d strain."""
        leaves: list[Tensor] = []
        with torch.enable_grad() if gradient else torch.set_grad_enabled(torch.is_grad_enabled()):
            if gradient:
                positions = batch.positions.detach().requires_grad_()
                leaves.append(positions)
                cell = batch.cell
                moved = positions
                if stress:
                    strain = torch.zeros_like(batch.cell).requires_grad_()
                    leaves.append(strain)
                    symmetric = 0.5 * (strain + strain.mT)
                    moved = positions + torch.einsum("ni,nij->nj", positions, symmetric[batch.index])
                    cell = cell + cell @ symmetric
                batch = replace(batch, positions=moved, cell=cell)
            with torch.autocast(batch.positions.device.type, torch.bfloat16, enabled=self.mixed):
                out = self.backbone(batch, layout)
            gained = self.normalization.shift + self.normalization.scale * out.atomic.double()
            if out.presence is not None:
                gained = gained * out.presence.double()
            slopes: list[Any] = []
            if gradient:
                slopes = list(torch.autograd.grad(gained.sum(), leaves, create_graph=create))
        direct = None if out.forces is None else out.forces.to(self.dtype) * self.normalization.scale
        return gained, direct, slopes

    def _references(self, device: torch.device) -> Tensor:
        table = self._tables.get(device)
        if table is None:
            table = torch.zeros(119, dtype=torch.float64)
            for z, value in self.normalization.references.items():
                table[z] = value
            table = self._tables[device] = table.to(device)
        return table
