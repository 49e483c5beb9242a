"""The calculator with several models, many structures, several orientations; and on hard input."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from potential_case import NUMBERS, POSITIONS, UNITS, acid, build

from hyperkit_mol.potentials import (
    ModelConfig,
    ModelError,
    Normalization,
    Potential,
    StructureError,
    save_potential,
)

pytest.importorskip("ase", reason="the calculator needs ASE (the extra `potentials`)")
pytest.importorskip("vesin", reason="the calculator needs vesin (the extra `potentials`)")

from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from ase.optimize import BFGS

from hyperkit_mol.potentials.calculator import HyperkitCalculator, rotation_set


def acetic(shake: float = 0.0, seed: int = 0, **info: int) -> Atoms:
    return Atoms(NUMBERS, acid(shake, seed).positions, info=info)


# ---- ensembles ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["escaip", "transformer"])
def test_mean_and_spread_of_three_models(kind: str) -> None:
    models = [build(seed=k, kind=kind) for k in range(3)]
    atoms = acetic()
    atoms.calc = HyperkitCalculator(models)
    alone = []
    for model in models:
        one = acetic()
        one.calc = HyperkitCalculator(model)
        alone.append((one.get_potential_energy(), one.get_forces()))
    energies, forces = np.array([e for e, _ in alone]), np.stack([f for _, f in alone])
    assert atoms.get_potential_energy() == pytest.approx(energies.mean(), abs=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), forces.mean(0), atol=1e-12)
    results = atoms.calc.results
    assert results["energy_std"] == pytest.approx(np.std(energies, ddof=1), abs=1e-9)
    assert results["energy_std"] > 1e-3
    np.testing.assert_allclose(results["forces_std"], forces.std(0, ddof=1), atol=1e-12)
    assert results["force_uncertainty"].shape == (8,)
    np.testing.assert_allclose(results["force_uncertainty"] ** 2, forces.var(0, ddof=1).sum(1), atol=1e-12)


def test_equal_members_do_not_disagree(tmp_path: Path) -> None:
    save_potential(tmp_path / "m", build())
    calculator = HyperkitCalculator([tmp_path / "m", str(tmp_path / "m"), build()])
    atoms = acetic()
    assert calculator.get_property("energy_std", atoms) < 1e-9
    assert calculator.get_property("force_uncertainty", atoms).max() < 1e-12


def test_one_model_has_no_spread() -> None:
    atoms = acetic()
    atoms.calc = HyperkitCalculator([build()])
    atoms.get_forces()
    assert "energy_std" not in atoms.calc.results
    assert "energy_std" not in atoms.calc.implemented_properties


def test_stress_of_an_ensemble_is_the_mean() -> None:
    atoms = bulk("C", cubic=True)
    atoms.rattle(0.05, seed=1)
    models = [build(seed=k, cutoff=3.0) for k in range(2)]
    found = []
    for model in (models, *models):
        atoms.calc = HyperkitCalculator(model)
        found.append(atoms.get_stress())
    np.testing.assert_allclose(found[0], (found[1] + found[2]) / 2, atol=1e-14)


def test_members_must_know_the_same_elements() -> None:
    torch.manual_seed(0)
    other = Potential(ModelConfig(), Normalization({1: -13.6, 7: -1480.0, 8: -2043.0}, -2.0, 1.3))
    with pytest.raises(ModelError, match=r"model 2 of the ensemble.*: C, N is known to one"):
        HyperkitCalculator([build(), other])
    with pytest.raises(ModelError, match="at least one"):
        HyperkitCalculator([])


def test_a_member_that_does_not_know_the_charge() -> None:
    torch.manual_seed(0)
    neutral = Potential(ModelConfig(width=16, layers=1, radial=4), Normalization(UNITS.references, -2.0, 1.3))
    atoms = acetic(charge=1)
    atoms.calc = HyperkitCalculator([build(dtype=torch.float32), neutral])
    with pytest.raises(ModelError, match="does not know charge 1"):
        atoms.get_potential_energy()


def test_an_ensemble_relaxes_and_is_written(tmp_path: Path) -> None:
    """ASE's optimiser, trajectory and extxyz put up with results that they have no name for."""
    atoms = acetic()
    atoms.calc = HyperkitCalculator([build(seed=k, dtype=torch.float32) for k in range(2)])
    BFGS(atoms, logfile=None, trajectory=str(tmp_path / "a.traj")).run(steps=3)
    write(tmp_path / "a.xyz", atoms)
    again = read(tmp_path / "a.xyz")
    assert again.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    assert len(read(tmp_path / "a.traj", index=":")) >= 3


