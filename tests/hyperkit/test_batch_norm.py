"""The batch norms' few passes in float32 against the operations one by one in float64."""

import copy
import itertools

import pytest
import torch
from torch import Tensor

from hyperkit import Lorentz, PoincareBall
from hyperkit import nn as hnn
from hyperkit.nn import _batch_norm
from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P

D = 8


def points(c: float, radius: float, spread: float, n: int = 300) -> Tensor:
    """Lorentz points about one at the given radius, float32."""
    g = torch.Generator().manual_seed(0)
    v = torch.randn(n, D, dtype=torch.float64, generator=g) * spread
    to = torch.zeros(D + 1, dtype=torch.float64)
    to[1] = radius
    x = L.boost(L.expmap0(torch.nn.functional.pad(v, (1, 0)), c), L.expmap0(to, c), c)
    return L.from_space(x[:, 1:].float(), c)


def layer(ball: bool, c: float) -> torch.nn.Module:
    made = hnn.PoincareBatchNorm(D, c=c) if ball else hnn.LorentzBatchNorm(D, c=c)
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        made.scale.fill_(1.3)
        made.shift.copy_(0.4 * torch.randn(D, generator=g))
    return made


def far_off(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b).abs().max() / b.abs().max())


# float32 coordinates of the ball do not hold the last digits of points further out.
CASES = [
    (ball, c, radius, spread)
    for ball, c, radius, spread in itertools.product(
        (False, True), (1.0, 0.6), (0.0, 3.0, 6.0), (1e-3, 0.3, 2.0)
    )
    if not ball or radius * c**0.5 + spread <= 4.0
]


@pytest.mark.parametrize(("ball", "c", "radius", "spread"), CASES)
def test_agrees_with_float64(ball: bool, c: float, radius: float, spread: float, monkeypatch) -> None:
    """Value, gradients, running statistics, from the few passes in float32 (and there only)."""
    lorentz = points(c, radius, spread)
    start = L.to_poincare(lorentz, c) if ball else lorentz
    ours, exact = layer(ball, c), layer(ball, c).double()
    calls = []
    plain = _batch_norm.normalise

    def spy(*args):
        calls.append(plain(*args))
        return calls[-1]

    monkeypatch.setattr(_batch_norm, "normalise", spy)
    x, wide = start.clone().requires_grad_(), start.double().requires_grad_()
    out, expected = ours(x), exact(wide)
    assert [made is None for made in calls] == [False, True]
    # Lorentz gradients at a far centroid are small differences of numbers of size e^r.
    tolerance = 3e-6 if radius < 5 else 1e-3
    assert far_off(out, expected) < (1e-5 if not ball else 1e-4)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for mine, theirs in zip((x, *ours.parameters()), (wide, *exact.parameters()), strict=True):
        a, b = mine.grad, theirs.grad
        if not ball and mine is x:  # the stored time follows from space coordinates: it has no say
            a, b = a[..., 1:], b[..., 1:]
        assert far_off(a, b) < (tolerance if not ball else 1e-3)
    for mine, theirs in (
        (ours.running_mean, exact.running_mean),
        (ours.running_var, exact.running_var),
    ):
        assert far_off(mine, theirs) < (2e-6 if not ball else 1e-4)


@pytest.mark.parametrize("ball", [False, True])
@pytest.mark.parametrize("c", [1.0, 0.6])
def test_second_derivatives(ball: bool, c: float) -> None:
    """Of a gradient penalty, as in float64."""
    lorentz = points(c, 1.0, 0.5, n=20)
    start = L.to_poincare(lorentz, c) if ball else lorentz
    found = []
    for made, x in ((layer(ball, c), start), (layer(ball, c).double(), start.double())):
        leaf = x.clone().requires_grad_()
        out = made(leaf)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
        (g,) = torch.autograd.grad((out * weight).sum(), leaf, create_graph=True)
        g.square().sum().backward()
        assert leaf.grad is not None
        found.append([leaf.grad, *(p.grad for p in made.parameters())])
    for mine, theirs in zip(*found, strict=True):
        assert far_off(mine, theirs) < 1e-4


@pytest.mark.parametrize("ball", [False, True])
def test_hard_batches(ball: bool) -> None:
    """One place only, the origin only, next to it, beyond the fast path's radius: finite, on the manifold."""
    m = PoincareBall(1.0) if ball else Lorentz(1.0)
    one = points(1.0, 2.0, 0.3)[:1].expand(5, -1)
    origin = L.origin(5, D + 1)
    near = L.from_space(1e-20 * torch.eye(D), 1.0)
    mixed = torch.cat([origin, one])
    far = points(1.0, 12.0, 0.5, n=20)
    for x in (one, origin, near, mixed, far):
        made = layer(ball, 1.0)
        leaf = (L.to_poincare(x) if ball else x).clone().requires_grad_()
        out = made(leaf)
        assert m.check_point_on_manifold(out.detach())
        out.square().sum().backward()
        for t in (leaf, *made.parameters()):
            assert t.grad is not None
            assert bool(t.grad.isfinite().all())


