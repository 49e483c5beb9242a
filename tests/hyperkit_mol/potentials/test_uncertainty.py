"""Last-layer uncertainty: its formula, what it says of strange structures, its file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from potential_case import NUMBERS, acid, build
from rich.console import Console
from typer.testing import CliRunner

from hyperkit_mol.potentials import (
    DataError,
    ModelError,
    Potential,
    Structure,
    load_config,
    load_potential,
    save_potential,
)
from hyperkit_mol.potentials.uncertainty import FILE, LastLayer, energy_features

pytest.importorskip("ase", reason="the calculator needs ASE (the extra `potentials`)")
pytest.importorskip("vesin", reason="the calculator needs vesin (the extra `potentials`)")

from ase import Atoms

from hyperkit_mol.potentials.calculator import HyperkitCalculator
from hyperkit_mol.potentials.pipeline import train


def atoms(s: Structure) -> Atoms:
    return Atoms(s.numbers, s.positions, info={"charge": s.charge})


def shaken(count: int, size: float = 0.05, first: int = 0) -> list[Structure]:
    return [acid(size, k) for k in range(first, first + count)]


def known(potential: Potential, structures: list[Structure], noise: float = 0.01) -> list[Structure]:
    """Labels that are off by normal noise (eV)."""
    found = potential(potential.prepare(structures), forces=False).energy.detach().numpy()
    off = noise * np.random.default_rng(3).normal(size=len(structures))
    return [dataclasses.replace(s, energy=e + d) for s, e, d in zip(structures, found, off, strict=True)]


@pytest.mark.parametrize("kind", ["escaip", "transformer"])
def test_energies_are_linear_in_the_features(kind: str) -> None:
    """A change of the last weights changes the energies by features @ change, of lone atoms too."""
    model = build(kind=kind)
    batch = model.prepare([acid(0.1, 1), acid(0.1, 2, charge=1), Structure(np.zeros((1, 3)), np.array([8]))])
    features = energy_features(model, batch)
    before = model(batch, forces=False).energy.detach().numpy()
    (layer,) = model.backbone.readouts()  # type: ignore[operator]
    change = 0.3 * torch.randn_like(layer.weight)
    with torch.no_grad():
        layer.weight.add_(change)
    after = model(batch, forces=False).energy.detach().numpy()
    assert features.shape == (3, 16)
    np.testing.assert_allclose(after - before, features @ change[0].numpy(), atol=1e-9)
    if kind == "escaip":  # a lone atom has exactly its reference energy, and nobody doubts that
        assert np.abs(features[2]).max() == 0.0
    assert not layer._forward_pre_hooks


def test_formula_and_calibration() -> None:
    model = build()
    train_set, held = shaken(30), known(model, shaken(20, first=30))
    found = LastLayer.fit(model, train_set, held, batch_size=7)
    phi, some = (energy_features(model, model.prepare(s)) for s in (train_set, held))
    second = phi.T @ phi
    ridge = found.info["ridge"] * np.trace(second) / len(second)
    inverse = np.linalg.inv(second + ridge * np.eye(len(second)))
    expected = found.alpha * np.sqrt(np.einsum("bi,ij,bj->b", some, inverse, some))
    std = found.energy_std(some)
    np.testing.assert_allclose(std, expected, rtol=1e-6)
    # The likeliest alpha makes the errors one standard deviation long in the mean square.
    energy = model(model.prepare(held), forces=False).energy.detach().numpy()
    error = energy - np.array([s.energy for s in held])
    assert np.mean(np.square(error / std)) == pytest.approx(1.0, rel=1e-9)
    assert found.info["loss"] <= found.info["loss_even"] + 0.05


def test_alpha_follows_the_errors() -> None:
    model = build()
    small, large = (
        LastLayer.fit(model, shaken(30), known(model, shaken(20, first=30), noise)) for noise in (0.01, 0.1)
    )
    assert large.alpha == pytest.approx(10 * small.alpha, rel=1e-6)


def test_structures_unlike_the_training_set_are_less_certain() -> None:
    model = build()
    found = LastLayer.fit(model, shaken(40, 0.03), known(model, shaken(20, 0.03, first=40)))
    std = [
        found.energy_std(energy_features(model, model.prepare(shaken(20, size, first=60)))).mean()
        for size in (0.0, 0.03, 0.1, 0.2)
    ]
    assert std == sorted(std)
    assert std[2] > 2 * std[1]


def test_more_training_data_is_more_certain() -> None:
    """With alpha and the ridge held fixed, every structure takes uncertainty away everywhere."""
    model = build()
    few = LastLayer.fit(model, shaken(20), known(model, shaken(20, first=60)))
    probe = energy_features(model, model.prepare(shaken(10, first=90)))
    phi = energy_features(model, model.prepare(shaken(40)))
    ridge = few.info["ridge"] * np.trace(phi[:20].T @ phi[:20]) / 16
    values, directions = np.linalg.eigh(phi.T @ phi)
    many = dataclasses.replace(few, directions=directions, strengths=np.maximum(values, 0) + ridge)
    assert (many.energy_std(probe) < few.energy_std(probe)).all()


@pytest.mark.parametrize("rotations", [1, 4])
def test_calculator(rotations: int) -> None:
    model = build(kind="transformer" if rotations > 1 else "escaip")
    found = LastLayer.fit(model, shaken(30), known(model, shaken(20, first=30)))
    plain = HyperkitCalculator(model, rotations=rotations)
    calculator = HyperkitCalculator(model, rotations=rotations, uncertainty=found)
    assert "energy_std" in calculator.implemented_properties
    assert "energy_std" not in plain.implemented_properties
    images = [atoms(s) for s in shaken(3, 0.1, first=80)]
    results = calculator.predict_many(images, batch_size=2)
    for image, alone, many in zip(images, plain.predict_many(images), results, strict=True):
        assert "energy_std" not in alone
        assert many["energy"] == pytest.approx(alone["energy"], abs=1e-9)
        np.testing.assert_allclose(many["forces"], alone["forces"], atol=1e-11)
        assert calculator.get_property("energy_std", image) == pytest.approx(many["energy_std"], rel=1e-9)
        assert many["energy_std"] > 0
    features = energy_features(model, model.prepare(shaken(1, 0.1, first=80)))
    same = results[0]["energy_std"] == pytest.approx(found.energy_std(features)[0], rel=1e-9)
    assert same == (rotations == 1), "over several orientations it is that of the mean"


def test_saved_and_read(tmp_path: Path) -> None:
    model = build(dtype=torch.float32)
    save_potential(tmp_path / "m", model)
    found = LastLayer.fit(model, shaken(30), known(model, shaken(20, first=30)))
    assert found.save(tmp_path / "m") == tmp_path / "m" / FILE
    image = atoms(acid(0.1, 9))
    expected = HyperkitCalculator(model, uncertainty=found).get_property("energy_std", image)
    for dtype, tolerance in ((None, 1e-9), (torch.float64, 1e-2)):
        calculator = HyperkitCalculator(tmp_path / "m", dtype=dtype, uncertainty="last-layer")
        assert calculator.get_property("energy_std", image) == pytest.approx(expected, rel=tolerance)
    assert LastLayer.load(tmp_path / "m", load_potential(tmp_path / "m")).info == found.info


def test_a_file_of_another_model_or_a_damaged_one(tmp_path: Path) -> None:
    model, other = build(dtype=torch.float32), build(seed=1, dtype=torch.float32)
    found = LastLayer.fit(model, shaken(30), known(model, shaken(20, first=30)))
    for name, saved in (("m", model), ("other", other)):
        save_potential(tmp_path / name, saved)
    with pytest.raises(ModelError, match=r"has no last_layer.safetensors.*potential uncertainty"):
        HyperkitCalculator(tmp_path / "m", uncertainty="last-layer")
    path = found.save(tmp_path / "other")
    with pytest.raises(ModelError, match="made for other weights"):
        HyperkitCalculator(tmp_path / "other", uncertainty="last-layer")
    with pytest.raises(ModelError, match="made for other weights"):
        HyperkitCalculator(other, uncertainty=found)
    content = path.read_bytes()
    for bad in (content[:-8], b"", content.replace(b"last-layer/1", b"last-layer/9")):
        path.write_bytes(bad)
        with pytest.raises(ModelError, match=r"damaged|expected 'hyperkit-last-layer/1'"):
            HyperkitCalculator(tmp_path / "other", uncertainty="last-layer")


def test_what_cannot_be_calibrated() -> None:
    model = build()
    with pytest.raises(DataError, match="at least 10 validation structures are needed to calibrate, got 3"):
        LastLayer.fit(model, shaken(30), known(model, shaken(3)))
    with pytest.raises(DataError, match=r"energy is missing \(12 validation structures"):
        LastLayer.fit(model, shaken(30), shaken(12))
    with pytest.raises(DataError, match="no training structures"):
        LastLayer.fit(model, [], known(model, shaken(12)))
    with pytest.raises(DataError, match="all 0"):
        LastLayer.fit(model, shaken(30), known(model, shaken(12), noise=0.0))
    with pytest.raises(ModelError, match="of a single model"):
        HyperkitCalculator([model, build(seed=1)], uncertainty="last-layer")
    with pytest.raises(ModelError, match="read from a model folder"):
        HyperkitCalculator(model, uncertainty="last-layer")
    with pytest.raises(ValueError, match=r"must be 'last-layer'.*got 'ensemble'"):
        HyperkitCalculator(model, uncertainty="ensemble")  # type: ignore[arg-type]


def test_command(extxyz: Path, tmp_path: Path) -> None:
    """From a run to a model that is less sure of what is far from its data."""
    from hyperkit_mol.cli import app

    settings: dict[str, Any] = {
        "data.train": str(extxyz),
        "data.validation": 12,
        "model.width": 16,
        "model.layers": 1,
        "model.heads": 2,
        "training.steps": 60,
        "training.warmup": 5,
    }
    train(load_config("small", "escaip", settings), tmp_path / "run", console=Console(quiet=True))
    result = CliRunner().invoke(app, ["potential", "uncertainty", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "28 training structures, 12 for calibration" in said
    assert "forces: RMSE" in said
    assert (tmp_path / "run" / "model" / FILE).is_file()
    calculator = HyperkitCalculator(tmp_path / "run" / "model", uncertainty="last-layer")
    like, unlike = (
        np.mean([r["energy_std"] for r in calculator.predict_many([atoms(s) for s in shaken(12, size, 90)])])
        for size in (0.08, 0.3)
    )
    assert unlike > 2 * like
    assert calculator.get_property("energy_std", Atoms(NUMBERS[2:3], [[0, 0, 0]])) == 0.0
    wrong = CliRunner().invoke(app, ["potential", "uncertainty", str(tmp_path / "run" / "model")])
    assert wrong.exit_code != 0
    assert "config.yaml is missing" in " ".join(wrong.output.split())
