"""Last-layer uncertainty of forces: the dense formula, draws from it, calibration, file and calculator."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from potential_case import acid, build
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from hyperkit_mol.potentials import ModelError, Potential, Structure, escaip, load_potential, save_potential
from hyperkit_mol.potentials.uncertainty import FILE, LastLayer, head_forces

pytest.importorskip("ase", reason="the calculator needs ASE (the extra `potentials`)")
pytest.importorskip("vesin", reason="the calculator needs vesin (the extra `potentials`)")

from ase import Atoms

from hyperkit_mol.potentials.calculator import HyperkitCalculator


def atoms(s: Structure) -> Atoms:
    return Atoms(s.numbers, s.positions)


def shaken(count: int, size: float = 0.05, first: int = 0) -> list[Structure]:
    return [acid(size, k) for k in range(first, first + count)]


def labelled(model: Potential, structures: list[Structure], noise: float = 0.02) -> list[Structure]:
    random = np.random.default_rng(3)
    out = []
    for s in structures:
        found = model(model.prepare([s]))
        forces = found.forces.detach().numpy()
        out.append(
            dataclasses.replace(
                s,
                energy=found.energy.item() + 0.01 * random.normal(),
                forces=forces + noise * random.normal(size=forces.shape),
            )
        )
    return out


def fitted(model: Potential, noise: float = 0.02) -> LastLayer:
    return LastLayer.fit(model, shaken(30), labelled(model, shaken(12, first=30), noise))


def changed(model: Potential, head: np.ndarray) -> Potential:
    """With other last weights."""
    other = copy.deepcopy(model)
    (layer,) = other.backbone.readouts()  # type: ignore[operator]
    with torch.no_grad():
        layer.weight.add_(torch.as_tensor(head)[None].to(layer.weight))
    return other


@pytest.mark.parametrize("kind", ["escaip", "transformer"])
def test_heads_give_the_forces_of_changed_weights(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(kind=kind)
    batch = model.prepare([*shaken(2, 0.1), Structure(np.zeros((1, 3)), np.array([8]))])
    heads = 0.3 * np.random.default_rng(0).normal(size=(3, 16))
    found = head_forces(model, batch, heads)
    assert found.shape == (3, 17, 3)
    before = model(batch).forces.detach().numpy()
    for head, forces in zip(heads, found, strict=True):
        after = changed(model, head)(batch).forces.detach().numpy()
        np.testing.assert_allclose(forces, after - before, atol=1e-9)
    monkeypatch.setattr(escaip.EScAIP, "rows", lambda self, width: 8)
    monkeypatch.setattr(escaip, "_WHOLE", 0)
    np.testing.assert_allclose(head_forces(model, batch, heads), found, atol=1e-11)


def test_deviations_are_those_of_the_dense_formula() -> None:
    model = build()
    found = fitted(model)
    assert found.alpha_forces is not None
    batch = model.prepare(shaken(1, 0.1, first=80))
    jacobian = head_forces(model, batch, np.eye(16)).reshape(16, -1)
    inverse = np.linalg.inv(found.directions @ np.diag(found.strengths) @ found.directions.T)
    expected = found.alpha_forces * np.sqrt(np.einsum("ia,ij,ja->a", jacobian, inverse, jacobian))
    result = HyperkitCalculator(model, uncertainty=found, force_heads=16).predict_many(
        [atoms(acid(0.1, 80))]
    )[0]
    np.testing.assert_allclose(result["forces_std"].ravel(), expected, rtol=1e-6)
    np.testing.assert_allclose(
        result["force_uncertainty"], np.linalg.norm(expected.reshape(-1, 3), axis=1), rtol=1e-6
    )
    # Draws estimate it without bias: over many of them, to the accuracy that is told.
    drawn = np.stack(
        [
            found.heads(8),
            *(np.random.default_rng(k).normal(size=(8, 16)) / 8**0.5 @ found.heads() for k in range(1, 200)),
        ]
    )
    ratio = np.square(drawn @ jacobian).sum(1) / np.square(expected)
    assert ratio.mean() == pytest.approx(1.0, abs=0.05)
    assert np.sqrt(ratio[0]).std() < 2 / 16**0.5


def test_calibration_follows_the_errors() -> None:
    model = build()
    small, large = fitted(model, 0.02), fitted(model, 0.2)
    assert small.alpha_forces is not None
    assert large.alpha_forces == pytest.approx(10 * small.alpha_forces, rel=1e-6)
    assert small.info["force_rmse_eV_per_A"] == pytest.approx(0.02, rel=0.1)
    assert 0.4 < small.info["force_within_1"] < 0.95
    held = labelled(model, shaken(12, first=30))
    calculator = HyperkitCalculator(model, uncertainty=small, force_heads=99)
    found = calculator.predict_many([atoms(s) for s in held])
    parts = [(r["forces"] - s.forces) / r["forces_std"] for r, s in zip(found, held, strict=True)]
    assert np.mean(np.square(parts)) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("rotations", [1, 4])
def test_calculator(rotations: int) -> None:
    """The spread of what the heads would give, averaged over orientations like the forces themselves."""
    model = build(kind="transformer" if rotations > 1 else "escaip")
    found = fitted(model)
    calculator = HyperkitCalculator(model, rotations=rotations, uncertainty=found, force_heads=5)
    plain = HyperkitCalculator(model, rotations=rotations, uncertainty=found)
    assert "forces_std" in calculator.implemented_properties
    assert "forces_std" not in plain.implemented_properties
    images = [atoms(s) for s in shaken(2, 0.1, first=80)]
    results = calculator.predict_many(images)
    base = plain.predict_many(images)
    assert "forces_std" not in base[0]
    squares = [np.zeros((8, 3)) for _ in images]
    for head in found.heads(5):
        moved = HyperkitCalculator(changed(model, head), rotations=rotations).predict_many(images)
        for total, a, b in zip(squares, moved, base, strict=True):
            total += np.square(a["forces"] - b["forces"])
    for image, total, result, alone in zip(images, squares, results, base, strict=True):
        np.testing.assert_allclose(result["forces_std"], np.sqrt(total), rtol=1e-5)
        np.testing.assert_allclose(result["forces"], alone["forces"], atol=1e-12)
        assert result["energy_std"] == pytest.approx(alone["energy_std"], rel=1e-9)
        np.testing.assert_allclose(
            calculator.get_property("forces_std", image), result["forces_std"], rtol=1e-9
        )


def test_it_turns_with_the_molecule() -> None:
    model = build()
    calculator = HyperkitCalculator(model, uncertainty=fitted(model), force_heads=4)
    image = atoms(acid(0.1, 80))
    before = calculator.get_property("force_uncertainty", image)
    image.rotate(70.0, (1.0, 2.0, 3.0))
    np.testing.assert_allclose(calculator.get_property("force_uncertainty", image), before, rtol=1e-9)


def test_saved_and_read(tmp_path: Path) -> None:
    model = build(dtype=torch.float32)
    save_potential(tmp_path / "m", model)
    found = fitted(model)
    path = found.save(tmp_path / "m")
    again = LastLayer.load(tmp_path / "m", load_potential(tmp_path / "m"))
    assert again.alpha_forces == found.alpha_forces
    # A file written before forces had a calibration.
    with safe_open(str(path), "numpy") as file:
        words = {k: v for k, v in file.metadata().items() if k != "alpha_forces"}
    save_file(load_file(path), str(tmp_path / "m" / FILE), words)
    assert json.loads(words["info"])["validation"] == 12
    old = HyperkitCalculator(tmp_path / "m", uncertainty="last-layer")
    assert old.get_property("energy_std", atoms(acid(0.1, 80))) > 0
    with pytest.raises(ModelError, match=r"no calibration for forces.*makes it anew"):
        HyperkitCalculator(tmp_path / "m", uncertainty="last-layer", force_heads=16)


def test_where_there_is_none() -> None:
    model = build()
    plain = LastLayer.fit(
        model,
        shaken(30),
        [dataclasses.replace(s, forces=None) for s in labelled(model, shaken(12, first=30))],
    )
    assert plain.alpha_forces is None
    with pytest.raises(ModelError, match="validation structures with forces"):
        HyperkitCalculator(model, uncertainty=plain, force_heads=4)
    with pytest.raises(ValueError, match="force_heads needs uncertainty"):
        HyperkitCalculator(model, force_heads=4)
    with pytest.raises(ValueError, match="count must be >= 1, got 0"):
        HyperkitCalculator(model, uncertainty=fitted(model), force_heads=0)
    direct = build(forces="direct")
    assert fitted(direct).alpha_forces is None
    with pytest.raises(ModelError, match="forces are direct"):
        head_forces(direct, direct.prepare(shaken(1)), np.eye(16))
