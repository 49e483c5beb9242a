"""Lorentz model: inner products, norms, distances, projections.

The space coordinates of a point are the truth; a time coordinate is read only by :func:`inner`, which takes
any vectors. So a point keeps its meaning when the curvature changes, and no rounding of a time coordinate of
size cosh(r) enters a distance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperkit._checks import Curvature, curvature, floats, full_precision, lorentz_points
from hyperkit.ops import _fused, _rows
from hyperkit.ops._blocks import gradients
from hyperkit.ops._scalar import asinhc, dot, safe_sqrt, sq


def _time(q: Tensor, c: Curvature) -> Tensor:
    """Time coordinate over the squared norm of the space coordinates."""
    return torch.sqrt(q + 1.0 / c)


def from_space(space: Tensor, c: Curvature = 1.0) -> Tensor:
    """Point of the hyperboloid over its space coordinates.

    Parameters
    ----------
    space : Tensor
        Shape ``(*, d)``.
    c : float or Tensor
        Curvature, > 0.

    Returns
    -------
    Tensor
        Shape ``(*, d + 1)``, ``[sqrt(1/c + |space|^2), space]``.
    """
    (space,) = floats(space=space)
    return _rows.from_space(space, curvature(c))


def origin(*size: int, c: Curvature = 1.0, dtype: torch.dtype | None = None, device=None) -> Tensor:
    """The origin ``(1/sqrt(c), 0, ..., 0)``, in shape `size` (last entry ``d + 1``).

    Raises
    ------
    ValueError
        If the last entry of `size` is smaller than 2.
    """
    c = curvature(c)
    if not size or size[-1] < 2:
        raise ValueError(f"size must end in d + 1 with d >= 1, got {size}")
    if isinstance(c, Tensor):
        dtype, device = dtype or c.dtype, device or c.device
    out = torch.zeros(size, dtype=dtype, device=device)
    out[..., 0] = c**-0.5
    return out


def projx(x: Tensor, c: Curvature = 1.0) -> Tensor:
    """Point of the hyperboloid with the space coordinates of `x` ``(*, d + 1)``: its time is recomputed."""
    (x,) = floats(x=x)
    return from_space(x[..., 1:], c)


def inner(u: Tensor, v: Tensor, *, keepdim: bool = False) -> Tensor:
    """Minkowski inner product ``-u_0 v_0 + sum_i u_i v_i`` of any two vectors ``(*, d + 1)``.

    For tangent vectors far from the origin use :func:`tangent_inner`, which does not cancel.
    """
    u, v = floats(u=u, v=v)
    out = dot(u[..., 1:], v[..., 1:]) - u[..., :1] * v[..., :1]
    return out if keepdim else out.squeeze(-1)


def norm(v: Tensor, *, keepdim: bool = False) -> Tensor:
    """Minkowski norm ``sqrt(<v, v>)`` of a space-like vector ``(*, d + 1)``; 0, gradient 0, at zero.

    Far from the origin :func:`tangent_norm` is the accurate one.
    """
    (v,) = floats(v=v)
    out = safe_sqrt(sq(v[..., 1:]) - v[..., :1].square())
    return out if keepdim else out.squeeze(-1)


def _radial(xs: Tensor, vs: Tensor, c: Curvature) -> tuple[Tensor, ...]:
    """Split a tangent vector (space part) at x: ``(perp, |perp|^2, k, n2, q, t)`` with ``vs = perp + k xs``.

    Far from the origin (``c q > 1``) `perp` is orthogonal to `xs`; near it ``k = 0`` and ``perp = vs``, since
    a direction does not exist at the origin and nothing cancels there. `n2` is the squared Riemannian norm:
    a sum of squares far out, where ``|vs|^2 - v_0^2`` would subtract two numbers of size cosh^2.
    """
    q = sq(xs)
    t2 = q + 1.0 / c
    along = dot(xs, vs)
    far = c * q > 1.0
    k = torch.where(far, along / torch.where(far, q, 1.0), 0.0)
    perp = vs - k * xs
    near_part = -((along * torch.rsqrt(t2)) ** 2)
    far_part = k * (along / (c * t2))
    perp2 = sq(perp)
    n2 = perp2 + torch.where(far, far_part, near_part)
    return perp, perp2, k, n2, q, torch.sqrt(t2)


def tangent_norm(x: Tensor, v: Tensor, c: Curvature = 1.0, *, keepdim: bool = False) -> Tensor:
    """Riemannian norm of the tangent vector `v` at `x`, accurate at any radius.

    Only the space part of `v` is read: its time is fixed by tangency, ``v_0 = <x_s, v_s>/x_0``. With
    ``u = x_s/|x_s|`` the square is ``|v_s - (v_s.u) u|^2 + (v_s.u)^2/(c x_0^2)``.

    Parameters
    ----------
    x, v : Tensor
        Shape ``(*, d + 1)``; broadcast.
    c : float or Tensor
        Curvature, > 0.
    keepdim : bool
        Keep the last dimension.

    Returns
    -------
    Tensor
        Shape ``(*)``, or ``(*, 1)``.
    """
    c = curvature(c)
    x, v = floats(x=x, v=v)
    # The square is >= 0 in exact arithmetic; near the origin it is a difference that may round below.
    out = safe_sqrt(_radial(x[..., 1:], v[..., 1:], c)[3])
    return out if keepdim else out.squeeze(-1)


def tangent_inner(x: Tensor, u: Tensor, v: Tensor, c: Curvature = 1.0, *, keepdim: bool = False) -> Tensor:
    """Riemannian inner product of tangent vectors `u` and `v` at `x`, accurate at any radius.

    See :func:`tangent_norm`; all of shape ``(*, d + 1)``.
    """
    c = curvature(c)
    x, u, v = floats(x=x, u=u, v=v)
    xs, us, vs = x[..., 1:], u[..., 1:], v[..., 1:]
    q = sq(xs)
    t2 = q + 1.0 / c
    far = c * q > 1.0
    along_u, along_v = dot(xs, us), dot(xs, vs)
    k = torch.where(far, along_u / torch.where(far, q, 1.0), 0.0)
    rest = dot(us - k * xs, vs)  # equals the product of both orthogonal parts
    out = rest + torch.where(far, k * (along_v / (c * t2)), -along_u * (along_v / t2))
    return out if keepdim else out.squeeze(-1)


def proju(x: Tensor, v: Tensor, c: Curvature = 1.0) -> Tensor:
    """Orthogonal projection ``v + c <x, v> x`` of a vector ``(*, d + 1)`` on the tangent space at `x`.

    The time of the result is set from its space part, so that it is tangent to the last place.
    """
    c = curvature(c)
    x, v = floats(x=x, v=v)
    xs, vs = x[..., 1:], v[..., 1:]
    t = _time(sq(xs), c)
    space = vs + c * (dot(xs, vs) - t * v[..., :1]) * xs
    return torch.cat([dot(xs, space) / t, space], -1)


def egrad2rgrad(x: Tensor, grad: Tensor, c: Curvature = 1.0) -> Tensor:
    """Riemannian gradient from the gradient that autograd gives: ``J grad`` projected on the tangent space.

    With ``h = J grad`` (the sign of time flipped) it is ``h + c <x, h> x``. Written with the gradient for the
    space coordinates alone, ``g = grad_s + grad_0 x_s/x_0``, its space part is ``g + c (x_s.g) x_s``.

    Parameters
    ----------
    x, grad : Tensor
        Shape ``(*, d + 1)``.
    c : float or Tensor
        Curvature, > 0.
    """
    return rgrad_and_square(x, grad, c)[0]


def rgrad_and_square(x: Tensor, grad: Tensor, c: Curvature = 1.0) -> tuple[Tensor, Tensor]:
    """Riemannian gradient ``(*, d + 1)`` and its squared norm ``(*, 1)``, as an optimiser wants them."""
    c = curvature(c)
    x, grad = floats(x=x, grad=grad)
    xs = x[..., 1:]
    t = _time(sq(xs), c)
    g = torch.addcmul(grad[..., 1:], xs, grad[..., :1] / t)
    along = dot(xs, g)
    # <x_s, g + c (x_s.g) x_s> / t = c t (x_s.g), because 1 + c q = c t^2.
    rgrad = torch.cat([c * t * along, torch.addcmul(g, xs, c * along)], -1)
    return rgrad, sq(g) + c * along * along


def rgrad_norm(
    x: Tensor, grad: Tensor, c: Curvature = 1.0, *, eps: float = 1e-12, keepdim: bool = False
) -> Tensor:
    """Norm of the Riemannian gradient, ``sqrt(max(|g|^2 + c (x_s.g)^2, eps))``, differentiable twice.

    Here `g` is the gradient with respect to the space coordinates alone, as in :func:`egrad2rgrad`, and
    ``I + c x_s x_s^T`` is the inverse metric in these coordinates: a sum of squares without cancellation.
    The bound `eps` gives the square root a derivative where the gradient vanishes.
    """
    c = curvature(c)
    x, grad = floats(x=x, grad=grad)
    xs = x[..., 1:]
    g = grad[..., 1:] + (grad[..., :1] / _time(sq(xs), c)) * xs
    out = torch.sqrt(torch.clamp(sq(g) + c * dot(xs, g).square(), min=eps))
    return out if keepdim else out.squeeze(-1)


def haversine(xs: Tensor, ys: Tensor, c: Curvature) -> Tensor:
    """``s = sinh^2(sqrt(c) d/2)`` of two points given by their space coordinates; shape ``(*, 1)``.

    Three forms of one analytic function, each used where it does not cancel:

    - angle below about 60 degrees and both radii above about 0.55: the hyperbolic haversine
      ``sinh^2((r1-r2)/2) + c |x||y| |u-v|^2/4``, its second term from the part of ``x - y`` orthogonal to
      the nearer point. The difference of two close floats is exact, so points far out that are close
      together keep all of their digits;
    - else far out: ``(c (x_0 y_0 - <x_s, y_s>) - 1)/2``, the bracket being at least half of its first term;
    - else near the origin: ``c (|x_s-y_s|^2 - (x_0-y_0)^2)/4``.
    """
    if _rows.plain(c):
        return _haversine(xs, ys, c)
    return _Haversine.apply(xs, ys, c)


def _haversine(xs: Tensor, ys: Tensor, c: Curvature) -> Tensor:
    qx, qy, along = sq(xs), sq(ys), dot(xs, ys)
    tx, ty = _time(qx, c), _time(qy, c)
    w = xs - ys
    w2, wp = sq(w), dot(w, xs + ys)  # wp = qx - qy without its cancellation
    tt = tx * ty
    close = along > 0.5 * tt

    x_near = qx < qy
    near = torch.where(x_near, xs, ys)
    # Norms of the nearer and the farther point; 1 in rows that do not use them.
    qn = torch.where(close, torch.where(x_near, qx, qy), 1.0)
    sn, sf = torch.sqrt(qn), torch.sqrt(torch.where(close, torch.where(x_near, qy, qx), 1.0))
    perp = w - torch.where(close, dot(w, near) / qn, 0.0) * near
    lateral = 2.0 * (sn / sf) * sq(perp) / (1.0 + torch.where(close, along, 0.0) / (sn * sf))
    z = wp / torch.where(x_near, sn * ty + sf * tx, sf * ty + sn * tx)  # sinh(r1 - r2)
    z2 = torch.where(close, z * z, 0.0)
    s_close = 0.5 * z2 / (1.0 + torch.sqrt(1.0 + z2)) + 0.25 * c * lateral

    s_far = 0.5 * (c * (tt - along) - 1.0)
    dt = wp / (tx + ty)
    s_near = 0.25 * c * (w2 - dt * dt)
    return torch.where(close, s_close, torch.where(c * tt < 3.0, s_near, s_far))


class _Haversine(torch.autograd.Function):
    """:func:`haversine` with its closed derivative ``c/2 (x_s y_0/x_0 - y_s)``; keeps its inputs only."""

    @staticmethod
    def forward(ctx, xs: Tensor, ys: Tensor, c: float) -> Tensor:
        ctx.save_for_backward(xs, ys)
        ctx.c = c
        return _haversine(xs, ys, c)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        xs, ys = ctx.saved_tensors
        c = ctx.c
        if torch.is_grad_enabled():  # a second derivative is asked for
            return *gradients(
                lambda x, y: _haversine(x, y, c), (xs, ys), ctx.needs_input_grad[:2], grad
            ), None
        qx, qy = sq(xs), sq(ys)
        tx, ty = _time(qx, c), _time(qy, c)
        # Points at about the same radius may be close: there x_s y_0/x_0 - y_s is written with x_s - y_s,
        # which is exact. Elsewhere that difference would carry the rounding error of the farther point.
        alike = ((qx < 4.0 * qy) & (qy < 4.0 * qx)).to(xs.dtype)
        ratio = dot(xs - ys, xs + ys) / (tx + ty)  # x_0 - y_0
        half = 0.5 * c * grad
        gx = gy = None
        if ctx.needs_input_grad[0]:
            gx = torch.addcmul(alike * xs - ys, xs, torch.where(alike > 0, -ratio / tx, ty / tx))
            gx = (gx * half).sum_to_size(xs.shape)
        if ctx.needs_input_grad[1]:
            gy = torch.addcmul(alike * ys - xs, ys, torch.where(alike > 0, ratio / ty, tx / ty))
            gy = (gy * half).sum_to_size(ys.shape)
        return gx, gy, None


def sqdist(x: Tensor, y: Tensor, c: Curvature = 1.0, *, keepdim: bool = False) -> Tensor:
    """Squared geodesic distance: analytic, with the right Hessian where the points coincide.

    ``4 asinh(sqrt(s))^2/c`` with ``s`` from the hyperbolic haversine (:func:`haversine`).

    Parameters
    ----------
    x, y : Tensor
        Shape ``(*, d + 1)``; broadcast. Only space coordinates are read.
    c : float or Tensor
        Curvature, > 0.
    keepdim : bool
        Keep the last dimension.

    Returns
    -------
    Tensor
        Shape ``(*)``, or ``(*, 1)``.
    """
    c = curvature(c)
    x, y = lorentz_points(c, x=x, y=y)
    out = _fused.row(_fused.L_SQDIST, c, x, y)
    if out is None:
        s = haversine(x[..., 1:], y[..., 1:], c)
        out = (4.0 / c) * s * asinhc(s).square()
    return out if keepdim else out.squeeze(-1)


def dist(x: Tensor, y: Tensor, c: Curvature = 1.0, *, keepdim: bool = False) -> Tensor:
    """Geodesic distance ``2 asinh(sqrt(s))/sqrt(c)``; exactly 0 for equal points, and so is the gradient.

    Shapes and arguments as in :func:`sqdist`.
    """
    c = curvature(c)
    x, y = lorentz_points(c, x=x, y=y)
    out = _fused.row(_fused.L_DIST, c, x, y)
    if out is None:
        out = (2.0 / c**0.5) * torch.asinh(safe_sqrt(haversine(x[..., 1:], y[..., 1:], c)))
    return out if keepdim else out.squeeze(-1)


def dist0(x: Tensor, c: Curvature = 1.0, *, keepdim: bool = False) -> Tensor:
    """Distance to the origin, ``asinh(sqrt(c) |x_s|)/sqrt(c)``; `x` of shape ``(*, d + 1)``."""
    c = curvature(c)
    (x,) = lorentz_points(c, x=x)
    out = torch.asinh(safe_sqrt(c * sq(x[..., 1:]))) / c**0.5
    return out if keepdim else out.squeeze(-1)


def cdist(x: Tensor, y: Tensor, c: Curvature = 1.0) -> Tensor:
    """Distances of all pairs: ``(*, N, d + 1)`` and ``(*, M, d + 1)`` to ``(*, N, M)``.

    As accurate as :func:`dist`, at the price of a few temporaries of size ``N M d``. Where a function of the
    distance that a matrix product can give will do, use :func:`pairwise_inner`.
    """
    return dist(x.unsqueeze(-2), y.unsqueeze(-3), c)


def pairwise_sqdist(x: Tensor, y: Tensor, c: Curvature = 1.0) -> Tensor:
    """Squared distances of all pairs, shapes as in :func:`cdist`."""
    return sqdist(x.unsqueeze(-2), y.unsqueeze(-3), c)


def pairwise_inner(x: Tensor, y: Tensor) -> Tensor:
    """Minkowski inner products of all pairs as one matrix product, shapes as in :func:`cdist`.

    ``2/c + 2 <x, y>`` is minus the squared Lorentzian distance of Law et al. (ICML 2019).
    """
    x, y = floats(x=x, y=y)
    with full_precision(x):
        return torch.cat([-x[..., :1], x[..., 1:]], -1) @ y.transpose(-1, -2)
