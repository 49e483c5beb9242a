"""The compiled linear layer and its tail against hyperkit's own eager functions in float64."""

from __future__ import annotations

import contextlib

import pytest
import torch
from ext_case import (
    ball_case,
    linear_case,
    needs_library,
    on_devices,
    op,
    reference,
    relative,
    row_errors,
    rows,
    tail_case,
)

from hyperkit import PoincareBall
from hyperkit.nn import LorentzLinear, PoincareConv1d, PoincareLinear, geometry
from hyperkit.nn._base import lorentz_tail
from hyperkit.ops import _fused
from hyperkit.ops import lorentz as L

pytestmark = needs_library


@on_devices
@pytest.mark.parametrize("scales", [1, 3])
@pytest.mark.parametrize("d", [1, 7, 64])
def test_tail_and_both_derivatives(scales, d, device):
    ts = [t.requires_grad_() for t in tail_case(d=d, scales=scales, device=device)]
    us = [t.detach().double().requires_grad_() for t in ts]
    out, want = op("tail")(*ts, 1.3), reference().tail(*us, 1.3)
    assert row_errors(out, want) < 1e-6
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(device)
    first = torch.autograd.grad(out, ts, g, create_graph=True)
    expected = torch.autograd.grad(want, us, g.double(), create_graph=True)
    if d > 1:  # on a line the gradient of the direction is a rounding error, as in the eager form
        assert row_errors(first[0], expected[0]) < 1e-5
    assert relative(first[1], expected[1]) < 2e-5  # a sum that cancels
    if d == 1:
        return
    # Second derivatives where they are not of the order of 1e8 for the vanishing rows.
    plain = torch.ones(len(out), 1, device=device)
    plain[:2] = 0.0
    second = torch.autograd.grad((first[0] * plain).square().sum() + first[1].square().sum(), ts)
    expected2 = torch.autograd.grad((expected[0] * plain).square().sum() + expected[1].square().sum(), us)
    for a, b in zip(second, expected2, strict=True):
        assert relative(a, b) < 2e-5


@on_devices
@pytest.mark.parametrize("d", [1, 7, 64, 257])
def test_ball_tail_and_both_derivatives(d, device):
    ts = [t.requires_grad_() for t in ball_case(d=d, device=device)]
    us = [t.detach().double().requires_grad_() for t in ts]
    out, want = op("ball_tail")(*ts, 1.3), reference().ball_tail(*us, 1.3)
    # What is inside the asinh is a difference of two numbers of the size of `time`, rounded.
    inner = torch.ones(len(out), 1, device=device)
    inner[2] = 0.0  # next to the edge of the ball
    assert row_errors(out * inner, want * inner) < 4e-6
    assert float(out[2].norm()) * 1.3**0.5 < 1.0
    assert relative(out[2], want[2]) < 1e-4
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(device) * inner
    first = torch.autograd.grad(out, ts, g, create_graph=True)
    expected = torch.autograd.grad(want, us, g.double(), create_graph=True)
    for a, b in zip(first, expected, strict=True):
        assert relative(a, b) < 2e-5
    second = torch.autograd.grad([t.square().sum() for t in first], ts)
    expected2 = torch.autograd.grad([t.square().sum() for t in expected], us)
    for a, b in zip(second, expected2, strict=True):
        assert relative(a, b) < 1e-4


@on_devices
def test_ball_tail_where_the_sinh_ends(device):
    """Beyond the last radius of the format the point is at the edge and the gradient finite."""
    z, space, time, gain, tilt, power = ball_case(n=4, d=3, device=device)
    z = (z + 10.0).requires_grad_()
    out = op("ball_tail")(z, space, time, gain, tilt, power * 30.0, 1.3)
    want = reference().ball_tail(z.detach(), space, time, gain, tilt, power * 30.0, 1.3)
    assert relative(out, want) < 1e-6
    (grad,) = torch.autograd.grad(out.sum(), z)
    assert bool(grad.isfinite().all())


@on_devices
@pytest.mark.parametrize("learnable", [False, True])
def test_ball_layers_are_the_same_with_and_without_the_kernel(learnable, device, monkeypatch):
    torch.manual_seed(0)
    ball = PoincareBall(1.3, learnable=learnable)
    linear, conv = PoincareLinear(8, 16, c=ball).to(device), PoincareConv1d(8, 16, 3, c=ball).to(device)
    with torch.no_grad():
        for layer in (linear, conv):
            layer.bias.normal_(std=0.3)
    x = PoincareBall(1.3).random_normal(3, 5, 8, std=0.5).to(device)
    seen, original = [], torch.ops.hyperkit_ext.ball_tail
    monkeypatch.setattr(torch.ops.hyperkit_ext, "ball_tail", lambda *a: seen.append(1) or original(*a))
    results = []
    for eager in (False, True):
        with _fused.disabled() if eager else contextlib.nullcontext():
            leaf = x.detach().clone().requires_grad_()
            out = [linear(leaf), conv(leaf.movedim(-1, 1))]
            wanted = [leaf, linear.weight, linear.bias, conv.weight, conv.bias]
            grads = torch.autograd.grad(sum(o.square().sum() for o in out), wanted, create_graph=True)
            again = torch.autograd.grad(sum(t.square().sum() for t in grads), leaf)
            results.append([*out, *grads, *again])
    assert len(seen) == (0 if learnable else 2)
    for a, b in zip(*results, strict=True):
        assert relative(a.detach(), b.detach()) < 5e-5
    assert linear(x[:0]).shape == (0, 5, 16)


