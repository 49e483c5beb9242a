"""Lorentz as a geoopt manifold."""

import copy
import io

import geoopt
import pytest
import torch

from hyperkit import Lorentz
from hyperkit.ops import lorentz as L


@pytest.mark.parametrize("c", [0.5, 1.0, 100.0])
@pytest.mark.parametrize("optimiser", [geoopt.optim.RiemannianAdam, geoopt.optim.RiemannianSGD])
def test_geoopt_optimisers_find_the_point(c: float, optimiser) -> None:
    torch.manual_seed(0)
    m = Lorentz(c)
    target = m.random_normal(6, 4, std=c**-0.5)
    p = geoopt.ManifoldParameter(m.random_normal(6, 4, std=c**-0.5).as_subclass(torch.Tensor), manifold=m)
    opt = optimiser([p], lr=0.1 * c**-0.5 if optimiser is geoopt.optim.RiemannianAdam else 0.2)
    before = float(m.dist(p, target).max().detach())
    for _ in range(250):
        opt.zero_grad()
        m.dist2(p, target).sum().backward()
        opt.step()
    assert float(m.dist(p, target).max().detach()) < 0.02 * before
    assert m.check_point_on_manifold(p.detach())


def test_curvature_is_exact_and_points_outlive_its_change() -> None:
    assert Lorentz(1.0).c == 1.0
    m = Lorentz(1.0, learnable=True)
    assert float(m.c.detach()) == 1.0
    x = m.random_normal(5, 4)
    d0 = m.dist0(x).detach()
    with torch.no_grad():
        m.log_c.add_(0.7)
    assert not m.check_point_on_manifold(x.as_subclass(torch.Tensor))
    assert m.check_point_on_manifold(m.projx(x.as_subclass(torch.Tensor)))
    # Distances read space coordinates, so they are those of the new manifold with no projection.
    torch.testing.assert_close(m.dist0(x), m.dist0(m.projx(x)))
    assert not torch.allclose(m.dist0(x), d0)
    m.dist0(x).sum().backward()
    assert float(m.log_c.grad) != 0.0


def test_state_dict_deepcopy_double() -> None:
    for m in (Lorentz(0.3), Lorentz(0.3, learnable=True)):
        buffer = io.BytesIO()
        torch.save(m.state_dict(), buffer)
        buffer.seek(0)
        other = Lorentz(1.0, learnable=m.learnable)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        assert float(torch.as_tensor(other.c)) == float(torch.as_tensor(m.c))
        twin = copy.deepcopy(m).double()
        assert twin.dtype == torch.float64
        assert twin.random_normal(2, 3).dtype == torch.float64


def test_random_isometry_keeps_distances() -> None:
    m = Lorentz(0.5).double()
    g = torch.Generator().manual_seed(0)
    x, y = m.random_normal(9, 5, generator=g), m.random_normal(9, 5, generator=g)
    iso = m.random_isometry(4, generator=g)
    torch.testing.assert_close(m.dist(x @ iso.T, y @ iso.T), m.dist(x, y), rtol=1e-9, atol=1e-9)
    assert m.check_point_on_manifold((x @ iso.T).as_subclass(torch.Tensor))


def test_random_normal_is_the_wrapped_normal() -> None:
    m = Lorentz(2.0)
    g = torch.Generator().manual_seed(0)
    v = m.logmap0(m.random_normal(20000, 3, std=0.7, generator=g))[..., 1:]
    assert abs(float(v.std()) - 0.7) < 0.01
    assert abs(float(v.mean())) < 0.02


def test_checks_say_which_row() -> None:
    m = Lorentz()
    x = m.random_normal(3, 4).as_subclass(torch.Tensor).clone()
    x[1, 0] += 1.0
    ok, reason = m.check_point_on_manifold(x, explain=True)
    assert not ok
    assert "row (1,)" in reason


@pytest.mark.parametrize("c", [0.5, 3.0])
def test_rotations_and_isometries_as_matrices(c: float) -> None:
    g = torch.Generator().manual_seed(0)
    m = Lorentz(c)
    x, y = (m.random_normal(6, 4, dtype=torch.float64, generator=g).as_subclass(torch.Tensor) for _ in "ab")
    q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=g))[0]
    turned = L.rotation(x, q, c)
    torch.testing.assert_close(L.dist0(turned, c), L.dist0(x, c))
    torch.testing.assert_close(L.dist(turned, L.rotation(y, q, c), c), L.dist(x, y, c))
    torch.testing.assert_close(L.rotation(turned, q.T, c), x)
    moves = torch.stack([m.random_isometry(3, dtype=torch.float64, generator=g) for _ in range(6)])
    moved = L.isometry(x, moves, c)
    assert m.check_point_on_manifold(moved)
    torch.testing.assert_close(moved, (moves @ x.unsqueeze(-1)).squeeze(-1))
    torch.testing.assert_close(L.dist(moved, L.isometry(y, moves, c), c), L.dist(x, y, c))
    leaves = x[:2].clone().requires_grad_(), q.clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda a, b: L.rotation(a, b, c), leaves)
    with pytest.raises(ValueError, match=r"matrix must end in \(3, 3\) \(d\), got shape \(4, 4\)"):
        L.rotation(x, moves[0], c)
