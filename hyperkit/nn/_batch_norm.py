"""Batch normalisation of points in few passes over memory, for float32 on the CPU; both models share it.

In units of ``1/sqrt(c)``, with X the space coordinates of the Lorentz points, t their times, mu the centroid:

    a = X.mu/(1 + mu_0) - t          y = X + a mu              the points seen from the centroid
    r = asinh|y|                     s' = s/sqrt(mean(r^2)/c + eps)
    f = sinh(s' r)/|y|               b = cosh(s' r) + f y.p/(1 + p_0)
    out = f y + b p                                            scaled, then moved to p

What cancels (y, and the centroid's ``T^2 - |S|^2``) is taken in float64, which is right to 1e-6 for centroids
up to radius 9.9; beyond it, and for anything but plain float32 on the CPU, layers go operation by operation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hyperkit._checks import full_precision
from hyperkit.ops import lorentz as ops
from hyperkit.ops._scalar import plain

# cosh^2 of the radius up to which float64 keeps float32's digits.
_FAR = 1e8
# Below this (s'^2 + 1) |y|^2 the derivative of f comes from its series.
_SERIES = 0.02


class Normalised(NamedTuple):
    """Space coordinates of the points ``(N, d)`` and of their centroid ``(d)``; the variance ``(1)``."""

    points: Tensor
    mean: Tensor
    variance: Tensor


def normalise(x: Tensor, scale: Tensor, shift: Tensor, c: float | Tensor, eps: float) -> Normalised | None:
    """Normalise points given by space coordinates ``(N, d)``; None where the plain operations must do it.

    Parameters
    ----------
    x : Tensor
        Space coordinates of Lorentz points, ``(N, d)``.
    scale : Tensor
        ``(1)``.
    shift : Tensor
        Space coordinates of the point that the centroid goes to, ``(d)``.
    c : float or Tensor
        Curvature, > 0.
    eps : float
        Added to the variance.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu" or isinstance(c, Tensor) or plain():
        return None
    if scale.dtype != x.dtype or shift.dtype != x.dtype:
        return None
    with torch.no_grad(), full_precision(x):
        wide = x.double()
        if c != 1.0:
            wide.mul_(c**0.5)
        t = torch.linalg.vector_norm(wide, dim=-1).square_().add_(1.0).sqrt_()
        s, total = wide.sum(0), float(t.sum())
        square = total * total - float(s.dot(s))
        # NaN goes to the plain operations as well.
        if not total * total < _FAR * square:
            return None
        size = square**-0.5
    with full_precision(x):
        return Normalised(*_Normalise.apply(x, scale, shift, c, eps, wide, t, size * s, size * total, size))


def geodesic(fraction: float, x: Tensor, y: Tensor, c: float) -> Tensor:
    """:func:`hyperkit.ops.lorentz.geodesic` of two points by their space coordinates ``(d)``, on the CPU.

    ``(sinh((1 - s) D) x + sinh(s D) y)/sinh(D)``: a positive combination, in a tenth of the time.
    """
    a, b = x.double(), y.double()
    w = b - a
    by_time = float(w.dot(a + b)) / sum(math.sqrt(float(p.dot(p)) + 1.0 / c) for p in (a, b))
    chord = 0.5 * math.sqrt(max(c * (float(w.dot(w)) - by_time * by_time), 0.0))
    d = 2.0 * math.asinh(chord)
    if d < 1e-7:
        return torch.lerp(x, y, fraction)
    left, right = (math.sinh(s * d) / math.sinh(d) for s in (1.0 - fraction, fraction))
    return (left * a + right * b).to(x.dtype)


def seen_from(mean: Tensor, points: Tensor, c: float | Tensor) -> Tensor:
    """Normal coordinates ``(N, d + 1)`` of Lorentz points about a point ``(d + 1)``.

    The boost in float64: in float32 it is off by 4e-3 at radius 6 (:func:`hyperkit.ops.lorentz.boost`).
    """
    wide = c.double() if isinstance(c, Tensor) else c
    moved = ops.boost(points.double(), mean.double(), wide, inverse=True)
    return ops.logmap0(moved.to(points.dtype), c)


