"""Reading labelled structures through ASE, and splitting them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hyperkit_mol.potentials.batch import Structure
from hyperkit_mol.potentials.errors import DataError, StructureError

__all__ = ["DataKeys", "from_ase", "read_structures", "require_labels", "split_structures"]


@dataclass(frozen=True)
class DataKeys:
    """Names under which a file keeps what a potential learns from; units are eV and Å."""

    energy: str = "energy"
    forces: str = "forces"
    charge: str = "charge"
    spin: str = "spin"


def _ase() -> Any:
    try:
        import ase.io
    except ImportError as err:
        raise ImportError("reading structures needs ASE: pip install 'hyperkit[mol,potentials]'") from err
    return ase.io


def from_ase(atoms: Any, keys: DataKeys | None = None, name: str = "structure") -> Structure:
    """Make a :class:`Structure` of ASE's ``Atoms``, with the labels that it carries.

    Labels are looked up by name in ``atoms.info`` or ``atoms.arrays`` first and in the attached calculator's
    results second, which is where ASE's extxyz reader puts ``energy`` and ``forces``.

    Raises
    ------
    StructureError
        See :class:`Structure`.
    """
    keys = keys or DataKeys()
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    energy = atoms.info.get(keys.energy, results.get(keys.energy))
    forces = atoms.arrays.get(keys.forces, results.get(keys.forces))
    try:
        return Structure(
            positions=atoms.get_positions(),
            numbers=atoms.get_atomic_numbers(),
            cell=np.asarray(atoms.cell),
            pbc=np.asarray(atoms.pbc),
            charge=_whole(atoms.info.get(keys.charge, 0), keys.charge, name),
            spin=_whole(atoms.info.get(keys.spin, 0), keys.spin, name),
            energy=None if energy is None else float(energy),
            forces=forces,
            name=name,
        )
    except (TypeError, ValueError) as err:
        if isinstance(err, StructureError):
            raise
        raise StructureError(f"{name}: {err}") from err


def _whole(value: Any, key: str, name: str) -> int:
    if np.size(value) != 1:
        raise StructureError(f"{name}: {key} must be a whole number, got {value}")
    number = float(np.asarray(value).reshape(-1)[0])
    if not np.isfinite(number) or number != round(number):
        raise StructureError(f"{name}: {key} must be a whole number, got {value}")
    return round(number)


def read_structures(
    path: str | Path, keys: DataKeys | None = None, *, labels: bool = True
) -> list[Structure]:
    """Read every frame of a file that ASE knows (extxyz first of all).

    Parameters
    ----------
    path : str or Path
    keys : DataKeys, optional
        Names of the labels.
    labels : bool
        Every frame must have an energy, and every frame of more than one atom forces.

    Returns
    -------
    list of Structure
        Named ``file: frame k``, counted from 0.

    Raises
    ------
    DataError
        If the file is missing, unreadable, empty, or lacks labels; the message lists what was found instead.
    StructureError
        For a frame that cannot be used (NaN, unknown element, ...).
    """
    path, keys, io = Path(path), keys or DataKeys(), _ase()
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a file of structures (extxyz)")
    if path.suffix in (".xyz", ".extxyz"):
        _check_counts(path)
    try:
        frames = io.read(path, index=":")
    except Exception as err:
        raise DataError(f"{path}: ASE cannot read it ({type(err).__name__}: {err})") from err
    if not frames:
        raise DataError(f"{path}: no structures in it")
    out = []
    for k, atoms in enumerate(frames):
        structure = from_ase(atoms, keys, f"{path.name}: frame {k}")
        if labels:
            require_labels(structure, atoms, keys)
        out.append(structure)
    return out


def _check_counts(path: Path) -> None:
    """Refuse an XYZ file whose frames announce more atoms than there are lines.

    ASE would go on reading beyond the end as many times as the number says.
    """
    with path.open("rb") as stream:
        for frame in itertools.count():
            head = stream.readline()
            try:
                atoms = int(head)
            except ValueError:  # the end, or something that ASE has better words for
                return
            stream.readline()
            found = sum(1 for _ in itertools.islice(stream, min(max(atoms, 0), sys.maxsize)))
            if found < atoms:
                raise DataError(
                    f"{path}: frame {frame} should have {atoms} atoms; the file ends after {found} of them"
                )


def require_labels(structure: Structure, atoms: Any, keys: DataKeys) -> None:
    """Refuse a frame without energy or forces, saying under which names it has numbers.

    Raises
    ------
    DataError
        Naming the option to set.
    """
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    if structure.energy is None:
        scalars = sorted({k for k, v in {**atoms.info, **results}.items() if np.size(v) == 1 and _number(v)})
        raise DataError(
            f"{structure.name} has no energy under {keys.energy!r}. Numbers found there: "
            f"{', '.join(scalars) or 'none'}; choose one by --energy-key"
        )
    # The force on an isolated atom is zero whether or not the file says so.
    if structure.forces is None and len(structure) > 1:
        shape = (len(structure), 3)
        vectors = {**atoms.arrays, **results}
        names = sorted(k for k, v in vectors.items() if np.shape(v) == shape and k != "positions")
        raise DataError(
            f"{structure.name} has no forces under {keys.forces!r}. Vectors per atom found there: "
            f"{', '.join(names) or 'none'}; choose them by --forces-key"
        )


def _number(value: Any) -> bool:
    return np.issubdtype(np.asarray(value).dtype, np.number)


def split_structures(
    structures: Sequence[Structure], validation: float, seed: int = 0
) -> tuple[list[Structure], list[Structure]]:
    """Set a random part aside.

    Parameters
    ----------
    structures : sequence of Structure
    validation : float
        A fraction below 1, or a whole number of structures.
    seed : int

    Returns
    -------
    train, validation : list of Structure

    Raises
    ------
    DataError
        If nothing would be left on either side.
    """
    n = len(structures)
    count = round(validation * n) if validation < 1 else int(validation)
    if not 1 <= count < n:
        raise DataError(
            f"validation must leave at least one of {n} structures on either side, got {validation:g}"
        )
    order = np.random.default_rng([seed, 17]).permutation(n)
    held = set(order[:count].tolist())
    return [s for k, s in enumerate(structures) if k not in held], [structures[k] for k in sorted(held)]
