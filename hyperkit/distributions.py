"""Distributions on hyperbolic space, on the Lorentz model or the Poincaré ball.

Densities are with respect to the Riemannian volume. They are isotropic about their location but for
:class:`WrappedNormal`, whose scale may differ by coordinate.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hyperkit.manifolds.lorentz import Lorentz
from hyperkit.manifolds.poincare import PoincareBall
from hyperkit.ops import lorentz as L
from hyperkit.ops._scalar import sinhc

Manifold = Lorentz | PoincareBall


class _Located:
    """A distribution about a location; takes points of either model, computes on the Lorentz model."""

    def __init__(self, manifold: Manifold, loc: Tensor) -> None:
        if not isinstance(manifold, Lorentz | PoincareBall):
            raise TypeError(f"manifold must be Lorentz or PoincareBall, got {type(manifold).__name__}")
        self.manifold, self.loc = manifold, loc
        self._loc = self._up(loc)
        self.dim = self._loc.shape[-1] - 1

    @property
    def batch_shape(self) -> torch.Size:
        """Shape of independent locations."""
        return self.loc.shape[:-1]

    def _up(self, x: Tensor) -> Tensor:
        return x if isinstance(self.manifold, Lorentz) else L.from_poincare(x, self.manifold.c)

    def _down(self, x: Tensor) -> Tensor:
        return x if isinstance(self.manifold, Lorentz) else L.to_poincare(x, self.manifold.c)

    def _normal_coordinates(self, x: Tensor) -> Tensor:
        """Tangent vector at the location, carried to the origin: ``(*, d)``."""
        c = self.manifold.c
        return L.logmap0(L.boost(self._up(x), self._loc, c, inverse=True), c)[..., 1:]

    def _point(self, v: Tensor) -> Tensor:
        """Inverse of :meth:`_normal_coordinates`."""
        c = self.manifold.c
        return self._down(L.boost(L.expmap0(torch.nn.functional.pad(v, (1, 0)), c), self._loc, c))

    def _draw(self, shape: Any, generator: torch.Generator | None) -> Tensor:
        full = (*shape, *self.batch_shape, self.dim)
        return torch.randn(full, dtype=self._loc.dtype, device=self._loc.device, generator=generator)

    @torch.no_grad()
    def sample(self, shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Points of shape ``(*shape, *batch_shape, D)``, without gradient."""
        return self.rsample(shape, generator)

    def rsample(self, shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Points of shape ``(*shape, *batch_shape, D)`` with gradients to the parameters."""
        raise NotImplementedError


class WrappedNormal(_Located):
    """Normal distribution in the tangent space, wrapped by the exponential map (Nagano et al., ICML 2019).

    ``log p(x) = log N(v; 0, scale) - (d - 1) log(sinh(n)/n)`` with v the normal coordinates of x at the
    location and ``n = sqrt(c) |v|``.

    Parameters
    ----------
    manifold : Lorentz or PoincareBall
        The space.
    loc : Tensor
        Location, points ``(*, D)``.
    scale : float or Tensor
        Standard deviation of the normal coordinates (in Riemannian length), > 0; broadcasts with ``(*, d)``.

    Raises
    ------
    ValueError
        If a scale given as a number is not > 0.

    Examples
    --------
    >>> import torch
    >>> from hyperkit import Lorentz
    >>> from hyperkit.distributions import WrappedNormal
    >>> m = Lorentz()
    >>> p = WrappedNormal(m, m.origin(4), 0.5)
    >>> p.log_prob(p.rsample((7,))).shape
    torch.Size([7])
    """

    def __init__(self, manifold: Manifold, loc: Tensor, scale: float | Tensor) -> None:
        super().__init__(manifold, loc)
        self.scale = _positive_scale(scale, self._loc)

    def rsample(self, shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Points of shape ``(*shape, *batch_shape, D)`` with gradients to location, scale and curvature."""
        return self._point(self._draw(shape, generator) * self.scale)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at points ``(*, D)``, shape ``(*)``."""
        v = self._normal_coordinates(x)
        scale = self.scale.expand(v.shape)
        normal = -0.5 * (v / scale).square() - scale.log() - 0.5 * math.log(2.0 * math.pi)
        n2 = self.manifold.c * v.square().sum(-1)
        return normal.sum(-1) - (self.dim - 1) * _log_sinhc(n2)


def _positive_scale(scale: float | Tensor, like: Tensor) -> Tensor:
    if not isinstance(scale, Tensor) and not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")
    return torch.as_tensor(scale, dtype=like.dtype, device=like.device)


def _log_sinhc(n2: Tensor) -> Tensor:
    """``log(sinh(n)/n)``; far out ``n - log(2 n)`` plus what the other exponential adds."""
    far = n2 > 25.0
    n = torch.sqrt(torch.where(far, n2, torch.full_like(n2, 25.0)))
    outside = n + torch.log1p(-torch.exp(-2.0 * n)) - torch.log(2.0 * n)
    return torch.where(far, outside, torch.log(sinhc(torch.where(far, torch.ones_like(n2), n2))))


class _Radial(_Located):
    """Isotropic distribution with density ``exp(-energy(r))/Z`` at the distance r from its location.

    The radius has the density ``sinh(sqrt(c) r)^(d-1) exp(-energy(r))``, integrated by Gauss-Legendre rules;
    radii are drawn by inverting its integral, and get the gradient of the implicit function theorem.
    """

    _nodes = 96

    def _energy(self, r: Tensor) -> Tensor:
        raise NotImplementedError

    def _range(self) -> Tensor:
        """Radius beyond which there is nothing, shape ``(*batch_shape)``."""
        raise NotImplementedError

    def _log_radial(self, r: Tensor) -> Tensor:
        """Logarithm of the radius' density, without normalisation."""
        c = self.manifold.c
        r2 = c * r * r
        return (self.dim - 1) * (_log_sinhc(r2) + torch.log(r)) - self._energy(r)

    def _log_integral(self, start: Tensor, end: Tensor) -> Tensor:
        """Logarithm of the integral of the radius' density between two radii, shape of the bounds."""
        x, w = _legendre(self._nodes, end)
        half = 0.5 * (end - start)
        r = start + half * (x.view(-1, *[1] * end.ndim) + 1.0)
        terms = self._log_radial(r) + torch.log(w).view(-1, *[1] * end.ndim)
        return torch.logsumexp(terms, 0) + torch.log(half)

    @property
    def log_normalizer(self) -> Tensor:
        """``log Z``: the integral of ``exp(-energy)`` over the space, shape ``(*batch_shape)``."""
        end = self._range()
        sphere = math.log(2.0) + 0.5 * self.dim * math.log(math.pi) - math.lgamma(0.5 * self.dim)
        return self._log_integral(torch.zeros_like(end), end) + sphere

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at points ``(*, D)``, shape ``(*)``."""
        r = L.dist(self._up(x), self._loc.expand_as(self._up(x)), self.manifold.c)
        return -self._energy(r) - self.log_normalizer

    def rsample(self, shape: Any = (), generator: torch.Generator | None = None) -> Tensor:
        """Points of shape ``(*shape, *batch_shape, D)`` with gradients to location, scale and curvature."""
        direction = torch.nn.functional.normalize(self._draw(shape, generator), dim=-1)
        full = direction.shape[:-1]
        u = torch.rand(full, dtype=direction.dtype, device=direction.device, generator=generator)
        r = self._radius(u)
        return self._point(r.unsqueeze(-1) * direction)

    def _radius(self, u: Tensor) -> Tensor:
        with torch.no_grad():
            end = self._range().expand(u.shape)
            total = self._log_integral(torch.zeros_like(end), end)
            low, high = torch.zeros_like(u), end.clone()
            for _ in range(40 if u.dtype == torch.float32 else 60):  # bisection
                middle = 0.5 * (low + high)
                above = self._log_integral(torch.zeros_like(middle), middle) - total < torch.log(u)
                low, high = torch.where(above, middle, low), torch.where(above, high, middle)
            r = 0.5 * (low + high)
        if not torch.is_grad_enabled():
            return r
        # F(r; parameters) = u: the derivative of r is -(dF/dparameters)/F', with r itself held fixed.
        end = self._range().expand(u.shape)
        zero = torch.zeros_like(r)
        total = self._log_integral(zero, end)
        share = torch.exp(self._log_integral(zero, r) - total)
        density = torch.exp(self._log_radial(r) - total).detach()
        return r - (share - share.detach()) / density


_RULES: dict[int, tuple[Tensor, Tensor]] = {}


def _legendre(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss-Legendre rule on [-1, 1]."""
    if n not in _RULES:
        import numpy as np

        x, w = np.polynomial.legendre.leggauss(n)
        _RULES[n] = torch.from_numpy(x), torch.from_numpy(w)
    x, w = _RULES[n]
    return x.to(like), w.to(like)


class RiemannianNormal(_Radial):
    """Maximum-entropy normal: density ``exp(-d(x, loc)^2/(2 scale^2))/Z`` (Said et al., 2014).

    Parameters
    ----------
    manifold : Lorentz or PoincareBall
        The space.
    loc : Tensor
        Location (the Fréchet mean), points ``(*, D)``.
    scale : float or Tensor
        Spread, > 0, of shape ``(*)``.

    Raises
    ------
    ValueError
        If a scale given as a number is not > 0.
    """

    def __init__(self, manifold: Manifold, loc: Tensor, scale: float | Tensor) -> None:
        super().__init__(manifold, loc)
        self.scale = _positive_scale(scale, self._loc).expand(self.batch_shape)

    def _energy(self, r: Tensor) -> Tensor:
        return 0.5 * (r / self.scale).square()

    def _range(self) -> Tensor:
        # sinh^(d-1) pushes the mode to about (d-1) sqrt(c) scale^2; ten deviations further is nothing.
        with torch.no_grad():
            c = self.manifold.c
            return (self.dim - 1) * c**0.5 * self.scale.square() + (10.0 + self.dim**0.5) * self.scale


class UniformBall(_Radial):
    """Uniform distribution on the geodesic ball of a radius about a location.

    Parameters
    ----------
    manifold : Lorentz or PoincareBall
        The space.
    loc : Tensor
        Centre, points ``(*, D)``.
    radius : float or Tensor
        Geodesic radius, > 0, of shape ``(*)``.

    Raises
    ------
    ValueError
        If a radius given as a number is not > 0.
    """

    def __init__(self, manifold: Manifold, loc: Tensor, radius: float | Tensor) -> None:
        super().__init__(manifold, loc)
        if not isinstance(radius, Tensor) and not radius > 0:
            raise ValueError(f"radius must be > 0, got {radius}")
        self.radius = torch.as_tensor(radius, dtype=self._loc.dtype, device=self._loc.device)
        self.radius = self.radius.expand(self.batch_shape)

    def _energy(self, r: Tensor) -> Tensor:
        inside = r <= self.radius
        return torch.where(inside, torch.zeros_like(r), torch.full_like(r, math.inf))

    def _log_radial(self, r: Tensor) -> Tensor:
        return (self.dim - 1) * (_log_sinhc(self.manifold.c * r * r) + torch.log(r))

    def _range(self) -> Tensor:
        return self.radius
