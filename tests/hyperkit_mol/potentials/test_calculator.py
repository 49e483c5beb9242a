"""The ASE calculator and relaxation from SMILES."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from potential_case import NUMBERS, POSITIONS, acid, build

from hyperkit_mol.potentials import ModelError, Potential, StructureError, save_potential

pytest.importorskip("ase", reason="the calculator needs ASE (the extra `potentials`)")
pytest.importorskip("vesin", reason="the calculator needs vesin (the extra `potentials`)")

from ase import Atoms
from ase.build import bulk
from ase.optimize import BFGS
from rdkit import Chem

from hyperkit_mol.potentials.calculator import HyperkitCalculator
from hyperkit_mol.potentials.relax import embed, relax_file, relax_molecule


def molecule(**info: int) -> Atoms:
    atoms = Atoms(NUMBERS, POSITIONS, info=info)
    atoms.calc = HyperkitCalculator(build())
    return atoms


def test_energy_and_forces_are_the_model_s(tmp_path: Path) -> None:
    model = build()
    save_potential(tmp_path / "m", model)
    atoms = Atoms(NUMBERS, POSITIONS)
    atoms.calc = HyperkitCalculator(tmp_path / "m")
    found = model(model.prepare([acid()]))
    assert atoms.get_potential_energy() == found.energy.item()
    np.testing.assert_array_equal(atoms.get_forces(), found.forces.detach().numpy())
    assert atoms.get_potential_energies().sum() == pytest.approx(found.energy.item(), abs=1e-9)


def test_charge_comes_from_the_atoms() -> None:
    assert molecule(charge=1).get_potential_energy() != molecule().get_potential_energy()


def test_stress_in_ase_s_convention() -> None:
    atoms = bulk("C", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = HyperkitCalculator(build(cutoff=3.0))
    stress, h = atoms.get_stress(voigt=True), 1e-5
    cell, volume = np.asarray(atoms.cell), atoms.get_volume()
    for k, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * h / 2
            strain[b, a] += sign * h / 2
            bent = atoms.copy()
            bent.set_cell(cell @ strain, scale_atoms=True)
            bent.calc = atoms.calc
            energies.append(bent.get_potential_energy())
        assert stress[k] == pytest.approx((energies[0] - energies[1]) / (2 * h * volume), abs=1e-7)
    with pytest.raises(ModelError, match="not periodic"):
        molecule().get_stress()


def test_bad_structures_are_refused() -> None:
    atoms = molecule()
    atoms.numbers[0] = 14
    with pytest.raises(ModelError, match="does not know Si"):
        atoms.get_potential_energy()
    atoms = molecule()
    atoms.positions[3] = np.nan
    with pytest.raises(StructureError, match="NaN"):
        atoms.get_potential_energy()
    atoms = molecule()
    atoms.positions[3] = atoms.positions[2]
    with pytest.raises(StructureError, match="overlap"):
        atoms.get_potential_energy()


@pytest.fixture(scope="module")
def trained(frames: list, tmp_path_factory: pytest.TempPathFactory) -> Potential:
    """A model that has learnt the Morse bonds well enough to hold the molecule together."""
    from hyperkit_mol.potentials.training import LabelledSet

    model = build(dtype=torch.float32, width=32).train()
    data = LabelledSet(frames, 3.5, torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(200):
        batch = data.batch(data.plan(step, 8, 0))
        assert batch.forces is not None
        loss = (model(batch).forces - batch.forces).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_bfgs_converges(trained: Potential) -> None:
    atoms = Atoms(NUMBERS, POSITIONS)
    atoms.calc = HyperkitCalculator(trained)
    begin = atoms.get_potential_energy()
    assert BFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
    assert atoms.get_potential_energy() < begin
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.02


@pytest.mark.parametrize("method", ["bfgs", "fire"])
def test_relax_a_molecule(trained: Potential, method: str) -> None:
    found = relax_molecule(trained, "CC(=O)O", method=method, fmax=0.2, max_steps=60)  # type: ignore[arg-type]
    assert found.drop > 0
    assert found.molecule.GetNumAtoms() == 8
    assert found.converged == (found.max_force < 0.2)


def test_relax_a_file(trained: Potential, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.sdf"
    source.write_text("id,SMILES\n1,CC(=O)O\n2,CCBr\n3,CCO\n")
    steps = list(relax_file(trained, source, target, max_steps=5))
    assert [(done, count) for done, count, _ in steps] == [(1, 3), (2, 3), (3, 3)]
    report = steps[-1][2]
    assert report.failed is not None
    assert len(report.failed) == 1
    assert report.failed[0].startswith("line 3: ")
    assert "does not know Br" in report.failed[0]
    read = list(Chem.SDMolSupplier(str(target), removeHs=False))
    assert [m.GetProp("SMILES") for m in read] == ["CC(=O)O", "CCO"]
    assert [m.GetNumAtoms() for m in read] == [8, 9]
    assert all(m.GetConformer().Is3D() for m in read)
    assert float(read[0].GetProp("energy_drop_eV")) > 0
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_embed_says_what_is_wrong() -> None:
    with pytest.raises(StructureError, match="not a SMILES"):
        embed("C1CC")
    with pytest.raises(StructureError, match="empty"):
        embed("")


def test_relax_arguments() -> None:
    with pytest.raises(ValueError, match="method must be bfgs or fire, got 'newton'"):
        relax_molecule(build(), "CC", method="newton")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fmax must be > 0"):
        relax_molecule(build(), "CC", fmax=0.0)
