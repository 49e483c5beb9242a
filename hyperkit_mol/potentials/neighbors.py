"""Neighbour lists: vesin finds the pairs, here they become padded tables sorted by distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperkit_mol.potentials.errors import StructureError

__all__ = ["OVERLAP", "NeighborTable", "neighbor_table"]

# Nearer than this two atoms are a mistake in the input: the shortest bond, in H2, has 0.74 Å.
OVERLAP = 0.1


@dataclass(frozen=True, eq=False)
class NeighborTable:
    """Neighbours of each atom, nearest first, padded to the longest list.

    Parameters
    ----------
    index : array
        ``(n, m)``.
    shifts : array
        Cells between the two atoms ``(n, m, 3)``.
    mask : array
        ``(n, m)``, True for a real neighbour.
    """

    index: npt.NDArray[np.int64]
    shifts: npt.NDArray[np.int64]
    mask: npt.NDArray[np.bool_]

    @property
    def width(self) -> int:
        """The longest list."""
        return self.index.shape[1]


def neighbor_table(
    positions: npt.ArrayLike,
    cutoff: float,
    cell: npt.ArrayLike | None = None,
    pbc: npt.ArrayLike = False,
    name: str = "structure",
) -> NeighborTable:
    """All neighbours within `cutoff`, periodic images included (also an atom's own).

    Parameters
    ----------
    positions : array
        ``(n, 3)``, Å.
    cutoff : float
        Å, > 0.
    cell : array, optional
        ``(3, 3)``, rows are vectors.
    pbc : bool or array of bool
        Periodic directions.
    name : str
        What an error calls the structure.

    Raises
    ------
    StructureError
        If two atoms are nearer than 0.1 Å.
    ImportError
        If vesin is not installed.
    """
    positions = np.ascontiguousarray(positions, dtype=np.float64)
    if not cutoff > 0:
        raise ValueError(f"cutoff must be > 0, got {cutoff}")
    i, j, shift, distance = _pairs(
        positions,
        cutoff,
        np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64),
        np.broadcast_to(np.asarray(pbc, dtype=bool), 3),
    )
    if len(distance) and distance.min() < OVERLAP:
        k = int(distance.argmin())
        raise StructureError(f"{name}: atoms {i[k]} and {j[k]} overlap ({distance[k]:.3g} Å apart)")
    order = np.lexsort((j, distance, i))
    i, j, shift = i[order], j[order], shift[order]
    n = len(positions)
    counts = np.bincount(i, minlength=n)
    # At least one column: a lone atom then has padding like any other, and no tensor is empty.
    width = max(1, int(counts.max()))
    place = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    index, shifts = np.zeros((n, width), np.int64), np.zeros((n, width, 3), np.int64)
    index[i, place], shifts[i, place] = j, shift
    return NeighborTable(index, shifts, np.arange(width) < counts[:, None])


def _pairs(positions: Any, cutoff: float, cell: Any, pbc: Any) -> tuple[Any, Any, Any, Any]:
    try:
        from vesin import NeighborList
    except ImportError as err:
        raise ImportError("neighbour lists need vesin: pip install 'hyperkit[mol,potentials]'") from err
    found = NeighborList(cutoff=cutoff, full_list=True).compute(
        points=positions, box=cell, periodic=pbc.tolist(), quantities="ijSd"
    )
    i, j, shift, distance = (np.asarray(x) for x in found)
    return i.astype(np.int64), j.astype(np.int64), shift.astype(np.int64), distance
