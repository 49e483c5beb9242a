"""One switch between the geometries, so that a model is written once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import geoopt
import torch
from torch import Tensor

from hyperkit import nn as layers
from hyperkit.manifolds.lorentz import Lorentz
from hyperkit.nn._base import LorentzCurvature
from hyperkit.nn.pooling import euclidean_centroid
from hyperkit.ops import lorentz as ops


@dataclass(frozen=True)
class Geometry:
    """Layers and operations of one geometry; made by :func:`geometry`.

    The layer classes are bound to the curvature. `features` always is the manifold's dimension d: vectors of
    the Lorentz model have :meth:`ambient` ``(d) = d + 1`` coordinates.
    """

    name: str
    manifold: Any
    Linear: Any = field(repr=False)
    Embedding: Any = field(repr=False)
    Lift: Any = field(repr=False)
    Concat: Any = field(repr=False)
    Centroid: Any = field(repr=False)
    MLR: Any = field(repr=False)
    Residual: Any = field(repr=False)
    LayerNorm: Any = field(repr=False)
    GraphConv: Any = field(repr=False)
    Attention: Any = field(repr=False)
    TransformerBlock: Any = field(repr=False)

    @property
    def is_lorentz(self) -> bool:
        """Whether this is the Lorentz model."""
        return self.name == "lorentz"

    def ambient(self, features: int) -> int:
        """Number of coordinates of a vector."""
        return features + 1 if self.is_lorentz else features

    def origin(self, *shape: int, features: int, dtype: torch.dtype | None = None, device=None) -> Tensor:
        """The origin in shape ``(*shape, ambient(features))``."""
        if self.is_lorentz:
            return ops.origin(*shape, features + 1, c=self.manifold.c, dtype=dtype, device=device)
        return torch.zeros(*shape, features, dtype=dtype, device=device)

    def random_normal(
        self,
        *shape: int,
        features: int,
        std: float = 1.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device=None,
    ) -> Tensor:
        """Wrapped normal at the origin, ``(*shape, ambient(features))``; plain normal if Euclidean."""
        v = std * torch.randn(*shape, features, generator=generator, dtype=dtype, device=device)
        return self.lift(v)

    def lift(self, v: Tensor) -> Tensor:
        """Exponential map at the origin for d coordinates: ``(*, d)`` to ``(*, ambient(d))``."""
        return self.expmap0(torch.nn.functional.pad(v, (1, 0))) if self.is_lorentz else v

    def expmap0(self, v: Tensor) -> Tensor:
        """Exponential map at the origin for an ambient vector (time 0 if Lorentz)."""
        return ops.expmap0(v, self.manifold.c) if self.is_lorentz else v

    def logmap0(self, x: Tensor) -> Tensor:
        """Logarithmic map at the origin, an ambient vector (time 0 if Lorentz)."""
        return ops.logmap0(x, self.manifold.c) if self.is_lorentz else x

    def centroid(self, x: Tensor, weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Centroid (mean if Euclidean) of ``(*, N, D)``; see :func:`hyperkit.ops.lorentz.centroid`."""
        if self.is_lorentz:
            return ops.centroid(x, weights, mask, self.manifold.c, exact=False)
        return euclidean_centroid(x, weights, mask)

    def geodesic(self, t: Tensor | float, x: Tensor, y: Tensor) -> Tensor:
        """Point at fraction `t` (a number, or one for each row) of the way from `x` to `y`."""
        if self.is_lorentz:
            return ops.geodesic(t, x, y, self.manifold.c)
        return torch.lerp(x, y, torch.as_tensor(t, dtype=x.dtype, device=x.device).unsqueeze(-1))

    def sqdist(self, x: Tensor, y: Tensor) -> Tensor:
        """Squared distance of ``(*, D)`` and ``(*, D)``."""
        return ops.sqdist(x, y, self.manifold.c) if self.is_lorentz else (x - y).square().sum(-1)

    def riemannian_grad_norm(self, x: Tensor, egrad: Tensor, eps: float = 1e-12) -> Tensor:
        """Norm of the Riemannian gradient at `x` for autograd's gradient, ``(*)``; differentiable twice.

        ``sqrt(max(|grad|^2, eps))``; see :func:`hyperkit.ops.lorentz.rgrad_norm`.
        """
        if self.is_lorentz:
            return ops.rgrad_norm(x, egrad, self.manifold.c, eps=eps)
        return torch.sqrt(torch.clamp(egrad.square().sum(-1), min=eps))


_LAYERS = (
    "Linear",
    "Embedding",
    "Lift",
    "Concat",
    "Centroid",
    "MLR",
    "Residual",
    "LayerNorm",
    "GraphConv",
    "Attention",
    "TransformerBlock",
)


def geometry(name: str = "lorentz", c: LorentzCurvature = 1.0) -> Geometry:
    """Layers and operations of a geometry under common names.

    Parameters
    ----------
    name : {"lorentz", "euclidean"}
        Which geometry.
    c : float or Lorentz
        Curvature, > 0, or a manifold; no meaning if Euclidean.

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import geometry
    >>> for name in ("lorentz", "euclidean"):
    ...     g = geometry(name)
    ...     layer = g.Linear(4, 3)
    ...     print(layer(g.origin(2, features=4)).shape[-1] == g.ambient(3))
    True
    True
    """
    if name == "lorentz":
        manifold: Any = c if isinstance(c, Lorentz) else Lorentz(c)
        special = {"Lift": layers.ExpMap0}
        prefix, bound = "Lorentz", manifold if manifold.learnable else manifold.c
    elif name == "euclidean":
        manifold, special, prefix, bound = geoopt.Euclidean(ndim=1), {}, "Euclidean", 1.0
    else:
        raise ValueError(f"name must be 'lorentz' or 'euclidean', got {name!r}")
    made = {kind: partial(special.get(kind) or getattr(layers, prefix + kind), c=bound) for kind in _LAYERS}
    return Geometry(name=name, manifold=manifold, **made)
