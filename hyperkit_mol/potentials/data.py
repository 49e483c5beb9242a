"""Reading labelled structures through ASE, and splitting them."""

from __future__ import annotations

import itertools
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hyperkit_mol.potentials.batch import Structure
from hyperkit_mol.potentials.cache import MIN_BYTES, StructureCache
from hyperkit_mol.potentials.databases import iter_database, kind_of_database
from hyperkit_mol.potentials.errors import DataError, DataWarning, StructureError
from hyperkit_mol.potentials.units import Units

__all__ = ["DataKeys", "from_ase", "read_structures", "require_labels", "split_structures"]

_DIGITS = 5  # of the number of columns of an array in an XYZ file


@dataclass(frozen=True)
class DataKeys:
    """Names under which a file keeps what a potential learns from."""

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


def from_ase(
    atoms: Any, keys: DataKeys | None = None, name: str = "structure", units: Units | None = None
) -> Structure:
    """Make a :class:`Structure` of ASE's ``Atoms``, with the labels that it carries.

    Labels are looked up by name in ``atoms.info`` or ``atoms.arrays`` first and in the attached calculator's
    results second, which is where ASE's extxyz reader puts ``energy`` and ``forces``.

    Parameters
    ----------
    atoms : ase.Atoms
    keys : DataKeys, optional
        Names of the labels.
    name : str
        What error messages call it.
    units : Units, optional
        What its numbers are in; eV and Å if left out.

    Raises
    ------
    StructureError
        See :class:`Structure`.
    """
    keys = keys or DataKeys()
    energy_factor, length_factor, force_factor = (units or Units()).factors()
    results = getattr(atoms.calc, "results", {}) if atoms.calc is not None else {}
    energy = atoms.info.get(keys.energy, results.get(keys.energy))
    forces = atoms.arrays.get(keys.forces, results.get(keys.forces))
    try:
        return Structure(
            positions=atoms.get_positions() * length_factor,
            numbers=atoms.get_atomic_numbers(),
            cell=np.asarray(atoms.cell) * length_factor,
            pbc=np.asarray(atoms.pbc),
            charge=_whole(atoms.info.get(keys.charge, 0), keys.charge, name),
            spin=_whole(atoms.info.get(keys.spin, 0), keys.spin, name),
            energy=None if energy is None else _single(energy, keys.energy, name) * energy_factor,
            forces=None if forces is None else np.asarray(forces, dtype=np.float64) * force_factor,
            name=name,
        )
    except (TypeError, ValueError) as err:
        if isinstance(err, StructureError):
            raise
        raise StructureError(f"{name}: {err}") from err


def _single(value: Any, key: str, name: str) -> float:
    # Some databases keep a number as an array of one.
    if np.size(value) != 1:
        raise StructureError(f"{name}: {key} must be one number, got shape {np.shape(value)}")
    return float(np.asarray(value).reshape(-1)[0])


def _whole(value: Any, key: str, name: str) -> int:
    if np.size(value) != 1:
        raise StructureError(f"{name}: {key} must be a whole number, got {value}")
    number = float(np.asarray(value).reshape(-1)[0])
    if not np.isfinite(number) or number != round(number):
        raise StructureError(f"{name}: {key} must be a whole number, got {value}")
    return round(number)


