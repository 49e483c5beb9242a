"""Lorentz model: centroids, concatenation, split, and the way to the Poincaré ball."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hyperkit._checks import Curvature, curvature, floats, full_precision, lorentz_points
from hyperkit.ops import _rows
from hyperkit.ops._lorentz_metric import _time, from_space
from hyperkit.ops._poincare_core import ball_points, gap, projx
from hyperkit.ops._scalar import sq


def normalize(mean: Tensor, c: Curvature = 1.0, total: Tensor | float = 1.0) -> Tensor:
    """Scale a non-negative combination of points to the hyperboloid: ``m / sqrt(-c <m, m>)``.

    Its derivative is that of the formula; the total is only a bound and has none.

    Parameters
    ----------
    mean : Tensor
        ``sum_i w_i x_i`` with all ``w_i >= 0``, shape ``(*, d + 1)``.
    c : float or Tensor
        Curvature, > 0.
    total : float or Tensor
        ``sum_i w_i``, shape ``(*, 1)``. In exact arithmetic ``-c <m, m> >= total^2``, because
        ``-c <x_i, x_j> >= 1``; the root is bounded by it, which rounding alone can violate.

    Returns
    -------
    Tensor
        Shape ``(*, d + 1)``. Where the total is 0 (no points) it is the origin.
    """
    (mean,) = floats(mean=mean)
    return _rows.normalize(mean, total, curvature(c))


def centroid(
    x: Tensor,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    c: Curvature = 1.0,
    *,
    exact: bool = True,
) -> Tensor:
    """Lorentz centroid: the point that minimises the weighted sum of squared Lorentzian distances.

    ``m / sqrt(-c <m, m>)`` with ``m = sum_i w_i x_i`` (Law et al., ICML 2019). On the hyperboloid it is the
    Einstein midpoint.

    Parameters
    ----------
    x : Tensor
        Points, shape ``(*, N, d + 1)``.
    weights : Tensor, optional
        Non-negative, shape ``(*, N)``; or ``(*, M, N)`` for M centroids of the same points as one matrix
        product. Equal weights by default.
    mask : Tensor, optional
        Boolean, shape of `weights` (``(*, N)`` without weights); False leaves a point out.
    c : float or Tensor
        Curvature, > 0.
    exact : bool
        For weights ``(*, N)``: keep all digits at any radius, by float64 sums that do not cancel. Without it,
        and for several centroids at once, ``m_0^2 - |m_s|^2`` is subtracted, with a relative error of
        ``eps cosh(r)^2``: 1e-5 at radius 3 in float32, and nothing left at 8. It is cheaper, and
        what layers use, whose radius is bounded.

    Returns
    -------
    Tensor
        Shape ``(*, d + 1)``, or ``(*, M, d + 1)``. Without any point (all weights zero) the origin.

    Raises
    ------
    ValueError
        If the shape of `weights` or `mask` does not fit the points.
    """
    c = curvature(c)
    (x,) = lorentz_points(c, x=x)
    if x.ndim < 2:
        raise ValueError(f"x must have shape (*, N, d + 1), got {tuple(x.shape)}")
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean, got {mask.dtype}")
    if weights is None:
        weights = x.new_ones(x.shape[:-1]) if mask is None else mask.to(x.dtype)
    else:
        x, weights = floats(x=x, weights=weights)
        if mask is not None:
            weights = weights * mask
    if weights.shape[-1:] != x.shape[-2:-1]:
        raise ValueError(
            f"weights and mask must end in the {x.shape[-2]} points of x, got shape {tuple(weights.shape)}"
        )
    several = weights.ndim >= x.ndim
    if several or not exact:
        total = weights.sum(-1, keepdim=True)
        with full_precision(x):
            mean = weights @ x if several else (weights.unsqueeze(-2) @ x).squeeze(-2)
        return normalize(mean, c, total)
    # The direction of the mean decides over terms of size exp(-r): it needs float64 for float32 points.
    xs, wide = x[..., 1:].double(), weights.double()
    total = wide.sum(-1, keepdim=True)
    ms = (wide.unsqueeze(-2) @ xs).squeeze(-2)
    m0 = (wide * _time(sq(xs), c).squeeze(-1)).sum(-1, keepdim=True)
    q = sq(ms)
    # Where the centroid is near the origin nothing cancels, and a direction may not exist.
    far = c * q > total * total
    n = torch.sqrt(torch.where(far, q, 1.0))
    difference = (wide.unsqueeze(-1) * _time_minus_space(xs, (ms / n).unsqueeze(-2), c)).sum(-2)
    square = c * torch.where(far, difference * (difference + 2.0 * n), m0.square() - q)
    square = torch.where(total > 0, square, 1.0)
    return from_space((ms * torch.rsqrt(square)).to(x.dtype), c)


def _time_minus_space(xs: Tensor, u: Tensor, c: Curvature) -> Tensor:
    """``x_0 - x_s.u`` for a unit vector u without its cancellation, ``(*, 1)``.

    With ``n = |x_s|`` it is ``1/(c (x_0 + n)) + n |x_s/n - u|^2/2``: positive terms.
    """
    q = sq(xs)
    t = _time(q, c)
    out = c * q > 0.25
    n = torch.sqrt(torch.where(out, q, 1.0))
    apart = sq(torch.where(out, xs / n, torch.zeros_like(xs)) - u)
    return torch.where(out, 1.0 / (c * (t + n)) + 0.5 * n * apart, t - (xs * u).sum(-1, keepdim=True))


def direct_concat(points: Sequence[Tensor], c: Curvature = 1.0) -> Tensor:
    """Lorentz direct concatenation: the space coordinates side by side, one time over them.

    The time equals ``sqrt(sum_i t_i^2 - (N-1)/c)``; every derivative with respect to an input's space
    coordinates is bounded by 1 (Qu and Zou, HAEGAN, Theorem 4.1).

    Parameters
    ----------
    points : sequence of Tensor
        N points of shapes ``(*, d_i + 1)``.
    c : float or Tensor
        Curvature, > 0.

    Returns
    -------
    Tensor
        Shape ``(*, sum d_i + 1)``.

    Raises
    ------
    ValueError
        If there is no point.
    """
    c = curvature(c)
    if len(points) == 0:
        raise ValueError("points must hold at least one tensor, got none")
    parts = [floats(**{f"points[{i}]": p})[0][..., 1:] for i, p in enumerate(points)]
    return from_space(torch.cat(parts, -1), c)


def direct_split(x: Tensor, sizes: int | Sequence[int], c: Curvature = 1.0) -> tuple[Tensor, ...]:
    """Inverse of :func:`direct_concat`.

    Parameters
    ----------
    x : Tensor
        Shape ``(*, d + 1)``.
    sizes : int or sequence of int
        Dimensions ``d_i`` of the parts, adding up to d; or their number, for equal parts.
    c : float or Tensor
        Curvature, > 0.

    Raises
    ------
    ValueError
        If the sizes do not add up to d.
    """
    c = curvature(c)
    (x,) = lorentz_points(c, x=x)
    d = x.shape[-1] - 1
    if isinstance(sizes, int):
        if sizes < 1 or d % sizes:
            raise ValueError(f"sizes must be a number of equal parts of dimension {d}, got {sizes}")
        sizes = [d // sizes] * sizes
    if sum(sizes) != d:
        raise ValueError(f"sizes must add up to {d}, got {tuple(sizes)}")
    return tuple(from_space(part, c) for part in x[..., 1:].split(list(sizes), -1))


def to_poincare(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """Stereographic projection ``x_s/(1 + sqrt(c) x_0)`` to the Poincaré ball, ``(*, d)``."""
    c = curvature(c)
    (x,) = lorentz_points(c, x=x)
    xs = x[..., 1:]
    return projx(xs / (1.0 + c**0.5 * _time(sq(xs), c)), c)


def from_poincare(p: Tensor, c: Curvature = 1.0) -> Tensor:
    """Point of the hyperboloid for a point ``(*, d)`` of the Poincaré ball: space ``2 p/(1 - c |p|^2)``."""
    c = curvature(c)
    (p,) = ball_points(c, p=p)
    return from_space((2.0 / gap(p, c)) * p, c)
