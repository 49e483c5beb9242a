"""What the layers share: the curvature, activations by name, and the linear layer's tail."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hyperkit._checks import curvature, floats
from hyperkit.manifolds.lorentz import Lorentz
from hyperkit.ops import _fused
from hyperkit.ops import lorentz as ops
from hyperkit.ops._rows import plain

Activation = str | Callable[[Tensor], Tensor] | None
LorentzCurvature = float | Lorentz
"""A fixed curvature, or a :class:`~hyperkit.Lorentz` manifold, whose curvature may be learnable."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
    "elu": nn.functional.elu,
    "leaky_relu": nn.functional.leaky_relu,
}


def activation_of(activation: Activation) -> Callable[[Tensor], Tensor] | None:
    """The function meant by a name, or the callable itself, or None.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if isinstance(activation, str):
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {sorted(_ACTIVATIONS)}, got {activation!r}")
        return _ACTIVATIONS[activation]
    return activation


def positive(**values: int) -> None:
    """Refuse sizes below 1, by name."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")


def one_of(**values: tuple[str, tuple[str, ...]]) -> None:
    """Refuse a value that is not among those accepted; ``name=(value, accepted)``."""
    for name, (value, accepted) in values.items():
        if value not in accepted:
            raise ValueError(f"{name} must be one of {list(accepted)}, got {value!r}")


def share(**values: float) -> None:
    """Refuse what is no share to drop, by name."""
    for name, value in values.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name} must be in [0, 1), got {value}")


class LorentzLayer(nn.Module):
    """A layer on the Lorentz model; holds its manifold."""

    def __init__(self, c: LorentzCurvature) -> None:
        super().__init__()
        self.manifold = c if isinstance(c, Lorentz) else Lorentz(c)

    @property
    def c(self) -> float | Tensor:
        """Curvature of the layer's manifold."""
        return self.manifold.c


# How far the time of a linear layer's output stays above that of the origin (HyboNet's constant), in units of
# 1/sqrt(c): the radius is bounded below, so that the direction of the output is always defined.
TIME_MARGIN = 1e-4
# Under the root of the space part's squared norm: makes the direction of a vanishing vector smooth.
SPACE_EPS = 1e-8


