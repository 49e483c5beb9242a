"""Large structures by parts of their atoms, batches by a few structures: the same numbers in less memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from potential_case import NUMBERS, POSITIONS, acid, build

from hyperkit_mol.potentials import AtomicBatch, Potential, Structure, escaip
from hyperkit_mol.potentials._parts import by_parts
from hyperkit_mol.potentials.attention_maps import attention_weights

pytest.importorskip("vesin", reason="neighbour lists need vesin (the extra `potentials`)")


def box() -> Structure:
    """Two molecules in a periodic cell, 16 atoms with up to some 20 neighbours."""
    both = np.concatenate([POSITIONS, POSITIONS[:, [1, 2, 0]] + np.array([0.5, 3.2, 2.8])])
    return Structure(both, np.tile(NUMBERS, 2), cell=np.diag([6.5, 6.8, 7.0]), pbc=np.ones(3, bool))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Everything goes by parts of 3 atoms; how many there were in each call."""
    counts: list[int] = []

    def counted(function: object, rows: int, cut: list[torch.Tensor], *rest: object) -> object:
        counts.append(-(-len(cut[0]) // rows))
        return by_parts(function, rows, cut, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(escaip, "_WHOLE", 0)
    monkeypatch.setattr(escaip, "by_parts", counted)
    monkeypatch.setattr(escaip.EScAIP, "rows", lambda self, width: 3)
    return counts


@pytest.mark.parametrize(
    "settings", [{}, {"attention": "lorentz"}, {"max_neighbors": 6}, {"forces": "direct"}]
)
def test_by_parts_is_as_whole(settings: dict[str, Any], request: pytest.FixtureRequest) -> None:
    model = build(**settings)
    batch = model.prepare([box()])
    stress = "forces" not in settings
    whole = model(batch, stress=stress)
    counts = request.getfixturevalue("small")
    parts = model(batch, stress=stress)
    assert counts == [6] * (1 + model.config.layers)
    for name in ("energy", "forces", "atomic", *(["stress"] if stress else [])):
        np.testing.assert_allclose(
            getattr(parts, name).detach(), getattr(whole, name).detach(), atol=1e-10, err_msg=name
        )


def test_weights_have_the_same_gradient_by_parts(request: pytest.FixtureRequest) -> None:
    model = build()
    batch = model.prepare([box()])

    def gradient() -> list[torch.Tensor | None]:
        energy = model(batch, forces=False).energy.sum()
        return list(torch.autograd.grad(energy, list(model.parameters()), allow_unused=True))

    whole = gradient()
    counts = request.getfixturevalue("small")
    for (name, _), a, b in zip(model.named_parameters(), whole, gradient(), strict=True):
        assert (a is None) == (b is None), name
        if a is not None and b is not None:
            torch.testing.assert_close(b, a, atol=1e-9, rtol=1e-7, msg=name)
    assert counts


def test_training_is_not_cut(small: list[int]) -> None:
    """A gradient of forces needs the whole graph."""
    model = build().train()
    found = model(model.prepare([box()]))
    found.forces.square().sum().backward()
    assert not small


def test_attention_weights_by_parts(request: pytest.FixtureRequest) -> None:
    model = build()
    whole = attention_weights(model, box())
    request.getfixturevalue("small")
    parts = attention_weights(model, box())
    np.testing.assert_allclose(parts.weights, whole.weights, atol=1e-12)


def test_a_second_derivative_through_parts_is_refused(small: list[int]) -> None:
    model = build()
    batch = model.prepare([box()])
    positions = batch.positions.clone().requires_grad_()
    out = model.backbone(AtomicBatch(**(vars(batch) | {"positions": positions})))
    (slope,) = torch.autograd.grad(out.atomic.sum(), positions, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        slope.sum().backward()


def structures() -> list[Structure]:
    return [acid(0.1, 1), Structure(np.zeros((1, 3)), np.array([8])), box(), acid(0.1, 2, charge=1)]


@pytest.mark.parametrize("atoms", [1, 9, 20, 1000])
def test_batches_are_cut_between_structures(atoms: int) -> None:
    batch = build().prepare(structures())
    pieces = batch.split(atoms)
    assert [p.counts.tolist() for p in pieces] == {
        1: [[8], [1], [16], [8]],
        9: [[8, 1], [16], [8]],
        20: [[8, 1], [16], [8]],
        1000: [[8, 1, 16, 8]],
    }[atoms]
    begin = 0
    for piece in pieces:
        end = begin + len(piece.numbers)
        assert torch.equal(piece.positions, batch.positions[begin:end])
        real = piece.neighbor_mask
        width = real.shape[1]
        assert not batch.neighbor_mask[begin:end, width:].any()
        assert torch.equal(piece.neighbors[real], batch.neighbors[begin:end, :width][real] - begin)
        assert piece.neighbors.min() >= 0
        assert piece.neighbors.max() < len(piece.numbers)
        assert piece.index.unique().tolist() == list(range(piece.size))
        begin = end
    assert begin == len(batch.numbers)


def test_a_batch_in_pieces_is_as_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    batch = model.prepare(structures())
    sizes: list[int] = []
    evaluate = Potential._evaluate

    def counted(self: Potential, batch: AtomicBatch, *rest: object) -> object:
        sizes.append(batch.size)
        return evaluate(self, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Potential, "_evaluate", counted)
    whole = model(batch)
    monkeypatch.setattr(escaip.EScAIP, "rows", lambda self, width: 9)
    pieces = model(batch)
    assert sizes == [4, 2, 1, 1]
    for name in ("energy", "forces", "atomic"):
        np.testing.assert_allclose(
            getattr(pieces, name).detach(), getattr(whole, name).detach(), atol=1e-10, err_msg=name
        )
    # Somebody who wants a graph over the batch gets one.
    assert model(batch, forces=False).energy.requires_grad
    assert sizes[4:] == [4]
