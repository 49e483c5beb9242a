"""The Poincaré ball as a geoopt manifold."""

from __future__ import annotations

import geoopt
import torch
from geoopt.manifolds.base import Manifold, ScalingInfo
from torch import Tensor

from hyperkit.manifolds._base import Hyperbolic, sizes
from hyperkit.ops import poincare as ops


class PoincareBall(Hyperbolic):
    """Ball ``{x : sqrt(c) |x| < 1}`` with the metric ``(2/(1 - c |x|^2))^2 dx^2`` of curvature ``-c``.

    A :class:`geoopt.Manifold`; methods and conventions are those of :class:`geoopt.PoincareBall`, formulas
    and accuracy those of :mod:`hyperkit.ops.poincare`: float32 reaches radius 15.9 (geoopt: 6.2).

    Parameters
    ----------
    c : float
        Curvature, > 0.
    learnable : bool
        Make the curvature a parameter. Where it grows, stored points near the edge come to lie outside and
        need :meth:`projx`; a Lorentz or proper-velocity parametrisation does not have this limit.

    Examples
    --------
    >>> import torch
    >>> from hyperkit import PoincareBall
    >>> ball = PoincareBall(c=1.0)
    >>> x = ball.expmap0(torch.tensor([7.0, 0.0]))
    >>> round(float(ball.dist0(x)), 1)
    14.0
    """

    name = "Poincare ball"
    __scaling__ = Manifold.__scaling__.copy()

    def projx(self, x: Tensor) -> Tensor:
        return ops.projx(x, self.c)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return ops.egrad2rgrad(x, u, self.c)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        return ops.inner(x, u, v, self.c, keepdim=keepdim)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        return ops.norm(x, u, self.c, keepdim=keepdim)

    @__scaling__(ScalingInfo(1))
    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return ops.dist(x, y, self.c, keepdim=keepdim)

    @__scaling__(ScalingInfo(2))
    def dist2(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return ops.sqdist(x, y, self.c, keepdim=keepdim)

    @__scaling__(ScalingInfo(1))
    def dist0(self, x: Tensor, *, keepdim: bool = False) -> Tensor:
        """Distance to the origin."""
        return ops.dist0(x, self.c, keepdim=keepdim)

    @__scaling__(ScalingInfo(1))
    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of all pairs, ``(*, N, d)`` and ``(*, M, d)`` to ``(*, N, M)``."""
        return ops.cdist(x, y, self.c)

    @__scaling__(ScalingInfo(u=-1))
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return ops.expmap(x, u, self.c)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """Retraction ``x + u``, kept inside (first order, as geoopt has it)."""
        return ops.projx(x + u, self.c)

    @__scaling__(ScalingInfo(u=-1))
    def expmap0(self, u: Tensor) -> Tensor:
        """Exponential map at the origin."""
        return ops.expmap0(u, self.c)

    @__scaling__(ScalingInfo(1))
    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return ops.logmap(x, y, self.c)

    @__scaling__(ScalingInfo(1))
    def logmap0(self, x: Tensor) -> Tensor:
        """Logarithmic map at the origin."""
        return ops.logmap0(x, self.c)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return ops.transp(x, y, v, self.c)

    def transp0(self, y: Tensor, u: Tensor) -> Tensor:
        """Parallel transport from the origin to `y`."""
        return ops.transp0(y, u, self.c)

    def transp0back(self, x: Tensor, u: Tensor) -> Tensor:
        """Parallel transport from `x` to the origin."""
        return ops.transp0back(x, u, self.c)

    @__scaling__(ScalingInfo(t=-1))
    def geodesic_unit(self, t: Tensor | float, x: Tensor, u: Tensor) -> Tensor:
        """Point after the length `t` in the unit direction `u`."""
        return ops.geodesic_unit(t, x, u, self.c)

    def geodesic(self, t: Tensor | float, x: Tensor, y: Tensor) -> Tensor:
        """Point at fraction `t` of the way from `x` to `y`."""
        return ops.geodesic(t, x, y, self.c)

    def mobius_add(self, x: Tensor, y: Tensor) -> Tensor:
        """Möbius addition."""
        return ops.mobius_add(x, y, self.c)

    def mobius_scalar_mul(self, r: Tensor | float, x: Tensor) -> Tensor:
        """Möbius scalar multiplication."""
        return ops.mobius_scalar_mul(r, x, self.c)

    def mobius_matvec(self, m: Tensor, x: Tensor) -> Tensor:
        """Möbius matrix-vector multiplication."""
        return ops.mobius_matvec(m, x, self.c)

    def lambda_x(self, x: Tensor, *, keepdim: bool = False) -> Tensor:
        """Conformal factor ``2/(1 - c |x|^2)``."""
        return ops.conformal(x, self.c, keepdim=keepdim)

    def centroid(self, x: Tensor, weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Einstein midpoint of points ``(*, N, d)``."""
        return ops.centroid(x, weights, mask, self.c)

    def origin(
        self, *size: int, dtype: torch.dtype | None = None, device=None, seed: int | None = 42
    ) -> geoopt.ManifoldTensor:
        """The origin, zero, in shape `size`; `seed` is there for geoopt's signature."""
        out = torch.zeros(*sizes(size), **self._like(dtype, device))
        return geoopt.ManifoldTensor(out, manifold=self)  # type: ignore[call-arg]

    @__scaling__(ScalingInfo(std=-1), "random")
    def random_normal(
        self,
        *size: int,
        mean: float | Tensor = 0.0,
        std: float | Tensor = 1.0,
        dtype: torch.dtype | None = None,
        device=None,
        generator: torch.Generator | None = None,
    ) -> geoopt.ManifoldTensor:
        """Wrapped normal at the origin: the exponential map of a normal vector.

        `std` is that of Riemannian normal coordinates, half of it that of the vector of coordinates, so that
        the points are those of :meth:`hyperkit.Lorentz.random_normal`.
        """
        v = torch.randn(*sizes(size), generator=generator, **self._like(dtype, device)) * std + mean
        with torch.no_grad():
            out = ops.expmap0(0.5 * v, self.c)
        return geoopt.ManifoldTensor(out, manifold=self)  # type: ignore[call-arg]

    random = random_normal

    def _check_point_on_manifold(
        self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        with torch.no_grad():
            bad = ops.gap(x, self.c).squeeze(-1) <= 0.0
        if not bool(bad.any()):
            return True, None
        row = tuple(bad.nonzero()[0].tolist())
        return False, f"'x' row {row} has norm {float(x[row].norm()):.9g}, needs less than 1/sqrt(c)"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        return True, None
