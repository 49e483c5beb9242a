"""Every manifold passes the shipped battery, and they all are one space."""

import itertools

import geoopt
import pytest
import torch

from hyperkit import Klein, Lorentz, PoincareBall, Product, ProperVelocity, UpperHalfSpace
from hyperkit.ops import convert as cv
from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P
from hyperkit.testing import ManifoldContract


class TestLorentz(ManifoldContract):
    tolerance = 1e-7

    def make(self):
        return Lorentz(0.6)


class TestLearnableLorentz(ManifoldContract):
    tolerance = 1e-6  # the curvature is a float32 parameter

    def make(self):
        return Lorentz(1.0, learnable=True)


class TestPoincare(ManifoldContract):
    tolerance = 1e-7
    spread = 0.8

    def make(self):
        return PoincareBall(0.6)


class TestStrongPoincare(ManifoldContract):
    tolerance = 1e-7
    spread = 0.08

    def make(self):
        return PoincareBall(100.0)


class TestKlein(ManifoldContract):
    tolerance = 1e-6
    spread = 0.6

    def make(self):
        return Klein(0.6)


class TestUpperHalfSpace(ManifoldContract):
    tolerance = 1e-6
    spread = 0.6

    def make(self):
        return UpperHalfSpace(0.6)


class TestProperVelocity(ManifoldContract):
    tolerance = 1e-7

    def make(self):
        return ProperVelocity(0.6)


class TestProduct(ManifoldContract):
    width = 9

    def make(self):
        return Product((Lorentz(0.5), 4), (PoincareBall(), 3), (geoopt.Euclidean(ndim=1), 2))


@pytest.mark.parametrize("c", [0.4, 1.0, 100.0])
def test_all_models_are_isometric(c: float) -> None:
    m = Lorentz(c).double()
    g = torch.Generator().manual_seed(0)
    x, y = (m.random_normal(30, 4, std=c**-0.5, generator=g).as_subclass(torch.Tensor) for _ in range(2))
    v = m.logmap(x, y)
    spaces = {
        "lorentz": Lorentz(c),
        "poincare": PoincareBall(c),
        "klein": Klein(c),
        "halfspace": UpperHalfSpace(c),
        "proper": ProperVelocity(c),
    }
    for source, target in itertools.product(cv.MODELS, repeat=2):
        a, b = cv.convert(x, "lorentz", source, c), cv.convert(y, "lorentz", source, c)
        moved = cv.convert(a, source, target, c)
        torch.testing.assert_close(cv.convert(moved, target, source, c), a, rtol=1e-7, atol=1e-7)
        d = spaces[target].dist(moved, cv.convert(b, source, target, c))
        torch.testing.assert_close(d, L.dist(x, y, c), rtol=1e-7, atol=1e-9)
        u = cv.tangent(a, cv.tangent(x, v, "lorentz", source, c), source, target, c)
        torch.testing.assert_close(u, spaces[target].logmap(moved, cv.convert(b, source, target, c)))
    with pytest.raises(ValueError, match="source must be one of"):
        cv.convert(x, "sphere", "klein")


def test_product() -> None:
    space = Product((Lorentz(0.5), 4), (PoincareBall(), 3), (geoopt.Euclidean(), 2))
    x, y = space.random(6, 9), space.random(6, 9)
    parts = [
        m.dist(a, b)
        for m, a, b in zip(
            space.manifolds,
            (space.take_submanifold_value(x, i) for i in range(3)),
            (space.take_submanifold_value(y, i) for i in range(3)),
            strict=True,
        )
        if not isinstance(m, geoopt.Euclidean)
    ]
    euclid = (x[:, 7:] - y[:, 7:]).square().sum(-1)
    expected = (parts[0] ** 2 + parts[1] ** 2 + euclid).sqrt()
    torch.testing.assert_close(space.dist(x, y), expected)


@pytest.mark.parametrize("c", [0.5, 1.0, 20.0])
def test_poincare_agrees_with_geoopt_near_the_origin(c: float) -> None:
    ours, theirs = PoincareBall(c), geoopt.PoincareBall(torch.tensor(c, dtype=torch.float64))
    g = torch.Generator().manual_seed(0)
    x, y = (0.5 * c**-0.5 * torch.randn(10, 3, dtype=torch.float64, generator=g).tanh() for _ in range(2))
    v = torch.randn(10, 3, dtype=torch.float64, generator=g) * c**-0.5
    for name, args in {
        "dist": (x, y),
        "logmap": (x, y),
        "expmap": (x, 0.1 * v),
        "transp": (x, y, v),
        "expmap0": (v,),
        "logmap0": (x,),
        "mobius_add": (x, y),
        "dist0": (x,),
        "lambda_x": (x,),
        "egrad2rgrad": (x, v),
    }.items():
        expected = getattr(theirs, name)(*args)
        torch.testing.assert_close(getattr(ours, name)(*args), expected, rtol=1e-6, atol=1e-6)
    inner = theirs.inner(x, v, keepdim=True)
    torch.testing.assert_close(ours.inner(x, v, keepdim=True), inner, rtol=1e-6, atol=1e-6)


