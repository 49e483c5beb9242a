"""What is said about data before training: elements, sizes, frames that look wrong, units that look wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from potential_case import UNITS, acid

from hyperkit_mol.potentials import Structure
from hyperkit_mol.potentials.statistics import describe


def said(structures: list[Structure]) -> str:
    return "\n".join(describe(structures, UNITS.references))


def scaled(
    frames: list[Structure], energy: float = 1, length: float = 1, force: float = 1
) -> list[Structure]:
    """The frames as a file in other units would give them, read as eV and Å."""
    return [
        replace(
            s,
            positions=s.positions * length,
            energy=float(s.energy or 0) * energy,
            forces=np.asarray(s.forces) * force,
        )
        for s in frames
    ]


def test_elements_that_few_have_are_counted(frames: list[Structure]) -> None:
    odd = Structure(np.eye(3)[:2] * 1.6, np.array([1, 17]), energy=-13.6, forces=np.zeros((2, 3)))
    assert "41 structures of 2 compositions of 2 to 8 atoms; H, C, O, Cl (1 only)" in said([*frames, odd])


def test_charges_and_spins(frames: list[Structure]) -> None:
    assert "charge" not in said(frames)
    both = [*frames, replace(acid(0.08, seed=99, energy=frames[0].energy), charge=-1, spin=2)]
    assert "charge, spin: -1, 2; +0, 0" in said(both)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": "close"}, "warning: 1 with atoms closer than half a bond: odd"),
        ({"forces": np.full((8, 3), 0.3)}, "warning: 1 with forces that do not add up to zero: odd"),
        ({"forces": np.outer([60, -60, 0, 0, 0, 0, 0, 0], [1, 0, 0])}, "1 with a force above 50 eV/Å: odd"),
        ({}, "warning: 1 with the geometry of an earlier one: odd"),
    ],
)
def test_suspicious_frames(change: dict[str, object], message: str, frames: list[Structure]) -> None:
    if "positions" in change:
        close = frames[3].positions.copy()
        close[7] = close[6] + 0.05
        change = {"positions": close}
    odd = replace(frames[3], name="odd", **change)  # type: ignore[arg-type]
    assert "warning" not in said(frames)
    assert message in said([*frames, odd])


def test_atoms_in_one_place_are_too_close(frames: list[Structure]) -> None:
    same = frames[3].positions.copy()
    same[7] = same[6]
    assert "closer than half a bond" in said([*frames, replace(frames[3], positions=same)])


def test_the_same_geometry_in_another_state_is_no_repetition(frames: list[Structure]) -> None:
    assert "earlier one" not in said([*frames, replace(frames[3], charge=1)])


@pytest.mark.parametrize(
    ("factors", "options"),
    [
        ((23.06, 1, 23.06), ["--energy-unit kcal/mol", "--force-unit kcal/mol/Å"]),
        ((96.5, 1, 96.5), ["--energy-unit kJ/mol"]),
        ((1000, 1, 1000), ["--energy-unit meV"]),
        ((1 / 27.2, 1.89, 1 / 51.4), ["--length-unit bohr", "--force-unit Hartree/bohr"]),
        ((1, 0.1, 10), ["--length-unit nm"]),
        ((1 / 27.2, 1, 1), ["--energy-unit Hartree --force-unit eV/Å"]),
    ],
    ids=["kcal/mol", "kJ/mol", "meV", "atomic units", "nm", "energies only"],
)
def test_other_units_are_answered_with_the_option(
    factors: tuple[float, float, float], options: list[str], frames: list[Structure]
) -> None:
    # Sets from dynamics have forces of some eV/Å and energies that vary by tenths of an eV.
    real = scaled(frames, energy=1.0, force=3.0)
    assert "warning" not in said(real)
    text = "\n".join(
        describe(scaled(real, *factors), {z: e * factors[0] for z, e in UNITS.references.items()})
    )
    for option in options:
        assert option in text


def test_isolated_atoms_of_another_method(frames: list[Structure]) -> None:
    other = {z: e / 27.2 for z, e in UNITS.references.items()}
    assert "are those of another unit or method?" in "\n".join(describe(frames, other))


def test_without_forces_and_with_one_atom() -> None:
    lone = [Structure(np.zeros((1, 3)), np.array([6]), energy=-1027.0 - 0.01 * k) for k in range(3)]
    text = said(lone)
    assert "3 structures of 1 atoms; C" in text
    assert "nan" not in text
