"""Klein ball, upper half-space and proper velocity: charts of the Lorentz model as geoopt manifolds."""

from __future__ import annotations

from typing import Any

import geoopt
import torch
from torch import Tensor

from hyperkit.manifolds._base import Hyperbolic, sizes
from hyperkit.ops import convert as cv
from hyperkit.ops import lorentz as ops
from hyperkit.ops import poincare
from hyperkit.ops._scalar import dot


class _Chart(Hyperbolic):
    """A manifold whose geometry is that of the Lorentz model, seen through :mod:`hyperkit.ops.convert`."""

    model: str

    def _up(self, x: Tensor) -> Tensor:
        return cv.convert(x, self.model, "lorentz", self.c)

    def _down(self, x: Tensor) -> Tensor:
        return cv.convert(x, "lorentz", self.model, self.c)

    def _push(self, x: Tensor, u: Tensor) -> Tensor:
        return cv.tangent(x, u, self.model, "lorentz", self.c)

    def _pull(self, x: Tensor, u: Tensor) -> Tensor:
        return cv.tangent(x, u, "lorentz", self.model, self.c)

    def _outside(self, x: Tensor) -> Tensor:
        """Rows that are no points of the model, as booleans ``(*)``."""
        return torch.zeros(x.shape[:-1], dtype=torch.bool, device=x.device)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u.expand(torch.broadcast_shapes(x.shape, u.shape))

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        up, pushed = self._up(x), self._push(x, u)
        return ops.tangent_inner(
            up, pushed, pushed if v is None else self._push(x, v), self.c, keepdim=keepdim
        )

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        return ops.tangent_norm(self._up(x), self._push(x, u), self.c, keepdim=keepdim)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return ops.dist(self._up(x), self._up(y), self.c, keepdim=keepdim)

    def dist2(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        return ops.sqdist(self._up(x), self._up(y), self.c, keepdim=keepdim)

    def dist0(self, x: Tensor, *, keepdim: bool = False) -> Tensor:
        """Distance to the origin."""
        return ops.dist0(self._up(x), self.c, keepdim=keepdim)

    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of all pairs."""
        return ops.cdist(self._up(x), self._up(y), self.c)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self._down(ops.expmap(self._up(x), self._push(x, u), self.c))

    retr = expmap

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        up = self._up(x)
        return self._pull(up, ops.logmap(up, self._up(y), self.c))

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        up = self._up(y)
        return self._pull(up, ops.transp(self._up(x), up, self._push(x, v), self.c))

    def geodesic(self, t: Tensor | float, x: Tensor, y: Tensor) -> Tensor:
        """Point at fraction `t` of the way from `x` to `y`."""
        return self._down(ops.geodesic(t, self._up(x), self._up(y), self.c))

    def centroid(self, x: Tensor, weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Weighted Lorentz centroid of points ``(*, N, d)``."""
        return self._down(ops.centroid(self._up(x), weights, mask, self.c))

    def origin(
        self, *size: int, dtype: torch.dtype | None = None, device: Any = None, seed: int | None = 42
    ) -> geoopt.ManifoldTensor:
        """The point that the Lorentz origin goes to."""
        shape = sizes(size)
        with torch.no_grad():
            o = ops.origin(*shape[:-1], shape[-1] + 1, c=self.c, **self._like(dtype, device))
            return geoopt.ManifoldTensor(self._down(o), manifold=self)  # type: ignore[call-arg]

    def random_normal(
        self,
        *size: int,
        mean: float = 0.0,
        std: float = 1.0,
        dtype: torch.dtype | None = None,
        device: Any = None,
        generator: torch.Generator | None = None,
    ) -> geoopt.ManifoldTensor:
        """Wrapped normal at the origin, as :meth:`hyperkit.Lorentz.random_normal`."""
        v = torch.randn(*sizes(size), generator=generator, **self._like(dtype, device)) * std + mean
        with torch.no_grad():
            x = self._down(ops.expmap0(torch.nn.functional.pad(v, (1, 0)), self.c))
        return geoopt.ManifoldTensor(x, manifold=self)  # type: ignore[call-arg]

    random = random_normal

    def _check_point_on_manifold(
        self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        bad = self._outside(x)
        if not bool(bad.any()):
            return True, None
        return False, f"'x' row {tuple(bad.nonzero()[0].tolist())} is outside the model"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        return True, None


class Klein(_Chart):
    """Klein (Beltrami) ball of curvature ``-c``: geodesics are straight lines.

    float32 reaches radius 8, float64 18: half of the Poincaré ball's.

    Parameters
    ----------
    c : float
        Curvature, > 0.
    learnable : bool
        Make it a parameter.
    """

    name = "Klein ball"
    model = "klein"

    def projx(self, x: Tensor) -> Tensor:
        return poincare.projx(x, self.c)  # the same ball

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return poincare.gap(x, self.c) * (u - self.c * dot(x, u) * x)

    def _outside(self, x: Tensor) -> Tensor:
        return poincare.gap(x, self.c).squeeze(-1) <= 0


class UpperHalfSpace(_Chart):
    """Upper half-space ``x_d > 0`` with the metric ``dx^2/(c x_d^2)``.

    Parameters
    ----------
    c : float
        Curvature, > 0.
    learnable : bool
        Make it a parameter.
    """

    name = "upper half-space"
    model = "halfspace"

    def projx(self, x: Tensor) -> Tensor:
        # The edge is the height 0; its smallest positive neighbour would overflow once squared.
        tiny = torch.finfo(x.dtype).tiny
        return torch.cat([x[..., :-1], torch.clamp(x[..., -1:], min=tiny**0.5)], -1)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self.c * x[..., -1:].square() * u

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        out = dot(u, u if v is None else v) / (self.c * x[..., -1:].square())
        return out if keepdim else out.squeeze(-1)

    def _outside(self, x: Tensor) -> Tensor:
        return x[..., -1] <= 0


class ProperVelocity(_Chart):
    """Proper-velocity space: all of R^d, the space coordinates of the Lorentz model.

    No edge and no constraint: any optimiser may move its points, and a learnable curvature leaves them valid.

    Parameters
    ----------
    c : float
        Curvature, > 0.
    learnable : bool
        Make it a parameter.
    """

    name = "proper velocity"
    model = "proper"

    def projx(self, x: Tensor) -> Tensor:
        return x

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return u + self.c * dot(x, u) * x