def test_ball_reaches_the_end_of_the_format() -> None:
    for dtype, radius in ((torch.float32, 15.0), (torch.float64, 35.0)):
        ball = PoincareBall()
        u = torch.nn.functional.normalize(torch.randn(50, 8, dtype=dtype), dim=-1)
        x = ball.expmap0(0.5 * radius * u)
        assert ball.check_point_on_manifold(x)
        torch.testing.assert_close(ball.dist0(x), torch.full((50,), radius, dtype=dtype), rtol=0.02, atol=0)
        beyond = ball.expmap0(200.0 * u)
        assert ball.check_point_on_manifold(beyond)
        assert bool(ball.dist0(beyond).isfinite().all())
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(ball.dist0(leaf).sum(), leaf)
        torch.testing.assert_close(ball.norm(x, ball.egrad2rgrad(x, g)), torch.ones(50, dtype=dtype))


@pytest.mark.parametrize("c", [0.5, 2.0])
def test_busemann_is_the_limit_of_distances(c: float) -> None:
    x = L.expmap0(torch.randn(9, 4, dtype=torch.float64), c)
    w = torch.nn.functional.normalize(torch.randn(3, dtype=torch.float64), dim=-1)
    far = L.from_space(torch.sinh(torch.tensor(14.0, dtype=torch.float64)) * w / c**0.5, c)
    limit = L.dist(x, far, c) - L.dist0(far, c)
    torch.testing.assert_close(L.busemann(x, w, c), limit, rtol=0, atol=1e-8)
    torch.testing.assert_close(P.busemann(L.to_poincare(x, c), w, c), limit, rtol=0, atol=1e-8)
    level = L.dist_to_horosphere(x, w, 0.3, c)
    torch.testing.assert_close(P.dist_to_horosphere(L.to_poincare(x, c), w, 0.3, c), level)
    # A point moved along the geodesic towards w by the distance lands on the horosphere.
    assert bool((level >= 0).all())


@pytest.mark.parametrize("c", [0.5, 2.0])
def test_hyperplanes_and_reflections(c: float) -> None:
    x = L.expmap0(torch.randn(9, 4, dtype=torch.float64), c)
    p = L.expmap0(torch.randn(4, dtype=torch.float64), c)
    w = L.proju(p, torch.randn(4, dtype=torch.float64), c)
    d = L.dist_to_hyperplane(x, w, c)
    mirror = L.reflection(x, w, c)
    # The mirror image is twice as far as the plane, and mirroring twice is nothing.
    torch.testing.assert_close(L.dist(x, mirror, c), 2 * d, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(L.reflection(mirror, w, c), x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(
        L.dist_to_hyperplane(mirror, w, c, signed=True), -L.dist_to_hyperplane(x, w, c, signed=True)
    )
    a = cv.tangent(p, w, "lorentz", "poincare", c)
    ball = P.dist_to_hyperplane(L.to_poincare(x, c), L.to_poincare(p, c), a, c, signed=True)
    torch.testing.assert_close(ball, L.dist_to_hyperplane(x, w, c, signed=True), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_frechet_mean(spread: float) -> None:
    c = 0.7
    x = L.expmap0(spread * torch.randn(3, 6, 4, dtype=torch.float64), c)
    w = torch.rand(3, 6, dtype=torch.float64)
    mean = L.frechet_mean(x, w, c)
    space = mean[..., 1:].clone().requires_grad_()
    loss = (w * L.sqdist(L.from_space(space, c).unsqueeze(1), x, c)).sum()
    assert float(torch.autograd.grad(loss, space)[0].abs().max()) < 1e-7
    ball = P.frechet_mean(L.to_poincare(x, c), w, c)
    torch.testing.assert_close(ball, L.to_poincare(mean, c))
    s = x[0, :, 1:].clone().requires_grad_()
    v = w[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s, v: L.frechet_mean(L.from_space(s, c), v, c), (s, v), atol=1e-4)
    with pytest.raises(RuntimeError, match="max_steps=1"):
        L.frechet_mean(x, w, c, max_steps=1)


def test_einstein_midpoint() -> None:
    c = 0.7
    x = L.expmap0(torch.randn(3, 6, 4, dtype=torch.float64), c)
    k = cv.convert(x, "lorentz", "klein", c)
    gamma = (1 - c * k.square().sum(-1, keepdim=True)).rsqrt()
    midpoint = (gamma * k).sum(1) / gamma.sum(1)
    torch.testing.assert_close(cv.convert(L.centroid(x, c=c), "lorentz", "klein", c), midpoint)
    ball = P.centroid(L.to_poincare(x, c), c=c)
    torch.testing.assert_close(cv.convert(ball, "poincare", "klein", c), midpoint)
