"""ASE databases, SQLite and LMDB: written by ASE, read back; what is refused, and with what words."""

from __future__ import annotations

import os
import sqlite3
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from potential_case import NUMBERS, POSITIONS

from hyperkit_mol.potentials import DataError, DataKeys, Structure, read_structures
from hyperkit_mol.potentials.errors import DataWarning

pytest.importorskip("ase", reason="reading databases needs ASE (the extra `potentials`)")
KINDS = ("db", "aselmdb")


def write(path: Path, frames: list[Structure], **extra: object) -> Path:
    """Frames with calculator results as ASE keeps them; `extra` goes into the data of each row."""
    import ase.db
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    if path.suffix == ".aselmdb":
        pytest.importorskip("ase_db_backends", reason=".aselmdb needs ase-db-backends")
    base = ase.db.connect(str(path), type=path.suffix[1:])
    for k, s in enumerate(frames):
        atoms = Atoms(s.numbers, s.positions, cell=np.diag([9.0, 9.5, 10.0]), pbc=[True, True, False])
        atoms.calc = SinglePointCalculator(atoms, energy=s.energy, forces=s.forces)
        base.write(atoms, data={"charge": k % 3 - 1, "spin": 2 * (k % 2), **extra})
    if hasattr(base, "close"):
        base.close()
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_written_and_read_back(kind: str, tmp_path: Path, frames: list[Structure]) -> None:
    path = write(tmp_path / f"set.{kind}", frames[:5])
    read = read_structures(path)
    assert [s.name for s in read] == [f"set.{kind}: row {k}" for k in range(1, 6)]
    assert [s.charge for s in read] == [-1, 0, 1, -1, 0]
    assert [s.spin for s in read] == [0, 2, 0, 2, 0]
    for s, t in zip(read, frames, strict=False):
        assert s.energy == t.energy
        assert np.array_equal(s.numbers, t.numbers)
        assert np.array_equal(s.positions, t.positions)
        assert np.array_equal(s.forces, t.forces)  # type: ignore[arg-type]
        assert np.array_equal(s.cell, np.diag([9.0, 9.5, 10.0]))  # type: ignore[arg-type]
        assert list(s.pbc) == [True, True, False]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_labels_kept_as_data_under_other_names(kind: str, tmp_path: Path) -> None:
    # As SchNetPack writes them: everything in the row's data, numbers as arrays of one.
    import ase.db

    if kind == "aselmdb":
        pytest.importorskip("ase_db_backends", reason=".aselmdb needs ase-db-backends")
    from ase import Atoms

    path, forces = tmp_path / f"pack.{kind}", np.arange(24.0).reshape(8, 3)
    base = ase.db.connect(str(path), type=kind)
    for charge in (-1.0, 1.0):
        data = {"E": np.array([-4.5]), "F": forces, "total_charge": np.array([charge])}
        base.write(Atoms(NUMBERS, POSITIONS), data=data)
    if hasattr(base, "close"):
        base.close()
    read = read_structures(path, DataKeys("E", "F", "total_charge"))
    assert [(s.energy, s.charge) for s in read] == [(-4.5, -1), (-4.5, 1)]
    assert np.array_equal(read[0].forces, forces)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"row 1 has no energy under 'energy'.*found there: E, total_charge"):
        read_structures(path)
    with pytest.raises(DataError, match=r"no forces under 'forces'.*found there: F;"):
        read_structures(path, DataKeys("E"))
    with pytest.raises(DataError, match=r"no frame has a spin under 'S'.*E, total_charge.*--spin-key"):
        read_structures(path, DataKeys("E", "F", "total_charge", "S"))
    with pytest.warns(DataWarning, match=r"every charge is taken as 0.*total_charge.*--charge-key"):
        read_structures(path, DataKeys("E", "F"))


def test_no_warning_where_nothing_is_amiss(tmp_path: Path, frames: list[Structure]) -> None:
    path = write(tmp_path / "set.db", frames[:2], spin_multiplicity=1, surcharge=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        read_structures(path)


def test_a_folder_of_shards(tmp_path: Path, frames: list[Structure]) -> None:
    write(tmp_path / "b.aselmdb", frames[2:4])
    write(tmp_path / "a.aselmdb", frames[:2])
    assert [s.energy for s in read_structures(tmp_path)] == [s.energy for s in frames[:4]]


def test_sqlite_is_known_by_its_content(tmp_path: Path, frames: list[Structure]) -> None:
    path = write(tmp_path / "set.db", frames[:2]).rename(tmp_path / "set.sqlite")
    assert len(read_structures(path)) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.db", b"some text", "x.db: not an ASE database"),
        ("x.db", b"", "x.db: not an ASE database"),
        ("x.aselmdb", b"some text", "x.aselmdb: not an LMDB database"),
        ("x.aselmdb", b"", "x.aselmdb: not an LMDB database"),
        ("x.lmdb", b"\0" * 64, "only .aselmdb is read"),
    ],
)
def test_files_that_are_no_database(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_structures(path)
    assert os.listdir(tmp_path) == [name]


def test_a_foreign_sqlite_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bookmarks.db"
    with sqlite3.connect(path) as link:
        link.execute("CREATE TABLE places (url TEXT)")
    link.close()
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"not ASE's \(no table 'systems'; tables found: places\)"):
        read_structures(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off(kind: str, tmp_path: Path, frames: list[Structure]) -> None:
    path = write(tmp_path / f"set.{kind}", frames[:5], padding=np.random.default_rng(0).bytes(80_000).hex())
    for part in (0.95, 0.5, 0.01):
        os.truncate(path, round(path.stat().st_size * part))
        with pytest.raises(DataError, match=f"set.{kind}: (cut off|cannot be read)"):
            read_structures(path)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(kind: str, tmp_path: Path, frames: list[Structure]) -> None:
    import ase.db

    path = write(tmp_path / f"none.{kind}", frames[:1])
    base = ase.db.connect(str(path), type=kind)
    base.delete([1])
    if hasattr(base, "close"):
        base.close()
    with pytest.raises(DataError, match="no structures in it"):
        read_structures(path)


def test_missing_package_is_answered_with_the_command(
    tmp_path: Path, frames: list[Structure], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "set.aselmdb", frames[:1])
    monkeypatch.setitem(sys.modules, "ase_db_backends", None)
    with pytest.raises(ImportError, match="pip install ase-db-backends"):
        read_structures(path)
