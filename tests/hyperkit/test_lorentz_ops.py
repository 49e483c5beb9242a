"""The Lorentz operations: identities, derivatives, hard points."""

import pytest
import torch

from hyperkit.ops import lorentz as L

torch.manual_seed(0)


def points(n: int, d: int, c: float, std: float = 1.0, dtype=torch.float64, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    v = torch.randn(n, d, dtype=dtype, generator=g) * std
    return L.expmap0(torch.nn.functional.pad(v, (1, 0)), c)


def at_radius(r: float, n: int = 6, d: int = 5, dtype=torch.float64, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    u = torch.nn.functional.normalize(torch.randn(n, d, dtype=dtype, generator=g), dim=-1)
    return L.from_space(torch.sinh(torch.tensor(r, dtype=dtype)) * u)


@pytest.mark.parametrize("c", [0.3, 1.0, 4.0])
def test_identities(c: float) -> None:
    x, y = points(40, 5, c, 0.8), points(40, 5, c, 1.5, seed=1)
    d = torch.acosh(-c * L.inner(x, y)) / c**0.5
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(L.dist(x, y, c), d, **close)
    torch.testing.assert_close(L.sqdist(x, y, c), d**2, **close)
    torch.testing.assert_close(L.dist0(x, c), L.dist(x, L.origin(6, c=c, dtype=x.dtype), c), **close)
    torch.testing.assert_close(L.cdist(x, y, c).diagonal(), d, **close)
    torch.testing.assert_close(L.pairwise_sqdist(x, y, c).diagonal(), d**2, **close)
    torch.testing.assert_close(L.pairwise_inner(x, y).diagonal(), L.inner(x, y), **close)
    v = L.logmap(x, y, c)
    torch.testing.assert_close(L.expmap(x, v, c), y, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(L.tangent_norm(x, v, c), d, **close)
    torch.testing.assert_close(L.expmap0(L.logmap0(x, c), c), x, **close)
    torch.testing.assert_close(L.from_poincare(L.to_poincare(x, c), c), x, **close)
    g = L.geodesic(torch.linspace(0, 1, 40, dtype=x.dtype), x, y, c)
    torch.testing.assert_close(L.dist(x, g, c) + L.dist(g, y, c), d, **close)
    torch.testing.assert_close(L.dist(x, g, c), torch.linspace(0, 1, 40, dtype=x.dtype) * d, **close)


@pytest.mark.parametrize("c", [0.3, 1.0, 4.0])
def test_transport(c: float) -> None:
    x, y, v = points(40, 5, c, 0.8), points(40, 5, c, 0.8, seed=1), points(40, 5, c, 1.0, seed=2)
    v = L.proju(x, v, c)
    textbook = v + L.inner(y, v, keepdim=True) / (1 / c - L.inner(x, y, keepdim=True)) * (x + y)
    torch.testing.assert_close(L.transp(x, y, v, c), textbook, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(L.transp0(y, L.transp0back(y, textbook, c), c), textbook, rtol=1e-8, atol=1e-8)
    o = L.origin(6, c=c, dtype=x.dtype)
    torch.testing.assert_close(L.transp(x, o, v, c), L.transp0back(x, v, c), rtol=1e-8, atol=1e-8)
    u = L.proju(x, points(40, 5, c, 1.0, seed=3), c)
    torch.testing.assert_close(L.tangent_inner(x, u, v, c), L.inner(u, v), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("c", [0.3, 1.0, 4.0])
def test_boost_is_an_isometry(c: float) -> None:
    x, y, p = (points(20, 4, c, 0.7, seed=i) for i in range(3))
    moved = L.boost(x, p, c)
    torch.testing.assert_close(L.dist(moved, L.boost(y, p, c), c), L.dist(x, y, c), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(L.boost(moved, p, c, inverse=True), x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close((L.boost_matrix(p, c) @ x.unsqueeze(-1)).squeeze(-1), moved)
    torch.testing.assert_close(L.boost(L.origin(5, c=c, dtype=p.dtype), p, c), p)


def test_gradients_of_points_everywhere() -> None:
    def distance(a, b):
        return L.sqdist(L.from_space(a), L.from_space(b))

    g = torch.Generator().manual_seed(0)
    other = 3 * torch.randn(2, 3, dtype=torch.float64, generator=g)
    for r in (0.0, 1e-9, 0.3, 2.0):
        a = torch.nn.functional.normalize(torch.randn(2, 3, dtype=torch.float64, generator=g), dim=-1) * r
        for b in (a.clone(), other, -a, -2 * a):  # coincident, far, antipodal
            args = a.clone().requires_grad_(), b.clone().requires_grad_()
            assert torch.autograd.gradcheck(distance, args)
            assert torch.autograd.gradgradcheck(distance, args)


def test_gradients_of_maps_everywhere() -> None:
    g = torch.Generator().manual_seed(0)
    for r in (0.0, 0.5, 1.5):
        a = torch.nn.functional.normalize(torch.randn(2, 3, dtype=torch.float64, generator=g), dim=-1) * r
        for step in (0.0, 0.3, 2.0):
            v = step * torch.randn(2, 3, dtype=torch.float64, generator=g)
            args = a.clone().requires_grad_(), v.requires_grad_()
            for f in (_exp, _log, _transport, _tangent_norm2):
                assert torch.autograd.gradcheck(f, args), (f, r, step)
                assert torch.autograd.gradgradcheck(f, args, fast_mode=True), (f, r, step)


def _exp(a, v):
    x = L.from_space(a, 0.7)
    return L.expmap(x, L.transp0(x, torch.nn.functional.pad(v, (1, 0)), 0.7), 0.7)


def _log(a, v):
    return L.logmap(L.from_space(a, 0.7), L.from_space(v, 0.7), 0.7)


def _transport(a, v):
    x, y = L.from_space(a, 0.7), L.from_space(v, 0.7)
    return L.transp(x, y, L.transp0(x, torch.nn.functional.pad(v + 1, (1, 0)), 0.7), 0.7)


def _tangent_norm2(a, v):
    x = L.from_space(a, 0.7)
    u = L.transp0(x, torch.nn.functional.pad(v, (1, 0)), 0.7)
    return L.tangent_inner(x, u, u, 0.7)


def test_gradient_for_the_curvature() -> None:
    c = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    v = torch.randn(3, 5, dtype=torch.float64)
    w = torch.randn(3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda c: L.dist(L.expmap0(v, c), L.expmap0(w, c), c), (c,))
    assert torch.autograd.gradcheck(lambda c: L.centroid(L.expmap0(v, c), c=c), (c,))


@pytest.mark.parametrize("radius", [0.0, 1e-4, 1.0, 5.0, 10.0, 20.0, 40.0])
def test_float32_is_finite_and_exact_at_equal_points(radius: float) -> None:
    x = at_radius(radius, dtype=torch.float32).requires_grad_()
    assert bool((L.dist(x, x) == 0).all())
    assert bool((L.sqdist(x, x) == 0).all())
    far = -x.detach().clone()
    far[..., 0] *= -1
    for y in (x.detach().clone(), far, L.origin(6), at_radius(radius, dtype=torch.float32, seed=3)):
        y = y.requires_grad_()
        for f in (L.dist, L.sqdist, L.logmap):
            grads = torch.autograd.grad(f(x, y).sum(), (x, y))
            assert all(bool(g.isfinite().all()) for g in grads), (f, radius)


def test_centroid() -> None:
    c = 0.5
    x = points(12, 4, c).view(3, 4, 5)
    w = torch.rand(3, 4, dtype=x.dtype)
    m = L.centroid(x, w, c=c)
    torch.testing.assert_close(L.inner(m, m), torch.full((3,), -1 / c, dtype=x.dtype))
    # It is the minimum of the weighted sum of squared Lorentzian distances: the gradient vanishes there.
    space = m[..., 1:].clone().requires_grad_()
    loss = -(w * L.inner(L.from_space(space, c).unsqueeze(1), x)).sum()
    assert float(torch.autograd.grad(loss, space)[0].abs().max()) < 1e-12
    perm = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(L.centroid(x[:, perm], w[:, perm], c=c), m)
    mask = torch.tensor([True, True, False, False]).expand(3, 4).clone()
    torch.testing.assert_close(L.centroid(x, w, mask, c), L.centroid(x[:, :2], w[:, :2], c=c))
    mask[0] = False
    torch.testing.assert_close(L.centroid(x, mask=mask, c=c)[0], L.origin(5, c=c, dtype=x.dtype))
    matrix = torch.rand(3, 2, 4, dtype=x.dtype)
    torch.testing.assert_close(L.centroid(x, matrix, c=c)[:, 1], L.centroid(x, matrix[:, 1], c=c))


def test_concat_and_split() -> None:
    parts = [points(3, d, 2.0) for d in (2, 3, 4)]
    whole = L.direct_concat(parts, 2.0)
    time2 = sum(p[..., 0] ** 2 for p in parts) - 2 / 2.0
    torch.testing.assert_close(whole[..., 0] ** 2, time2)
    for a, b in zip(L.direct_split(whole, (2, 3, 4), 2.0), parts, strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="sizes must add up to 9"):
        L.direct_split(whole, (2, 3), 2.0)


@pytest.mark.parametrize("c", [0.5, 1.0, 3.0])
def test_riemannian_gradient(c: float) -> None:
    x, y = points(8, 4, c), points(8, 4, c, seed=1)
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(L.dist(leaf, y, c).sum(), leaf)
    r = L.egrad2rgrad(x, g, c)
    torch.testing.assert_close(L.inner(x, r), torch.zeros(8, dtype=x.dtype), atol=1e-12, rtol=0)
    # The gradient of the distance is the unit vector away from y.
    v = L.logmap(x, y, c)
    torch.testing.assert_close(r, -v / L.tangent_norm(x, v, c, keepdim=True))
    torch.testing.assert_close(L.rgrad_norm(x, g, c), torch.ones(8, dtype=x.dtype))
    # Any extension of the function off the manifold has the same Riemannian gradient.
    (ambient,) = torch.autograd.grad((torch.acosh(-c * L.inner(leaf, y)) / c**0.5).sum(), leaf)
    torch.testing.assert_close(L.egrad2rgrad(x, ambient, c), r, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(L.rgrad_norm(x, ambient, c), torch.ones(8, dtype=x.dtype))


def test_bad_input_is_named() -> None:
    x = points(2, 3, 1.0)
    with pytest.raises(ValueError, match=r"c must be > 0 and finite, got -1.0"):
        L.dist(x, x, -1.0)
    with pytest.raises(ValueError, match="y has last dimension 3 but x has 4"):
        L.dist(x, x[..., 1:])
    with pytest.raises(TypeError, match=r"y is torch.float32 but x is torch.float64"):
        L.dist(x, x.float())
    with pytest.raises(TypeError, match=r"x must be floating point, got torch.int64"):
        L.dist0(torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(TypeError, match=r"x is torch.bfloat16.*torch.autocast"):
        L.dist0(x.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert L.dist0(x.bfloat16()).dtype == torch.float32
    assert L.dist(x[:0], x[:0]).shape == (0,)