@on_devices
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(24, 9, 7), (50, 32, 64), (3, 1, 2), (2, 5, 257)])
def test_linear_and_both_derivatives(bias, sizes, device):
    given = linear_case(*sizes, bias=bias, device=device)
    a = [None if t is None else t.clone().requires_grad_() for t in given]
    b = [None if t is None else t.double().requires_grad_() for t in given]
    (out, kept), want = op("linear")(*a, 1.3), reference().linear(*b, 1.3)
    assert not kept.requires_grad
    assert relative(out, want) < 2e-6
    leaves, doubles = ([t for t in ts if t is not None] for ts in (a, b))
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(device)
    if not bias:
        g[0] = 0.0  # a vanishing product's gradient is 1e4 times the others'
    first = torch.autograd.grad(out, leaves, g, create_graph=True)
    expected = torch.autograd.grad(want, doubles, g.double(), create_graph=True)
    second = torch.autograd.grad([t.square().sum() for t in first], leaves)
    expected2 = torch.autograd.grad([t.square().sum() for t in expected], doubles)
    for x, y in zip((*first, *second), (*expected, *expected2), strict=True):
        assert relative(x, y) < (1e-4 if len(out) < 4 else 2e-5)


@on_devices
def test_linear_layer_is_the_same_with_and_without_the_kernel(device, monkeypatch):
    torch.manual_seed(0)
    layer = LorentzLinear(8, 16, c=1.3).to(device)
    with torch.no_grad():
        layer.weight.normal_()
    x = geometry("lorentz", 1.3).random_normal(3, 5, features=8).to(device)
    seen = []
    original = torch.ops.hyperkit_ext.linear
    monkeypatch.setattr(torch.ops.hyperkit_ext, "linear", lambda *a: seen.append(1) or original(*a))
    results = []
    for eager in (False, True):
        with _fused.disabled() if eager else contextlib.nullcontext():
            layer.zero_grad()
            leaf = x.detach().clone().requires_grad_()
            out = layer(leaf)
            (grad,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
            # A gradient penalty, as a WGAN has it, and the plain loss.
            (grad.square().sum() + out.sum()).backward()
            with torch.no_grad():
                inferred = layer(x)
            assert leaf.grad is not None
            results.append([out, inferred, grad, leaf.grad, *(p.grad.clone() for p in layer.parameters())])
    assert seen == [1, 1]
    for a, b in zip(*results, strict=True):
        assert relative(a.detach(), b.detach()) < 1e-5
    assert layer(x[:0]).shape == (0, 5, 17)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert layer(x).dtype == torch.float32
    assert seen == [1, 1]


@pytest.mark.parametrize("shape", [(3, 1), (1, 3, 1), (1,), (), (4, 3, 1), (4, 1, 1), (2, 4, 3, 8)])
def test_tail_takes_scales_that_take_turns_with_the_rows(shape, monkeypatch):
    torch.manual_seed(0)
    z, scale = torch.randn(2, 4, 3, 8, requires_grad=True), torch.randn(shape, requires_grad=True)
    seen = []
    original = torch.ops.hyperkit_ext.tail
    monkeypatch.setattr(torch.ops.hyperkit_ext, "tail", lambda *a: seen.append(1) or original(*a))
    if shape == (2, 4, 3, 8):
        scale = scale[..., :1]
    out = lorentz_tail(z, scale, 1.3)
    assert bool(seen) == (shape != (4, 1, 1))
    with _fused.disabled():
        want = lorentz_tail(z, scale, 1.3)
    assert relative(out, want) < 1e-6
    for a, b in zip(*(torch.autograd.grad(o.square().sum(), (z, scale)) for o in (out, want)), strict=True):
        assert a.shape == b.shape
        assert relative(a, b) < 1e-5


def test_plain_calls_take_the_operator_and_only_where_it_fits(monkeypatch):
    seen = []
    original = torch.ops.hyperkit_ext.row
    monkeypatch.setattr(torch.ops.hyperkit_ext, "row", lambda *a: seen.append(a[0]) or original(*a))
    x, y = rows(0, n=4000)
    seen.clear()
    out = L.dist(x, y, 1.3)
    assert seen == [0]
    with _fused.disabled():
        assert relative(out, L.dist(x, y, 1.3)) < 1e-6
    L.dist(x, y[:1], 1.3)  # broadcasts
    L.dist(x.double(), y.double(), 1.3)
    L.dist(x[:10], y[:10], 1.3)
    L.dist(x[:0], y[:0], 1.3)
    torch.func.vmap(lambda a, b: L.dist(a, b, 1.3))(x, y)
    c = torch.tensor(1.3, requires_grad=True)
    L.dist(x, y, c).sum().backward()
    assert c.grad is not None
    assert seen == [0, 0]
