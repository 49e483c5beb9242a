"""Units by option: what is accepted, what a conversion does to labels, what the command line says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from potential_case import NUMBERS, POSITIONS
from typer.testing import CliRunner

from hyperkit_mol.potentials import DataError, load_config, read_structures
from hyperkit_mol.potentials.cli import app
from hyperkit_mol.potentials.config import ConfigError
from hyperkit_mol.potentials.units import Units

ase = pytest.importorskip("ase", reason="reading structures needs ASE (the extra `potentials`)")
pytest.importorskip("vesin", reason="neighbour lists need vesin (the extra `potentials`)")


@pytest.mark.parametrize(
    ("given", "factors"),
    [
        (Units(), (1.0, 1.0, 1.0)),
        (Units("kcal/mol"), (0.0433641, 1.0, 0.0433641)),
        (Units("KJ/mol", "nm"), (0.01036427, 10.0, 0.001036427)),
        (Units("hartree", "Bohr"), (27.211386, 0.52917721, 51.422067)),
        (Units("Hartree", "A", "Hartree/bohr"), (27.211386, 1.0, 51.422067)),
        (Units("meV", "\u212b"), (1e-3, 1.0, 1e-3)),  # the Ångström sign, not the letter
    ],
)
def test_factors(given: Units, factors: tuple[float, float, float]) -> None:
    # Values of CODATA, not of the code under test.
    assert given.factors() == pytest.approx(factors, rel=1e-6)


def test_ev_comes_through_untouched() -> None:
    assert Units("eV", "angstrom").factors() == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"energy": "cal"}, r"energy_unit must be one of eV, meV, kcal/mol, kJ/mol, Hartree, got 'cal'"),
        ({"length": "pm"}, r"length_unit must be one of Å, bohr, nm, got 'pm'"),
        ({"force": "eV"}, r"force_unit must be an energy and a length unit.*Hartree/bohr.*got 'eV'"),
        ({"force": "eV/m"}, r"force_unit .*lengths: Å, bohr, nm.*got 'eV/m'"),
    ],
)
def test_unknown_units_list_the_known(fields: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Units(**fields)


def test_a_file_in_atomic_units_reads_as_the_same_file_in_ev(tmp_path: Path) -> None:
    import ase.io
    from ase.units import Bohr, Hartree

    forces = np.random.default_rng(0).normal(size=(8, 3))
    for name, e, x, f in (("ev", 1, 1, 1), ("au", 1 / Hartree, 1 / Bohr, Bohr / Hartree)):
        atoms = ase.Atoms(NUMBERS, POSITIONS * x, cell=np.eye(3) * 20 * x, pbc=True)
        atoms.info["energy"], atoms.arrays["forces"] = -310.5 * e, forces * f
        ase.io.write(tmp_path / f"{name}.extxyz", atoms)
    (a,) = read_structures(tmp_path / "ev.extxyz")
    (b,) = read_structures(tmp_path / "au.extxyz", units=Units("Hartree", "bohr"))
    assert b.energy == pytest.approx(a.energy)
    # The file has eight decimals, of a unit that is 51 times as large.
    np.testing.assert_allclose(b.forces, forces, atol=1e-6)  # type: ignore[arg-type]
    np.testing.assert_allclose(b.positions, POSITIONS, atol=1e-7)
    np.testing.assert_allclose(b.cell, np.eye(3) * 20, atol=1e-7)  # type: ignore[arg-type]


def test_configuration_takes_spellings_and_refuses_others() -> None:
    config = load_config(overrides={"data.energy_unit": "KCAL/MOL", "data.force_unit": "ha/a0"})
    assert (config.data.energy_unit, config.data.force_unit) == ("kcal/mol", "Hartree/bohr")
    with pytest.raises(ConfigError, match=r"data\.length_unit: .*must be one of Å, bohr, nm, got 'pm'"):
        load_config(overrides={"data.length_unit": "pm"})


@pytest.mark.parametrize(
    "verb", [["train", "--data", "x.xyz", "-o", "run"], ["evaluate", "model", "x.xyz"]], ids=lambda v: v[0]
)
def test_command_line_refuses_a_wrong_unit(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, [*verb, "--energy-unit", "calories"])
    assert found.exit_code == 1
    assert "kcal/mol, kJ/mol, Hartree" in found.output
    assert not list(tmp_path.iterdir())
