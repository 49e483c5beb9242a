"""The torch-sim model: equal to single evaluations; batches relax and move."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from potential_case import NUMBERS, acid, build

from hyperkit_mol.potentials import (
    ModelConfig,
    ModelError,
    Normalization,
    Potential,
    StructureError,
    save_potential,
)

pytest.importorskip("torch_sim", reason="needs torch-sim (the extra `torchsim`)")
pytest.importorskip("ase", reason="needs ASE (the extra `potentials`)")
pytest.importorskip("vesin", reason="needs vesin (the extra `potentials`)")

import torch_sim as ts
from ase import Atoms
from ase.build import bulk
from torch_sim.models.interface import validate_model_outputs

from hyperkit_mol.potentials.calculator import HyperkitCalculator
from hyperkit_mol.potentials.torchsim import TorchSimModel

CPU = torch.device("cpu")


def molecules() -> list[Atoms]:
    return [
        Atoms(NUMBERS, acid(0.05, 1).positions),
        Atoms("CO", [[0, 0, 0], [1.1, 0, 0]]),
        Atoms("H", [[0, 0, 0]]),
    ]


def crystals() -> list[Atoms]:
    out = [bulk("C", cubic=True), bulk("C", cubic=False)]
    out.append(
        Atoms("CO", [[0, 0, 0], [1.1, 0.3, 0]], cell=[[3, 0.2, 0], [0, 3.1, 0.4], [0.5, 0, 2.9]], pbc=True)
    )
    for k, atoms in enumerate(out):
        atoms.rattle(0.05, seed=k)
    return out


@pytest.mark.parametrize(
    ("kind", "forces"), [("escaip", "conservative"), ("escaip", "direct"), ("transformer", "direct")]
)
def test_molecules_as_one_by_one(kind: str, forces: str) -> None:
    model = build(kind=kind, forces=forces)
    state = ts.initialize_state(molecules(), CPU, torch.float64)
    found = TorchSimModel(model)(state)
    calculator = HyperkitCalculator(model)
    one = [calculator.get_property(name, a) for a in molecules() for name in ("energy", "forces")]
    np.testing.assert_allclose(found["energy"], one[::2], atol=1e-9)
    np.testing.assert_allclose(found["forces"], np.concatenate(one[1::2]), atol=1e-11)
    assert not found["forces"].requires_grad
    assert ("stress" in found) == (kind == "escaip" and forces == "conservative")
    if "stress" in found:  # molecules have none
        assert torch.isnan(found["stress"]).all()


def test_crystals_as_one_by_one() -> None:
    model = build(cutoff=3.0)
    # torch-sim keeps cells as columns: one that is not symmetric tells.
    found = TorchSimModel(model)(ts.initialize_state(crystals(), CPU, torch.float64))
    forces = []
    for k, atoms in enumerate(crystals()):
        atoms.calc = HyperkitCalculator(model)
        forces.append(atoms.get_forces())
        assert float(found["energy"][k]) == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(found["stress"][k], atoms.get_stress(voigt=False), atol=1e-12)
    np.testing.assert_allclose(found["forces"], np.concatenate(forces), atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_sims_own_validation(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = ModelConfig(width=16, layers=1, radial=4, degrees=4, heads=2)
    model = Potential(config, Normalization({14: -7800.0, 26: -34000.0}, -2.0, 1.3), 12.0).to(dtype)
    validate_model_outputs(TorchSimModel(model), CPU, dtype)
    wrapped = TorchSimModel(model, compute_stress=False)
    assert not wrapped.compute_stress
    assert wrapped.dtype == dtype
    assert wrapped(ts.initialize_state(bulk("Si"), CPU, dtype))["energy"].dtype == torch.float64


def test_forces_on_request_only() -> None:
    wrapped = TorchSimModel(build())
    wrapped.compute_forces = wrapped.compute_stress = False
    assert set(wrapped(ts.initialize_state(molecules(), CPU, torch.float64))) == {"energy"}


def test_no_stress_where_there_is_none() -> None:
    for model in (build(forces="direct"), build(kind="transformer")):
        with pytest.raises(NotImplementedError, match="has no stress"):
            TorchSimModel(model, compute_stress=True)
        assert not TorchSimModel(model).compute_stress


def test_charge_and_spin() -> None:
    model = build()
    state = ts.initialize_state(molecules()[:2], CPU, torch.float64)
    neutral, charged = (TorchSimModel(model, charge=q)(state)["energy"] for q in (0, 1))
    assert (neutral != charged).all()
    state.charge = torch.tensor([0, 1])  # what later versions have
    assert torch.equal(TorchSimModel(model)(state)["energy"], torch.stack([neutral[0], charged[1]]))
    atoms = molecules()[0]
    atoms.info["charge"] = 1
    assert float(charged[0]) == pytest.approx(
        HyperkitCalculator(model).get_property("energy", atoms), abs=1e-9
    )


def test_bad_systems_are_named() -> None:
    wrapped = TorchSimModel(build())
    state = ts.initialize_state(molecules(), CPU, torch.float64)
    state.positions[9] = torch.nan
    with pytest.raises(StructureError, match="system 1: positions has 3 values that are NaN"):
        wrapped(state)
    with pytest.raises(ModelError, match="system 1: the model does not know Si"):
        wrapped(ts.initialize_state([molecules()[0], Atoms("Si", [[0, 0, 0]])], CPU, torch.float64))
    with pytest.raises(ModelError, match="has no periodic images"):
        TorchSimModel(build(kind="transformer"))(ts.initialize_state(crystals(), CPU, torch.float64))


def test_from_a_folder_and_from_a_dictionary(tmp_path: Path) -> None:
    save_potential(tmp_path / "m", build())
    wrapped = TorchSimModel(tmp_path / "m")
    state = ts.initialize_state(molecules(), CPU, torch.float64)
    fields = ("positions", "cell", "pbc", "atomic_numbers", "system_idx")
    found = wrapped({name: getattr(state, name) for name in fields})
    assert torch.equal(found["energy"], wrapped(state)["energy"])


# ---- simulations --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learnt(frames: list) -> Potential:
    """Enough of the Morse bonds to hold the molecule together."""
    from hyperkit_mol.potentials.training import LabelledSet

    model = build(dtype=torch.float32, width=32).train()
    data = LabelledSet(frames, 3.5, torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(120):
        batch = data.batch(data.plan(step, 8, 0))
        assert batch.forces is not None
        loss = (model(batch).forces - batch.forces).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().double()


@pytest.mark.parametrize("autobatcher", [False, True])
def test_batched_relaxation(learnt: Potential, autobatcher: bool) -> None:
    """Every system goes to a minimum that the single evaluation confirms."""
    start = [Atoms(NUMBERS, acid(0.06, k).positions) for k in range(4)]
    wrapped = TorchSimModel(learnt)
    batcher: object = False
    if autobatcher:  # two of the four at a time
        batcher = ts.InFlightAutoBatcher(wrapped, memory_scales_with="n_atoms", max_memory_scaler=17)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        final = ts.optimize(
            start, wrapped, optimizer=ts.optimizers.fire, autobatcher=batcher, max_steps=300,
            convergence_fn=ts.generate_force_convergence_fn(0.05, include_cell_forces=False),
        )  # fmt: skip
    calculator = HyperkitCalculator(learnt)
    for before, after in zip(start, final.to_atoms(), strict=True):
        results = calculator.predict_many([before, after])
        assert results[1]["energy"] < results[0]["energy"] - 0.05
        assert np.linalg.norm(results[1]["forces"], axis=1).max() < 0.05


def test_batched_dynamics_conserve_energy(learnt: Potential) -> None:
    start = [Atoms(NUMBERS, acid(0.02, k).positions) for k in range(3)]
    wrapped = TorchSimModel(learnt)
    state = ts.initialize_state(start, CPU, torch.float64)
    time = ts.units.UnitSystem.metal.time  # of a picosecond
    kt = torch.tensor(300 * ts.units.UnitSystem.metal.temperature, dtype=torch.float64)
    begin, step = ts.nve(model=wrapped, dt=torch.tensor(0.0005 * time, dtype=torch.float64), kT=kt)
    state = begin(state, seed=1)

    def total() -> torch.Tensor:
        return state.energy + ts.calc_kinetic_energy(
            masses=state.masses, momenta=state.momenta, system_idx=state.system_idx
        )

    first, place = total(), state.positions.clone()
    for _ in range(40):
        state = step(state)
    assert (state.positions - place).norm(dim=-1).max() > 0.05
    assert (total() - first).abs().max() / 8 < 1e-3
