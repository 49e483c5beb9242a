"""Small labelled sets, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from potential_case import UNITS, acid, morse

from hyperkit_mol.potentials import Structure


@pytest.fixture(scope="session")
def frames() -> list[Structure]:
    """40 labelled displacements of the molecule."""
    out = []
    for k in range(40):
        s = acid(0.08, seed=k)
        energy, forces = morse(s.positions)
        reference = sum(UNITS.references[int(z)] for z in s.numbers)
        out.append(acid(0.08, seed=k, energy=energy + reference, forces=forces, name=f"frame {k}"))
    return out


@pytest.fixture(scope="session")
def extxyz(frames: list[Structure], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frames as a file, three isolated atoms first."""
    pytest.importorskip("ase", reason="reading structures needs ASE (the extra `potentials`)")
    pytest.importorskip("vesin", reason="neighbour lists need vesin (the extra `potentials`)")
    import ase.io
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    images = []
    for z, energy in UNITS.references.items():
        atom = Atoms([z], [[0, 0, 0]])
        atom.calc = SinglePointCalculator(atom, energy=energy, forces=np.zeros((1, 3)))
        images.append(atom)
    for s in frames:
        atoms = Atoms(s.numbers, s.positions)
        atoms.calc = SinglePointCalculator(atoms, energy=s.energy, forces=s.forces)
        images.append(atoms)
    path = tmp_path_factory.mktemp("data") / "acid.xyz"
    ase.io.write(path, images, format="extxyz")
    return path