@pytest.mark.parametrize("c", [1.0, 0.6])
def test_far_points_keep_their_digits_without_the_fast_path(c: float) -> None:
    """Evaluation, and a curvature that learns: right to 1e-5 about a mean at radius 6."""
    x = points(c, 6.0, 0.3)
    ours = layer(False, c)
    with torch.no_grad():
        ours.running_mean.copy_(L.centroid(x, c=c)[1:])
    ours.eval()
    exact = copy.deepcopy(ours).double()
    assert far_off(ours(x), exact(x.double())) < 1e-5
    ours.train().manifold = Lorentz(c, learnable=True)
    exact.train().manifold = Lorentz(c, learnable=True).double()
    assert far_off(ours(x), exact(x.double())) < 1e-3  # the mean is rounded to float32 in between


def test_the_fast_path_steps_aside() -> None:
    x = points(1.0, 0.0, 1.0)[:, 1:]
    scale, shift = torch.ones(1), torch.zeros(D)
    assert _batch_norm.normalise(x, scale, shift, 1.0, 1e-5) is not None
    assert _batch_norm.normalise(x.double(), scale.double(), shift.double(), 1.0, 1e-5) is None
    assert _batch_norm.normalise(x, scale, shift, torch.tensor(1.0), 1e-5) is None
    assert _batch_norm.normalise(x.to("meta"), scale, shift, 1.0, 1e-5) is None
    assert _batch_norm.normalise(points(1.0, 12.0, 0.1)[:, 1:], scale, shift, 1.0, 1e-5) is None
    bad = x.clone()
    bad[3] = float("nan")
    assert _batch_norm.normalise(bad, scale, shift, 1.0, 1e-5) is None


@pytest.mark.parametrize("ball", [False, True])
def test_learnable_curvature_autocast_and_compiler(ball: bool) -> None:
    x = points(1.0, 1.0, 0.5)
    x = L.to_poincare(x) if ball else x
    fixed = layer(ball, 1.0)
    expected = fixed(x).detach()
    learned = layer(ball, 1.0)
    learned.manifold = (PoincareBall if ball else Lorentz)(1.0, learnable=True)
    out = learned(x)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    out.square().sum().backward()
    assert float(learned.manifold.log_c.grad.abs()) > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaf = x.clone().requires_grad_()
        out = layer(ball, 1.0)(leaf)
        out.square().sum().backward()
    torch.testing.assert_close(out, expected)
    plain = x.clone().requires_grad_()
    layer(ball, 1.0)(plain).square().sum().backward()
    torch.testing.assert_close(leaf.grad, plain.grad)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(fixed), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


def test_geodesic_of_two_points() -> None:
    g = torch.Generator().manual_seed(0)
    for c in (1.0, 0.6):
        a, b = (torch.randn(D, generator=g, dtype=torch.float64) * s for s in (0.5, 3.0))
        for x, y in ((a, b), (a, a), (a, a + 1e-9), (0 * a, b), (b, -b)):
            expected = L.geodesic(0.1, L.from_space(x, c), L.from_space(y, c), c)[1:]
            torch.testing.assert_close(_batch_norm.geodesic(0.1, x, y, c), expected, rtol=1e-9, atol=1e-12)


def test_the_ball_and_its_space_coordinates() -> None:
    """Values, both derivatives, and the way back from beyond the last radius."""
    from hyperkit.ops._rows import ball_from_space, ball_to_space

    x = L.to_poincare(points(1.0, 1.0, 1.0), 1.0).double()[:6]
    for f in (lambda t: ball_to_space(t, 0.9), lambda t: ball_from_space(3.0 * t, 0.9)):
        leaf = x.clone().requires_grad_()
        assert torch.autograd.gradcheck(f, leaf)
        assert torch.autograd.gradgradcheck(f, leaf)
    torch.testing.assert_close(ball_from_space(ball_to_space(x, 0.9), 0.9), x)
    torch.testing.assert_close(ball_to_space(x, 0.9), P.to_lorentz(x, 0.9)[..., 1:])
    for size in (1e6, 1e9, 1e17):
        far = torch.full((1, D), size, requires_grad=True)
        out = ball_from_space(far, 0.9)
        assert PoincareBall(0.9).check_point_on_manifold(out.detach())
        assert float(P.gap(out.detach(), 0.9)) > 0
        out.sum().backward()
        assert bool(far.grad.isfinite().all())