# ---- many structures ----------------------------------------------------------------------------


@pytest.mark.parametrize("rotations", [1, 3])
def test_many_at_a_time_equal_one_by_one(rotations: int) -> None:
    crystal = bulk("C", cubic=True)
    crystal.rattle(0.05, seed=1)
    images = [acetic(0.05, 1), Atoms("H", [[0, 0, 0]]), crystal, Atoms("CO", [[0, 0, 0], [1.1, 0, 0]])]
    images += [acetic(0.05, 2, charge=1), crystal * (2, 1, 1)]
    calculator = HyperkitCalculator([build(seed=k, cutoff=3.0) for k in range(2)], rotations=rotations)
    found = calculator.predict_many(images, batch_size=2)
    for atoms, results in zip(images, found, strict=True):
        atoms.calc = calculator
        assert results["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(results["forces"], atoms.get_forces(), atol=1e-11)
        assert set(results) == set(calculator.results)
        for name, value in calculator.results.items():
            np.testing.assert_allclose(results[name], value, atol=1e-9)
    assert ["stress" in r for r in found] == [False, False, True, False, False, True]


def test_many_names_the_wrong_one() -> None:
    calculator = HyperkitCalculator(build())
    assert calculator.predict_many([]) == []
    with pytest.raises(ModelError, match=r"image 1 \(Si\): the model does not know Si"):
        calculator.predict_many([acetic(), Atoms("Si", [[0, 0, 0]])])
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        calculator.predict_many([acetic()], batch_size=0)


# ---- rotations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4, 8, 12, 24, 60])
def test_rotation_set(count: int) -> None:
    turns = rotation_set(count)
    assert turns.shape == (count, 3, 3)
    np.testing.assert_allclose(
        turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (count, 1, 1)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(turns), 1.0, atol=1e-12)
    distance = np.linalg.norm(turns[:, None] - turns[None], axis=(-1, -2)) + 9 * np.eye(count)
    assert distance.min() > 0.5
    if count in (12, 24, 60):  # degree 2: the mean of R (x) R is that over all of SO(3)
        second = np.einsum("nij,nkl->ijkl", turns, turns) / count
        expected = np.einsum("ik,jl->ijkl", np.eye(3), np.eye(3)) / 3
        np.testing.assert_allclose(second, expected, atol=1e-12)


def test_rotation_sets_of_one_and_none() -> None:
    assert np.array_equal(rotation_set(1), np.eye(3)[None])
    with pytest.raises(ValueError, match="rotations must be >= 1, got 0"):
        rotation_set(0)


def test_averaging_makes_the_transformer_turn_with_the_molecule() -> None:
    model = build(kind="transformer")
    with torch.no_grad():  # random weights are no smooth function of the orientation: make it one
        model.backbone.coordinates.weight.mul_(0.1)  # type: ignore[union-attr, operator]
    images = []
    for turn in rotation_set(7):
        atoms = acetic()
        atoms.positions @= turn.T
        images.append(atoms)
    spread = {}
    for count in (1, 8, 12, 24):
        found = HyperkitCalculator(model, rotations=count).predict_many(images)
        spread[count] = np.std([r["energy"] for r in found])
    assert spread[8] < 0.7 * spread[1]
    assert spread[12] < 0.02 * spread[1]
    assert spread[24] < 0.005 * spread[1]


def test_averaged_forces_are_the_gradient_of_the_averaged_energy() -> None:
    atoms, h = acetic(), 1e-5
    atoms.calc = HyperkitCalculator(build(kind="transformer"), rotations=5)
    forces = atoms.get_forces()
    for i, k in ((0, 0), (3, 1), (7, 2)):
        energies = []
        for sign in (1, -1):
            moved = acetic()
            moved.positions[i, k] += sign * h
            moved.calc = atoms.calc
            energies.append(moved.get_potential_energy())
        assert forces[i, k] == pytest.approx(-(energies[0] - energies[1]) / (2 * h), abs=1e-6)


def test_averaging_changes_nothing_for_an_invariant_model() -> None:
    crystal = bulk("C", cubic=True)
    crystal.rattle(0.05, seed=1)
    results = []
    for count in (1, 4):
        crystal.calc = HyperkitCalculator(build(cutoff=3.0), rotations=count)
        results.append((crystal.get_potential_energy(), crystal.get_forces(), crystal.get_stress()))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-9)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-11)
    np.testing.assert_allclose(results[0][2], results[1][2], atol=1e-13)


