"""Five models of hyperbolic space and every way between them.

Models and their coordinates for curvature ``-c``, dimension d:

========== =========================================== ==========================
name       points                                      last dimension
========== =========================================== ==========================
lorentz    hyperboloid ``<x, x> = -1/c``               d + 1
poincare   ball ``|x| < 1/sqrt(c)``, conformal         d
klein      ball ``|x| < 1/sqrt(c)``, straight lines    d
halfspace  ``x_d > 0``, conformal                      d
proper     R^d, the space part of a Lorentz point      d
========== =========================================== ==========================

All ways lead through the Lorentz model. Tangent vectors go through the derivative (:func:`tangent`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hyperkit._checks import Curvature, curvature, floats, lorentz_points
from hyperkit.ops._lorentz_metric import _time, from_space
from hyperkit.ops._lorentz_points import from_poincare, to_poincare
from hyperkit.ops._poincare_core import gap, max_norm
from hyperkit.ops._scalar import safe_sqrt, sq


def lorentz_to_proper(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """Proper-velocity coordinates ``x_s``: the space part itself; ``(*, d + 1)`` to ``(*, d)``."""
    (x,) = lorentz_points(curvature(c), x=x)
    return x[..., 1:]


def proper_to_lorentz(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """The Lorentz point over proper-velocity coordinates ``(*, d)``."""
    return from_space(x, c)


def lorentz_to_klein(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """Gnomonic projection ``x_s/(sqrt(c) x_0)``; ``(*, d + 1)`` to ``(*, d)``.

    A Klein ball loses the radius twice as fast as the Poincaré ball: float32 ends at radius 8, float64 at 18.
    Points beyond are kept at the last norm below the edge, ``1 - 2 eps``.
    """
    c = curvature(c)
    (x,) = lorentz_points(c, x=x)
    xs = x[..., 1:]
    k = xs / (c**0.5 * _time(sq(xs), c))
    n = safe_sqrt(c * sq(k))
    top = max_norm(x.dtype)
    out = n > top
    return torch.where(out, k * (top / torch.where(out, n, 1.0)), k)


def klein_to_lorentz(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """Space part ``k/sqrt(1 - c |k|^2)`` of a Klein point ``(*, d)``."""
    c = curvature(c)
    (x,) = floats(x=x)
    return from_space(x * torch.rsqrt(gap(x, c)), c)


def lorentz_to_halfspace(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """Upper half-space: ``(X_1, ..., X_{d-1}, 1)/(X_0 - X_d)`` with ``X = sqrt(c) x``; ``(*, d)``.

    The origin goes to ``(0, ..., 0, 1)``. Where ``X_d > 0`` the difference is ``(1 + X_1^2 + ...
    + X_{d-1}^2)/(X_0 + X_d)``, which does not cancel.
    """
    c = curvature(c)
    (x,) = lorentz_points(c, x=x)
    big = c**0.5 * x[..., 1:]
    side, last = big[..., :-1], big[..., -1:]
    t = torch.sqrt(1.0 + sq(big))
    up = last > 0.0
    sum_ = torch.where(up, t + last, 1.0)
    below = torch.where(up, (1.0 + sq(side)) / sum_, t - last)
    return torch.cat([side, torch.ones_like(below)], -1) / below


def halfspace_to_lorentz(y: Tensor, c: Curvature = 1.0) -> Tensor:
    """Space part ``(y_1, ..., y_{d-1}, (|y|^2 - 1)/2)/(sqrt(c) y_d)`` of a half-space point ``(*, d)``."""
    c = curvature(c)
    (y,) = floats(y=y)
    side, height = y[..., :-1], y[..., -1:]
    # |y|^2 - 1 = |side|^2 + (y_d - 1)(y_d + 1)
    last = 0.5 * (sq(side) + (height - 1.0) * (height + 1.0))
    return from_space(torch.cat([side, last], -1) / (c**0.5 * height), c)


_TO_LORENTZ: dict[str, Callable[..., Tensor]] = {
    "lorentz": lambda x, c: from_space(x[..., 1:], c),
    "poincare": from_poincare,
    "klein": klein_to_lorentz,
    "halfspace": halfspace_to_lorentz,
    "proper": proper_to_lorentz,
}
_FROM_LORENTZ: dict[str, Callable[..., Tensor]] = {
    "lorentz": lambda x, c: x,
    "poincare": to_poincare,
    "klein": lorentz_to_klein,
    "halfspace": lorentz_to_halfspace,
    "proper": lorentz_to_proper,
}
MODELS = tuple(_TO_LORENTZ)


def _known(**names: str) -> None:
    for argument, name in names.items():
        if name not in MODELS:
            raise ValueError(f"{argument} must be one of {MODELS}, got {name!r}")


def convert(x: Tensor, source: str, target: str, c: Curvature = 1.0) -> Tensor:
    """Take points from one model to another, an isometry.

    Parameters
    ----------
    x : Tensor
        Points in the coordinates of `source`.
    source, target : {"lorentz", "poincare", "klein", "halfspace", "proper"}
        The models.
    c : float or Tensor
        Curvature, > 0, of both.

    Raises
    ------
    ValueError
        If a name is unknown.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.ops.convert import convert
    >>> convert(torch.zeros(3), "poincare", "halfspace")
    tensor([0., 0., 1.])
    """
    _known(source=source, target=target)
    if source == target:
        return x
    return _FROM_LORENTZ[target](_TO_LORENTZ[source](x, c), c)


def tangent(x: Tensor, v: Tensor, source: str, target: str, c: Curvature = 1.0) -> Tensor:
    """Take a tangent vector `v` at `x` from one model to another, by the derivative of :func:`convert`.

    Parameters
    ----------
    x, v : Tensor
        Point and tangent vector in the coordinates of `source`, same shape.
    source, target, c
        As in :func:`convert`.
    """
    _known(source=source, target=target)
    x, v = torch.broadcast_tensors(x, v)
    if source == target:
        return v
    # Contiguous: forward differentiation writes in place, which an expanded tensor forbids.
    x, v = x.contiguous(), v.contiguous()
    return torch.func.jvp(lambda p: convert(p, source, target, c), (x,), (v,))[1]


__all__ = [
    "MODELS",
    "convert",
    "halfspace_to_lorentz",
    "klein_to_lorentz",
    "lorentz_to_halfspace",
    "lorentz_to_klein",
    "lorentz_to_proper",
    "proper_to_lorentz",
    "tangent",
]
