"""A function of many rows, a few of them at a time, with a gradient that keeps only its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["by_parts"]

Function = Callable[..., tuple[Tensor, ...]]


def by_parts(
    function: Function,
    rows: int,
    cut: Sequence[Tensor],
    whole: Sequence[Tensor] = (),
    parameters: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """``function(*cut, *whole)`` for `rows` rows of `cut` at a time.

    The gradient computes each part again. It has no derivative itself. Unlike PyTorch's checkpoints, parts
    write into tensors made beforehand: small results kept between large ones that are freed leave a heap
    full of holes (four times the memory here).

    Parameters
    ----------
    function : callable
        Row k of its results depends on row k of `cut` and on all of `whole`.
    rows : int
    cut, whole : sequence of Tensor
    parameters : sequence of Tensor
        What `function` uses besides and a gradient may be asked for.
    """
    return _ByParts.apply(function, rows, len(cut), len(whole), *cut, *whole, *parameters)  # pyright: ignore[reportReturnType]


class _ByParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, rows: int, cut: int, whole: int, *tensors: Tensor) -> Any:
        ctx.function, ctx.rows, ctx.cut, ctx.whole = function, rows, cut, whole
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        count, results = len(tensors[0]), []
        for begin in range(0, count, rows):
            pieces = [t[begin : begin + rows] for t in tensors[:cut]]
            found = function(*pieces, *tensors[cut : cut + whole])
            if not results:
                results = [x.new_empty((count, *x.shape[1:])) for x in found]
            for result, x in zip(results, found, strict=True):
                result[begin : begin + rows] = x
        return tuple(results)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        tensors, cut, fixed = ctx.saved_tensors, ctx.cut, ctx.cut + ctx.whole
        needed = ctx.needs_input_grad[4:]
        gradients = [torch.zeros_like(t) if need else None for t, need in zip(tensors, needed, strict=True)]
        asked = [k for k, need in enumerate(needed) if need]
        for begin in range(0, len(tensors[0]), ctx.rows):
            part = slice(begin, begin + ctx.rows)
            leaves = [
                (t[part] if k < cut else t).detach().requires_grad_(needed[k]) if k < fixed else t
                for k, t in enumerate(tensors)
            ]
            with torch.enable_grad():
                found = ctx.function(*leaves[:fixed])
            known = [
                (x, g[part]) for x, g in zip(found, grads, strict=True) if g is not None and x.requires_grad
            ]
            if not known:
                continue
            outputs, slopes = zip(*known, strict=True)
            steps = torch.autograd.grad(outputs, [leaves[k] for k in asked], slopes, allow_unused=True)
            for k, step in zip(asked, steps, strict=True):
                total = gradients[k]
                if step is not None and total is not None:
                    (total[part] if k < cut else total).add_(step)
        return (None, None, None, None, *gradients)
