"""The parsed copy on disk: the same structures, made again whenever anything about the file changes."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from hyperkit_mol.potentials import DataKeys, Structure, collate, read_structures
from hyperkit_mol.potentials import cache as room
from hyperkit_mol.potentials import data as reading
from hyperkit_mol.potentials.errors import DataWarning
from hyperkit_mol.potentials.units import Units

pytest.importorskip("ase", reason="reading structures needs ASE (the extra `potentials`)")
pytest.importorskip("vesin", reason="neighbour lists need vesin (the extra `potentials`)")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that takes every file, however small."""
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reading, "MIN_BYTES", 0)
    return tmp_path / "cache" / "structures"


@pytest.fixture
def file(extxyz: Path, tmp_path: Path) -> Path:
    """The labelled set in a place of its own."""
    path = tmp_path / "set.xyz"
    path.write_bytes(extxyz.read_bytes())
    return path


def parses(path: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> tuple[list[Structure], int]:
    """Structures, and how often the file was parsed to have them."""
    count, plain = 0, reading._frames

    def counted(path: Path) -> object:
        nonlocal count
        count += 1
        return plain(path)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "_frames", counted)
        return read_structures(path, cache=True, **options), count  # type: ignore[arg-type]


def same(a: list[Structure], b: list[Structure]) -> bool:
    """Equal to the last bit."""
    fields = ("positions", "numbers", "cell", "pbc", "forces")
    return len(a) == len(b) and all(
        (s.name, s.energy, s.charge, s.spin) == (t.name, t.energy, t.charge, t.spin)
        and all(np.array_equal(getattr(s, f), getattr(t, f)) for f in fields)
        for s, t in zip(a, b, strict=True)
    )


def test_second_time_is_not_parsed(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = read_structures(file)
    assert not folder.exists()
    first, once = parses(file, monkeypatch)
    second, again = parses(file, monkeypatch)
    assert (once, again) == (1, 0)
    assert same(plain, first)
    assert same(plain, second)
    assert [p.suffix for p in folder.iterdir()] == [".arrow"]


def test_what_labels_may_lack(tmp_path: Path, folder: Path) -> None:
    x = np.arange(9.0).reshape(3, 3)
    made = [
        Structure(x[:1], np.array([1]), energy=-0.5, name="a"),
        Structure(x, np.array([1, 8, 1]), charge=-2, spin=3, name="β, frame 2"),
        Structure(x[:2], np.array([1, 9]), np.eye(3) * 9, np.array([True, False, True]), forces=x[:2]),
    ]
    (tmp_path / "set.xyz").write_text("whatever")
    copy = room.StructureCache(tmp_path / "set.xyz", {})
    assert copy.load() is None
    copy.save(made)
    found = copy.load()
    assert found is not None
    assert same(made[2:], found[2:])
    assert [s.energy for s in found] == [-0.5, None, None]
    assert [s.forces is None for s in found] == [True, True, False]
    assert (found[1].charge, found[1].spin, found[1].name) == (-2, 3, "β, frame 2")


def test_read_only_views_train_without_complaint(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperkit_mol.potentials.training import LabelledSet

    parses(file, monkeypatch)
    read, _ = parses(file, monkeypatch)
    assert not read[5].positions.flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = LabelledSet(read[3:], 3.5, collate([read[5]]).positions.dtype).plan(0, 4, 0)
        collate([read[3 + k] for k in batch])


def test_a_changed_file_is_parsed_again_and_its_old_copy_removed(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = parses(file, monkeypatch)
    text = file.read_text().replace("energy=", "energy=-")
    file.write_text(text.replace("energy=--", "energy="))
    after, count = parses(file, monkeypatch)
    assert count == 1
    assert before[0].energy == -after[0].energy  # type: ignore[operator]
    assert len(list(folder.iterdir())) == 1
    # The same length and another time is a change, too.
    os.utime(file, ns=(1, 1))
    assert parses(file, monkeypatch)[1] == 1


def test_keys_units_and_labels_have_copies_of_their_own(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = parses(file, monkeypatch)
    scaled, count = parses(file, monkeypatch, units=Units("meV"))
    assert count == 1
    assert scaled[4].energy == pytest.approx(plain[4].energy / 1e3)  # type: ignore[operator]
    bare, count = parses(file, monkeypatch, labels=False, keys=DataKeys("E", "F"))
    assert count == 1
    assert bare[4].energy is None
    assert len(list(folder.iterdir())) == 3
    assert [parses(file, monkeypatch, units=u)[1] for u in (None, Units("meV"))] == [0, 0]


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "text"])
def test_a_damaged_copy_is_made_again(
    harm: str, file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = parses(file, monkeypatch)
    (copy,) = folder.iterdir()
    content = bytearray(copy.read_bytes())
    spot = content.find(np.float64(plain[7].positions[0, 0]).tobytes())
    assert spot > 0
    content[spot] ^= 1  # the last bit of one coordinate
    copy.unlink()  # a mapped file must not be cut under those who read it
    copy.write_bytes({"cut": content[:-100], "flip": content, "empty": b"", "text": b"hello" * 99}[harm])
    again, count = parses(file, monkeypatch)
    assert count == 1
    assert same(plain, again)
    third, count = parses(file, monkeypatch)
    assert count == 0
    assert same(plain, third)


def test_a_full_disk_costs_the_copy_and_nothing_else(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    plain = read_structures(file)
    with monkeypatch.context() as patch:
        patch.setattr(room, "_write", full)
        with pytest.warns(DataWarning, match=r"no parsed copy is kept .*No space left"):
            assert same(plain, read_structures(file, cache=True))
    assert list(folder.iterdir()) == []


def test_a_file_that_changed_while_it_was_read_is_not_kept(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = reading._frames

    def slow(path: Path) -> object:
        yield from plain(path)
        path.write_text(path.read_text() + "\n")

    monkeypatch.setattr(reading, "_frames", slow)
    read_structures(file, cache=True)
    assert not folder.exists()


def test_small_files_leave_nothing(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "cache"))
    assert file.stat().st_size < room.MIN_BYTES
    read_structures(file, cache=True)
    assert not (tmp_path / "cache").exists()
