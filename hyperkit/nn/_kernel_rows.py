"""What HKConv does for one pair (neighbour, centre), for many pairs at once and in little memory.

Steps 1 and 2 of the paper give for each pair one point. On the way there are K transformed points, which is
the ``(N, M, K, d)`` tensor that a plain implementation keeps. Here the pairs are taken in blocks: the tensor
exists for one block at a time, and the backward pass computes it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperkit._checks import Curvature, full_precision
from hyperkit.nn._base import SPACE_EPS, TIME_MARGIN
from hyperkit.ops import lorentz as ops
from hyperkit.ops._rows import plain as plain_rows
from hyperkit.ops._scalar import plain, safe_sqrt, sq

# Numbers in a block of transformed points, 16 MiB in float32. Smaller ones would fit in a cache, but then the
# cost of calling some sixty operations for each block shows (measured: a third slower at 1 << 20).
BLOCK = 1 << 22
# On a GPU 128 MiB: there the calls are all that small blocks cost (measured on an H200: 90 ms in 40
# blocks, 9.6 in five).
GPU_BLOCK = 1 << 25


class Rule(NamedTuple):
    """What the rows are made with besides tensors.

    Attributes
    ----------
    model : str
        ``"lorentz"`` (HyboNet's linear layer) or ``"poincare"`` (that of HNN++).
    correlation : str
        See :class:`~hyperkit.nn.HKConv`.
    sigma : float
        Width of the linear and gaussian correlations.
    activation : callable, optional
        Applied to the coordinates before the linear layers.
    c : float, optional
        The curvature where it is fixed.
    """

    model: str
    correlation: str
    sigma: float
    activation: Callable[[Tensor], Tensor] | None
    c: float | None


class Shared(NamedTuple):
    """Tensors that all rows share; None where the rule has no use for one."""

    kernels: Tensor
    """Kernel points ``(K, d + 1)``."""
    weight: Tensor
    """``(K, o + 1, d + 1)``; for the ball ``(K, o, d)``."""
    bias: Tensor | None
    """``(K, o + 1)``; for the ball ``(K, o)``."""
    log_scale: Tensor | None
    """``(K)``."""
    mix: Tensor | None
    """Learned correlation, ``(K, K)``."""
    mix_bias: Tensor | None
    """``(K)``."""
    c: Tensor | None
    """The curvature where it is learnable."""


def relative(neighbour: Tensor, centre: Tensor, c: Curvature) -> Tensor:
    """``x_i (-) x``: the boost that takes the centre to the origin, applied to the neighbour; float64.

    A point at radius r has coordinates of size e^r, and the boost subtracts products of two of them to get
    what is 1 or so. In float32 that would put the layer's output off by 4e-4 for a neighbourhood at radius 6
    and by 0.2 at radius 9 (measured); like this it is right to 1e-7 up to radius 15.
    """
    cw = c.double() if isinstance(c, Tensor) else c
    return ops.boost(neighbour.double(), centre.double(), cw, inverse=True)


def kernel_distances(z: Tensor, kernels: Tensor, c: Curvature) -> Tensor:
    """Geodesic distances ``(R, K)`` of points ``(R, d + 1)`` to kernel points ``(K, d + 1)``.

    ``2 sinh^2(sqrt(c) D/2) = A + B + A B - c z_s.k_s`` with ``A = sqrt(c) z_0 - 1 = c |z_s|^2/(1 + sqrt(c)
    z_0)`` and ``B`` for the kernel: one matrix product, no difference of points is formed. What is left of
    rounding is of the size of A and B, so it vanishes at the origin; for a layer in float32, whose points are
    given here in float64 (:func:`relative`), it vanishes everywhere.
    """
    zs, ks = z[..., 1:], kernels[..., 1:].to(z.dtype)
    cw = c.to(z.dtype) if isinstance(c, Tensor) else c
    qz, qk = cw * (zs * zs).sum(-1, keepdim=True), cw * (ks * ks).sum(-1)
    a = qz / (1.0 + torch.sqrt(1.0 + qz))
    b = qk / (1.0 + torch.sqrt(1.0 + qk))
    twice = a + b + a * b - cw * (zs @ ks.transpose(-1, -2))
    # Never negative but for rounding at a kernel point; safe_sqrt has distance 0, gradient 0 there.
    return (2.0 / c**0.5) * torch.asinh(safe_sqrt((0.5 * twice).to(kernels.dtype)))


def correlate(d: Tensor, rule: Rule, shared: Shared) -> tuple[Tensor, Tensor]:
    """Weights of the kernels ``(R, K)`` for distances ``(R, K)``, and the neighbour's own weight ``(R, 1)``.

    The centroid does not see the scale of the weights, so the exponentials are given as a softmax, which
    cannot underflow for a neighbour far away.
    """
    one = torch.ones_like(d[..., :1])
    if rule.correlation == "linear":
        near = torch.relu(1.0 - d / rule.sigma)
        reach = near.sum(-1, keepdim=True)
        return (torch.ones_like(near) if d.shape[-1] == 1 else near), reach
    if rule.correlation == "gaussian":
        return torch.softmax(d.square() * (-0.5 / rule.sigma**2), -1), one
    if rule.correlation == "learned":
        assert shared.mix is not None
        return torch.softmax(torch.nn.functional.linear(d, shared.mix, shared.mix_bias), -1), one
    # With one kernel the centroid is its point whatever the weight. Written with the distance it would be
    # 0/0 for a neighbour at the same place; with more, the distances cannot all be 0.
    return (torch.ones_like(d) if d.shape[-1] == 1 else d), one


def _lorentz(h: Tensor, weights: Tensor, shared: Shared, c: Curvature) -> Tensor:
    """Weighted sum ``(R, o + 1)`` of the K points that HyboNet's linear layers make of a row."""
    weight, bias = shared.weight, shared.bias
    assert shared.log_scale is not None
    k, o = weight.shape[0], weight.shape[1] - 1
    linear = torch.nn.functional.linear
    gate = linear(h, weight[:, 0], None if bias is None else bias[:, 0])
    y = linear(h, weight[:, 1:].flatten(0, 1), None if bias is None else bias[:, 1:].flatten())
    excess = torch.sigmoid(gate) * shared.log_scale.exp() + TIME_MARGIN * c**-0.5
    y = y.unflatten(-1, (k, o))
    return _tails(y, excess, weights, c) if plain_rows(c) else _Tails.apply(y, excess, weights, c)


def _factor(q: Tensor, excess: Tensor, c: Curvature) -> tuple[Tensor, Tensor]:
    """What the tail of HyboNet's layer scales a row of squared norm q with, and the time it gets."""
    square = excess * (excess + 2.0 * c**-0.5) / (q + SPACE_EPS)
    return torch.sqrt(square), torch.sqrt(square * q + 1.0 / c)


def _tails(y: Tensor, excess: Tensor, weights: Tensor, c: Curvature) -> Tensor:
    """``sum_k w_k [time_k, factor_k y_k]``: the tails (:func:`~hyperkit.nn._base.lorentz_tail`), summed up.

    Shapes ``(R, K, o)``, ``(R, K)``, ``(R, K)``, to ``(R, o + 1)``; `excess` is the time wanted above that of
    the origin.
    """
    factor, time = _factor(sq(y).squeeze(-1), excess, c)
    space = ((weights * factor).unsqueeze(-2) @ y).squeeze(-2)
    return torch.cat([(weights * time).sum(-1, keepdim=True), space], -1)


class _Tails(torch.autograd.Function):
    """:func:`_tails` with few passes over `y`, by far its largest tensor: three forward, three backward."""

    @staticmethod
    def forward(ctx, y: Tensor, excess: Tensor, weights: Tensor, c: float) -> Tensor:
        ctx.save_for_backward(y, excess, weights)
        ctx.c = c
        return _tails(y, excess, weights, c)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        y, excess, weights = ctx.saved_tensors
        c = ctx.c
        if torch.is_grad_enabled():  # a second derivative is asked for
            inputs = [t for t, n in zip((y, excess, weights), ctx.needs_input_grad, strict=False) if n]
            grads = torch.autograd.grad(_tails(y, excess, weights, c), inputs, grad, create_graph=True)
            left = iter(grads)
            return *(next(left) if n else None for n in ctx.needs_input_grad[:3]), None
        q = sq(y).squeeze(-1)
        f, time = _factor(q, excess, c)
        g0, gs = grad[:, :1], grad[:, 1:]
        along = (y @ gs.unsqueeze(-1)).squeeze(-1)
        by_f = weights * (along + g0 * f * q / time)
        by_q = 0.5 * f * (g0 * weights * f / time - by_f / (q + SPACE_EPS))
        by_y = y * (2.0 * by_q).unsqueeze(-1)
        by_y.addcmul_((weights * f).unsqueeze(-1), gs.unsqueeze(-2))
        by_excess = by_f * (excess + c**-0.5) / (f * (q + SPACE_EPS))
        return by_y, by_excess, f * along + g0 * time, None


def _ball(h: Tensor, weights: Tensor, shared: Shared, c: Curvature) -> Tensor:
    """:func:`_lorentz` with the linear layers of HNN++: space ``sinh(sqrt(c) v)/sqrt(c)`` for logits v.

    ``v = 2 |w|/sqrt(c) asinh(sqrt(c) (h_s.w/|w| cosh(2 sqrt(c) r) - h_0 sinh(2 sqrt(c) r)))``
    (Shimizu et al., ICLR 2021; as in :class:`~hyperkit.nn.PoincareLinear`).
    """
    weight, bias = shared.weight, shared.bias
    root = c**0.5
    norm = torch.linalg.vector_norm(weight, dim=-1)
    inside = torch.nn.functional.linear(h[..., 1:], (weight / norm.unsqueeze(-1)).flatten(0, 1))
    inside = inside.unflatten(-1, tuple(norm.shape))
    if bias is not None:
        turn = 2.0 * root * bias
        inside = inside * torch.cosh(turn) - h[..., :1].unsqueeze(-1) * torch.sinh(turn)
    y = torch.sinh(2.0 * norm * torch.asinh(root * inside)) / root
    time = torch.sqrt(sq(y).squeeze(-1) + 1.0 / c)
    return torch.cat([(weights * time).sum(-1, keepdim=True), (weights.unsqueeze(-2) @ y).squeeze(-2)], -1)


def neighbour_points(
    rule: Rule, neighbour: Tensor, centre: Tensor, keep: Tensor | None, shared: Shared
) -> tuple[Tensor, Tensor]:
    """The point that a centre gets from a neighbour, steps 1 and 2 of the paper, for R pairs.

    Parameters
    ----------
    rule : Rule
        Options.
    neighbour, centre : Tensor
        Points ``(R, d + 1)``.
    keep : Tensor, optional
        Dropout's factors ``(R, d + 1)``.
    shared : Shared
        Kernel points and parameters.

    Returns
    -------
    point, weight : Tensor
        Shapes ``(R, o + 1)`` and ``(R, 1)``.
    """
    c: Curvature = shared.c if shared.c is not None else rule.c  # type: ignore[assignment]
    z = relative(neighbour, centre, c)
    weights, reach = correlate(kernel_distances(z, shared.kernels, c), rule, shared)
    start = z.to(neighbour.dtype)
    h = start if rule.activation is None else rule.activation(start)
    if keep is not None:
        h = h * keep
    if rule.model == "poincare" and h is not start:
        h = ops.from_space(h[..., 1:], c)  # HNN++ reads points, HyboNet any vector
    mean = (_lorentz if rule.model == "lorentz" else _ball)(h, weights, shared, c)
    return ops.normalize(mean, c, weights.sum(-1, keepdim=True)), reach


def join(total_points: Tensor, total: Tensor, c: Curvature) -> Tensor:
    """Centroid ``(*, d + 1)`` from sums of weighted points and of weights ``(*, 1)``; the origin if empty.

    The centroid does not see the scale of the weights: with sum 1 no square under- or overflows.
    """
    some = total > 0
    scale = torch.where(some, total, torch.ones_like(total)).detach()
    return ops.normalize(total_points / scale, c, some.to(total.dtype))


def by_blocks(
    rule: Rule, neighbour: Tensor, centre: Tensor, keep: Tensor | None, shared: Shared
) -> tuple[Tensor, Tensor]:
    """:func:`neighbour_points` in blocks of rows; value and derivatives are the same."""
    width = shared.weight.shape[0] * (shared.weight.shape[1] + shared.weight.shape[2])
    rows = max(64, (GPU_BLOCK if neighbour.is_cuda else BLOCK) // width)
    with full_precision(neighbour):
        if plain() or len(neighbour) <= rows:
            return neighbour_points(rule, neighbour, centre, keep, shared)
        return _Blocks.apply(rule, rows, neighbour, centre, keep, *shared)  # type: ignore[return-value]


class _Blocks(torch.autograd.Function):
    """Keeps its inputs only. Backward: each block is computed again and differentiated by itself."""

    @staticmethod
    def forward(ctx, rule: Rule, rows: int, *tensors: Tensor | None):  # type: ignore[override]
        ctx.rule, ctx.rows = rule, rows
        ctx.save_for_backward(*tensors)
        neighbour, centre, keep, *shared = tensors
        assert neighbour is not None
        assert centre is not None
        both = Shared(*shared)  # type: ignore[arg-type]
        parts = [
            neighbour_points(rule, neighbour[i : i + rows], centre[i : i + rows], _rows(keep, i, rows), both)
            for i in range(0, len(neighbour), rows)
        ]
        points, reach = zip(*parts, strict=True)
        out = torch.cat(points), torch.cat(reach)
        if rule.correlation != "linear":
            ctx.mark_non_differentiable(out[1])
        return out

    @staticmethod
    def backward(ctx, grad_points: Tensor, grad_reach: Tensor):  # type: ignore[override]
        tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # a second derivative is asked for
            grads = _differentiate(ctx.rule, tensors, needed, (grad_points, grad_reach), True)
            return None, None, *grads
        rows = ctx.rows
        pieces: list[list[Tensor]] = [[], [], []]
        total: list[Tensor | None] = [None] * len(tensors)
        for i in range(0, len(tensors[0]), rows):
            block = [_rows(t, i, rows) for t in tensors[:3]] + list(tensors[3:])
            out = (grad_points[i : i + rows], grad_reach[i : i + rows])
            for j, g in enumerate(_differentiate(ctx.rule, block, needed, out, False)):
                if g is not None and j < 3:
                    pieces[j].append(g)
                elif g is not None:
                    before = total[j]
                    total[j] = g if before is None else before + g
        first = [torch.cat(p) if p else None for p in pieces]
        return None, None, *first, *total[3:]


def _rows(t: Tensor | None, i: int, rows: int) -> Tensor | None:
    return None if t is None else t[i : i + rows]


def _differentiate(rule: Rule, tensors, needed, grads, create_graph: bool) -> list[Tensor | None]:
    """Gradients of :func:`neighbour_points` for the tensors whose gradient is needed, None for others."""
    with torch.enable_grad(), full_precision(tensors[0]):
        leaves: list[Any] = [
            t if create_graph or t is None else t.detach().requires_grad_(n)
            for t, n in zip(tensors, needed, strict=True)
        ]
        neighbour, centre, keep, *shared = leaves
        out = neighbour_points(rule, neighbour, centre, keep, Shared(*shared))
        pairs = [(o, g) for o, g in zip(out, grads, strict=True) if o.requires_grad]
        found = iter(
            torch.autograd.grad(
                [o for o, _ in pairs],
                [t for t, n in zip(leaves, needed, strict=True) if n],
                [g for _, g in pairs],
                create_graph=create_graph,
                allow_unused=True,
            )
        )
    return [next(found) if n else None for n in needed]
