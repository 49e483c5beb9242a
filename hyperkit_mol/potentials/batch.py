"""The one batch format: structures as numpy on the way in, padded tensors on the way to a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperkit_mol.potentials.errors import StructureError
from hyperkit_mol.potentials.neighbors import NeighborTable

__all__ = ["AtomicBatch", "Structure", "collate"]

_MAX_NUMBER = 118
CHARGES = range(-10, 11)
SPINS = range(11)


@dataclass(frozen=True, eq=False)
class Structure:
    """One molecule or crystal, checked when it is made.

    Parameters
    ----------
    positions : array
        ``(n, 3)``, Å.
    numbers : array
        Atomic numbers ``(n,)``.
    cell : array, optional
        Rows are the cell vectors ``(3, 3)``, Å; zero by default.
    pbc : array, optional
        Periodic directions ``(3,)``.
    charge, spin : int
        Total charge, and the spin number that the data uses (0 where it says nothing).
    energy : float, optional
        Total energy, eV.
    forces : array, optional
        ``(n, 3)``, eV/Å.
    stress : array, optional
        ``(3, 3)``, eV/Å³.
    name : str
        What error messages call it.

    Raises
    ------
    StructureError
        For no atoms, wrong shapes, NaN or infinity, elements that do not exist, a flat cell in a periodic
        direction, and a charge or spin outside what a model can embed.
    """

    positions: npt.NDArray[np.float64]
    numbers: npt.NDArray[np.int64]
    cell: npt.NDArray[np.float64] | None = None
    pbc: npt.NDArray[np.bool_] | None = None
    charge: int = 0
    spin: int = 0
    energy: float | None = None
    forces: npt.NDArray[np.float64] | None = None
    stress: npt.NDArray[np.float64] | None = None
    name: str = "structure"

    def __post_init__(self) -> None:
        def put(field: str, value: object) -> None:
            object.__setattr__(self, field, value)

        put("positions", np.asarray(self.positions, dtype=np.float64))
        put("numbers", np.asarray(self.numbers, dtype=np.int64))
        put("cell", np.zeros((3, 3)) if self.cell is None else np.asarray(self.cell, dtype=np.float64))
        put("pbc", np.zeros(3, bool) if self.pbc is None else np.broadcast_to(self.pbc, 3).astype(bool))
        n = len(self.numbers)
        if n == 0:
            raise StructureError(f"{self.name}: no atoms")
        self._array("positions", self.positions, (n, 3))
        self._array("cell", self.cell, (3, 3))
        if self.forces is not None:
            put("forces", np.asarray(self.forces, dtype=np.float64))
            self._array("forces", self.forces, (n, 3))
        if self.stress is not None:
            put("stress", np.asarray(self.stress, dtype=np.float64))
            self._array("stress", self.stress, (3, 3))
        if self.energy is not None and not np.isfinite(self.energy):
            raise StructureError(f"{self.name}: energy is {self.energy}")
        wrong = (self.numbers < 1) | (self.numbers > _MAX_NUMBER)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise StructureError(f"{self.name}: atom {first} has atomic number {self.numbers[first]}")
        for field, value, known in (("charge", self.charge, CHARGES), ("spin", self.spin, SPINS)):
            if value != int(value) or int(value) not in known:
                raise StructureError(
                    f"{self.name}: {field} must be a whole number from {known[0]} to {known[-1]}, got {value}"
                )
            put(field, int(value))
        if self.pbc.any():  # pyright: ignore[reportOptionalMemberAccess]
            self._check_cell()

    def _array(self, field: str, value: object, shape: tuple[int, ...]) -> None:
        array = np.asarray(value)
        if array.shape != shape:
            raise StructureError(f"{self.name}: {field} must have shape {shape}, got {array.shape}")
        bad = ~np.isfinite(array)
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            raise StructureError(
                f"{self.name}: {field} has {int(bad.sum())} values that are NaN or infinite, "
                f"the first in row {row}"
            )

    def _check_cell(self) -> None:
        cell, pbc = np.asarray(self.cell), np.asarray(self.pbc)
        lengths = np.linalg.norm(cell, axis=1)
        if (lengths[pbc] < 1e-6).any():
            axis = int(np.flatnonzero(pbc & (lengths < 1e-6))[0])
            raise StructureError(f"{self.name}: periodic along cell vector {axis}, which has length 0")
        if pbc.all() and abs(np.linalg.det(cell)) < 1e-6 * float(np.prod(lengths)):
            raise StructureError(f"{self.name}: the cell is flat (volume {abs(np.linalg.det(cell)):.2g} Å³)")

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, eq=False)
class AtomicBatch:
    """Several structures as tensors: N atoms, B structures, M neighbours at most.

    Parameters
    ----------
    positions : Tensor
        ``(N, 3)``, Å.
    numbers : Tensor
        Atomic numbers ``(N,)``.
    index : Tensor
        Structure of each atom ``(N,)``, ascending.
    counts : Tensor
        Atoms of each structure ``(B,)``.
    cell, pbc : Tensor
        ``(B, 3, 3)`` in Å, rows are vectors, and ``(B, 3)``.
    charge, spin : Tensor
        ``(B,)``.
    neighbors : Tensor
        Atom at the other end ``(N, M)``; the atom itself where `neighbor_mask` is False. M is 0 for a model
        that uses no graph.
    shifts : Tensor
        Cells between the two ``(N, M, 3)``: the edge vector is ``x[j] - x[i] + shifts @ cell``.
    neighbor_mask : Tensor
        ``(N, M)``, True for a real neighbour; real ones come first, by distance.
    energy : Tensor, optional
        ``(B,)``, eV, always float64: a total energy has more digits than float32.
    forces : Tensor, optional
        ``(N, 3)``, eV/Å.
    """

    positions: Tensor
    numbers: Tensor
    index: Tensor
    counts: Tensor
    cell: Tensor
    pbc: Tensor
    charge: Tensor
    spin: Tensor
    neighbors: Tensor
    shifts: Tensor
    neighbor_mask: Tensor
    energy: Tensor | None = None
    forces: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of structures B."""
        return len(self.counts)

    def to(self, device: torch.device | str) -> AtomicBatch:
        """The same batch on another device."""
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if v is not None}
        return replace(self, **moved)

    def split(self, atoms: int) -> list[AtomicBatch]:
        """Batches of consecutive structures with at most `atoms` atoms each, or of one larger structure.

        Neighbour lists are cut to the longest of each batch.
        """
        if len(self.numbers) <= atoms or self.size == 1:
            return [self]
        groups, total = [[0, 0]], 0
        for k, count in enumerate(self.counts.tolist()):
            if total and total + count > atoms:
                groups.append([k, k])
                total = 0
            groups[-1][1], total = k + 1, total + count
        ends = [0, *self.counts.cumsum(0).tolist()]
        return [self._between(first, last, ends[first], ends[last]) for first, last in groups]

    def _between(self, first: int, last: int, begin: int, end: int) -> AtomicBatch:
        of_atoms = ("positions", "numbers", "index", "neighbors", "shifts", "neighbor_mask", "forces")
        found: dict[str, Tensor] = {}
        for name, value in vars(self).items():
            if value is not None:
                found[name] = value[begin:end] if name in of_atoms else value[first:last]
        if found["neighbors"].shape[1]:
            width = max(1, int(found["neighbor_mask"].sum(1).max()))
            for name in ("neighbors", "shifts", "neighbor_mask"):
                found[name] = found[name][:, :width]
        found["index"] = found["index"] - first
        found["neighbors"] = found["neighbors"] - begin
        return AtomicBatch(**found)

    def rotated(self, rotation: Tensor) -> AtomicBatch:
        """Each structure turned by its own matrix ``(B, 3, 3)``: positions, cell and forces."""
        turn = rotation.to(self.positions)[self.index]
        forces = self.forces
        if forces is not None:
            forces = torch.einsum("nij,nj->ni", turn, forces)
        return replace(
            self,
            positions=torch.einsum("nij,nj->ni", turn, self.positions),
            cell=torch.einsum("bij,bkj->bki", rotation.to(self.cell), self.cell),
            forces=forces,
        )