def read_structures(
    path: str | Path,
    keys: DataKeys | None = None,
    *,
    labels: bool = True,
    units: Units | None = None,
    cache: bool = False,
) -> list[Structure]:
    """Read every frame of a file that ASE knows.

    Parameters
    ----------
    path : str or Path
        Extended XYZ, or another file that :func:`ase.io.read` opens; an ASE database (``.db``, or
        ``.aselmdb`` with ``ase-db-backends``); or a folder of ``.aselmdb`` files, in the order of names.
    keys : DataKeys, optional
        Names of the labels.
    labels : bool
        Every frame must have an energy, and every frame of more than one atom forces.
    units : Units, optional
        What the file's numbers are in; eV and Å if left out. ASE's readers of other programs' output convert
        to eV and Å themselves.
    cache : bool
        Keep a parsed copy of a file of 2 MB or more in the user's cache folder, and use it next time (see
        :class:`~hyperkit_mol.potentials.cache.StructureCache`).

    Returns
    -------
    list of Structure
        In eV and Å; named ``file: frame k``, counted from 0, or ``file: row id`` in a database.

    Raises
    ------
    DataError
        If the file is missing, unreadable, empty, or lacks labels; the message lists what was found instead.
    StructureError
        For a frame that cannot be used (NaN, unknown element, ...).
    ImportError
        Without ASE, or without ``ase-db-backends`` for ``.aselmdb``.

    Warns
    -----
    DataWarning
        If the frames carry numbers named like a charge or a spin that `keys` does not name.
    """
    path, keys, units = Path(path), keys or DataKeys(), units or Units()
    _ase()
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.is_dir():
        shards = sorted(path.glob("*.aselmdb"))
        if not shards:
            raise DataError(
                f"{path} is a folder without .aselmdb files; give a file of structures (extxyz, .db)"
            )
        return [s for f in shards for s in read_structures(f, keys, labels=labels, units=units, cache=cache)]
    copy = None
    if cache and path.stat().st_size >= MIN_BYTES:
        copy = StructureCache(path, {"keys": asdict(keys), "units": asdict(units), "labels": labels})
        known = copy.load()
        if known is not None:
            return known
    out, states = [], _States(keys)
    for name, atoms in _frames(path):
        structure = from_ase(atoms, keys, name, units)
        if labels:
            require_labels(structure, atoms, keys)
        states.look(atoms)
        out.append(structure)
    if not out:
        raise DataError(f"{path}: no structures in it")
    complete = states.judge(path)
    if copy is not None and complete:
        copy.save(out)
    return out


def _frames(path: Path) -> Iterator[tuple[str, Any]]:
    kind = kind_of_database(path)
    if kind is not None:
        yield from iter_database(path, kind)
        return
    if path.suffix in (".xyz", ".extxyz"):
        _check_counts(path)
    try:
        frames = _ase().read(path, index=":")
    except Exception as err:
        raise DataError(f"{path}: ASE cannot read it ({type(err).__name__}: {err})") from err
    for k, atoms in enumerate(frames):
        yield f"{path.name}: frame {k}", atoms


class _States:
    """Whether charge and spin were found where they were looked for."""

    def __init__(self, keys: DataKeys) -> None:
        self.wanted = {"charge": keys.charge, "spin": keys.spin}
        self.numbers: dict[str, set[float]] = {}

    def look(self, atoms: Any) -> None:
        for key, value in atoms.info.items():
            if np.size(value) == 1 and _number(value):
                self.numbers.setdefault(key, set())
                if len(self.numbers[key]) < 2:
                    self.numbers[key].add(float(np.asarray(value).reshape(-1)[0]))

    def judge(self, path: Path) -> bool:
        """False where a warning was given: such a file is read anew, so that it is given again."""
        silent = True
        for what, key in self.wanted.items():
            if key in self.numbers:
                continue
            names = ", ".join(sorted(self.numbers)) or "none"
            if key != what:
                raise DataError(
                    f"{path}: no frame has a {what} under {key!r}. Numbers found there: {names}; "
                    f"choose one by --{what}-key, or leave it out"
                )
            alike = [
                k
                for k, v in self.numbers.items()
                if what in k.lower() and (len(v) > 1 or (what == "charge" and v != {0.0}))
            ]
            if alike:
                warnings.warn(
                    f"{path.name}: every {what} is taken as 0, for no frame has one under {key!r}; the file "
                    f"has {', '.join(sorted(alike))}: choose by --{what}-key",
                    DataWarning,
                    stacklevel=3,
                )
                silent = False
        return silent


def _check_counts(path: Path) -> None:
    """Refuse an XYZ file whose frames announce more atoms than there are lines, or columns without end.

    ASE would go on reading beyond the end as many times as the number says.
    """
    with path.open("rb") as stream:
        for frame in itertools.count():
            head = stream.readline()
            try:
                atoms = int(head)
            except ValueError:  # the end, or something that ASE has better words for
                return
            comment = stream.readline()
            for count in re.findall(rb":[RILS]:\s*\+?([\d_]+)", comment):
                if len(count.replace(b"_", b"").lstrip(b"0")) > _DIGITS:  # ASE would make a list of them
                    raise DataError(f"{path}: frame {frame} announces {count[:20].decode()} columns")
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
