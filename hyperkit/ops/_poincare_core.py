"""Poincaré ball: the conformal gap, distances, maps, transport.

Everything rests on the gap ``g = 1 - c |x|^2`` (the conformal factor is ``2/g``) and on differences of
points, which are exact for close ones. In float32 the gap is summed in float64: at radius 15 it is 1e-6, and
a rounding error of the sum would be a tenth of it. float32 has points up to radius 15.9, float64 up to 36.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyperkit import _checks
from hyperkit._checks import Curvature, curvature, floats, full_precision
from hyperkit.ops import _fused
from hyperkit.ops._blocks import rowwise
from hyperkit.ops._scalar import asinhc, dot, safe_sqrt, sq, tanhc, wide_sq


def ball_points(c: Curvature, **tensors: Tensor) -> tuple[Tensor, ...]:
    """Check dtypes and last dimensions; in :func:`hyperkit.check` mode also that rows lie in the ball."""
    out = floats(**tensors)
    last = out[0].shape[-1] if out[0].ndim else 0
    for name, x in zip(tensors, out, strict=True):
        if x.ndim == 0 or x.shape[-1] < 1:
            raise ValueError(f"{name} must have shape (*, d) with d >= 1, got {tuple(x.shape)}")
        if x.shape[-1] != last:
            first = next(iter(tensors))
            raise ValueError(f"{name} has last dimension {x.shape[-1]} but {first} has {last}")
        if _checks.checking():
            with torch.no_grad():
                norm = (c * x.double().square().sum(-1)).sqrt()
                bad = (norm >= 1.0).nonzero()
                if len(bad):
                    row = tuple(bad[0].tolist())
                    raise ValueError(
                        f"{name} is outside the ball: row {row} has sqrt(c) |x| = {float(norm[row]):.9g}, "
                        "needs < 1"
                    )
    return out


def gap(x: Tensor, c: Curvature) -> Tensor:
    """``1 - c |x|^2``, shape ``(*, 1)``, to the last place of x's dtype however small it is.

    In float64 nothing wider exists, so each coordinate is cut in a part of 26 bits, whose squares add up
    without rounding, and a rest of size 2^-26, whose rounding is 2^-79. The product with the curvature is
    taken with its rounding error (Dekker).
    """
    if x.dtype == torch.float32:
        return (1.0 - c * wide_sq(x)).to(x.dtype)
    with torch.no_grad():
        # A power of two, at least 2^-26/sqrt(c): then the sum of squares is below 2^53 of its square.
        if isinstance(c, Tensor):
            unit: Tensor | float = torch.exp2(-26.0 + torch.ceil(-0.5 * torch.log2(c.double())))
        else:
            unit = 2.0 ** (-26 + math.ceil(-0.5 * math.log2(c)))
        coarse = torch.round(x / unit) * unit
        square = (coarse * coarse).sum(-1, keepdim=True)  # exact; the root of a norm would round
        error = _product_error(c, square)
    rest = ((x - coarse) * (x + coarse)).sum(-1, keepdim=True)
    return (1.0 - c * square) - error - c * rest


def _product_error(a: Curvature, b: Tensor) -> Tensor:
    """``a b`` minus its float64 rounding, exactly."""
    a1 = a * 134217729.0  # 2^27 + 1, Veltkamp's split in halves
    a1 = a1 - (a1 - a)
    a2 = a - a1
    b1 = b * 134217729.0
    b1 = b1 - (b1 - b)
    b2 = b - b1
    return ((a1 * b1 - a * b) + a1 * b2 + a2 * b1) + a2 * b2


def max_norm(dtype: torch.dtype) -> float:
    """Largest ``sqrt(c) |x|`` kept, ``1 - 2 eps``: below 1 whatever the rounding of the coordinates."""
    return 1.0 - 2.0 * torch.finfo(dtype).eps


def projx(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """Bring points ``(*, d)`` beyond ``sqrt(c) |x| = 1 - 2 eps`` back to it, along their radius.

    This is the last radius the format can hold (15.9 in float32, 36.0 in float64), so that only points that
    would round to the edge move.
    """
    c = curvature(c)
    (x,) = floats(x=x)
    n = safe_sqrt(c * sq(x))
    top = max_norm(x.dtype)
    out = n > top
    return torch.where(out, x * (top / torch.where(out, n, 1.0)), x)


def half_chord(x: Tensor, y: Tensor, c: Curvature) -> Tensor:
    """``sinh^2(sqrt(c) d/2) = c |x-y|^2/(g_x g_y)``, shape ``(*, 1)``."""
    return c * sq(x - y) / gap(x, c) / gap(y, c)


def dist(x: Tensor, y: Tensor, c: Curvature = 1.0, *, keepdim: bool = False) -> Tensor:
    """Geodesic distance ``2 asinh(sqrt(c) |x-y|/sqrt(g_x g_y))/sqrt(c)``; exactly 0 for equal points.

    Parameters
    ----------
    x, y : Tensor
        Points, shape ``(*, d)``; broadcast.
    c : float or Tensor
        Curvature, > 0.
    keepdim : bool
        Keep the last dimension.
    """
    c = curvature(c)
    x, y = ball_points(c, x=x, y=y)
    out = _fused.row(_fused.B_DIST, c, x, y)
    if out is None:
        out = (2.0 / c**0.5) * torch.asinh(safe_sqrt(half_chord(x, y, c)))
    return out if keepdim else out.squeeze(-1)


def sqdist(x: Tensor, y: Tensor, c: Curvature = 1.0, *, keepdim: bool = False) -> Tensor:
    """Squared geodesic distance, analytic where the points coincide; arguments as in :func:`dist`."""
    c = curvature(c)
    x, y = ball_points(c, x=x, y=y)
    s = half_chord(x, y, c)
    out = (4.0 / c) * s * asinhc(s).square()
    return out if keepdim else out.squeeze(-1)


def dist0(x: Tensor, c: Curvature = 1.0, *, keepdim: bool = False) -> Tensor:
    """Distance to the origin, ``2 artanh(sqrt(c) |x|)/sqrt(c) = 2 asinh(sqrt(c) |x|/sqrt(g))/sqrt(c)``."""
    c = curvature(c)
    (x,) = ball_points(c, x=x)
    out = (2.0 / c**0.5) * torch.asinh(safe_sqrt(c * sq(x) / gap(x, c)))
    return out if keepdim else out.squeeze(-1)


def cdist(x: Tensor, y: Tensor, c: Curvature = 1.0) -> Tensor:
    """Distances of all pairs: ``(*, N, d)`` and ``(*, M, d)`` to ``(*, N, M)``."""
    return dist(x.unsqueeze(-2), y.unsqueeze(-3), c)


def inner(
    x: Tensor, u: Tensor, v: Tensor | None = None, c: Curvature = 1.0, *, keepdim: bool = False
) -> Tensor:
    """Riemannian inner product ``(2/g)^2 u.v`` of tangent vectors at `x`; ``v = u`` by default."""
    c = curvature(c)
    x, u = ball_points(c, x=x, u=u)
    factor = 2.0 / gap(x, c)
    out = factor * factor * dot(u, u if v is None else v)
    return out if keepdim else out.squeeze(-1)


def norm(x: Tensor, u: Tensor, c: Curvature = 1.0, *, keepdim: bool = False) -> Tensor:
    """Riemannian norm ``(2/g) |u|`` of a tangent vector at `x`."""
    c = curvature(c)
    x, u = ball_points(c, x=x, u=u)
    out = (2.0 / gap(x, c)) * safe_sqrt(sq(u))
    return out if keepdim else out.squeeze(-1)


def egrad2rgrad(x: Tensor, grad: Tensor, c: Curvature = 1.0) -> Tensor:
    """Riemannian gradient ``g^2/4 grad``; shapes ``(*, d)``."""
    c = curvature(c)
    x, grad = ball_points(c, x=x, grad=grad)
    g = gap(x, c)
    return (0.25 * g * g) * grad


def expmap0(v: Tensor, c: Curvature = 1.0) -> Tensor:
    """Exponential map at the origin, ``tanh(n)/n v`` with ``n = sqrt(c) |v|``, kept inside by :func:`projx`.

    As in geoopt, `v` is a vector of coordinates: its Riemannian norm is ``2 |v|``.
    """
    c = curvature(c)
    (v,) = floats(v=v)
    fused = _fused.row(_fused.B_EXPMAP0, c, v)
    if fused is not None:
        return fused
    return projx(tanhc(c * sq(v)) * v, c)


def logmap0(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """Logarithmic map at the origin, ``artanh(n)/n x`` with ``n = sqrt(c) |x|``, from the gap."""
    c = curvature(c)
    (x,) = ball_points(c, x=x)
    fused = _fused.row(_fused.B_LOGMAP0, c, x)
    if fused is not None:
        return fused
    g = gap(x, c)
    return (asinhc(c * sq(x) / g) * torch.rsqrt(g)) * x


def mobius_add(x: Tensor, y: Tensor, c: Curvature = 1.0) -> Tensor:
    """Möbius addition ``x (+) y``, kept inside by :func:`projx`.

    ``(g_x (x+y) + c |x+y|^2 x)/(c |x+y|^2 + g_x g_y)``: positive sums in place of
    ``1 + 2c x.y + c^2 |x|^2 |y|^2``, which cancels where y is near -x.

    Parameters
    ----------
    x, y : Tensor
        Points, shape ``(*, d)``; broadcast.
    c : float or Tensor
        Curvature, > 0.
    """
    c = curvature(c)
    x, y = ball_points(c, x=x, y=y)
    fused = _fused.row(_fused.B_ADD, c, x, y)
    if fused is not None:
        return fused
    return projx(_add(x, y, gap(x, c), gap(y, c), c), c)


def _add(x: Tensor, y: Tensor, gx: Tensor, gy: Tensor, c: Curvature) -> Tensor:
    both = x + y
    s = c * sq(both)
    return (gx * both + s * x) / (s + gx * gy)


def expmap(x: Tensor, v: Tensor, c: Curvature = 1.0) -> Tensor:
    """Exponential map ``x (+) tanh(n)/n v/g_x`` with ``n = sqrt(c) |v|/g_x``, kept inside by :func:`projx`.

    The gap of the second summand is ``1/cosh(n)^2``, taken from n and not from its rounded coordinates.
    """
    c = curvature(c)
    x, v = floats(x=x, v=v)
    fused = _fused.row(_fused.B_EXPMAP, c, x, v)
    if fused is not None:
        return fused
    gx = gap(x, c)
    step = v / gx
    n2 = c * sq(step)
    th = tanhc(n2)
    # 1/cosh^2 = 1 - tanh^2, which cancels far out: there 4 exp(-2n) (1 + exp(-2n))^-2.
    n = safe_sqrt(n2)
    e = torch.exp(-2.0 * torch.where(n2 > 0.25, n, 1.0))
    gy = torch.where(n2 > 0.25, 4.0 * e / (1.0 + e).square(), 1.0 - n2 * th * th)
    return projx(_add(x, th * step, gx, gy, c), c)


def logmap(x: Tensor, y: Tensor, c: Curvature = 1.0) -> Tensor:
    """Logarithmic map at `x`.

    ``asinh(sqrt(s))/sqrt(s (1+s)) (g_x e - c |e|^2 x)/g_y`` with ``e = y - x``, ``s = sinh^2(sqrt(c) d/2)``.
    Shapes ``(*, d)``, broadcast.
    """
    c = curvature(c)
    x, y = ball_points(c, x=x, y=y)
    fused = _fused.row(_fused.B_LOGMAP, c, x, y)
    if fused is not None:
        return fused
    gx, gy = gap(x, c), gap(y, c)
    e = y - x
    e2 = c * sq(e)
    s = e2 / gx / gy
    return (asinhc(s) * torch.rsqrt(1.0 + s) / gy) * (gx * e - e2 * x)


def rotate(p: Tensor, delta: Tensor, u: Tensor, den: Tensor, c: Curvature) -> Tensor:
    """Turn `u` by the holonomy of the triangle (origin, p, q): Ungar's gyration of q and -p.

    With ``M = c (p q^T - q p^T)/(1 - c p.q)`` it is the Cayley transform ``I + 2/(1 + tau^2) (M + M^2)``,
    ``tau = |M|`` the tangent of half its angle.

    Parameters
    ----------
    p, delta : Tensor
        Point of the ball and ``q - p``.
    u : Tensor
        What is turned.
    den : Tensor
        ``1 - c p.q``, from a formula that does not cancel.
    """
    f = c / den
    pd = dot(p, delta)
    tau2 = torch.clamp(sq(p) * sq(delta) - pd * pd, min=0.0) * f * f  # Cauchy-Schwarz

    def turn(w: Tensor) -> Tensor:
        return f * (dot(delta, w) * p - dot(p, w) * delta)

    once = turn(u)
    return u + (2.0 / (1.0 + tau2)) * (once + turn(once))


def transp(x: Tensor, y: Tensor, v: Tensor, c: Curvature = 1.0) -> Tensor:
    """Parallel transport of `v` from `x` to `y`: ``g_y/g_x gyr[y, -x] v``, by :func:`rotate`."""
    c = curvature(c)
    x, y, v = ball_points(c, x=x, y=y) + floats(v=v)
    fused = _fused.row(_fused.B_TRANSP, c, x, y, v)
    return _transp(x, y, v, c) if fused is None else fused


@rowwise(3)
def _transp(x: Tensor, y: Tensor, v: Tensor, c: Curvature) -> Tensor:
    gx, gy = gap(x, c), gap(y, c)
    e = y - x
    den = 0.5 * (gx + gy + c * sq(e))
    return (gy / gx) * rotate(x, e, v, den, c)


def transp0(y: Tensor, v: Tensor, c: Curvature = 1.0) -> Tensor:
    """Parallel transport from the origin to `y`: ``g_y v``."""
    c = curvature(c)
    y, v = floats(y=y, v=v)
    return gap(y, c) * v


def transp0back(x: Tensor, v: Tensor, c: Curvature = 1.0) -> Tensor:
    """Parallel transport from `x` to the origin: ``v/g_x``."""
    c = curvature(c)
    x, v = floats(x=x, v=v)
    return v / gap(x, c)


def geodesic(t: Tensor | float, x: Tensor, y: Tensor, c: Curvature = 1.0) -> Tensor:
    """Point at fraction `t` (a number, or of shape ``(*)``) of the geodesic from `x` to `y`."""
    t = torch.as_tensor(t, dtype=x.dtype, device=x.device).unsqueeze(-1)
    return expmap(x, t * logmap(x, y, c), c)


def geodesic_unit(t: Tensor | float, x: Tensor, u: Tensor, c: Curvature = 1.0) -> Tensor:
    """Point after the length `t` in the direction `u`, of Riemannian norm 1."""
    t = torch.as_tensor(t, dtype=x.dtype, device=x.device).unsqueeze(-1)
    return expmap(x, t * u, c)


def mobius_scalar_mul(r: Tensor | float, x: Tensor, c: Curvature = 1.0) -> Tensor:
    """``r (x) x = exp_0(r log_0 x)``; `r` a number or of shape ``(*, 1)``."""
    return expmap0(r * logmap0(x, c), c)


def mobius_matvec(m: Tensor, x: Tensor, c: Curvature = 1.0) -> Tensor:
    """``M (x) x = exp_0(M log_0 x)`` for a matrix ``(k, d)`` and points ``(*, d)``."""
    with full_precision(x):
        return expmap0(logmap0(x, c) @ m.transpose(-1, -2), c)


def conformal(x: Tensor, c: Curvature = 1.0, *, keepdim: bool = False) -> Tensor:
    """Conformal factor ``2/g``."""
    c = curvature(c)
    (x,) = ball_points(c, x=x)
    out = _fused.row(_fused.B_CONFORMAL, c, x)
    if out is None:
        out = 2.0 / gap(x, c)
    return out if keepdim else out.squeeze(-1)
