"""tests/benchmarks/potentials_physics.py runs on any model and tells a good one from a bad one."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from potential_case import NUMBERS, POSITIONS, acid, build

from hyperkit_mol.potentials import save_potential

pytest.importorskip("ase", reason="needs ASE (the extra `potentials`)")
pytest.importorskip("vesin", reason="needs vesin (the extra `potentials`)")

import ase.io
from ase import Atoms

_path = Path(__file__).parents[2] / "benchmarks" / "potentials_physics.py"
_spec = importlib.util.spec_from_file_location("potentials_physics", _path)
assert _spec is not None
assert _spec.loader is not None
physics: Any = importlib.util.module_from_spec(_spec)
sys.modules["potentials_physics"] = physics
_spec.loader.exec_module(physics)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    images = [Atoms("O", [[0, 0, 0]])]  # isolated atoms are passed over
    images += [Atoms(NUMBERS, acid(0.03, k).positions) for k in range(3)]
    ase.io.write(tmp_path / "data.xyz", images)
    return tmp_path / "data.xyz"


def run(data: Path, parts: str, *more: str, **settings: object) -> dict[str, Any]:
    folder = data.parent
    save_potential(folder / "m", build(**settings))
    return physics.main(
        [str(folder / "m"), "--data", str(data), "-o", str(folder / "out"), "--parts", parts, *more]
    )


def test_dynamics(data: Path) -> None:
    found = run(data, "nve", "--ps", "0.02", "--every", "2", "--timestep", "0.25")["nve"]
    assert set(found) == {"float32", "float64", "seconds"}
    for name in ("float32", "float64"):
        assert found[name]["ps"] == 0.02
        assert 100 < found[name]["mean_temperature_K"] < 2000
        assert found[name]["largest_excursion_meV_per_atom"] < 20
    # Forces of a head of their own are no gradient: the same dynamics gains or loses energy.
    direct = run(data, "nve", "--ps", "0.02", "--timestep", "0.25", "--dtypes", "float64", forces="direct")[
        "nve"
    ]["float64"]
    excursion = found["float64"]["largest_excursion_meV_per_atom"]
    assert direct["largest_excursion_meV_per_atom"] > 5 * excursion
    assert (data.parent / "out" / "nve.png").stat().st_size > 5000


@pytest.mark.parametrize("kind", ["escaip", "transformer"])
def test_symmetries(data: Path, kind: str) -> None:
    settings = ("--turns", "4", "--rotation-frames", "2", "--sets", "12")
    found = run(data, "symmetry", *settings, kind=kind)["symmetry"]
    assert found["frames"] == 2
    for name in ("exchange", "translation"):
        assert found[name]["energy_meV"] < 1e-5
        assert found[name]["forces_meV_per_A"] < 1e-5
    if kind == "escaip":
        assert found["plain"]["forces_meV_per_A"] < 1e-8
    else:
        assert found["averaged_12"]["forces_meV_per_A"] < 0.5 * found["plain"]["forces_meV_per_A"]
        assert found["plain"]["energy_meV"] > 1


def test_a_breaking_bond(data: Path) -> None:
    settings = ("--points", "201", "--max-steps", "2")
    found = run(data, "dissociation", *settings)["dissociation"]
    assert found["bond"] == ["C0", "C1"]
    assert 3.5 < found["second_difference_ratio_when_halved"] < 4.5
    assert found["force_against_slope_meV_per_A"] < 20
    assert found["largest_step_meV"] > 0
    direct = run(data, "dissociation", *settings, "--bond", "1", "2", forces="direct")["dissociation"]
    assert direct["bond"] == ["C1", "O2"]
    assert direct["force_against_slope_meV_per_A"] > 1000


def test_a_jump_is_seen(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = physics.HyperkitCalculator.predict_many

    def jumping(self: Any, images: Any, batch_size: int = 32) -> Any:
        found = original(self, images, batch_size)
        for atoms, results in zip(images, found, strict=True):
            results["energy"] += 0.5 * (atoms.get_distance(0, 1) > 3.003)
        return found

    monkeypatch.setattr(physics.HyperkitCalculator, "predict_many", jumping)
    found = run(data, "dissociation", "--points", "201", "--max-steps", "2")["dissociation"]
    assert found["largest_step_meV"] > 400
    assert found["second_difference_ratio_when_halved"] < 2.5
    assert found["force_against_slope_meV_per_A"] > 1000


def test_which_side_of_a_bond() -> None:
    atoms = Atoms(NUMBERS, POSITIONS)
    i, j, far = physics._cut(atoms, None)
    assert (i, j) == (0, 1)
    assert far.tolist() == [1, 2, 3, 4]
    ring = Atoms("C3", [[0, 0, 0], [1.5, 0, 0], [0.75, 1.3, 0]])
    with pytest.raises(SystemExit, match=r"none of .* falls apart"):
        physics._cut(ring, None)


def test_minima(data: Path) -> None:
    found = run(data, "relaxation,vibrations", "--frames", "2", "--max-steps", "40", "--fmax", "0.05")
    relaxed, modes = found["relaxation"], found["vibrations"]
    assert relaxed["frames"] == 2
    assert 0 <= relaxed["converged"] <= 1
    assert len(modes["frequencies_cm"]) == 3 * 8 - 6
    assert modes["imaginary"] == sum(v < 0 for v in modes["frequencies_cm"])
    assert np.abs(modes["rigid_cm"]).max() <= np.abs(modes["frequencies_cm"]).min() + 1e-9
    # A second call adds to the first one's file.
    run(data, "symmetry", "--turns", "2", "--rotation-frames", "1", "--sets")
    stored = json.loads((data.parent / "out" / "physics.json").read_text())
    assert {"relaxation", "vibrations", "symmetry", "command", "machine"} <= set(stored)


def test_wrong_part(data: Path) -> None:
    with pytest.raises(SystemExit, match="no magic; there are nve, symmetry"):
        run(data, "magic")
