"""Large inputs in blocks of rows: autograd keeps the inputs and nothing else.

For operations with many temporaries: parallel transport keeps eleven times its input for the backward
pass, and spends 40 times the memory bound on page faults. A block's temporaries stay in the cache, and the
backward pass computes a block again before it goes back through it. Measured on the CPU, that is faster
forward, as fast forward and backward, and free of the memory. For lighter operations the second computation
costs more than it saves, so that they do not use it. Small inputs, the compiler, vmap and learnable
curvatures take the plain function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec

import torch
from torch import Tensor

from hyperkit import _checks
from hyperkit.ops import _scalar

P = ParamSpec("P")

BLOCK = 1 << 18
"""Elements of an argument in a block: 1 MiB in float32; a handful of temporaries fits in the cache."""


def rowwise(tensors: int) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Let an operation on that many tensors of rows, the next argument being the curvature, run in blocks.

    Only for operations that treat each row (last dimension) by itself.
    """

    def decorate(f: Callable[P, Tensor]) -> Callable[P, Tensor]:
        @functools.wraps(f)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            if (
                _scalar.plain()
                or len(args) < tensors
                or len(args) > tensors + 1
                or kwargs.keys() - {"c"}
                or not _large(args[:tensors])
            ):
                return f(*args, **kwargs)
            c = args[tensors] if len(args) > tensors else kwargs.get("c", 1.0)
            if isinstance(c, Tensor) or _checks.checking():
                return f(*args, **kwargs)
            return _Blocked.apply(f, c, *args[:tensors])

        return wrapper

    return decorate


def _large(args: tuple) -> bool:
    """Whether the arguments are tensors on the CPU with the same rows, and enough of them."""
    first = args[0]
    return (
        isinstance(first, Tensor)
        and first.device.type == "cpu"
        and first.numel() >= 2 * BLOCK
        and first.is_floating_point()
        and all(
            isinstance(a, Tensor)
            and a.shape == first.shape
            and a.dtype == first.dtype
            and a.device == first.device
            for a in args
        )
        and first.dtype not in (torch.float16, torch.bfloat16)
    )


def blocks(*tensors: Tensor) -> zip:
    """Matching blocks of rows of 2-dimensional tensors."""
    rows = max(1, BLOCK // tensors[0].shape[-1])
    return zip(*(t.split(rows) for t in tensors), strict=True)


def gradients(
    f: Callable[..., Tensor], inputs: Sequence[Tensor], needed: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """Differentiable gradients of f, for a backward pass that is asked for a second derivative.

    The inputs may depend on each other in the outer graph; through aliases, only f itself is differentiated.
    """
    aliases = [t.view_as(t) for t in inputs]
    wanted = [a for a, n in zip(aliases, needed, strict=True) if n]
    left = iter(torch.autograd.grad(f(*aliases), wanted, grad, create_graph=True))
    return [next(left) if n else None for n in needed]


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, f: Callable[..., Tensor], c: float, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.f, ctx.c = f, c
        flat = [t.reshape(-1, t.shape[-1]) for t in tensors]
        out = None
        start = 0
        for part in blocks(*flat):
            piece = f(*part, c)
            if out is None:
                out = piece.new_empty(len(flat[0]), piece.shape[-1])
            out[start : start + len(piece)] = piece
            start += len(piece)
        assert out is not None
        return out.view(*tensors[0].shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        f, c, tensors = ctx.f, ctx.c, ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():  # a second derivative is asked for
            return None, None, *gradients(lambda *t: f(*t, c), tensors, needed, grad)
        flat = [t.reshape(-1, t.shape[-1]) for t in tensors]
        out = [torch.empty_like(t) if n else None for t, n in zip(flat, needed, strict=True)]
        start = 0
        for *part, g in blocks(*flat, grad.reshape(-1, grad.shape[-1])):
            leaves = [p.detach().requires_grad_(n) for p, n in zip(part, needed, strict=True)]
            with torch.enable_grad():
                piece = f(*leaves, c)
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            left = iter(torch.autograd.grad(piece, wanted, g))
            for o in out:
                if o is not None:
                    o[start : start + len(g)] = next(left)
            start += len(g)
        return (
            None,
            None,
            *(None if o is None else o.view(t.shape) for o, t in zip(out, tensors, strict=True)),
        )
