"""What torch needs to know of the operators: shapes without data, derivatives, second derivatives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import reference

SCALAR_ROWS = (0, 1, 5)
_CONV_TENSORS = 6  # x, matrix, first, bias, scale, kernels: then the graph, whose weights come ninth


def differentiate_twice(
    f: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    needed: Sequence[bool],
    grad: Tensor,
    upstream: Sequence[Tensor | None],
) -> tuple[list[Tensor | None], Tensor | None]:
    """Gradients of ``sum_i <upstream_i, d<f, grad>/d input_i>``, for the inputs and for `grad`.

    The derivative of a backward operator: `f` is the eager form of what it is the backward of.
    """
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_(n) for t, n in zip(inputs, needed, strict=True)]
        g = grad.detach().requires_grad_()
        wanted = [t for t, n in zip(leaves, needed, strict=True) if n]
        first = torch.autograd.grad(f(*leaves), wanted, g, create_graph=True, allow_unused=True)
        given = [u for u, n in zip(upstream, needed, strict=True) if n]
        pairs = [
            (a, b)
            for a, b in zip(first, given, strict=True)
            if a is not None and b is not None and a.requires_grad
        ]
        if not pairs:
            return [None] * len(inputs), None
        second = torch.autograd.grad(
            [a for a, _ in pairs], [*wanted, g], [b for _, b in pairs], allow_unused=True
        )
    left = iter(second[:-1])
    return [next(left) if n else None for n in needed], second[-1]


def _row_fake(kind: int, x: Tensor, y: Tensor | None, c: float) -> Tensor:
    return x.new_empty(x.shape[0], 1) if kind in SCALAR_ROWS else torch.empty_like(x)


def _row_backward_fake(kind, x, y, grad, c, first, second):
    none = x.new_empty(0)
    return (
        torch.empty_like(x) if first else none,
        torch.empty_like(x) if second and y is not None else torch.empty_like(none),
    )


def _row_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    kind, x, y, c = inputs
    ctx.save_for_backward(x, y)
    ctx.kind, ctx.c = kind, c


def _row_grad(ctx: Any, grad: Tensor) -> tuple:
    x, y = ctx.saved_tensors
    _, first, second, _ = ctx.needs_input_grad
    gx, gy = torch.ops.hyperkit_ext.row_backward(
        ctx.kind, x, y, grad.contiguous(), ctx.c, first or y is None, second
    )
    return None, gx if first else None, gy if second else None, None


def _row_backward_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    kind, x, y, grad, c, _, _ = inputs
    ctx.save_for_backward(x, y, grad)
    ctx.kind, ctx.c = kind, c


def _row_backward_grad(ctx: Any, gx: Tensor | None, gy: Tensor | None) -> tuple:
    x, y, grad = ctx.saved_tensors
    inputs = [x] if y is None else [x, y]
    upstream = [
        u if u is not None and u.shape == x.shape else None for u in ([gx] if y is None else [gx, gy])
    ]
    needed = [u is not None for u in upstream]
    f = functools.partial(reference.row, ctx.kind, c=ctx.c)
    # A gradient for an input is wanted even where only the other's came in: all inputs are leaves.
    zeros = [torch.zeros_like(x) if u is None else u for u in upstream]
    if not any(needed):
        return (None,) * 7
    found, by_grad = differentiate_twice(f, inputs, [True] * len(inputs), grad, zeros)
    second = found[1] if len(found) > 1 else None
    return None, found[0], second, by_grad, None, None, None


def _conv_fake(x, matrix, first, bias, scale, kernels, begin, source, weight, correlation, sigma, c):
    n, width = x.shape[0], matrix.shape[0] // kernels.shape[0]
    return x.new_empty(n, width), x.new_empty(n, 1), x.new_empty(n, width)


def _conv_backward_fake(
    x, matrix, first, bias, scale, kernels, begin, source, weight, correlation, sigma, c, total, sums, grad,
    by_kernels, by_weight,
):  # fmt: skip
    return (
        *(torch.empty_like(t) for t in (x, matrix, first, bias, scale)),
        kernels.new_empty(kernels.shape[0] if by_kernels else 0, kernels.shape[1]),
        weight.new_empty(weight.shape[0] if by_weight else 0),
    )


def _conv_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    *tensors, correlation, sigma, c = inputs
    _, total, sums = output
    ctx.mark_non_differentiable(total, sums)
    ctx.save_for_backward(*tensors, total, sums)
    ctx.rule = correlation, sigma, c


def _conv_grad(ctx: Any, grad: Tensor, *_: Any) -> tuple:
    *tensors, total, sums = ctx.saved_tensors
    kernels, weight = ctx.needs_input_grad[5], ctx.needs_input_grad[8]
    with torch.autocast(grad.device.type, enabled=False):
        found = torch.ops.hyperkit_ext.conv_backward(
            *tensors, *ctx.rule, total, sums, grad.contiguous(), kernels, weight
        )
    by_kernels, by_weight = found[5] if kernels else None, found[6] if weight else None
    return *found[:5], by_kernels, None, None, by_weight, None, None, None


def _conv_backward_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    *tensors, correlation, sigma, c, _, _, grad, by_kernels, by_weight = inputs
    ctx.save_for_backward(*tensors, grad)
    ctx.rule = correlation, sigma, c
    ctx.by = by_kernels, by_weight


def _conv_backward_grad(ctx: Any, *upstream: Tensor | None) -> tuple:
    *tensors, grad = ctx.saved_tensors
    parameters, (begin, source, weight) = tensors[:_CONV_TENSORS], tensors[_CONV_TENSORS:]
    by_kernels, by_weight = ctx.by
    correlation, sigma, c = ctx.rule

    def f(*leaves: Tensor) -> Tensor:
        return reference.conv(*leaves[:-1], begin, source, leaves[-1], correlation, sigma, c)[0]

    needed = [True] * 5 + [by_kernels, by_weight]
    found, by_grad = differentiate_twice(f, [*parameters, weight], needed, grad, upstream)
    return *found[:6], None, None, found[6], None, None, None, None, None, by_grad, None, None


@functools.cache
def register() -> None:
    """Register fakes and derivatives of the loaded operators, once."""
    lib = torch.library
    names = {
        "row": _row_fake,
        "row_backward": _row_backward_fake,
        "conv": _conv_fake,
        "conv_backward": _conv_backward_fake,
        "tanimoto_max": lambda query, reference: query.new_empty(query.shape[0], dtype=torch.float32),
        "tanimoto_columns": lambda query, columns, starts, sizes: query.new_empty(
            query.shape[0], dtype=torch.float32
        ),
        "adam_": lambda *args: None,
    }
    for name, fake in names.items():
        lib.register_fake(f"hyperkit_ext::{name}", fake)
    for name, backward, setup in (
        ("row", _row_grad, _row_setup),
        ("row_backward", _row_backward_grad, _row_backward_setup),
        ("conv", _conv_grad, _conv_setup),
        ("conv_backward", _conv_backward_grad, _conv_backward_setup),
    ):
        lib.register_autograd(f"hyperkit_ext::{name}", backward, setup_context=setup)