def _by_operations(x: Tensor, scale: Tensor, shift: Tensor, c: float, eps: float) -> Tensor:
    """The same by the plain operations."""
    points = ops.from_space(x, c)
    v = seen_from(ops.centroid(points, c=c), points, c)
    v = v * (scale * torch.rsqrt(v.square().sum(-1).mean() + eps))
    return ops.boost(ops.expmap0(v, c), ops.from_space(shift, c), c)[..., 1:]


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, shift, c, eps, wide, t, mu, mu0, size):  # type: ignore[override]
        along = wide @ mu
        a = (along / (1.0 + mu0)).sub_(t)
        y = wide.addcmul_(a.unsqueeze(-1), mu).float()
        a, t, along, mu = a.float(), t.float(), along.float(), mu.float()
        h = torch.linalg.vector_norm(y, dim=-1)
        q = h * h
        y0 = torch.sqrt(q + 1.0)
        r = torch.log1p((q / (y0 + 1.0)).add_(h))  # asinh(h) as log(1 + h + (cosh - 1)): a faster kernel
        variance = float(r.dot(r)) / (len(x) * c)
        root = (variance + eps) ** -0.5
        factor = float(scale) * root
        u = factor * r
        sinh = torch.sinh(u)
        # At 0 both are 0, and the quotient is its limit.
        h.clamp_(min=1e-18)
        f = torch.where(q > 0, sinh / h, factor)
        e = torch.exp(u)
        cosh = e.add_(1.0 / e).mul_(0.5)
        p = shift * c**0.5
        p0 = float(torch.sqrt(1.0 + p.dot(p)))
        yp = y @ p
        b = torch.addcmul(cosh, f, yp, value=1.0 / (1.0 + p0))
        out = (y * f.unsqueeze(-1)).addcmul_(b.unsqueeze(-1), p)
        if c != 1.0:
            out.mul_(c**-0.5)
        ctx.save_for_backward(x, scale, shift, y, h, q, y0, r, sinh, cosh, f, b, yp, p, a, t, along, mu)
        ctx.c, ctx.eps, ctx.numbers = c, eps, (p0, mu0, size, factor, root)
        mean, variance = mu * c**-0.5, x.new_tensor([variance])
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    def backward(ctx, grad, _mean, _variance):  # type: ignore[override]
        none = (None,) * 7
        if torch.is_grad_enabled():  # a second derivative is asked for: autograd takes the plain operations
            inputs = ctx.saved_tensors[:3]
            wanted = [i for i in range(3) if ctx.needs_input_grad[i]]
            x, scale, shift = inputs
            out = _by_operations(x, scale, shift, ctx.c, ctx.eps)
            grads = torch.autograd.grad(out, [inputs[i] for i in wanted], grad, create_graph=True)
            found = dict(zip(wanted, grads, strict=True))
            return found.get(0), found.get(1), found.get(2), *none
        with full_precision(grad):
            return *_backward(ctx, grad), *none


def _backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the space coordinates, the scale and the shift, line by line as above."""
    x, scale, _, y, h, q, y0, r, sinh, cosh, f, b, yp, p, a, t, along, mu = ctx.saved_tensors
    p0, mu0, size, factor, root = ctx.numbers
    c = ctx.c
    if c != 1.0:
        grad = grad * c**-0.5
    # Through out = f y + b p.
    p1, mu1 = 1.0 + p0, 1.0 + mu0
    gb = grad @ p
    weight = gb * f
    gp = b @ grad + (weight @ y) / p1 - (float(weight.dot(yp)) / (p1 * p1 * p0)) * p
    gf = torch.addcmul((grad * y) @ torch.ones_like(p), gb, yp, value=1.0 / p1)
    # Through cosh(s' r) and f = sinh(s' r)/h.
    g_factor = float((gb * sinh + gf * cosh / h).dot(r))
    by_variance = -0.5 * g_factor * float(scale) * root**3 / (c * len(x))
    s2 = factor * factor
    series = (factor * (s2 - 1.0) / 6.0) * (1.0 + (0.1 * (s2 - 9.0)) * q)
    exact = (factor * cosh / y0 - f) * (0.5 / (h * h))
    f_by_q = torch.where(q < _SERIES / (s2 + 1.0), series, exact)
    # dcosh/dq = s' sinh/(2 h y_0) with sinh/h = f; d(r^2)/dq = r/(h y_0), which is 1 at 0.
    r_by_h = torch.where(q > 0, r / h, 1.0)
    twice_gq = gf * f_by_q * 2.0 + (factor * weight + (2.0 * by_variance) * r_by_h) / y0
    gy = grad * f.unsqueeze(-1)
    gy.addcmul_((weight / p1).unsqueeze(-1), p).addcmul_(y, twice_gq.unsqueeze(-1))
    # Through y = X + a mu.
    ga = gy @ mu
    g_mu = a @ gy + (ga @ x) * (c**0.5 / mu1) - (float(ga.dot(along)) / (mu1 * mu1 * mu0)) * mu
    # Through mu = S/sqrt(T^2 - |S|^2), S and T the sums of X and t.
    along_mu = float(mu.dot(g_mu))
    gt = -size * along_mu * mu0
    gx = gy.addcmul_((ga / mu1).unsqueeze(-1), mu).addcmul_(x, ((gt - ga) / t * c**0.5).unsqueeze(-1))
    gx.add_(size * (g_mu + along_mu * mu))
    if c != 1.0:
        gx.mul_(c**0.5)
    return gx, scale.new_full(scale.shape, g_factor * root), gp * c**0.5
