"""Symmetries and derivatives of both models, both attentions; float64 unless said otherwise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from potential_case import NUMBERS, POSITIONS, UNITS, acid, build

from hyperkit_mol.potentials import ModelError, Potential, Structure
from hyperkit_mol.potentials._attention import NeighborAttention
from hyperkit_mol.potentials._radial import envelope
from hyperkit_mol.potentials.training import random_rotations

pytest.importorskip("vesin", reason="neighbour lists need vesin (the extra `potentials`)")

KINDS = ("escaip", "transformer")
ATTENTIONS = ("euclidean", "lorentz")


@pytest.fixture(params=[(k, a, f) for k in KINDS for a in ATTENTIONS for f in ("conservative", "direct")])
def model(request: pytest.FixtureRequest) -> Potential:
    kind, attention, forces = request.param
    return build(kind=kind, attention=attention, forces=forces)


def ask(model: Potential, *structures: Structure) -> tuple[np.ndarray, np.ndarray]:
    found = model(model.prepare(list(structures)))
    return found.energy.detach().numpy(), found.forces.detach().numpy()


def turned(s: Structure, rotation: np.ndarray) -> Structure:
    cell = np.asarray(s.cell) @ rotation.T
    return dataclasses.replace(s, positions=s.positions @ rotation.T, cell=cell, forces=None)


def test_permutation(model: Potential) -> None:
    order = np.random.default_rng(3).permutation(len(NUMBERS))
    e, f = ask(model, acid())
    e2, f2 = ask(model, Structure(POSITIONS[order], NUMBERS[order]))
    np.testing.assert_allclose(e2, e, rtol=0, atol=1e-9)
    np.testing.assert_allclose(f2, f[order], rtol=0, atol=1e-11)


def test_translation(model: Potential) -> None:
    e, f = ask(model, acid())
    e2, f2 = ask(model, Structure(POSITIONS + np.array([5.0, -3.0, 11.0]), NUMBERS))
    np.testing.assert_allclose(e2, e, rtol=0, atol=1e-9)
    np.testing.assert_allclose(f2, f, rtol=0, atol=1e-11)


@pytest.mark.parametrize("forces", ["conservative", "direct"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_escaip_turns_with_the_molecule(attention: str, forces: str) -> None:
    model = build(attention=attention, forces=forces)
    rotation = random_rotations(1, torch.Generator().manual_seed(1))[0].numpy()
    e, f = ask(model, acid())
    for r in (rotation, -rotation):
        e2, f2 = ask(model, turned(acid(), r))
        np.testing.assert_allclose(e2, e, rtol=0, atol=1e-9)
        np.testing.assert_allclose(f2, f @ r.T, rtol=0, atol=1e-11)


def test_transformer_is_not_invariant() -> None:
    # Says what the docs say: orientation is learned, not built in. If this fails, the docs are wrong.
    model = build(kind="transformer")
    rotation = random_rotations(1, torch.Generator().manual_seed(1))[0].numpy()
    assert abs(ask(model, acid())[0] - ask(model, turned(acid(), rotation))[0])[0] > 1e-4


def test_batch_is_its_structures(model: Potential) -> None:
    parts = [acid(), acid(0.1, seed=1), Structure(POSITIONS[:3], NUMBERS[:3]), Structure([[0, 0, 0]], [6])]  # type: ignore[list-item, arg-type]
    e, f = ask(model, *parts)
    single = [ask(model, s) for s in parts]
    np.testing.assert_allclose(e, np.concatenate([a for a, _ in single]), rtol=0, atol=1e-9)
    np.testing.assert_allclose(f, np.concatenate([b for _, b in single]), rtol=0, atol=1e-11)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(
    "settings", [{}, {"kind": "transformer"}, {"max_neighbors": 3}, {"radial_basis": "gaussian"}]
)
def test_forces_are_the_gradient(settings: dict[str, object], attention: str) -> None:
    model = build(attention=attention, **settings)
    _, forces = ask(model, acid())
    h = 1e-5
    for atom, axis in ((0, 0), (2, 1), (4, 2), (7, 0)):
        moved = np.repeat(POSITIONS[None], 2, 0)
        moved[0, atom, axis] += h
        moved[1, atom, axis] -= h
        e, _ = ask(model, Structure(moved[0], NUMBERS), Structure(moved[1], NUMBERS))
        assert forces[atom, axis] == pytest.approx(-(e[0] - e[1]) / (2 * h), abs=2e-7)
    np.testing.assert_allclose(forces.sum(0), 0.0, atol=1e-10)
    assert np.abs(forces).max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_training_on_forces_has_the_right_gradient(kind: str, attention: str) -> None:
    # The derivative of a force loss by every parameter, along one random direction, by finite differences.
    model = build(kind=kind, attention=attention).train()
    batch = model.prepare([acid(), acid(0.1, seed=2)])
    parameters = list(model.parameters())

    def loss() -> torch.Tensor:
        return model(batch).forces.square().mean()

    slopes = torch.autograd.grad(loss(), parameters, allow_unused=True)
    torch.manual_seed(5)
    direction = [torch.randn_like(p) for p in parameters]
    along = sum((g * d).sum() for g, d in zip(slopes, direction, strict=True) if g is not None)
    values = []
    h = 1e-6
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(sign * h * d)
        values.append(loss().item())
    assert float(along) == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_second_derivatives(attention: str) -> None:
    torch.manual_seed(0)
    layer = NeighborAttention(4, 1, 2, 3, attention).double()
    n, m = 2, 3
    inputs = (
        torch.randn(n, m, 4, dtype=torch.float64, requires_grad=True),
        torch.rand(n, m, dtype=torch.float64, requires_grad=True),
        torch.rand(n, 2, m, m, dtype=torch.float64, requires_grad=True),
        torch.randn(n, m, 3, dtype=torch.float64, requires_grad=True),
    )
    message, fade, angles, basis = inputs
    assert torch.autograd.gradgradcheck(lambda *x: layer(x[0], x[1], x[2].unbind(1), x[3]), inputs)
    # Another formula without second derivatives in mind.
    expected = layer(message, fade, angles.unbind(1), basis)
    found = layer.eval()(message, fade, angles.unbind(1), basis)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_of_nobody_is_the_bias(attention: str) -> None:
    layer = NeighborAttention(4, 2, 2, 3, attention)
    angles = torch.rand(2, 2, 3, 3).unbind(1)
    for training in (True, False):
        layer.train(training)
        out = layer(torch.randn(2, 3, 4), torch.zeros(2, 3), angles, torch.randn(2, 3, 3))
        torch.testing.assert_close(out, layer.out.bias.expand_as(out))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_survives_large_logits(attention: str, training: bool) -> None:
    torch.manual_seed(0)
    layer = NeighborAttention(4, 1, 1, 3, attention).train(training)
    message, basis = torch.randn(2, 3, 4), torch.randn(2, 3, 3)
    fade, angles = torch.ones(2, 3), [torch.ones(2, 3, 3)]
    assert torch.isfinite(layer(1e4 * message, fade, angles, basis)).all()
    # A wild logit where the envelope is 0 changes nothing; with a plain maximum it would empty the others.
    fade[:, 2] = 0.0
    message[:, 2] *= 1e4
    found = layer(message, fade, angles, basis)[:, :2]
    expected = layer(message[:, :2], fade[:, :2], [a[:, :2, :2] for a in angles], basis[:, :2])
    torch.testing.assert_close(found, expected)


def test_envelope_keeps_its_digits_near_the_cutoff() -> None:
    gap = torch.tensor([1e-1, 1e-2, 1e-3])
    double = envelope(5.0 - gap.double(), 5.0)
    torch.testing.assert_close(envelope(5.0 - gap, 5.0).double(), double, rtol=2e-3, atol=0)
    x = (5.0 - gap.double()) / 5.0
    torch.testing.assert_close(double, 1 - 28 * x**6 + 48 * x**7 - 21 * x**8, rtol=1e-7, atol=1e-12)
    assert envelope(torch.tensor([5.0, 7.0]), 5.0).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_lorentz_attention_differs(kind: str) -> None:
    # The same seed gives other layers the same weights; what differs is the attention.
    a, b = (ask(build(kind=kind, attention=attention), acid())[0][0] for attention in ATTENTIONS)
    assert abs(a - b) > 1e-3


def test_an_isolated_atom_has_its_reference_energy() -> None:
    for z, energy in UNITS.references.items():
        e, f = ask(build(), Structure([[0.3, 0.0, 1.0]], [z]))  # type: ignore[arg-type]
        assert e[0] == energy
        assert (f == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_charge_and_spin_are_seen(kind: str) -> None:
    model = build(kind=kind)
    energies = [ask(model, acid(charge=q, spin=s))[0][0] for q, s in ((0, 0), (1, 0), (0, 2))]
    assert len({round(e, 6) for e in energies}) == 3


def test_float32_keeps_the_digits_of_a_total_energy() -> None:
    double, single = build(), build(dtype=torch.float32)
    single.load_state_dict(double.state_dict())
    assert ask(single, acid())[0][0] == pytest.approx(ask(double, acid())[0][0], abs=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_elements_are_refused(kind: str) -> None:
    strange = Structure(POSITIONS[:2], np.array([6, 79]), name="gold")
    with pytest.raises(ModelError, match=r"gold: the model does not know Au; it was trained on H, C, O"):
        build(kind=kind).prepare([strange])


def test_unknown_charges_and_spins_are_refused() -> None:
    with pytest.raises(ModelError, match="does not know charge -1; it was trained on 0, 1"):
        build().prepare([acid(charge=-1)])
    with pytest.raises(ModelError, match="does not know spin 1; it was trained on 0, 2"):
        build().prepare([acid(spin=1)])


def test_periodic_structures_need_a_graph() -> None:
    crystal = Structure(POSITIONS, NUMBERS, cell=np.eye(3) * 9, pbc=np.ones(3, bool))
    with pytest.raises(ModelError, match="no periodic images"):
        build(kind="transformer").prepare([crystal])


def test_random_rotations() -> None:
    r = random_rotations(4000, torch.Generator().manual_seed(0))
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(r @ r.mT, eye.expand(4000, 3, 3), atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(4000, dtype=torch.float64))
    # Uniform on the group: first moments vanish, the angle's mean is pi/2 + 2/pi.
    assert float(r.mean(0).abs().max()) < 0.04
    angle = torch.acos(((r.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2).clamp(-1, 1))
    assert float(angle.mean()) == pytest.approx(np.pi / 2 + 2 / np.pi, abs=0.04)
