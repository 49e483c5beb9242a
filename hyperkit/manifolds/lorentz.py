"""The Lorentz model as a geoopt manifold."""

from __future__ import annotations

import geoopt
import torch
from geoopt.manifolds.base import Manifold, ScalingInfo
from torch import Tensor

from hyperkit.manifolds._base import Hyperbolic, sizes
from hyperkit.ops import lorentz as ops


class Lorentz(Hyperbolic):
    """Hyperboloid ``{x : <x, x> = -1/c, x_0 > 0}`` of sectional curvature ``-c``.

    A :class:`geoopt.Manifold` that works in :class:`geoopt.ManifoldParameter` and in geoopt's optimisers.
    Points are ``(*, d + 1)``, time first; the space coordinates are the truth, so a change of a learnable
    curvature leaves every stored point on the manifold. See :mod:`hyperkit.ops.lorentz` for each formula.

    Parameters
    ----------
    c : float
        Curvature, > 0.
    learnable : bool
        Make the curvature a parameter.

    Examples
    --------
    >>> import torch
    >>> from hyperkit import Lorentz
    >>> lorentz = Lorentz(c=0.5)
    >>> x = lorentz.random_normal(4, 3)
    >>> bool((lorentz.dist(x, x) == 0).all())
    True
    """

    name = "Lorentz"
    __scaling__ = Manifold.__scaling__.copy()

    # Points and tangent vectors

    def projx(self, x: Tensor) -> Tensor:
        return ops.projx(x, self.c)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return ops.proju(x, u, self.c)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return ops.egrad2rgrad(x, u, self.c)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """Riemannian inner product of tangent vectors at `x`, accurate at any radius."""
        if v is None:
            return ops.tangent_inner(x, u, u, self.c, keepdim=keepdim)
        return ops.tangent_inner(x, u, v, self.c, keepdim=keepdim)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """Riemannian norm of a tangent vector at `x`."""
        return ops.tangent_norm(x, u, self.c, keepdim=keepdim)

    # Distances

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
        """Distances of all pairs, ``(*, N, d + 1)`` and ``(*, M, d + 1)`` to ``(*, N, M)``."""
        return ops.cdist(x, y, self.c)

    # Maps

    @__scaling__(ScalingInfo(u=-1))
    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return ops.expmap(x, u, self.c)

    retr = expmap

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

    def boost(self, x: Tensor, p: Tensor, *, inverse: bool = False) -> Tensor:
        """Boost that takes the origin to `p` (or back), applied to `x`."""
        return ops.boost(x, p, self.c, inverse=inverse)

    def centroid(self, x: Tensor, weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Weighted Lorentz centroid of points ``(*, N, d + 1)``."""
        return ops.centroid(x, weights, mask, self.c)

    # Points made here

    def origin(
        self, *size: int, dtype: torch.dtype | None = None, device=None, seed: int | None = 42
    ) -> geoopt.ManifoldTensor:
        """The origin in shape `size` (last entry ``d + 1``); `seed` is there for geoopt's signature."""
        with torch.no_grad():
            out = ops.origin(*sizes(size), c=self.c, **self._like(dtype, device))
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
        """Wrapped normal at the origin (Nagano et al., ICML 2019): the exponential map of a normal vector.

        Unlike geoopt 0.5, which scales every vector to length 1.

        Parameters
        ----------
        *size : int
            Shape of the result, ending in ``d + 1``.
        mean, std : float or Tensor
            Of the tangent vector's space coordinates.
        dtype, device
            The manifold's by default.
        generator : torch.Generator, optional
            Source of randomness.
        """
        shape = sizes(size)
        if len(shape) == 0 or shape[-1] < 2:
            raise ValueError(f"size must end in d + 1 with d >= 1, got {shape}")
        like = self._like(dtype, device)
        space = torch.randn(*shape[:-1], shape[-1] - 1, generator=generator, **like) * std + mean
        with torch.no_grad():
            out = ops.expmap0(torch.nn.functional.pad(space, (1, 0)), self.c)
        return geoopt.ManifoldTensor(out, manifold=self)  # type: ignore[call-arg]

    random = random_normal

    def random_isometry(
        self,
        dim: int,
        *,
        radius: float = 1.0,
        dtype: torch.dtype | None = None,
        device=None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Random isometry as a matrix ``(dim + 1, dim + 1)``: a rotation (or reflection), then a boost.

        Use it as ``x @ g.T`` for points ``x`` of shape ``(*, dim + 1)``.

        Parameters
        ----------
        dim : int
            Dimension d of the manifold.
        radius : float
            Scale of the boost: its distance is ``|N(0, 1)| * radius``.
        """
        like = self._like(dtype, device)
        q, r = torch.linalg.qr(torch.randn(dim, dim, generator=generator, **like))
        rotation = torch.eye(dim + 1, **like)
        rotation[1:, 1:] = q * torch.sign(torch.diagonal(r))
        direction = torch.randn(dim, generator=generator, **like)
        length = radius * torch.randn(1, generator=generator, **like)
        v = torch.nn.functional.pad(direction / direction.norm() * length, (1, 0))
        with torch.no_grad():
            return ops.boost_matrix(ops.expmap0(v, self.c), self.c) @ rotation

    # geoopt's checks

    def _check_point_on_manifold(
        self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        with torch.no_grad():
            need = ops.projx(x, self.c)[..., 0]
            off = (x[..., 0] - need).abs()
            bad = off > atol + rtol * need
        if not bool(bad.any()):
            return True, None
        row = tuple(bad.nonzero()[0].tolist())
        return False, f"'x' row {row} has time {float(x[row][0]):.6g}, needs {float(need[row]):.6g}"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
    ) -> tuple[bool, str | None]:
        with torch.no_grad():
            # Relative to the two terms of the inner product, which grow as cosh(r).
            size = (x[..., :1] * u[..., :1]).abs().squeeze(-1) + (x[..., 1:] * u[..., 1:]).abs().sum(-1)
            off = ops.inner(x, u).abs()
            bad = off > atol + rtol * size
        if not bool(bad.any()):
            return True, None
        row = tuple(bad.nonzero()[0].tolist())
        return False, f"'u' row {row} has Minkowski inner product {float(off[row]):.3g} with 'x', needs 0"
