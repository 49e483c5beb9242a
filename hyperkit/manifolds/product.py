"""Products of manifolds."""

from __future__ import annotations

from typing import Any

import geoopt
import torch
from torch import Tensor

from hyperkit.manifolds._base import sizes
from hyperkit.ops._scalar import safe_sqrt


class Product(geoopt.ProductManifold):
    """Product of manifolds, points side by side in the last dimension: :class:`geoopt.ProductManifold`.

    What is added: ``dist`` has a derivative where points coincide, and there are ``cdist``, ``dist0``,
    ``geodesic`` and ``random_normal``, as the factors have them.

    Parameters
    ----------
    *manifolds : tuple of (Manifold, int or tuple of int)
        The factors and the shapes of their points.

    Examples
    --------
    >>> from hyperkit import Lorentz, PoincareBall, Product
    >>> space = Product((Lorentz(), 3), (PoincareBall(c=0.5), 2))
    >>> space.random_normal(4, 5).shape
    torch.Size([4, 5])
    """

    def dist2(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Squared distance: the sum of the factors', for any batch shape, empty ones too."""
        if any(len(shape) != 1 for shape in self.shapes):
            whole: Any = super().dist2(x, y, keepdim=keepdim)
            return whole
        total = x.new_zeros(())
        for i, m in enumerate(self.manifolds):
            a, b = self.take_submanifold_value(x, i), self.take_submanifold_value(y, i)
            part: Any = m.dist2(a, b, keepdim=True)  # type: ignore[operator]
            # A Euclidean factor without dimensions of its own gives a square for each coordinate.
            total = total + (part.sum(-1, keepdim=True) if m.ndim == 0 else part)
        return total if keepdim else total.squeeze(-1)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Geodesic distance: the root of the sum of the factors' squares; derivative 0 at equal points."""
        return safe_sqrt(self.dist2(x, y, keepdim=keepdim))

    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of all pairs, ``(*, N, D)`` and ``(*, M, D)`` to ``(*, N, M)``."""
        return self.dist(x.unsqueeze(-2), y.unsqueeze(-3))

    def dist0(self, x: Tensor, *, keepdim: bool = False) -> Tensor:
        """Distance to the origin."""
        origin = self.origin(x.shape[-1], dtype=x.dtype, device=x.device).as_subclass(Tensor)
        return self.dist(x, origin.expand_as(x), keepdim=keepdim)

    def geodesic(self, t: Tensor | float, x: Tensor, y: Tensor) -> Tensor:
        """Point at fraction `t` (a number, or of shape ``(*)``) of the way from `x` to `y`."""
        t = torch.as_tensor(t, dtype=x.dtype, device=x.device).unsqueeze(-1)
        return self.expmap(x, t * self.logmap(x, y))

    def random_normal(
        self,
        *size: int,
        mean: float | Tensor = 0.0,
        std: float | Tensor = 1.0,
        dtype: torch.dtype | None = None,
        device: Any = None,
        generator: torch.Generator | None = None,
    ) -> geoopt.ManifoldTensor:
        """Independent wrapped normals of the factors at their origins (normal for a Euclidean one).

        Raises
        ------
        ValueError
            If the last dimension is not that of a point.
        """
        *batch, width = sizes(size)
        if width != self.n_elements:
            raise ValueError(f"size must end in {self.n_elements}, got {tuple(sizes(size))}")
        options: dict[str, Any] = {"dtype": dtype or self.dtype, "device": device or self.device}
        parts = []
        for m, shape in zip(self.manifolds, self.shapes, strict=True):
            if isinstance(m, geoopt.Euclidean):
                part = torch.randn(*batch, *shape, generator=generator, **options) * std + mean
            else:
                draw: Any = m.random_normal  # type: ignore[union-attr]
                part = draw(*batch, *shape, mean=mean, std=std, generator=generator, **options)
            parts.append(part.as_subclass(Tensor))
        return geoopt.ManifoldTensor(self.pack_point(*parts), manifold=self)  # type: ignore[call-arg]
