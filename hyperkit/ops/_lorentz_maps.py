"""Lorentz model: exponential and logarithmic maps, parallel transport, geodesics, boosts."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperkit._checks import Curvature, curvature, floats, lorentz_points
from hyperkit.ops import _fused
from hyperkit.ops._blocks import rowwise
from hyperkit.ops._lorentz_metric import _radial, _time, from_space, haversine
from hyperkit.ops._poincare_core import rotate
from hyperkit.ops._scalar import asinhc, cosh, dot, sinhc, sq


def expmap0(v: Tensor, c: Curvature = 1.0) -> Tensor:
    """Exponential map at the origin: space ``sinh(n)/n v_s`` with ``n = sqrt(c) |v_s|``.

    Parameters
    ----------
    v : Tensor
        Tangent vector at the origin, shape ``(*, d + 1)``; its time coordinate is 0 and is not read.
    c : float or Tensor
        Curvature, > 0.

    Returns
    -------
    Tensor
        Shape ``(*, d + 1)``. float32 overflows where ``cosh(n)`` does, from ``n = 89`` on (its square, and so
        the distances, from 44 on).
    """
    c = curvature(c)
    (v,) = floats(v=v)
    fused = _fused.row(_fused.L_EXPMAP0, c, v)
    if fused is not None:
        return fused
    space = v[..., 1:]
    return from_space(sinhc(c * sq(space)) * space, c)


def logmap0(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """Logarithmic map at the origin: ``[0, asinh(n)/n x_s]``, ``n = sqrt(c) |x_s|``; shape ``(*, d + 1)``."""
    c = curvature(c)
    (x,) = lorentz_points(c, x=x)
    fused = _fused.row(_fused.L_LOGMAP0, c, x)
    if fused is not None:
        return fused
    xs = x[..., 1:]
    return torch.nn.functional.pad(asinhc(c * sq(xs)) * xs, (1, 0))


def expmap(x: Tensor, v: Tensor, c: Curvature = 1.0) -> Tensor:
    """Exponential map ``cosh(n) x + sinh(n)/n v``, ``n = sqrt(c) |v|``, at `x`.

    A vector that points towards the origin would subtract ``sinh(n) cosh(r)`` from ``cosh(n) sinh(r)``. With
    its radial part ``a < 0`` and its lateral part ``b`` the difference is written
    ``sinh(r - n) + b^2/(n (n - a)) sinh(n) cosh(r)``.

    Parameters
    ----------
    x, v : Tensor
        Point and tangent vector, shape ``(*, d + 1)``; broadcast. The time coordinates are not read.
    c : float or Tensor
        Curvature, > 0.

    Returns
    -------
    Tensor
        Shape ``(*, d + 1)``.
    """
    c = curvature(c)
    x, v = floats(x=x, v=v)
    fused = _fused.row(_fused.L_EXPMAP, c, x, v)
    if fused is not None:
        return fused
    xs = x[..., 1:]
    perp, perp2, k, n2, q, t = _radial(xs, v[..., 1:], c)
    m2 = c * torch.clamp(n2, min=0.0)  # a square; near the origin computed as a difference
    b = sinhc(m2)
    a = _exp_factor(k, m2, q, t, c * perp2, cosh(m2) + b * k, c)
    return from_space(a * xs + b * perp, c)


def _exp_factor(
    k: Tensor, m2: Tensor, q: Tensor, t: Tensor, lateral2: Tensor, plain: Tensor, c: Curvature
) -> Tensor:
    """What multiplies the space part of x in ``exp_x(v)``; `plain` but for long steps towards the origin."""
    inward = (k < 0.0) & (m2 > 0.25)
    n = torch.sqrt(torch.where(inward, m2, 1.0))
    s = c**0.5 * torch.sqrt(torch.where(inward, q, 1.0))
    ct = c**0.5 * t
    a = k * s / ct  # signed radial component, times sqrt(c)
    polar = (torch.sinh(torch.asinh(s) - n) + lateral2 / (n * (n - a)) * torch.sinh(n) * ct) / s
    return torch.where(inward, polar, plain)


def carry(x: Tensor, v: Tensor, step: Tensor | float, c: Curvature = 1.0) -> tuple[Tensor, Tensor]:
    """``exp_x(step v)`` and `v` carried along that geodesic: one momentum step of an optimiser.

    A vector stays tangent to its own geodesic: ``cosh(n) v + sinh(n) n/step x`` with
    ``n = sqrt(c) step |v|`` (c = 1), which costs one pass where a general transport costs ten.

    Parameters
    ----------
    x, v : Tensor
        Points and tangent vectors, shape ``(*, d + 1)``.
    step : float or Tensor
        Signed length factor, a number or of shape ``(*, 1)``.
    c : float or Tensor
        Curvature, > 0.

    Returns
    -------
    tuple of Tensor
        The point and the vector there, shapes ``(*, d + 1)``.
    """
    c = curvature(c)
    x, v = floats(x=x, v=v)
    xs = x[..., 1:]
    perp, perp2, k, n2, q, t = _radial(xs, v[..., 1:], c)
    w2 = c * torch.clamp(n2, min=0.0)
    m2 = w2 * step * step
    ch, b = cosh(m2), sinhc(m2)
    a = _exp_factor(k * step, m2, q, t, c * step * step * perp2, ch + b * step * k, c)
    y = from_space(a * xs + (b * step) * perp, c)
    return y, _tangent(y[..., 1:], (ch * k + b * step * w2) * xs + ch * perp, c)


def logmap(x: Tensor, y: Tensor, c: Curvature = 1.0) -> Tensor:
    """Logarithmic map at `x`: ``d/sinh(d) (y - cosh(d) x)``, written with the difference ``y - x``.

    ``y - cosh(d) x = (y - x) - 2 s x`` with ``s = sinh^2(d/2)`` from :func:`~hyperkit.ops.lorentz.haversine`;
    the difference of close points is exact. Shapes ``(*, d + 1)``, broadcast.
    """
    c = curvature(c)
    x, y = lorentz_points(c, x=x, y=y)
    fused = _fused.row(_fused.L_LOGMAP, c, x, y)
    if fused is not None:
        return fused
    xs, ys = x[..., 1:], y[..., 1:]
    s = haversine(xs, ys, c)
    g, root = asinhc(s), torch.sqrt(1.0 + s)
    # In this order nothing overflows float32 before the result or its gradient does: s x_s would, from
    # radius 30 on.
    space = (g / root) * (ys - xs) - (2.0 * (s / root) * g) * xs
    return _tangent(xs, space, c)


def _tangent(xs: Tensor, space: Tensor, c: Curvature) -> Tensor:
    """Tangent vector at x over its space part."""
    return torch.cat([dot(xs, space) / _time(sq(xs), c), space], -1)


def _to_origin(xs: Tensor, vs: Tensor, c: Curvature) -> Tensor:
    """Transport a tangent vector (space part) from x to the origin along the radial geodesic."""
    perp, _, k, _, q, t = _radial(xs, vs, c)
    ct = c**0.5 * t
    far = c * q > 1.0
    # Far out perp still holds a radial part of the size of its rounding error, cosh(r) eps; the result's
    # radial part is smaller by cosh(r), so it has to go.
    left = dot(xs, perp)
    near_k = -left * c / (ct * (ct + 1.0))
    far_k = k / ct - left / torch.where(far, q, 1.0)
    return perp + torch.where(far, far_k, near_k) * xs


def transp0(y: Tensor, v: Tensor, c: Curvature = 1.0) -> Tensor:
    """Parallel transport of `v` from the origin to `y`: space ``v_s + c (y_s.v_s)/(1 + sqrt(c) y_0) y_s``.

    Parameters
    ----------
    y, v : Tensor
        Target point and tangent vector at the origin, shape ``(*, d + 1)``; broadcast.
    c : float or Tensor
        Curvature, > 0.
    """
    c = curvature(c)
    y, v = floats(y=y, v=v)
    return _from_origin(y[..., 1:], v[..., 1:], c)


def _from_origin(ys: Tensor, vs: Tensor, c: Curvature) -> Tensor:
    t = _time(sq(ys), c)
    along = dot(ys, vs)
    space = vs + (c * along / (1.0 + c**0.5 * t)) * ys
    return torch.cat([c**0.5 * along.expand(*space.shape[:-1], 1), space], -1)


def transp0back(x: Tensor, v: Tensor, c: Curvature = 1.0) -> Tensor:
    """Parallel transport of `v` from `x` to the origin, the inverse of :func:`transp0`; ``(*, d + 1)``."""
    c = curvature(c)
    x, v = floats(x=x, v=v)
    return torch.nn.functional.pad(_to_origin(x[..., 1:], v[..., 1:], c), (1, 0))


def transp(x: Tensor, y: Tensor, v: Tensor, c: Curvature = 1.0) -> Tensor:
    """Parallel transport of `v` along the geodesic from `x` to `y`, an isometry at any radius.

    The usual ``v + <y, v>/(1/c - <x, y>) (x + y)`` subtracts vectors of size cosh(r). Here the vector goes to
    the origin, is turned by the holonomy of the triangle (origin, x, y), and goes out to `y`. The turn is a
    rotation in the plane of the Poincaré points of x and y (:func:`hyperkit.ops.poincare.rotate`).

    Parameters
    ----------
    x, y, v : Tensor
        Points and tangent vector at `x`, shape ``(*, d + 1)``; broadcast.
    c : float or Tensor
        Curvature, > 0.
    """
    c = curvature(c)
    x, y, v = lorentz_points(c, x=x, y=y) + floats(v=v)
    fused = _fused.row(_fused.L_TRANSP, c, x, y, v)
    return _transp(x, y, v, c) if fused is None else fused


@rowwise(3)
def _transp(x: Tensor, y: Tensor, v: Tensor, c: Curvature) -> Tensor:
    xs, ys, vs = x[..., 1:], y[..., 1:], v[..., 1:]
    root = c**0.5
    tx, ty = _time(sq(xs), c), _time(sq(ys), c)
    gx, gy = 1.0 + root * tx, 1.0 + root * ty
    p = xs / gx
    w = ys - xs
    dt = dot(w, ys + xs) / (tx + ty)
    delta = w / gy - (root * dt / (gx * gy)) * xs  # q - p
    # 1 - c p.q as a sum of positive terms; 1 - c |p|^2 = 2/gx.
    den = 1.0 / gx + 1.0 / gy + 0.5 * c * sq(delta)
    turned = rotate(p, delta, _to_origin(xs, vs, c), den, c)
    return _from_origin(ys, turned, c)


def geodesic(t: Tensor | float, x: Tensor, y: Tensor, c: Curvature = 1.0) -> Tensor:
    """Point at fraction `t` of the geodesic from `x` (t = 0) to `y` (t = 1).

    ``sinh((1-t) d)/sinh(d) x + sinh(t d)/sinh(d) y``: a sum of positive multiples.

    Parameters
    ----------
    t : float or Tensor
        Shape ``(*)`` without the coordinate dimension, or a number.
    x, y : Tensor
        Shape ``(*, d + 1)``; broadcast.
    c : float or Tensor
        Curvature, > 0.
    """
    c = curvature(c)
    x, y = lorentz_points(c, x=x, y=y)
    xs, ys = x[..., 1:], y[..., 1:]
    t = torch.as_tensor(t, dtype=x.dtype, device=x.device).unsqueeze(-1)
    s = haversine(xs, ys, c)
    d2 = 4.0 * s * asinhc(s).square()
    scale = 1.0 / sinhc(d2)
    a = (1.0 - t) * sinhc((1.0 - t).square() * d2) * scale
    b = t * sinhc(t.square() * d2) * scale
    return from_space(a * xs + b * ys, c)


def boost(x: Tensor, p: Tensor, c: Curvature = 1.0, *, inverse: bool = False) -> Tensor:
    """Lorentz boost that takes the origin to `p` (left gyrotranslation), applied to `x`.

    Parameters
    ----------
    x, p : Tensor
        Points, shape ``(*, d + 1)``; broadcast.
    c : float or Tensor
        Curvature, > 0.
    inverse : bool
        Take `p` to the origin instead: what a neighbourhood seen from `p` looks like. Only ``x - p`` enters,
        but the result is a small difference of terms of size ``e^r``: in float32 it is off by 4e-4 at radius
        6 and 0.16 at radius 9. Call it in float64 far out, as HKConv does.

    Returns
    -------
    Tensor
        Shape ``(*, d + 1)``.
    """
    c = curvature(c)
    x, p = lorentz_points(c, x=x, p=p)
    xs, ps = x[..., 1:], p[..., 1:]
    root = c**0.5
    tx, tp = _time(sq(xs), c), _time(sq(ps), c)
    if inverse:
        w = xs - ps
        dt = dot(w, xs + ps) / (tx + tp)
        return from_space(w - root * (dt - root * dot(ps, w) / (1.0 + root * tp)) * ps, c)
    return from_space(xs + root * (tx + root * dot(ps, xs) / (1.0 + root * tp)) * ps, c)


def boost_matrix(p: Tensor, c: Curvature = 1.0) -> Tensor:
    """Matrix ``(*, d + 1, d + 1)`` of :func:`boost` for the point `p` ``(*, d + 1)``, acting on columns."""
    c = curvature(c)
    (p,) = lorentz_points(c, p=p)
    root = c**0.5
    ps = root * p[..., 1:]
    t = torch.sqrt(1.0 + sq(ps))
    block = torch.eye(ps.shape[-1], dtype=p.dtype, device=p.device) + ps.unsqueeze(-1) * (
        ps / (1.0 + t)
    ).unsqueeze(-2)
    top = torch.cat([t, ps], -1).unsqueeze(-2)
    return torch.cat([top, torch.cat([ps.unsqueeze(-1), block], -1)], -2)


def geodesic_unit(t: Tensor | float, x: Tensor, u: Tensor, c: Curvature = 1.0) -> Tensor:
    """Point reached from `x` after the length `t` in the direction of the unit tangent vector `u`."""
    t = torch.as_tensor(t, dtype=x.dtype, device=x.device).unsqueeze(-1)
    return expmap(x, t * u, c)
