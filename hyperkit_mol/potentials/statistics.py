"""What the data looks like before a model sees it: reference energies, scales, suspicious frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyperkit_mol.potentials.batch import Structure
from hyperkit_mol.potentials.errors import DataError

__all__ = ["Normalization", "describe", "isolated_energies", "least_squares_energies", "normalization"]


@dataclass(frozen=True)
class Normalization:
    """How a model's numbers become energies: ``E = sum_i ref[Z_i] + shift + scale * output_i``.

    Parameters
    ----------
    references : dict
        Energy of one atom of each element, eV, by atomic number.
    shift : float
        What an atom gains in a molecule on average, eV.
    scale : float
        Root mean square force component, eV/Å: the unit of the network's output.
    charges, spins : tuple of int
        Those of the training set; the embeddings of others were never trained.
    """

    references: dict[int, float]
    shift: float
    scale: float
    charges: tuple[int, ...] = (0,)
    spins: tuple[int, ...] = (0,)


def isolated_energies(structures: Sequence[Structure]) -> dict[int, float]:
    """Energies by element from frames of one atom.

    Raises
    ------
    DataError
        If a frame has more than one atom or no energy.
    """
    out: dict[int, float] = {}
    for s in structures:
        if len(s) != 1 or s.energy is None:
            raise DataError(f"{s.name}: an isolated atom with its energy was expected, found {len(s)} atoms")
        out[int(s.numbers[0])] = float(s.energy)
    return out


def least_squares_energies(structures: Sequence[Structure]) -> dict[int, float]:
    """Energies by element that explain the total energies best, the shortest such vector where many do.

    With one composition only (molecular dynamics of one molecule) the split between elements is arbitrary;
    energies of other molecules then have no meaning, and isolated atoms should be given instead.
    """
    elements = np.unique(np.concatenate([s.numbers for s in structures]))
    table = np.stack([(s.numbers[:, None] == elements).sum(0) for s in structures]).astype(float)
    energies = np.array([_energy(s) for s in structures])
    solution = np.linalg.lstsq(table, energies, rcond=1e-9)[0]
    return {int(z): float(e) for z, e in zip(elements, solution, strict=True)}


def _energy(s: Structure) -> float:
    if s.energy is None:
        raise DataError(f"{s.name}: energy is missing")
    return s.energy


def normalization(
    structures: Sequence[Structure], references: dict[int, float] | None = None
) -> Normalization:
    """References (by least squares where none are given), shift and scale of a training set.

    Raises
    ------
    DataError
        If an element has no reference energy.
    """
    refs = least_squares_energies(structures) if references is None else dict(references)
    present = {int(z) for s in structures for z in np.unique(s.numbers)}
    missing = sorted(present - set(refs))
    if missing:
        names = ", ".join(_symbol(z) for z in missing)
        raise DataError(f"no isolated-atom energy for {names}; add them, or leave them all out to fit them")
    gains, squares, components = [], 0.0, 0
    for s in structures:
        gains.append((_energy(s) - sum(refs[int(z)] for z in s.numbers)) / len(s))
        if s.forces is not None:
            squares += float(np.square(s.forces).sum())
            components += s.forces.size
    rms = (squares / components) ** 0.5 if components else 0.0
    return Normalization(
        refs,
        float(np.mean(gains)),
        rms if rms > 1e-6 else 1.0,
        tuple(sorted({s.charge for s in structures})),
        tuple(sorted({s.spin for s in structures})),
    )


def describe(structures: Sequence[Structure], references: dict[int, float]) -> list[str]:
    """Lines for people: elements, sizes, ranges, and frames that look wrong."""
    sizes = np.array([len(s) for s in structures])
    elements = sorted({int(z) for s in structures for z in np.unique(s.numbers)})
    gains = np.array(
        [(_energy(s) - sum(references.get(int(z), 0.0) for z in s.numbers)) / len(s) for s in structures]
    )
    norms = np.array(
        [0.0 if s.forces is None else float(np.linalg.norm(s.forces, axis=1).max()) for s in structures]
    )
    lines = [
        f"{len(structures):,} structures of {_range(sizes, 'd')} atoms; {', '.join(map(_symbol, elements))}",
        f"energy above isolated atoms {_range(gains, '.3f')} eV/atom",
        f"largest force of a structure {_range(norms, '.2f')} eV/Å",
    ]
    if len({(s.charge, s.spin) for s in structures}) > 1:
        states = sorted({(s.charge, s.spin) for s in structures})
        lines.append("charge, spin: " + "; ".join(f"{q:+d}, {m}" for q, m in states))
    lines += _suspicious(structures, gains, norms)
    return lines


def _suspicious(structures: Sequence[Structure], gains: np.ndarray, norms: np.ndarray) -> list[str]:
    lines = []
    spread = float(np.median(np.abs(gains - np.median(gains)))) + 1e-3
    for what, bad in (
        ("an energy per atom far from the others", np.abs(gains - np.median(gains)) > 50 * spread),
        ("a force above 50 eV/Å", norms > 50),
    ):
        if bad.any():
            names = [structures[k].name for k in np.flatnonzero(bad)[:3]]
            lines.append(f"warning: {int(bad.sum())} with {what}: {', '.join(names)}")
    typical = float(np.median(norms))
    if typical > 25:
        lines.append(
            f"warning: the median of the largest forces is {typical:.0f}; are these kcal/mol (1 eV = 23.06)?"
        )
    elif 0 < typical < 0.05 and len(structures) > 10:
        lines.append(
            f"warning: the median of the largest forces is {typical:.3f}; is the file in Hartree/bohr "
            "(1 Hartree/bohr = 51.42 eV/Å), or are all structures relaxed?"
        )
    return lines


def _range(values: np.ndarray, form: str) -> str:
    low, high = values.min(), values.max()
    return f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}"


def _symbol(z: int) -> str:
    from rdkit import Chem

    return Chem.GetPeriodicTable().GetElementSymbol(z)
