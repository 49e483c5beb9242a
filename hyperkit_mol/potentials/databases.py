"""ASE databases, row by row: SQLite files (``.db``) and LMDB files (``.aselmdb``, the format of OMol25)."""

from __future__ import annotations

import mmap
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from hyperkit_mol.potentials.errors import DataError

__all__ = ["iter_database", "kind_of_database"]

_SQLITE = b"SQLite format 3\0"
_LMDB = b"\xde\xc0\xef\xbe"
_READ_ALL = """
import sys, lmdb
for _ in lmdb.open(sys.argv[1], subdir=False, readonly=True, lock=False).begin().cursor(): pass
"""


def kind_of_database(path: Path) -> str | None:
    """``"db"`` or ``"aselmdb"`` by the suffix, or for SQLite by the first bytes; None for other files.

    Raises
    ------
    DataError
        If the suffix promises a database and the content is none.
    """
    suffix = path.suffix.lower()
    with path.open("rb") as stream:
        head = stream.read(32)
    if suffix == ".aselmdb":
        if head[16:20] != _LMDB:
            raise DataError(f"{path}: not an LMDB database (an .aselmdb file was expected)")
        return "aselmdb"
    if head.startswith(_SQLITE):
        return "db"
    if suffix == ".db":
        raise DataError(f"{path}: not an ASE database (a .db file of SQLite was expected)")
    if suffix in (".lmdb", ".mdb") or head[16:20] == _LMDB:
        raise DataError(
            f"{path}: of LMDB databases only .aselmdb is read "
            "(others hold pickled objects, which may run code)"
        )
    return None


def iter_database(path: Path, kind: str) -> Iterator[tuple[str, Any]]:
    """Yield a name and ASE's ``Atoms`` for every row, in the order of their ids.

    The row's key-value pairs and its data are put into ``atoms.info``, and what has three numbers an atom
    into ``atoms.arrays`` too, so that labels, charge and spin are found wherever the database keeps them.

    Parameters
    ----------
    path : Path
    kind : {"db", "aselmdb"}
        See :func:`kind_of_database`.

    Raises
    ------
    DataError
        If it is damaged, cut off or of another kind.
    ImportError
        If an ``.aselmdb`` file is to be read and ``ase-db-backends`` is not installed.
    """
    count = 0
    try:
        for row in _sqlite_rows(path) if kind == "db" else _lmdb_rows(path):
            yield f"{path.name}: row {row.id}", _atoms(row)
            count += 1
    except (DataError, ImportError):
        raise
    except Exception as err:
        after = f" after {count:,} rows" if count else ""
        raise DataError(f"{path}: cannot be read{after} ({type(err).__name__}: {err})") from err


def _sqlite_rows(path: Path) -> Iterator[Any]:
    import ase.db

    # ASE adds its tables to an SQLite file that lacks them: look first, without the right to write.
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as link:
        tables = {name for (name,) in link.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "systems" not in tables:
        found = ", ".join(sorted(tables)) or "none"
        raise DataError(f"{path}: an SQLite file, but not ASE's (no table 'systems'; tables found: {found})")
    yield from ase.db.connect(str(path), type="db", use_lock_file=False).select()


def _lmdb_rows(path: Path) -> Iterator[Any]:
    import ase.db

    try:
        import ase_db_backends  # noqa: F401  (registers the format)
    except ImportError as err:
        raise ImportError(f"{path}: reading .aselmdb needs: pip install ase-db-backends") from err
    _whole(path)
    base: Any = ase.db.connect(str(path), type="aselmdb", readonly=True, use_lock_file=False)
    try:
        yield from base.select()
    finally:
        base.close()


def _whole(path: Path) -> None:
    """Refuse an LMDB file that lacks its end: touching what is not there would kill this process (SIGBUS)."""
    import lmdb

    size = path.stat().st_size
    if size < 2 * max(mmap.PAGESIZE, 4096):
        raise DataError(f"{path}: cut off after {size} bytes")
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as link:
        page, last = link.stat()["psize"], link.info()["last_pgno"]
    missing = last + 1 - size // page
    # The last pages of a whole file may never have been written; only reading it tells the difference.
    if (
        missing > 0
        and subprocess.run([sys.executable, "-c", _READ_ALL, str(path)], capture_output=True).returncode
    ):
        raise DataError(f"{path}: cut off; {missing * page / 1e6:,.2f} MB are missing at its end")


def _atoms(row: Any) -> Any:
    atoms = row.toatoms()
    for key, value in {**row.key_value_pairs, **(row.data or {})}.items():
        atoms.info[key] = value
        if np.shape(value) == (len(atoms), 3) and key not in atoms.arrays:
            atoms.arrays[key] = np.asarray(value)
    return atoms
