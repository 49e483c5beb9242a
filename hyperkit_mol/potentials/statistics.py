"""What the data looks like before a model sees it: reference energies, scales, suspicious frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.spatial import KDTree

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
    """Lines for people: elements, sizes, ranges, frames that look wrong, magnitudes of other units.

    Parameters
    ----------
    structures : sequence of Structure
        With energies.
    references : dict
        Energy of one atom of each element, eV.
    """
    sizes = np.array([len(s) for s in structures])
    gains = np.array(
        [(_energy(s) - sum(references.get(int(z), 0.0) for z in s.numbers)) / len(s) for s in structures]
    )
    norms = np.array(
        [0.0 if s.forces is None else float(np.linalg.norm(s.forces, axis=1).max()) for s in structures]
    )
    compositions = Counter(tuple(np.bincount(s.numbers)) for s in structures)
    kinds = f" of {len(compositions):,} compositions" if len(compositions) > 1 else ""
    lines = [
        f"{len(structures):,} structures{kinds} of {_range(sizes, 'd')} atoms; {_elements(structures)}",
        f"energy above isolated atoms {_range(gains, '.3f')} eV/atom",
        f"largest force of a structure {_range(norms, '.2f')} eV/Å",
    ]
    states = sorted({(s.charge, s.spin) for s in structures})
    if states != [(0, 0)]:
        lines.append("charge, spin: " + "; ".join(f"{q:+d}, {m}" for q, m in states))
    closest = np.array([_closest(s) for s in structures])
    lines += _suspicious(structures, gains, norms, closest)
    lines += _other_units(structures, gains, norms, closest)
    return lines


def _elements(structures: Sequence[Structure]) -> str:
    """Elements, with the number of structures of those that few have."""
    count = Counter(int(z) for s in structures for z in np.unique(s.numbers))
    few = max(10, len(structures) // 100)
    return ", ".join(
        _symbol(z) + (f" ({count[z]} only)" if count[z] <= few and count[z] < len(structures) // 2 else "")
        for z in sorted(count)
    )


def _closest(s: Structure) -> float:
    """Smallest distance of two neighbours over the sum of their covalent radii; 1 is a bond, NaN no pair.

    Periodic images do not count.
    """
    if len(s) < 2:
        return float("nan")
    distance, index = (np.asarray(a) for a in KDTree(s.positions).query(s.positions, k=2))
    # Of atoms in one place either may come first.
    other = np.where(index[:, 0] == np.arange(len(s)), index[:, 1], index[:, 0])
    radius = np.array([_radius(int(z)) for z in s.numbers])
    return float((distance[:, 1] / (radius + radius[other])).min())


def _suspicious(
    structures: Sequence[Structure], gains: np.ndarray, norms: np.ndarray, closest: np.ndarray
) -> list[str]:
    lines = []
    spread = float(np.median(np.abs(gains - np.median(gains)))) + 1e-3
    net = np.array([0.0 if s.forces is None else np.linalg.norm(s.forces.sum(0)) for s in structures])
    seen: set[bytes] = set()
    repeated = np.zeros(len(structures), bool)
    for k, s in enumerate(structures):
        mark = s.positions.tobytes() + s.numbers.tobytes() + bytes(f"{s.charge} {s.spin}", "ascii")
        repeated[k] = mark in seen
        seen.add(mark)
    typical = np.nanmedian(closest) if np.isfinite(closest).any() else 1.0
    for what, bad in (
        ("an energy per atom far from the others", np.abs(gains - np.median(gains)) > 50 * spread),
        ("a force above 50 eV/Å", norms > max(50.0, 10 * float(np.median(norms)))),
        ("atoms closer than half a bond", closest < 0.5 * min(1.0, typical)),
        # What a program leaves over is far smaller: an atom was held, or the forces are no gradient.
        ("forces that do not add up to zero", net > 0.05 * np.sqrt([len(s) for s in structures])),
        ("the geometry of an earlier one", repeated),
    ):
        if bad.any():
            names = [structures[k].name for k in np.flatnonzero(bad)[:3]]
            lines.append(f"warning: {int(bad.sum()):,} with {what}: {', '.join(names)}")
    return lines


def _other_units(
    structures: Sequence[Structure], gains: np.ndarray, norms: np.ndarray, closest: np.ndarray
) -> list[str]:
    """Magnitudes that are not those of eV and Å, and the option that would mend them."""
    lines, force = [], float(np.median(norms))
    apart = np.array([not np.any(s.pbc) for s in structures]) & np.isfinite(closest)
    length = float(np.median(closest[apart])) if apart.sum() > 10 else 1.0
    for unit, wrong in (("bohr", length > 1.5), ("nm", length < 0.3)):
        if wrong:
            lines.append(
                f"warning: the closest atoms are {length:.2g} times a bond apart; are these {unit}? "
                f"(--length-unit {unit})"
            )
    said = f"warning: the median of the largest forces is {force:.3g}"
    if length < 0.3:
        pass  # forces per nm look small or large for that reason
    elif force > 25:
        unit = next(u for u, above in (("meV", 800), ("kJ/mol", 150), ("kcal/mol", 0)) if force > above)
        lines.append(
            f"{said}; are these {unit}/Å? (--energy-unit {unit}, or --force-unit {unit}/Å where only the "
            "forces are)"
        )
    elif 0 < force < 0.12 and len(structures) > 10:
        lines.append(
            f"{said}; are these Hartree/bohr? (--force-unit Hartree/bohr, and --energy-unit Hartree where "
            "the energies are, too), or are all structures relaxed?"
        )
    elif 0 < _looseness(structures) < 0.0025:
        lines.append(
            "warning: energies vary less than the forces allow; are only the energies in Hartree? "
            "(--energy-unit Hartree --force-unit eV/Å)"
        )
    gain = float(np.median(gains))
    if abs(gain) > 30:
        lines.append(
            f"warning: {gain:.0f} eV/atom above the isolated atoms; are those of another unit or method? "
            "(--energy-unit, --isolated-atoms)"
        )
    return lines


def _looseness(structures: Sequence[Structure]) -> float:
    """Spread of the energies over force times 1 Å, in the commonest kind of molecule; 0 where they are few.

    Sets from molecular dynamics have 0.02 to 0.4, whatever the molecule and temperature: atoms are displaced
    by some hundredths of an Å.
    """
    kinds: dict[tuple[object, ...], list[Structure]] = {}
    for s in structures:
        if s.forces is not None:
            kinds.setdefault((s.charge, s.spin, *sorted(s.numbers.tolist())), []).append(s)
    most = max(kinds.values(), key=len, default=[])
    if len(most) < 20:
        return 0.0
    low, high = np.percentile([_energy(s) for s in most], [16, 84])
    square = float(np.mean([np.square(s.forces).sum() for s in most if s.forces is not None]))
    return (high - low) / 2 / square**0.5 if square > 0 else 0.0


def _range(values: np.ndarray, form: str) -> str:
    low, high = values.min(), values.max()
    return f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}"


def _symbol(z: int) -> str:
    from rdkit import Chem

    return Chem.GetPeriodicTable().GetElementSymbol(z)


@cache
def _radius(z: int) -> float:
    from rdkit import Chem

    return Chem.GetPeriodicTable().GetRcovalent(z)