def _scalars(z: Tensor, log_scale: Tensor, c: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(q, sigmoid, excess, f2)``: squared space norm, gate, time above the origin, squared space factor."""
    root = c**-0.5
    zs = z[..., 1:]
    if torch.is_grad_enabled():
        q = (zs * zs).sum(-1, keepdim=True)
    else:
        q = torch.linalg.vector_norm(zs, dim=-1, keepdim=True).square()
    gate = torch.sigmoid(z[..., :1])
    excess = gate * log_scale.exp() + TIME_MARGIN * root
    return q, gate, excess, excess * (excess + 2.0 * root) / (q + SPACE_EPS)


def _tail_backward(z: Tensor, log_scale: Tensor, grad: Tensor, c: float, scalars) -> tuple[Tensor, Tensor]:
    """Gradients of the tail for `z` and `log_scale`; itself differentiable when gradients are enabled."""
    q, gate, excess, f2 = scalars
    root = c**-0.5
    zs, gs, g0 = z[..., 1:], grad[..., 1:], grad[..., :1]
    f = torch.sqrt(f2)
    twice_t = 2.0 * torch.sqrt(f2 * q + 1.0 / c)
    product = gs * zs
    by_f2 = product.sum(-1, keepdim=True) / (2.0 * f) + g0 * q / twice_t
    by_q = g0 * f2 / twice_t - by_f2 * f2 / (q + SPACE_EPS)
    by_excess = by_f2 * (2.0 * excess + 2.0 * root) / (q + SPACE_EPS)
    by_scale = by_excess * gate * log_scale.exp()
    by_z0 = by_scale * (1.0 - gate)
    grad_scale = by_scale.sum_to_size(log_scale.shape)
    if torch.is_grad_enabled():
        return torch.cat([by_z0, f * gs + (2.0 * by_q) * zs], -1), grad_scale
    grad_z = torch.empty_like(z)
    grad_z[..., :1] = by_z0
    space = torch.mul(gs, f, out=product)
    torch.addcmul(space, zs, 2.0 * by_q, out=grad_z[..., 1:])
    return grad_z, grad_scale


class _Tail(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, log_scale: Tensor, c: float) -> Tensor:
        ctx.c = c
        out = _fused.tail(z, log_scale, c)
        if out is not None:
            ctx.save_for_backward(z, log_scale)
            return out
        scalars = _scalars(z, log_scale, c)
        q, _, _, f2 = scalars
        out = torch.empty_like(z)
        torch.mul(z[..., 1:], torch.sqrt(f2), out=out[..., 1:])
        out[..., :1] = torch.sqrt(f2 * q + 1.0 / c)
        ctx.save_for_backward(z, log_scale, *scalars)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        z, log_scale, *scalars = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for: the scalars must depend on z
            return *_tail_backward(z, log_scale, grad, ctx.c, _scalars(z, log_scale, ctx.c)), None
        if not scalars:
            return *_fused.tail_backward(z, log_scale, grad, ctx.c), None
        return *_tail_backward(z, log_scale, grad, ctx.c, scalars), None


class _Linear(torch.autograd.Function):
    """The product and its tail, which overwrites the product: kept are the layer's inputs and its points."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, log_scale: Tensor, c: float) -> Tensor:
        out, kept = _fused.linear(x, weight, bias, log_scale, c)
        ctx.save_for_backward(x, weight, bias, log_scale, out, kept)
        ctx.c = c
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        x, weight, bias, log_scale, out, kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():  # a second derivative is asked for: the product is made again
            z = nn.functional.linear(x, weight, bias)
            gz, by_scale = _tail_backward(z, log_scale, grad, ctx.c, _scalars(z, log_scale, ctx.c))
            flat = gz.flatten(0, -2)
            by_x = gz @ weight if wanted[0] else None
            by_weight = flat.T @ x.flatten(0, -2) if wanted[1] else None
            by_bias = flat.sum(0) if wanted[2] else None
            return by_x, by_weight, by_bias, by_scale, None
        found = _fused.linear_backward(
            x, weight, bias, log_scale, ctx.c, out, kept, grad, wanted[0], wanted[1]
        )
        return *(g if n else None for g, n in zip(found, wanted, strict=True)), None


def lorentz_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, log_scale: Tensor, c: float | Tensor
) -> Tensor:
    """Product ``x weight^T + bias`` and :func:`lorentz_tail`, for one scale in one compiled operator."""
    if not _fused.takes_linear(x, weight, bias, log_scale, c):
        return lorentz_tail(nn.functional.linear(x, weight, bias), log_scale, c)
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias, log_scale, c)
    return _fused.linear(x, weight, bias, log_scale, c)[0]  # type: ignore[arg-type]


def lorentz_tail(z: Tensor, log_scale: Tensor, c: float | Tensor) -> Tensor:
    """Make points of the outputs of a matrix product: HyboNet's linear layer after its matrix.

    The time wanted is ``T = sigmoid(z_0) exp(log_scale) + (1 + 1e-4)/sqrt(c)``; the space part ``z_s`` is
    scaled by ``sqrt((T^2 - 1/c)/(|z_s|^2 + 1e-8))`` and the time follows from it, so the output is on the
    hyperboloid of any curvature, also where ``z_s`` vanishes. One hand-written gradient with few passes over
    memory; its own derivative (for a gradient penalty) is right as well.

    Parameters
    ----------
    z : Tensor
        Shape ``(*, d + 1)``.
    log_scale : Tensor
        Broadcasts with ``(*, 1)``.
    c : float or Tensor
        Curvature, > 0.

    Returns
    -------
    Tensor
        Points, shape ``(*, d + 1)``.
    """
    c = curvature(c)
    (z,) = floats(z=z)
    if plain(c):
        zs = z[..., 1:]
        root = c**-0.5
        excess = torch.sigmoid(z[..., :1]) * log_scale.exp() + TIME_MARGIN * root
        q = (zs * zs).sum(-1, keepdim=True)
        return ops.from_space(torch.sqrt(excess * (excess + 2.0 * root) / (q + SPACE_EPS)) * zs, c)
    return _Tail.apply(z, log_scale, c)
