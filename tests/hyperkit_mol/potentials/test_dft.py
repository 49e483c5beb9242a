"""Labels by DFT, and labels by another method than the one that samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("ase", reason="labelling needs ASE (the extra `potentials`)")

from ase import Atoms

from hyperkit_mol.potentials import DataError, StructureError, read_structures
from hyperkit_mol.potentials import _label_worker as worker
from hyperkit_mol.potentials.cli import app
from hyperkit_mol.potentials.dft import DFTSettings, check_dft, dft_calculator
from hyperkit_mol.potentials.label import LabelSettings, label_smiles
from hyperkit_mol.potentials.sampling import sample_molecule

WATER = Atoms("OH2", [[0.0, 0.0, 0.12], [0.0, 0.79, -0.47], [0.05, -0.74, -0.49]])


@pytest.fixture
def _pyscf() -> None:
    pytest.importorskip("pyscf", reason="DFT needs pyscf (the extra `dft`)")
    pytest.importorskip("pyscf.dispersion", reason="DFT needs pyscf-dispersion (the extra `dft`)")


def test_a_level_has_the_name_that_people_write() -> None:
    assert DFTSettings().name == "PBE-D3(BJ)/def2-svp"
    assert DFTSettings(" wB97M-V", "Def2-TZVPD", "none") == DFTSettings("wb97m-v", "def2-tzvpd", "none")
    assert DFTSettings("wb97m-v", "def2-tzvpd", "none").name == "WB97M-V/def2-tzvpd"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"dft": {"dispersion": "d2"}, "method": "dft"},
            "dispersion must be d3bj, d3zero, d4, none; got 'd2'",
        ),
        ({"dft": {"basis": " "}, "method": "dft"}, "basis must not be empty"),
        ({"dft": {"functional": "b3lyp"}}, "are settings of method dft; got method 'gfn2'"),
        ({"sample_with": "amber"}, "sample_with must be gfn2, gfn1, dft, or module:function .* got 'amber'"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        LabelSettings(**settings | {"dft": DFTSettings(**settings.get("dft", {}))})


def test_geometries_are_by_gfn2_unless_said_otherwise() -> None:
    assert LabelSettings(method="dft").sampler == "gfn2"
    assert LabelSettings(method="dft", sample_with="dft").sampler == "dft"
    assert LabelSettings(method="gfn1").sampler == "gfn1"
    assert LabelSettings(method="dft").parts(9) == [(0, 4), (4, 8), (8, 9)]
    assert LabelSettings(method="gfn1").parts(9) == [(0, 9)]


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("hyperkit_mol.potentials.dft.find_spec", lambda _: None)
        with pytest.raises(ImportError, match="pip install pyscf pyscf-dispersion"):
            check_dft(DFTSettings())
    monkeypatch.setattr("hyperkit_mol.potentials.dft.find_spec", lambda name: name == "pyscf" or None)
    with pytest.raises(ImportError, match="pip install pyscf-dispersion, or use --dispersion none"):
        check_dft(DFTSettings())


@pytest.mark.usefixtures("_pyscf")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"functional": "nonsense"}, "functional must be one that pyscf knows.* got 'nonsense'"),
        ({"functional": "wb97x-d"}, "functional must be one that pyscf knows.* not supported"),
        ({"basis": "nonsense"}, "basis must be one that pyscf knows.* got 'nonsense'"),
        ({"functional": "wb97m-v"}, "has a dispersion correction of its own; use --dispersion none"),
        ({"functional": "wb97m-d3bj", "dispersion": "d4"}, "has a dispersion correction of its own"),
        ({"functional": "lda,vwn"}, "there is no dispersion d3bj for functional lda,vwn"),
    ],
)
def test_levels_that_there_are_not(settings: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_dft(DFTSettings(**settings))


@pytest.mark.usefixtures("_pyscf")
def test_forces_are_the_slope_of_the_energy() -> None:
    atoms = WATER.copy()
    atoms.calc = dft_calculator(DFTSettings(basis="sto-3g"))
    forces, start = atoms.get_forces(), atoms.get_positions()
    way = np.random.default_rng(0).normal(size=start.shape)
    way -= way.mean(0)
    energies = []
    for step in (1e-3, -1e-3):
        atoms.set_positions(start + step * way)
        energies.append(atoms.get_potential_energy())
    slope = (energies[0] - energies[1]) / 2e-3
    assert -(forces * way).sum() == pytest.approx(slope, abs=2e-3)  # the grid of the functional moves along
    plain = WATER.copy()
    plain.calc = dft_calculator(DFTSettings(basis="sto-3g", dispersion="none"))
    assert 1e-3 < plain.get_potential_energy() - sum(energies) / 2 < 0.1


@pytest.mark.usefixtures("_pyscf")
def test_charge_spin_and_core_potentials() -> None:
    def energy(atoms: Atoms, charge: int = 0, unpaired: int = 0, basis: str = "def2-svp") -> float:
        atoms.calc = dft_calculator(DFTSettings(basis=basis), charge, unpaired)
        return atoms.get_potential_energy()

    # ORCA's value, in the isolated atoms of the acetylacetone set.
    assert energy(Atoms("H"), unpaired=1) == pytest.approx(-13.568422, abs=1e-4)
    pair = Atoms("OH", [[0, 0, 0], [0, 0, 1.0]])
    assert energy(pair, -1, basis="sto-3g") != energy(pair, 1, basis="sto-3g")
    oxygen = Atoms("O2", [[0, 0, 0], [0, 0, 1.21]])
    assert energy(oxygen, unpaired=2, basis="sto-3g") < energy(oxygen, basis="sto-3g") - 0.5
    heavy = dft_calculator(DFTSettings()).mean_field(Atoms("HI", [[0, 0, 0], [0, 0, 1.6]]))
    assert heavy.mol.nelectron == 26  # not 54
    with pytest.raises(StructureError, match="this structure is periodic"):
        energy(Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], cell=[5, 5, 5], pbc=True))


@pytest.mark.usefixtures("_pyscf")
def test_an_scf_that_does_not_converge_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LabelSettings(method="dft", dft=DFTSettings(basis="sto-3g"))
    given = {"numbers": WATER.numbers, "positions": WATER.positions, "cell": None, "pbc": False}
    given |= {"charge": 0, "spin": 0, "name": "a.xyz, frame 7"}
    task = worker.Task(0, "frames 0", geometries=(given,))
    found, failed = worker._frames(task, settings)
    assert (len(found), failed) == (1, [])
    assert found[0].info["method"] == "dft PBE-D3(BJ)/sto-3g"
    monkeypatch.setattr("hyperkit_mol.potentials._pyscf._CYCLES", 1)
    found, failed = worker._frames(task, settings)
    message = "the SCF did not converge in 1 cycles, nor by second order"
    assert (found, failed) == ([], [f"a.xyz, frame 7: {message}"])


@pytest.mark.usefixtures("_pyscf")
def test_dft_by_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "in.smi").write_text("[H][H]\n")
    target = tmp_path / "out.xyz"
    options = "--method dft --basis STO-3G --sample-with label_case:springs --samples 5 --conformers 1"
    command = ["label", str(tmp_path / "in.smi"), "-o", str(target), "--jobs", "1", *options.split()]
    found = CliRunner().invoke(app, [*command, "--interval", "5"])
    assert found.exit_code == 0, found.output
    read = read_structures(target)
    assert len(read) == 5
    assert all(-32 < (s.energy or 0) < -28 for s in read)
    assert "sampled_with=label_case:springs" in target.read_text()
    again = Atoms("H2", read[4].positions)
    again.calc = dft_calculator(DFTSettings(basis="sto-3g"))
    assert again.get_potential_energy() == pytest.approx(read[4].energy, abs=1e-6)


def test_a_run_in_parts_has_the_frames_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "in.smi").write_text("CO\n[CH3]\nC1CC\n")
    base: dict = {"conformers": 1, "samples": 6, "interval": 4, "equilibration": 4}
    springs = "label_case:springs"
    whole = [a.get_positions() for a in sample_molecule("CO", LabelSettings(springs, **base), frames=6)]
    settings = LabelSettings("label_case:unconverged", sample_with=springs, **base)
    parts = label_smiles(tmp_path / "in.smi", tmp_path / "b.xyz", settings, jobs=1)
    assert parts.tasks == 6
    for a, b in zip(whole, read_structures(tmp_path / "b.xyz"), strict=True):  # none of the radical
        np.testing.assert_allclose(a, b.positions, atol=1e-7)
        assert b.energy == -6  # springs are at rest in what they see first
    lines = [
        f"line 2: [CH3], conformer 0, 300 K, frame {k}: SCF not converged in 250 cycles" for k in range(6)
    ]
    assert parts.failed == [*lines, "line 3: C1CC: not a SMILES that RDKit can parse"]
