"""Functions of one number per row, analytic at zero.

Every norm enters the geometry through its square, so that a vanishing vector has first and second
derivatives. Near zero a power series is used: not for the value (``sinh(n)/n`` is accurate everywhere) but
because the derivatives of the closed form divide by ``n``. Both sides of each ``where`` get an argument for
which they are finite, otherwise a NaN of the side not taken would reach the gradient as ``0 * NaN``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

_SINHC = tuple(1.0 / math.factorial(2 * k + 1) for k in range(8))
_COSH = tuple(1.0 / math.factorial(2 * k) for k in range(8))
_ASINHC = tuple((-1) ** k * math.comb(2 * k, k) / 4**k / (2 * k + 1) for k in range(13))
_TANHC_INV = tuple(1.0 / (2 * k + 1) for k in range(13))


def _even(q: Tensor, below: float, series: tuple[float, ...], single: int, closed: Callable) -> Tensor:
    """Evaluate a function even in ``n = sqrt(q)``: series for ``q < below``, ``closed(n)`` elsewhere.

    `single` is the number of terms that are enough for float32.
    """
    small = q < below
    near = torch.where(small, q, 0.0)
    far = torch.where(small, 1.0, q)
    terms = series if q.dtype == torch.float64 else series[:single]
    poly = torch.full_like(q, terms[-1])
    for a in terms[-2::-1]:
        poly = poly * near + a
    return torch.where(small, poly, closed(torch.sqrt(far)))


def sinhc(q: Tensor) -> Tensor:
    """``sinh(n)/n`` with ``n = sqrt(q)``."""
    return _even(q, 0.5, _SINHC, 5, lambda n: torch.sinh(n) / n)


def cosh(q: Tensor) -> Tensor:
    """``cosh(n)`` with ``n = sqrt(q)``."""
    return _even(q, 0.5, _COSH, 6, torch.cosh)


def asinhc(q: Tensor) -> Tensor:
    """``asinh(n)/n`` with ``n = sqrt(q)``."""
    return _even(q, 0.06, _ASINHC, 6, lambda n: torch.asinh(n) / n)


def tanhc(q: Tensor) -> Tensor:
    """``tanh(n)/n`` with ``n = sqrt(q)``."""
    small = q < 0.5
    near = torch.where(small, q, 0.0)
    n = torch.sqrt(torch.where(small, 1.0, q))
    return torch.where(small, sinhc(near) / cosh(near), torch.tanh(n) / n)


def safe_sqrt(q: Tensor) -> Tensor:
    """``sqrt(q)`` with derivative 0 at ``q = 0``: the zero subgradient, as torch has it for a norm.

    For squares: below 0 there is only rounding, and the result is 0. NaN stays NaN.
    """
    none = q <= 0
    return torch.where(none, 0.0, torch.sqrt(torch.where(none, 1.0, q)))


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean inner product over the last dimension, kept."""
    return (x * y).sum(-1, keepdim=True)


def plain() -> bool:
    """Whether to leave hand-written gradients: for the compiler to fuse, for vmap and jvp to transform."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


class _Square(torch.autograd.Function):
    """Squared norm of rows in one pass without a temporary; its gradient is ``2 g x``."""

    @staticmethod
    def forward(ctx, x: Tensor, wide: bool) -> Tensor:
        ctx.save_for_backward(x)
        dtype = torch.float64 if wide else None
        return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=dtype).square()

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return x * (2.0 * grad).to(x.dtype), None


def sq(x: Tensor) -> Tensor:
    """Squared Euclidean norm over the last dimension, kept."""
    if plain():
        return (x * x).sum(-1, keepdim=True)
    return _Square.apply(x, False)


def wide_sq(x: Tensor) -> Tensor:
    """The same in float64, for float32 input."""
    if plain():
        return x.double().square().sum(-1, keepdim=True)
    return _Square.apply(x, True)
