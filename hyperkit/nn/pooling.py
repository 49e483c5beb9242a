"""Layers that join points: concatenation, split, centroid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hyperkit.nn._base import LorentzCurvature, LorentzLayer
from hyperkit.ops import lorentz as ops


def _points(xs: tuple) -> list[Tensor]:
    return list(xs[0]) if len(xs) == 1 and not isinstance(xs[0], Tensor) else list(xs)


class LorentzConcat(LorentzLayer):
    """Lorentz direct concatenation (HAEGAN's HCat): space parts side by side, the time over them.

    Parameters
    ----------
    c : float or Lorentz
        Curvature, > 0, or a manifold.

    Examples
    --------
    >>> from hyperkit.nn import LorentzConcat, geometry
    >>> g = geometry("lorentz")
    >>> x, y = g.random_normal(2, features=3), g.random_normal(2, features=4)
    >>> LorentzConcat()(x, y).shape
    torch.Size([2, 8])
    """

    def __init__(self, *, c: LorentzCurvature = 1.0) -> None:
        super().__init__(c)

    def forward(self, *xs: Tensor | Sequence[Tensor]) -> Tensor:
        """Join points ``(*, d_i + 1)``, given one by one or as a list, to ``(*, sum d_i + 1)``."""
        return ops.direct_concat(_points(xs), self.c)

    def split(self, x: Tensor, sizes: int | Sequence[int]) -> tuple[Tensor, ...]:
        """Inverse of the concatenation: see :func:`hyperkit.ops.lorentz.direct_split`."""
        return ops.direct_split(x, sizes, self.c)


class EuclideanConcat(nn.Module):
    """Euclidean twin of :class:`LorentzConcat`."""

    def __init__(self, *, c: LorentzCurvature = 1.0) -> None:
        super().__init__()

    def forward(self, *xs: Tensor | Sequence[Tensor]) -> Tensor:
        """Join vectors ``(*, d_i)`` to ``(*, sum d_i)``."""
        return torch.cat(_points(xs), -1)

    def split(self, x: Tensor, sizes: int | Sequence[int]) -> tuple[Tensor, ...]:
        """Inverse of the concatenation; `sizes` as in :meth:`LorentzConcat.split`."""
        return euclidean_split(x, sizes)


def euclidean_split(x: Tensor, sizes: int | Sequence[int]) -> tuple[Tensor, ...]:
    """Cut ``(*, d)`` in parts of the given sizes, or in that number of equal parts."""
    d = x.shape[-1]
    if isinstance(sizes, int):
        if sizes < 1 or d % sizes:
            raise ValueError(f"sizes must be a number of equal parts of dimension {d}, got {sizes}")
        sizes = [d // sizes] * sizes
    if sum(sizes) != d:
        raise ValueError(f"sizes must add up to {d}, got {tuple(sizes)}")
    return x.split(list(sizes), -1)


class LorentzCentroid(LorentzLayer):
    """Weighted Lorentz centroid (HAEGAN's HCent): see :func:`hyperkit.ops.lorentz.centroid`.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import LorentzCentroid
    >>> LorentzCentroid()(torch.tensor([[1.25, 0.75], [1.25, -0.75]]))
    tensor([1., 0.])
    """

    def __init__(self, *, c: LorentzCurvature = 1.0) -> None:
        super().__init__(c)

    def forward(self, x: Tensor, weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Centroid of ``(*, N, d + 1)``; weights, mask ``(*, N)`` or ``(*, M, N)``; the origin if empty."""
        return ops.centroid(x, weights, mask, self.c, exact=False)


class EuclideanCentroid(nn.Module):
    """Euclidean twin of :class:`LorentzCentroid`: the weighted mean."""

    def __init__(self, *, c: LorentzCurvature = 1.0) -> None:
        super().__init__()

    def forward(self, x: Tensor, weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Weighted mean of ``(*, N, d)``; weights and mask ``(*, N)`` or ``(*, M, N)``; zero if empty."""
        return euclidean_centroid(x, weights, mask)


def euclidean_centroid(x: Tensor, weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Weighted mean with the arguments of :func:`hyperkit.ops.lorentz.centroid`; zero without any weight."""
    if weights is None:
        weights = x.new_ones(x.shape[:-1]) if mask is None else mask.to(x.dtype)
    elif mask is not None:
        weights = weights * mask
    return weighted_mean(
        weights @ x if weights.ndim >= x.ndim else (weights.unsqueeze(-2) @ x).squeeze(-2),
        weights.sum(-1, keepdim=True),
    )


def weighted_mean(total: Tensor, weight: Tensor) -> Tensor:
    """``total / weight``, zero where the weight is 0."""
    return total / torch.where(weight > 0, weight, torch.ones_like(weight))
