"""Sampling of geometries: statistics known from theory, seeds, what is refused and what is reported."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ase", reason="sampling needs ASE (the extra `potentials`)")

from label_case import Springs

from hyperkit_mol.potentials import DataError, StructureError
from hyperkit_mol.potentials.sampling import (
    LabelSettings,
    check_method,
    normal_modes,
    sample_molecule,
    unpaired_electrons,
)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def fake(**settings: object) -> LabelSettings:
    """Springs instead of quantum chemistry."""
    base: dict[str, object] = {"method": "label_case:springs", "interval": 5, "equilibration": 10}
    return LabelSettings(**(base | settings))  # type: ignore[arg-type]


def test_frames_are_spread_over_conformers_and_temperatures() -> None:
    runs = LabelSettings(conformers=2, samples=10, temperatures=(300.0, 600.0)).runs()
    assert runs == [(0, 300.0, 3), (0, 600.0, 3), (1, 300.0, 2), (1, 600.0, 2)]
    assert LabelSettings(conformers=5, samples=2).runs() == [(0, 300.0, 1), (1, 300.0, 1)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "b3lyp"}, "method must be gfn2, gfn1, dft, or module:function .* got 'b3lyp'"),
        ({"sampling": "nms"}, "sampling must be md or normal-modes, got 'nms'"),
        ({"samples": 0}, "samples must be >= 1, got 0"),
        ({"conformers": -1}, "conformers must be >= 1, got -1"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"timestep": float("nan")}, "timestep must be > 0, got nan"),
        ({"temperatures": (300.0, 0.0)}, "temperature must be > 0 and <= 5000 K, got 0"),
        ({"temperatures": ()}, "temperatures must not be empty"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LabelSettings(**settings)  # type: ignore[arg-type]


def test_methods_are_looked_up_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    check_method("label_case:springs")
    with pytest.raises(DataError, match="'label_case:nothing' cannot be loaded"):
        check_method("label_case:nothing")
    with pytest.raises(DataError, match="'no_such_module:f' cannot be loaded"):
        check_method("no_such_module:f")
    monkeypatch.setattr("hyperkit_mol.potentials.sampling.find_spec", lambda _: None)
    with pytest.raises(ImportError, match="pip install tblite"):
        check_method("gfn2")


@pytest.mark.parametrize(
    ("numbers", "charge", "spin", "unpaired"),
    [
        ([8, 1, 1], 0, 0, 0),  # water, nothing said
        ([8, 1, 1], 0, 1, 0),  # a multiplicity
        ([8, 8], 0, 2, 2),  # unpaired electrons
        ([8, 8], 0, 3, 2),  # a multiplicity
        ([6, 1, 1, 1], 0, 0, 1),  # a radical, nothing said
        ([6, 1, 1, 1], 0, 1, 1),
        ([6, 1, 1, 1], 0, 2, 1),
        ([8, 1, 1], 1, 0, 1),
        ([6, 1, 1, 1], -1, 1, 0),
    ],
)
def test_unpaired_electrons_of_either_convention(
    numbers: list[int], charge: int, spin: int, unpaired: int
) -> None:
    assert unpaired_electrons(np.array(numbers), charge, spin) == unpaired


def test_normal_modes_of_two_atoms() -> None:
    from ase import Atoms, units

    atoms = Atoms("CO", [[0.2, 0.1, 0.0], [0.2, 0.1, 1.13]])
    atoms.calc = Springs(k=120.0)
    wavenumbers, modes = normal_modes(atoms)
    mass = np.prod(atoms.get_masses()) / atoms.get_masses().sum()
    omega = np.sqrt(120.0 * units._e * 1e20 / (mass * units._amu))  # 1/s
    assert wavenumbers == pytest.approx([omega / (2 * np.pi * units._c * 100)], rel=1e-5)
    assert modes[0] * atoms.get_masses()[:, None] == pytest.approx(
        -modes[0][::-1] * atoms.get_masses()[::-1, None], abs=1e-9
    )


@pytest.mark.parametrize(("bend", "count"), [(0.0, 4), (0.4, 3)])
def test_number_of_vibrations(bend: float, count: int) -> None:
    from ase import Atoms

    atoms = Atoms("OCO", [[-1.2, bend, 0], [0, 0, 0], [1.2, bend, 0]])
    atoms.calc = Springs()
    before = atoms.get_positions()
    wavenumbers, modes = normal_modes(atoms)
    assert (len(wavenumbers), modes.shape) == (count, (count, 3, 3))
    assert np.array_equal(atoms.get_positions(), before)


@pytest.mark.parametrize(("sampling", "count", "margin"), [("normal-modes", 1000, 0.15), ("md", 500, 0.25)])
def test_equipartition(sampling: str, count: int, margin: float) -> None:
    # A chlorine molecule on a spring has kT/2 of potential energy on average, sampled either way.
    from ase import units

    settings = fake(sampling=sampling, interval=8, friction=0.05, timestep=8.0)
    energies = [a.get_potential_energy() for a in sample_molecule("ClCl", settings, 0, 300.0, count)]
    mean = np.mean(np.array(energies) + 2.0) / (units.kB * 300 / 2)
    assert mean == pytest.approx(1.0, abs=margin)  # more than three standard errors


def test_the_same_seed_gives_the_same_frames_and_anything_else_others() -> None:
    def positions(seed: int = 0, **run: object) -> np.ndarray:
        run = {"conformer": 1, "temperature": 300.0, "frames": 2, "index": 3} | run
        frames = list(sample_molecule("CCO", fake(seed=seed), **run))  # type: ignore[arg-type]
        return np.array([a.get_positions() for a in frames])

    plain = positions()
    assert np.array_equal(plain, positions())
    assert not np.array_equal(plain[0], plain[1])
    for other in ({"seed": 1}, {"conformer": 0}, {"temperature": 301.0}, {"index": 4}):
        assert not np.array_equal(plain, positions(**other))


def test_what_a_frame_says_of_itself() -> None:
    (a,) = sample_molecule("C[O-]", fake(), frames=1, temperature=450.0)
    assert a.info == {
        "charge": -1,
        "spin": 0,
        "smiles": "C[O-]",
        "conformer": 0,
        "temperature": 450.0,
        "method": "label_case:springs",
    }
    assert a.get_forces().shape == (5, 3)
    (radical,) = sample_molecule("[CH3]", fake(), frames=1)
    assert radical.info["spin"] == 1


@pytest.mark.parametrize(
    ("smiles", "method", "message"),
    [
        ("C1CC", "springs", "C1CC: not a SMILES"),
        ("", "springs", "empty SMILES"),
        ("CCCC", "weak", "the molecule came apart after|ran into each other after"),
    ],
)
def test_what_gives_no_geometry(smiles: str, method: str, message: str) -> None:
    settings = fake(method=f"label_case:{method}", interval=200)
    with pytest.raises(StructureError, match=message):
        list(sample_molecule(smiles, settings, frames=20, temperature=2000.0))


def test_salts_are_set_apart() -> None:
    for smiles in ("[Na+].[Cl-]", "C[NH3+].[Cl-]", "O.O.O"):
        (a,) = sample_molecule(smiles, fake(), frames=1)
        assert (a.get_all_distances() + 9 * np.eye(len(a))).min() > 0.8


def test_a_drifting_molecule_is_brought_back() -> None:
    for a in sample_molecule("CCO", fake(interval=50), frames=3, temperature=900.0):
        assert np.abs(a.get_center_of_mass()).max() < 1e-9
