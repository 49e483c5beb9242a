"""The traced graph of energy and forces: equal to eager, derivatives included."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest
import torch
from potential_case import acid, build

from hyperkit_mol.potentials import Potential, Structure
from hyperkit_mol.potentials import compiled as module
from hyperkit_mol.potentials.compiled import CompiledGradient, trace

KINDS = [(kind, attention) for kind in ("escaip", "transformer") for attention in ("euclidean", "lorentz")]


def lost(model: Potential, batch: Any) -> list[torch.Tensor]:
    """Energies, forces, and the slopes of a loss on both."""
    found = model(batch)
    (found.energy.sum() + found.forces.square().sum()).backward()
    slopes = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return [found.energy.detach(), found.forces.detach(), *slopes]


@pytest.mark.parametrize(("kind", "attention"), KINDS)
def test_same_numbers_and_same_gradient_of_a_force_loss(kind: str, attention: str) -> None:
    model = build(kind=kind, attention=attention).train()
    batch = model.prepare([acid(0.05), acid(0.05, 1)])
    eager = lost(model, batch)
    model.compiled("eager")
    traced = lost(model, batch)
    for a, b in zip(eager, traced, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(a.abs().max()) + 1e-15)
    assert all(g is not None for g in model._compiled._graphs.values()), "it ran eagerly"


@pytest.mark.parametrize("kind", ["escaip", "transformer"])
def test_evaluation(kind: str) -> None:
    model = build(kind=kind).requires_grad_(False)
    batch = model.prepare([acid()])
    eager = model(batch)
    traced = model.compiled("eager")(batch)
    torch.testing.assert_close(eager.forces, traced.forces, rtol=0, atol=1e-12)
    assert not traced.energy.requires_grad
    # Back to eager, and a copy does not share the graphs.
    assert copy.deepcopy(model)._compiled is None
    assert model.compiled(None)._compiled is None


def test_neighbor_cap_and_odd_lists() -> None:
    model = build(max_neighbors=4).requires_grad_(False)
    alone = Structure(acid().positions[:4], acid().numbers[:4])  # three neighbours: padded to four
    for structures in ([acid()], [alone]):
        batch = model.compiled(None).prepare(structures)
        eager = model(batch).forces
        torch.testing.assert_close(eager, model.compiled("eager")(batch).forces, rtol=0, atol=1e-12)


def test_stress() -> None:
    model = build().requires_grad_(False)
    crystal = Structure(acid().positions, acid().numbers, cell=6.0 * torch.eye(3).numpy(), pbc=[True] * 3)
    batch = model.prepare([crystal])
    eager = model(batch, stress=True)
    traced = model.compiled("eager")(batch, stress=True)
    torch.testing.assert_close(eager.stress, traced.stress, rtol=0, atol=1e-12)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles C++")
def test_compiled_to_machine_code() -> None:
    model = build(dtype=torch.float32, kind="transformer", layers=1, width=8).train()
    batch = model.prepare([acid(0.05)])
    eager = lost(model, batch)
    compiled = lost(model.compiled(), batch)
    for a, b in zip(eager, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()) + 1e-7)
    assert all(g is not None for g in model._compiled._graphs.values()), "it ran eagerly"


def test_too_many_shapes_and_a_broken_compiler_run_eagerly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = build().requires_grad_(False)
    gradient = CompiledGradient(model, "eager", limit=1)
    one, two = model.prepare([acid()]), model.prepare([acid(), acid()])
    expected = model(two).forces
    model._compiled = gradient
    model(one)
    torch.testing.assert_close(model(two).forces, expected, rtol=0, atol=1e-12)
    assert "more than 1 shapes" in caplog.text

    def broken(*_: Any, **__: Any) -> Any:
        def run(*_: Any) -> Any:
            raise torch._dynamo.exc.InternalTorchDynamoError("no compiler here")

        return run

    monkeypatch.setattr(module.torch, "compile", broken)
    torch.testing.assert_close(model.compiled()(two).forces, expected, rtol=0, atol=1e-12)
    assert "running eagerly instead" in caplog.text


def test_trace_keeps_what_is_without_gradient() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            level = x.square().sum()
        (slope,) = torch.autograd.grad((x.softmax(0) * level * x.detach()).sum(), x, create_graph=True)
        return slope

    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    graph = trace(function, x)
    ours, theirs = (torch.autograd.grad(f(x).square().sum(), x)[0] for f in (graph, function))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
