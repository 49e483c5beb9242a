"""Reading, splitting, reference energies; what a person's bad file gets for an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from potential_case import NUMBERS, POSITIONS, UNITS, acid

from hyperkit_mol.potentials import (
    DataError,
    DataKeys,
    Structure,
    StructureError,
    collate,
    normalization,
    read_structures,
    split_structures,
)
from hyperkit_mol.potentials.statistics import describe, isolated_energies, least_squares_energies
from hyperkit_mol.potentials.training import LabelledSet

ase = pytest.importorskip("ase", reason="reading structures needs ASE (the extra `potentials`)")
pytest.importorskip("vesin", reason="neighbour lists need vesin (the extra `potentials`)")


def write(path: Path, energy: str = "energy", forces: str = "forces", **columns: object) -> Path:
    """One frame with labels under custom names."""
    import ase.io

    atoms = ase.Atoms(NUMBERS, POSITIONS, info={energy: -1.5, "charge": 1, "spin": 2})
    atoms.arrays[forces] = np.ones((8, 3))
    for key, value in columns.items():
        atoms.info[key] = value
    ase.io.write(path, atoms, format="extxyz")
    return path


def test_reads_what_was_written(extxyz: Path, frames: list[Structure]) -> None:
    read = read_structures(extxyz)
    assert [len(s) for s in read] == [1] * 3 + [8] * 40
    for s, t in zip(read[3:], frames, strict=True):
        np.testing.assert_allclose(s.positions, t.positions, atol=1e-7)
        np.testing.assert_allclose(s.forces, t.forces, atol=1e-7)  # type: ignore[arg-type]
        assert s.energy == pytest.approx(t.energy, abs=1e-7)
    assert read[4].name == "acid.xyz: frame 4"


def test_custom_keys_charge_and_spin(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xyz", "REF_energy", "REF_forces")
    (s,) = read_structures(path, DataKeys("REF_energy", "REF_forces"))
    assert (s.energy, s.charge, s.spin) == (-1.5, 1, 2)
    assert (s.forces == 1).all()  # type: ignore[union-attr]


def test_wrong_keys_are_told_what_there_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xyz", "REF_energy", "REF_forces")
    with pytest.raises(DataError, match=r"no energy under 'energy'.*REF_energy.*--energy-key"):
        read_structures(path)
    with pytest.raises(DataError, match=r"no forces under 'forces'.*found there: REF_forces; .*--forces-key"):
        read_structures(path, DataKeys("REF_energy"))
    assert len(read_structures(path, labels=False)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no structures|cannot read"),
        ("2\nProperties=species:S:1:pos:R:3\nC 0 0 0\n", "should have 2 atoms; the file ends after 1"),
        ("1\nProperties=species:S:1:pos:R:3:f:R:33333333333\nC 0 0 0 0\n", "announces 33333333333 columns"),
        ("2" * 26, "should have 2+ atoms; the file ends after 0"),
        ("1\nProperties=species:S:1:pos:Q:3\nC 0 0 0\n", "ASE cannot read it"),
        ("1\nProperties=species:S:1:pos:R:3 energy=1 charge=inf\nC 0 0 0\n", "charge must be a whole number"),
        ('1\nProperties=species:S:1:pos:R:3 energy=1 charge="1 2"\nC 0 0 0\n', "charge must be a whole"),
        ("1\nProperties=species:S:1:pos:R:3 energy=1\nC nan 0 0\n", "positions has 1 values that are NaN"),
        ("1\nProperties=species:S:1:pos:R:3 energy=1\nX 0 0 0\n", "atomic number 0"),
        ("1\nProperties=species:S:1:pos:R:3 energy=nan\nC 0 0 0\n", "energy is nan"),
        ("1\nProperties=species:S:1:pos:R:3 energy=1 charge=0.5\nC 0 0 0\n", "charge must be a whole number"),
        ("1\nProperties=species:S:1:pos:R:3 energy=1 charge=99\nC 0 0 0\n", "charge must be .* got 99"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.xyz"
    path.write_text(content)
    with pytest.raises((DataError, StructureError), match=message) as caught:
        read_structures(path)
    assert "bad.xyz" in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_structures(tmp_path / "none.xyz")
    with pytest.raises(DataError, match="is a folder"):
        read_structures(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"positions": POSITIONS[:3]}, r"positions must have shape \(8, 3\), got \(3, 3\)"),
        ({"numbers": np.zeros(0), "positions": np.zeros((0, 3))}, "no atoms"),
        ({"numbers": np.full(8, 119)}, "atom 0 has atomic number 119"),
        ({"forces": np.full((8, 3), np.inf)}, "forces has 24 values"),
        ({"pbc": [True, False, False]}, "periodic along cell vector 0, which has length 0"),
        ({"pbc": True, "cell": [[1, 0, 0], [0, 1, 0], [1, 1, 0]]}, "the cell is flat"),
        ({"spin": -1}, "spin must be a whole number from 0 to 10"),
    ],
)
def test_bad_structures(fields: dict[str, object], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        Structure(**({"positions": POSITIONS, "numbers": NUMBERS} | fields))  # type: ignore[arg-type]


def test_empty_batch() -> None:
    with pytest.raises(StructureError, match="must not be empty"):
        collate([])


def test_energies_stay_float64_in_a_float32_batch() -> None:
    batch = collate([acid(energy=-9391.45554428476, forces=np.ones((8, 3)))])
    assert batch.energy is not None
    assert batch.energy.item() == -9391.45554428476
    assert batch.positions.dtype == torch.float32
    assert collate([acid(energy=1.0), acid()]).energy is None


def test_split_by_fraction_and_by_number(frames: list[Structure]) -> None:
    train, held = split_structures(frames, 0.25, seed=1)
    assert (len(train), len(held)) == (30, 10)
    assert {s.name for s in train} | {s.name for s in held} == {s.name for s in frames}
    assert [s.name for s in split_structures(frames, 10, seed=1)[1]] == [s.name for s in held]
    assert [s.name for s in split_structures(frames, 10, seed=2)[1]] != [s.name for s in held]
    for bad in (0, 40, 0.001):
        with pytest.raises(DataError, match="validation must leave"):
            split_structures(frames, bad)


def test_least_squares_find_the_energies_of_elements() -> None:
    random, refs = np.random.default_rng(0), UNITS.references
    sets = [random.choice([1, 6, 8], size=n) for n in range(3, 20)]
    made = [
        Structure(3.0 * np.arange(3 * len(z)).reshape(-1, 3), z, energy=sum(refs[int(a)] for a in z))
        for z in sets
    ]
    assert least_squares_energies(made) == pytest.approx(refs, rel=1e-9)
    units = normalization(made)
    assert units.shift == pytest.approx(0.0, abs=1e-9)
    assert units.scale == 1.0  # no forces: nothing to scale by


def test_least_squares_with_one_composition_only(frames: list[Structure]) -> None:
    # Not determined, but the sums must be right, and the numbers of a sensible size.
    refs = least_squares_energies(frames)
    total = sum(refs[int(z)] for z in NUMBERS)
    assert total == pytest.approx(np.mean([s.energy for s in frames]), rel=1e-9)  # type: ignore[type-var, arg-type]


def test_normalization(frames: list[Structure]) -> None:
    units = normalization(frames, UNITS.references)
    rms = np.sqrt(np.mean([np.square(s.forces) for s in frames]))  # type: ignore[arg-type]
    assert units.scale == pytest.approx(rms)
    assert units.references == UNITS.references
    with pytest.raises(DataError, match="no isolated-atom energy for C, O"):
        normalization(frames, {1: -13.6})


def test_isolated_atoms(extxyz: Path, frames: list[Structure]) -> None:
    assert isolated_energies(read_structures(extxyz)[:3]) == pytest.approx(UNITS.references)
    with pytest.raises(DataError, match=r"an isolated atom .* found 8 atoms"):
        isolated_energies(frames[:1])


def test_description_points_at_suspicious_frames(frames: list[Structure]) -> None:
    text = "\n".join(describe(frames, UNITS.references))
    assert "40 structures of 8 atoms; H, C, O" in text
    assert "warning" not in text
    odd = [*frames, acid(energy=frames[0].energy + 500.0, forces=frames[0].forces, name="odd one")]  # type: ignore[operator]
    assert "far from the others: odd one" in "\n".join(describe(odd, UNITS.references))
    kcal = [acid(energy=s.energy, forces=np.asarray(s.forces) * 23.06) for s in frames]
    assert "kcal/mol" in "\n".join(describe(kcal, UNITS.references))


def test_every_pass_visits_every_structure_once(frames: list[Structure]) -> None:
    mixed = frames[:20] + [Structure(POSITIONS[:n], NUMBERS[:n]) for n in (2, 3, 4, 5) * 5]
    for structures in (frames, mixed):
        data = LabelledSet(structures, 3.5, torch.float32)
        seen = np.concatenate([data.plan(step, 5, seed=0) for step in range(8)])
        assert sorted(seen) == list(range(40))
        again = np.concatenate([data.plan(step, 5, seed=0) for step in range(8, 16)])
        assert sorted(again) == list(range(40))
        assert list(again) != list(seen)
        shares = [data.plan(1, 5, seed=0, rank=r, world=2) for r in (0, 1)]
        assert not set(shares[0]) & set(shares[1])


def test_batches_hold_alike_sizes(frames: list[Structure]) -> None:
    mixed = frames[:20] + [Structure(POSITIONS[:2], NUMBERS[:2])] * 20
    data = LabelledSet(mixed, None, torch.float32)
    assert all(len({len(mixed[k]) for k in data.plan(step, 5, 0)}) == 1 for step in range(8))
