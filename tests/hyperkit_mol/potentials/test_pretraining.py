"""First stage of the Transformer, beginning from other weights, and the schedules."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from potential_case import UNITS, acid, build
from rich.console import Console

from hyperkit_mol.potentials import (
    ModelError,
    Normalization,
    Potential,
    Structure,
    load_config,
    load_potential,
)
from hyperkit_mol.potentials.config import ConfigError, PretrainingConfig
from hyperkit_mol.potentials.pipeline import train
from hyperkit_mol.potentials.pretraining import Autoregressive, Discretizer, discretizer_of
from hyperkit_mol.potentials.training import LabelledSet
from hyperkit_mol.potentials.transfer import take_weights

pytest.importorskip("ase", reason="training needs ASE (the extra `potentials`)")
pytest.importorskip("vesin", reason="training needs vesin (the extra `potentials`)")

QUIET = Console(quiet=True)
SMALL: dict[str, Any] = {
    "model.width": 16,
    "model.layers": 1,
    "model.heads": 2,
    "training.batch_size": 4,
    "training.warmup": 2,
    "training.save_every": 4,
    "training.validate_every": 4,
    "training.steps": 8,
    "pretraining.steps": 12,
    "pretraining.warmup": 2,
    "pretraining.batch_size": 8,
    "pretraining.save_every": 4,
    "pretraining.validate_every": 4,
    "pretraining.bins": 3,
    "data.validation": 8,
}


def config(data: Path, model: str = "transformer", **settings: Any) -> Any:
    return load_config("small", model, SMALL | {"data.train": str(data)} | settings)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def labelled(count: int = 20) -> list[Any]:
    random = np.random.default_rng(1)
    return [
        acid(0.1, k, energy=-7000 + random.normal(), forces=random.normal(size=(8, 3))) for k in range(count)
    ]


def test_bins_have_equal_counts_and_tokens_do_not_overlap() -> None:
    x = np.random.default_rng(0).normal(size=(8000, 3))
    bins = Discretizer(x, 2 * x, x[:, 0], bins=4, energy_bins=16)
    tokens = bins.positions(torch.as_tensor(x))
    counts = torch.bincount(tokens, minlength=64)
    assert len(counts) == 64
    assert counts.min() > 80, "a joint bin of independent coordinates holds 125 on average"
    forces, energies = bins.forces(torch.as_tensor(2 * x)), bins.energies(torch.as_tensor(x[:, 0]))
    assert torch.equal(forces - bins.end - 1, tokens)
    assert int(torch.bincount(energies - 2 * 64 - 1).min()) == 500
    assert int(energies.max()) == bins.vocabulary - 1


def autoregressive(structures: list[Any]) -> tuple[Autoregressive, LabelledSet]:
    model = build(kind="transformer").train()
    backbone: Any = model.backbone
    bins = discretizer_of(structures, UNITS, PretrainingConfig(bins=3))  # pyright: ignore[reportCallIssue]
    return Autoregressive(backbone, bins, UNITS).double(), LabelledSet(structures, None, torch.float64)


def test_loss_of_a_batch_is_the_mean_over_its_tokens_whatever_the_padding() -> None:
    structures = labelled()
    small = acid(0.1, 3, energy=-7000.0, forces=np.ones((8, 3)))
    cut = type(small)(small.positions[:5], small.numbers[:5], energy=-6000.0, forces=np.ones((5, 3)))
    structures[1] = cut
    model, data = autoregressive(structures)
    order = torch.rand(13, generator=torch.Generator().manual_seed(0))
    both = model(data.batch([0, 1]), order)
    one, other = model(data.batch([0]), order[:8]), model(data.batch([1]), order[8:])
    # Tokens: the atoms, their end, a force, the energy.
    torch.testing.assert_close(both, (11 * one + 8 * other) / 19, rtol=1e-12, atol=0)


def test_the_network_does_not_see_what_it_predicts() -> None:
    model, data = autoregressive(labelled())
    batch = data.batch([0])
    order = torch.arange(8.0)
    seen = []
    model.head.register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    model(batch, order)
    moved = batch.positions.clone()
    moved[5] += torch.tensor([0.9, -0.4, 0.2])
    mean_kept = moved - (moved.mean(0) - batch.positions.mean(0))
    model(type(batch)(**(vars(batch) | {"positions": mean_kept})), order)
    # Moving one atom and keeping the mean moves all a little; the slot before the first atom sees none of it.
    changed = (seen[0] - seen[1]).abs().amax(-1)[0]
    assert float(changed[0]) == 0.0
    assert float(changed[-1]) > 1e-6
    # The energy is predicted last and is never an input.
    other = type(batch)(**(vars(batch) | {"energy": batch.energy + 5.0}))  # type: ignore[operator]
    model(other, order)
    assert torch.equal(seen[0], seen[2])


def test_loss_falls_and_gradients_reach_the_shared_weights() -> None:
    model, data = autoregressive(labelled(40))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch = data.batch(range(32))
    values = []
    for k in range(30):
        order = torch.rand(len(batch.numbers), generator=torch.Generator().manual_seed(k))
        loss = model(batch, order)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss))
    assert values[-1] < values[0] - 0.5
    for name in (
        "coordinates.weight",
        "element.weight",
        "charge.weight",
        "blocks.0.attention.in_proj.weight",
    ):
        slope = dict(model.backbone.named_parameters())[name].grad
        assert slope is not None
        assert float(slope.abs().max()) > 0


def test_both_stages_resume_to_the_same_bits(
    extxyz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(extxyz)
    train(chosen, tmp_path / "whole", console=QUIET)
    from hyperkit_mol.potentials.pretraining import Pretraining

    step = Pretraining.training_step

    def interrupted(self: Pretraining, batch: Any, index: int) -> Any:
        if self.step == 6:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(Pretraining, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "parts", console=QUIET)
    monkeypatch.setattr(Pretraining, "training_step", step)
    train(chosen, tmp_path / "parts", resume=True, console=QUIET)
    for name in ("pretraining/metrics.csv", "metrics.csv"):
        assert rows(tmp_path / "whole" / name) == rows(tmp_path / "parts" / name)
    a, b = (load_potential(tmp_path / k / "model").state_dict() for k in ("whole", "parts"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    # Without the first stage the second one begins elsewhere.
    train(config(extxyz, **{"pretraining.steps": 0}), tmp_path / "plain", console=QUIET)
    c = load_potential(tmp_path / "plain" / "model").state_dict()
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_time_up_in_the_first_stage(extxyz: Path, tmp_path: Path) -> None:
    from io import StringIO

    said = StringIO()
    chosen = config(extxyz, **{"pretraining.steps": 100_000})
    train(chosen, tmp_path / "run", max_seconds=2, console=Console(file=said, width=200))
    assert "Time was up in pre-training" in said.getvalue()
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("kind", ["escaip", "transformer"])
def test_weights_go_over_element_by_element(kind: str) -> None:
    old = build(kind=kind)
    # The shift counts as well: near the cutoff it is multiplied by how much of a molecule there is.
    units = Normalization({1: -10.0, 8: -50.0, 16: -90.0}, UNITS.shift, 0.7)
    torch.manual_seed(3)
    new = Potential(old.config, units, 5.0).double()
    before = new.backbone.state_dict()["element.weight"].clone()
    assert take_weights(new, old) == ["S"]
    a, b = new.backbone.state_dict(), old.backbone.state_dict()
    torch.testing.assert_close(a["element.weight"][:2], b["element.weight"][[0, 2]], rtol=0, atol=0)
    assert torch.equal(a["element.weight"][2], before[2])
    if kind == "escaip":
        # Pair (8, 1): row 1*3+0 of the new table, 2*3+0 of the old one.
        assert torch.equal(a["pair.weight"][3], b["pair.weight"][6])
    # Water is the same for both, up to the references, whatever unit their networks' output has.
    from hyperkit_mol.potentials import Structure

    water = Structure(np.array([[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]]), np.array([8, 1, 1]))
    found = [m.eval()(m.prepare([water])).forces for m in (new, old)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["escaip", "transformer"])
def test_direct_forces_go_over_too(kind: str) -> None:
    units = Normalization(UNITS.references, UNITS.shift, 0.7, UNITS.charges, UNITS.spins)
    old = build(kind=kind, forces="direct")
    new = Potential(old.config, units, 5.0).double().eval()
    take_weights(new, old)
    found = [m(m.prepare([acid()])).forces for m in (new, old)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)
    # From gradients to a head of their own: the energies go over, the head stays as it was made.
    old, new = build(kind=kind), Potential(old.config, units, 5.0).double().eval()
    before = new.backbone.readouts()[1].weight.clone()  # type: ignore[operator]
    take_weights(new, old)
    assert torch.equal(new.backbone.readouts()[1].weight, before)  # type: ignore[operator]
    found = [m(m.prepare([acid()])).energy.item() for m in (new, old)]
    assert found[0] == pytest.approx(found[1], abs=1e-9)


def test_fine_tuning_begins_where_the_other_training_ended(
    extxyz: Path, frames: list[Structure], tmp_path: Path
) -> None:
    """Also where the new data is of other sizes: sums over neighbours keep the divisor of the first."""
    import ase.io
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    images = [Atoms("H"), Atoms("C"), Atoms("O")]
    for atoms, energy in zip(images, (-13.6, -1027.0, -2043.0), strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((1, 3)))
    for s in frames[:12]:
        assert s.forces is not None
        images.append(Atoms(s.numbers, 1.3 * s.positions))
        images[-1].calc = SinglePointCalculator(images[-1], energy=s.energy, forces=2 * s.forces)
    ase.io.write(tmp_path / "far.xyz", images, format="extxyz")
    base = {"pretraining.steps": 0, "training.dtype": "float64", "data.validation": 2, "model.cutoff": 2.5}
    train(config(extxyz, "escaip", **base), tmp_path / "first", console=QUIET)
    old = load_potential(tmp_path / "first" / "model")
    still = {"training.lr": 1e-15, "training.matrix_lr": 1e-15, "training.steps": 2}
    still["training.start"] = str(tmp_path / "first" / "model")
    train(config(tmp_path / "far.xyz", "escaip", **(base | still)), tmp_path / "second", console=QUIET)
    new = load_potential(tmp_path / "second" / "model")
    assert new.neighbors == old.neighbors
    assert new.normalization.scale > 1.5 * old.normalization.scale
    found = [m(m.prepare(frames[:3])).forces for m in (new, old)]
    size = found[1].square().mean().sqrt()
    # The shifts differ a little, and count where an atom has few neighbours.
    assert (found[0] - found[1]).square().mean().sqrt() < 0.05 * size


def test_start_of_another_size_is_refused() -> None:
    with pytest.raises(ModelError, match="width is 16, the new one has 32"):
        take_weights(build(width=32), build(width=16))
    other = Potential(build().config, Normalization({9: -1.0}, 0.0, 1.0))
    with pytest.raises(ModelError, match="none of the elements"):
        take_weights(other, build())


def test_settings_that_exclude_each_other() -> None:
    for settings, text in (
        ({"pretraining.steps": 5}, "Transformer's first stage"),
        ({"training.compile": True, "model.forces": "direct"}, "needs? no second derivative|conservative"),
        ({"model.kind": "transformer", "pretraining.steps": 5, "training.start": "m"}, "not both"),
    ):
        with pytest.raises(ConfigError, match=text):
            load_config("small", "escaip", settings)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_plateau_lowers_the_rate_and_resumes(
    extxyz: Path, tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(
        extxyz,
        "escaip",
        **{
            "pretraining.steps": 0,
            "training.schedule": "plateau",
            "training.patience": 1,
            "training.steps": 24,
            "training.lr": 1e-9,  # so that nothing gets better
            "training.matrix_lr": 1e-9,
            "training.ema": 0.0,
            "training.dtype": dtype,
        },
    )
    train(chosen, tmp_path / "whole", console=QUIET)
    assert load_potential(tmp_path / "whole" / "model").dtype == torch.float32
    from hyperkit_mol.potentials.training import PotentialTraining

    step = PotentialTraining.training_step

    def interrupted(self: PotentialTraining, batch: Any, index: int) -> Any:
        if self.step == 18:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(PotentialTraining, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(chosen, tmp_path / "parts", console=QUIET)
    rates = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)["plateau"]["lr"]
    assert rates < 0.9
    monkeypatch.setattr(PotentialTraining, "training_step", step)
    train(chosen, tmp_path / "parts", resume=True, console=QUIET)
    assert rows(tmp_path / "whole" / "metrics.csv") == rows(tmp_path / "parts" / "metrics.csv")