# ---- caching ------------------------------------------------------------------------------------


class Counting(HyperkitCalculator):
    """Counts evaluations."""

    calls = 0

    def _compute(self, structures, stress):  # type: ignore[no-untyped-def]
        self.calls += 1
        return super()._compute(structures, stress)


def test_only_changes_are_computed() -> None:
    atoms = acetic()
    atoms.calc = Counting(build())
    first = atoms.get_potential_energy()
    atoms.get_forces()
    atoms.get_potential_energies()
    assert atoms.calc.calls == 1

    def changed(calls: int) -> float:
        value = atoms.get_potential_energy()
        assert atoms.calc.calls == calls
        return value

    atoms.positions[0, 0] += 0.01
    assert changed(2) != first
    atoms.positions[0, 0] -= 0.01
    assert changed(3) == pytest.approx(first, abs=1e-9)
    atoms.numbers[2] = 6
    assert changed(4) != first
    atoms.numbers[2] = 8
    atoms.info["charge"] = 1
    assert changed(5) != first
    atoms.info["spin"] = 2
    assert changed(6) != first
    atoms.info.clear()
    assert changed(7) == pytest.approx(first, abs=1e-9)
    atoms.cell, atoms.pbc = [9, 9, 9], True
    atoms.get_stress()
    assert atoms.calc.calls == 8
    atoms.set_cell([8.5, 9, 9], scale_atoms=False)
    atoms.get_stress()
    assert atoms.calc.calls == 9
    atoms.info["remark"] = "not the model's business"
    atoms.get_stress()
    assert atoms.calc.calls == 9


# ---- hard input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["escaip", "transformer"])
def test_one_atom(kind: str) -> None:
    atoms = Atoms("O", [[1.0, 2.0, 3.0]])
    atoms.calc = HyperkitCalculator([build(seed=k, kind=kind) for k in range(2)], rotations=2)
    assert np.isfinite(atoms.get_potential_energy())
    np.testing.assert_allclose(atoms.get_forces(), 0.0, atol=1e-12)


@pytest.mark.parametrize("kind", ["escaip", "transformer"])
def test_direct_forces(kind: str) -> None:
    model = build(kind=kind, forces="direct")
    atoms = acetic()
    atoms.calc = HyperkitCalculator(model)
    expected = model(model.prepare([acid()])).forces
    np.testing.assert_array_equal(atoms.get_forces(), expected.detach().numpy())
    if kind == "escaip":
        crystal = bulk("C", cubic=True)
        crystal.calc = HyperkitCalculator(model)
        crystal.get_forces()
        with pytest.raises(ModelError, match="forces are direct"):
            crystal.get_stress()


def test_an_error_leaves_nothing_behind() -> None:
    """After a refused structure the old results are gone, and a good structure is computed anew."""
    atoms = acetic()
    atoms.calc = HyperkitCalculator(build())
    first = atoms.get_potential_energy()
    atoms.positions[3] = np.nan
    for _ in range(2):
        with pytest.raises(StructureError, match="NaN"):
            atoms.get_potential_energy()
    atoms.positions[3] = POSITIONS[2] + 0.01
    with pytest.raises(StructureError, match="overlap"):
        atoms.get_potential_energy()
    atoms.positions[3] = POSITIONS[3]
    assert atoms.get_potential_energy() == first
    atoms.info["charge"] = 0.5
    with pytest.raises(StructureError, match="charge must be a whole number"):
        atoms.get_potential_energy()


def test_five_thousand_atoms() -> None:
    """Time and memory stay bounded: nothing is quadratic in the number of atoms."""
    torch.manual_seed(0)
    config = ModelConfig(width=16, layers=2, heads=2, radial=6, cutoff=3.5)
    model = Potential(config, UNITS, 5.0).eval()
    grid = np.stack(np.meshgrid(*[np.arange(18.0)] * 3), -1).reshape(-1, 3)[:5000] * 1.9
    grid += np.random.default_rng(0).normal(size=grid.shape) * 0.1
    atoms = Atoms(np.resize([6, 1, 8, 1], 5000), grid)
    atoms.calc = HyperkitCalculator(model)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    forces = atoms.get_forces()
    seconds = time.process_time() - begin
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert np.isfinite(forces).all()
    assert np.abs(forces).max() > 0
    # A 5,000 x 5,000 table of vectors alone would be 600 MB in float64.
    assert megabytes < 2500, megabytes
    assert seconds < 60, seconds