def collate(
    structures: Sequence[Structure],
    neighbors: Sequence[NeighborTable] | None = None,
    dtype: torch.dtype = torch.float32,
) -> AtomicBatch:
    """Join structures, and their neighbour tables where the model has a graph, into one batch.

    Parameters
    ----------
    structures : sequence of Structure
        Energies (or forces) go into the batch only where all structures have them.
    neighbors : sequence of NeighborTable, optional
        One for each structure, from :func:`~hyperkit_mol.potentials.neighbors.neighbor_table`.
    dtype : torch.dtype
        Of everything but the energies.

    Raises
    ------
    StructureError
        If there are no structures.
    """
    if not structures:
        raise StructureError("structures must not be empty")
    counts = np.array([len(s) for s in structures])
    begins = np.concatenate([[0], np.cumsum(counts)[:-1]])
    total, width = int(counts.sum()), 0 if neighbors is None else max(t.width for t in neighbors)
    index = np.repeat(np.arange(total)[:, None], width, 1)
    shifts, mask = np.zeros((total, width, 3)), np.zeros((total, width), bool)
    for begin, table in zip(begins, neighbors or (), strict=False):
        rows = slice(begin, begin + len(table.index))
        # A padded entry points at its own atom: any other choice would join structures.
        index[rows, : table.width] = np.where(table.mask, table.index + begin, index[rows, : table.width])
        shifts[rows, : table.width], mask[rows, : table.width] = table.shifts, table.mask

    def number(values: object) -> Tensor:
        return torch.as_tensor(np.asarray(values), dtype=dtype)

    energies = [s.energy for s in structures if s.energy is not None]
    forces = [s.forces for s in structures if s.forces is not None]
    return AtomicBatch(
        positions=number(np.concatenate([s.positions for s in structures])),
        numbers=torch.from_numpy(np.concatenate([s.numbers for s in structures])),
        index=torch.from_numpy(np.repeat(np.arange(len(structures)), counts)),
        counts=torch.from_numpy(counts),
        cell=number(np.stack([np.asarray(s.cell) for s in structures])),
        pbc=torch.from_numpy(np.stack([np.asarray(s.pbc) for s in structures])),
        charge=torch.tensor([s.charge for s in structures]),
        spin=torch.tensor([s.spin for s in structures]),
        neighbors=torch.from_numpy(index),
        shifts=number(shifts),
        neighbor_mask=torch.from_numpy(mask),
        energy=torch.tensor(energies, dtype=torch.float64) if len(energies) == len(structures) else None,
        forces=number(np.concatenate(forces)) if len(forces) == len(structures) else None,
    )
