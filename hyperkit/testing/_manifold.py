"""What every manifold must do, as a class of tests to inherit."""

from __future__ import annotations

import copy
import io
from typing import Any

import geoopt
import torch
from torch import Tensor

from hyperkit.testing._assertions import assert_gradients_finite


class ManifoldContract:
    """Battery for a manifold. Give `make`, and `width`, the number of coordinates of a point.

    Attributes
    ----------
    width : int
        Last dimension of points.
    spread : float
        Standard deviation of the points drawn.
    tolerance : float
        Of the identities in float64.
    """

    width: int = 4
    spread: float = 1.0
    tolerance: float = 1e-8

    def make(self) -> Any:
        """A new manifold of the kind under test."""
        raise NotImplementedError

    def points(self, manifold: Any, n: int = 20, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
        """Random points."""
        generator = torch.Generator().manual_seed(seed)
        x = manifold.random_normal(n, self.width, std=self.spread, dtype=dtype, generator=generator)
        return x.as_subclass(Tensor)

    def _close(self, a: Tensor, b: Tensor) -> None:
        torch.testing.assert_close(a, b, rtol=self.tolerance, atol=self.tolerance)

    def test_points_are_on_the_manifold(self) -> None:
        m = self.make()
        for dtype in (torch.float32, torch.float64):
            x = self.points(m, dtype=dtype)
            assert x.dtype == dtype
            assert m.check_point_on_manifold(x)
            # Two ways of rounding the same coordinate may differ in its last place.
            ulp = max(self.tolerance, 2.0 * torch.finfo(dtype).eps)
            torch.testing.assert_close(m.projx(x), x, rtol=ulp, atol=ulp)
        assert m.check_point_on_manifold(m.origin(3, self.width).as_subclass(Tensor))

    def test_distance_is_a_metric(self) -> None:
        m = self.make()
        x, y, z = (self.points(m, seed=i) for i in range(3))
        self._close(m.dist(x, y), m.dist(y, x))
        assert bool((m.dist(x, x) == 0).all())
        assert bool((m.dist(x, y) > 0).all())
        assert bool((m.dist(x, z) <= m.dist(x, y) + m.dist(y, z) + self.tolerance).all())
        self._close(m.dist2(x, y), m.dist(x, y) ** 2)
        self._close(m.cdist(x, y).diagonal(), m.dist(x, y))
        self._close(m.dist0(x), m.dist(x, m.origin(self.width, dtype=x.dtype).as_subclass(Tensor)))

    def test_exp_and_log_are_inverse(self) -> None:
        m = self.make()
        x, y = self.points(m), self.points(m, seed=1)
        v = m.logmap(x, y)
        self._close(m.dist(m.expmap(x, v), y), torch.zeros(len(x), dtype=x.dtype))
        self._close(m.norm(x, v), m.dist(x, y))
        self._close(m.logmap(x, x), torch.zeros_like(x))

    def test_geodesic_runs_at_constant_speed(self) -> None:
        m = self.make()
        x, y = self.points(m), self.points(m, seed=1)
        z = m.geodesic(0.3, x, y)
        self._close(m.dist(x, z), 0.3 * m.dist(x, y))
        self._close(m.dist(z, y), 0.7 * m.dist(x, y))

    def test_transport_is_an_isometry_and_carries_the_geodesic(self) -> None:
        m = self.make()
        x, y, z = (self.points(m, seed=i) for i in range(3))
        u, v = m.logmap(x, z), m.logmap(x, y)
        self._close(m.inner(y, m.transp(x, y, u), m.transp(x, y, v)), m.inner(x, u, v))
        self._close(m.transp(x, y, v), -m.logmap(y, x))
        self._close(m.transp(y, x, m.transp(x, y, u)), u)

    def test_riemannian_gradient_is_the_steepest(self) -> None:
        """The gradient of the distance is the unit vector away from the other point."""
        m = self.make()
        x, y = self.points(m).requires_grad_(), self.points(m, seed=1)
        (g,) = torch.autograd.grad(m.dist(x, y).sum(), x)
        r, v = m.egrad2rgrad(x.detach(), g), m.logmap(x.detach(), y)
        self._close(r, -v / m.norm(x.detach(), v, keepdim=True))

    def test_second_derivatives(self) -> None:
        m = self.make()
        v, w = (m.projx(self.points(m, n=2, seed=i)) for i in (3, 4))

        def f(a: Tensor, b: Tensor) -> Tensor:
            return m.dist2(m.projx(a), m.projx(b))

        for other in (w, v.clone()):
            leaves = v.clone().requires_grad_(), other.clone().requires_grad_()
            assert torch.autograd.gradcheck(f, leaves)
            assert torch.autograd.gradgradcheck(f, leaves)

    def test_float32_derivatives_are_finite_at_hard_points(self) -> None:
        m = self.make()
        x = self.points(m, dtype=torch.float32)
        o = m.origin(len(x), self.width, dtype=torch.float32).as_subclass(Tensor)
        zero = torch.zeros_like(x)
        for a, b in ((x, x), (o, o), (x, o), (o, x)):
            for f in (m.dist, m.dist2, m.logmap):
                assert_gradients_finite(f, a, b)
            assert_gradients_finite(m.expmap, a, zero)
            assert_gradients_finite(m.dist0, a)

    def test_broadcasts_and_takes_empty_tensors(self) -> None:
        m = self.make()
        x, y = self.points(m, 6).view(3, 2, -1), self.points(m, 3, seed=1).view(3, 1, -1)
        assert m.dist(x, y).shape == (3, 2)
        assert m.expmap(x, m.logmap(x, y)).shape == (3, 2, self.width)
        assert m.transp(x, y, m.logmap(x, y)).shape == (3, 2, self.width)
        assert m.dist(x[:0], y[:0]).shape == (0, 2)
        assert m.dist(x, y, keepdim=True).shape == (3, 2, 1)

    def test_compiles_and_maps(self) -> None:
        m = self.make()
        x, y = self.points(m), self.points(m, seed=1)
        for f in (m.dist, m.dist2, m.logmap, m.expmap):
            torch._dynamo.reset()
            compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
            self._close(compiled(x, y), f(x, y))
            self._close(torch.vmap(f)(x, y), f(x, y))
        torch._dynamo.reset()

    def test_both_geoopt_optimisers(self) -> None:
        m = self.make()
        target = self.points(m, 5, dtype=torch.float32)
        for make, lr in ((geoopt.optim.RiemannianAdam, 0.1), (geoopt.optim.RiemannianSGD, 0.1)):
            start = self.points(m, 5, seed=1, dtype=torch.float32)
            p = geoopt.ManifoldParameter(start, manifold=m)  # type: ignore[call-arg]
            optimiser = make([p], lr=lr)
            before = float(m.dist(p, target).sum().detach())
            for _ in range(60):
                optimiser.zero_grad()
                m.dist2(p, target).sum().backward()
                optimiser.step()
            assert float(m.dist(p, target).sum().detach()) < 0.3 * before
            assert m.check_point_on_manifold(p.detach().as_subclass(Tensor))

    def test_copies_and_state(self) -> None:
        m = self.make()
        twin = copy.deepcopy(m).double()
        assert twin.dtype == torch.float64
        buffer = io.BytesIO()
        torch.save(m.state_dict(), buffer)
        buffer.seek(0)
        other = self.make()
        other.load_state_dict(torch.load(buffer, weights_only=True))
        x, y = self.points(m), self.points(m, seed=1)
        self._close(other.dist(x, y), m.dist(x, y))
