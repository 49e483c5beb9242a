"""Row operations with hand-written gradients: few passes over memory, right second derivatives.

Each has a plain form as well. Under ``torch.compile`` it is fused by the compiler, under ``vmap`` and ``jvp``
it is transformed, and a tensor curvature gets its gradient from it.

The backward passes are written in torch operations. When a second derivative is asked for (gradients are
enabled while going backward) the numbers of a row are computed again from the inputs, so that autograd sees
how they depend on them; otherwise those of the forward pass are used.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hyperkit._checks import Curvature
from hyperkit.ops import _poincare_core, _scalar


def plain(c: Curvature) -> bool:
    """Whether to take the plain form."""
    return isinstance(c, Tensor) or _scalar.plain()


class _FromSpace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, space: Tensor, c: float) -> Tensor:
        out = space.new_empty(*space.shape[:-1], space.shape[-1] + 1)
        torch.sqrt(_scalar.sq(space) + 1.0 / c, out=out[..., :1])
        out[..., 1:] = space
        ctx.save_for_backward(space, out[..., :1].clone())
        ctx.c = c
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        space, t = ctx.saved_tensors
        if torch.is_grad_enabled():
            t = torch.sqrt(_scalar.sq(space) + 1.0 / ctx.c)
        return torch.addcmul(grad[..., 1:], space, grad[..., :1] / t), None


def from_space(space: Tensor, c: Curvature) -> Tensor:
    """``[sqrt(1/c + |space|^2), space]``."""
    if plain(c):
        return torch.cat([torch.sqrt((space * space).sum(-1, keepdim=True) + 1.0 / c), space], -1)
    return _FromSpace.apply(space, c)


def _root(square: Tensor, total: Tensor | float) -> Tensor:
    """``1/sqrt(square)``, `square` bounded by ``total^2`` in value but not in derivative.

    The bound holds in exact arithmetic and only undoes rounding; a clamp would also drop the derivative.
    """
    with torch.no_grad():
        if isinstance(total, Tensor):
            bound = (total * total).to(square.dtype)
            value = torch.where(bound > 0, torch.maximum(square, bound), torch.ones_like(square))
        else:
            value = torch.clamp(square, min=total * total)
    # Their difference is exactly 0; `square + (value - square)` could round to 0 where square is large.
    return torch.rsqrt(value + (square - square.detach()))


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mean: Tensor, total: Tensor | float, c: float) -> Tensor:
        ms, m0 = mean[..., 1:], mean[..., :1]
        q = _scalar.sq(ms)
        r = _root(c * (m0 * m0 - q), total)
        out = torch.empty_like(mean)
        torch.mul(ms, r, out=out[..., 1:])
        torch.sqrt(q * r * r + 1.0 / c, out=out[..., :1])
        ctx.save_for_backward(mean, q, r)
        ctx.c, ctx.total = c, total
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        mean, q, r = ctx.saved_tensors
        c = ctx.c
        ms, m0, gs, g0 = mean[..., 1:], mean[..., :1], grad[..., 1:], grad[..., :1]
        if torch.is_grad_enabled():
            q = _scalar.sq(ms)
            r = _root(c * (m0 * m0 - q), ctx.total)
        r2 = r * r
        t = torch.sqrt(q * r2 + 1.0 / c)
        product = gs * ms
        by_r = product.sum(-1, keepdim=True) + g0 * q * r / t
        by_square = -0.5 * r * r2 * by_r
        by_m0 = (2.0 * c) * m0 * by_square
        twice_q = g0 * r2 / t - (2.0 * c) * by_square
        if torch.is_grad_enabled():
            return torch.cat([by_m0, r * gs + twice_q * ms], -1), None, None
        out = torch.empty_like(mean)
        out[..., :1] = by_m0
        torch.addcmul(torch.mul(gs, r, out=product), ms, twice_q, out=out[..., 1:])
        return out, None, None


def normalize(mean: Tensor, total: Tensor | float, c: Curvature) -> Tensor:
    """Scale a combination of points to the hyperboloid; see :func:`hyperkit.ops.lorentz.normalize`."""
    if isinstance(total, Tensor):
        total = total.detach()
    if plain(c):
        ms, m0 = mean[..., 1:], mean[..., :1]
        square = c * (m0 * m0 - (ms * ms).sum(-1, keepdim=True))
        return from_space(ms * _root(square, total), c)
    return _Normalize.apply(mean, total, c)


Rule = Callable[[Tensor, float | Tensor], tuple[Tensor, Tensor]]


class _Radial(torch.autograd.Function):
    """Rows times a function of their length, ``phi(|x|^2) x``; a rule gives ``phi`` and ``2 phi'``."""

    @staticmethod
    def forward(ctx, x: Tensor, c: float, rule: Rule) -> Tensor:
        factor, slope = rule(x, c)
        ctx.save_for_backward(x, factor, slope)
        ctx.c, ctx.rule = c, rule
        return factor * x

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        x, factor, slope = ctx.saved_tensors
        if torch.is_grad_enabled():
            factor, slope = ctx.rule(x, ctx.c)
            return factor * grad + (slope * (grad * x).sum(-1, keepdim=True)) * x, None, None
        along = (grad * x).sum(-1, keepdim=True).mul_(slope)
        return (grad * factor).addcmul_(x, along), None, None


def _to_space_rule(x: Tensor, c: float | Tensor) -> tuple[Tensor, Tensor]:
    factor = 2.0 / _poincare_core.gap(x, c)
    return factor, c * factor * factor


def _from_space_rule(w: Tensor, c: float | Tensor) -> tuple[Tensor, Tensor]:
    q = _scalar.sq(w)
    t = torch.sqrt(1.0 + c * q)
    factor = 1.0 / (1.0 + t)
    # Beyond the last radius of the format the point goes back along its radius, as by projx.
    top = _poincare_core.max_norm(w.dtype)
    out = torch.sqrt(c * q) * factor > top
    far = torch.where(out, c * q, 1.0)
    factor = torch.where(out, top * torch.rsqrt(far), factor)
    return factor, -c * torch.where(out, factor / far, factor * factor / t)


def _radial(x: Tensor, c: Curvature, rule: Rule) -> Tensor:
    return rule(x, c)[0] * x if plain(c) else _Radial.apply(x, c, rule)


def ball_to_space(x: Tensor, c: Curvature) -> Tensor:
    """Space coordinates ``2 x/(1 - c |x|^2)`` of the Lorentz point of a ball point, ``(*, d)``."""
    return _radial(x, c, _to_space_rule)


def ball_from_space(w: Tensor, c: Curvature) -> Tensor:
    """Ball point ``w/(1 + sqrt(1 + c |w|^2))`` of the Lorentz point with space coordinates w, ``(*, d)``."""
    return _radial(w, c, _from_space_rule)
