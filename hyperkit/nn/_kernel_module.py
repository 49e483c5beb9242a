"""The parameters of K kernels and their call: what HKConv and the kernel attention share."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from hyperkit.manifolds.lorentz import Lorentz
from hyperkit.manifolds.poincare import PoincareBall
from hyperkit.nn._base import Activation, activation_of, one_of, positive, share
from hyperkit.nn._kernel_points import kernel_points
from hyperkit.nn._kernel_rows import Rule, Shared, by_blocks
from hyperkit.ops import lorentz as ops

Correlation = Literal["distance", "linear", "gaussian", "learned"]
CORRELATIONS = ("distance", "linear", "gaussian", "learned")
# Widths in units of 1/sqrt(c). HyboNet's linear layer puts points at radius 2 to 3, so that neighbours are a
# few units apart and a reach of 4 loses few of them.
_SIGMA = {"linear": 4.0, "gaussian": 1.0}


class KernelTransform(nn.Module):
    """K linear layers, joined by the centroid with weights from the distances to K kernel points.

    Works on pairs (neighbour, centre) in Lorentz coordinates; see :class:`~hyperkit.nn.HKConv` for the
    arguments. With a :class:`~hyperkit.PoincareBall` the linear layers are those of HNN++.
    """

    kernel_tangents: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_kernels: int,
        *,
        manifold: Lorentz | PoincareBall,
        correlation: Correlation = "distance",
        trainable_kernels: bool = False,
        bias: bool = True,
        activation: Activation = None,
        dropout: float = 0.0,
        scale: float = 10.0,
        extent: float = 0.66,
        sigma: float | None = None,
    ) -> None:
        super().__init__()
        positive(in_features=in_features, out_features=out_features, num_kernels=num_kernels)
        one_of(correlation=(correlation, CORRELATIONS))
        share(dropout=dropout)
        if not scale > 0:
            raise ValueError(f"scale must be > 0, got {scale}")
        if sigma is not None and correlation not in _SIGMA:
            raise ValueError(f"sigma has no meaning with correlation={correlation!r}, got {sigma}")
        c = manifold.c
        c = float(c.detach()) if isinstance(c, Tensor) else c
        if sigma is None:
            sigma = _SIGMA.get(correlation, 1.0) / math.sqrt(c)
        if not sigma > 0:
            raise ValueError(f"sigma must be > 0, got {sigma}")
        self.in_features, self.out_features, self.num_kernels = in_features, out_features, num_kernels
        self.manifold, self.dropout, self.sigma = manifold, dropout, float(sigma)
        self.correlation, self.activation = correlation, activation_of(activation)
        self.model = "poincare" if isinstance(manifold, PoincareBall) else "lorentz"

        tangents = kernel_points(num_kernels, in_features, c, extent).to(torch.get_default_dtype())
        if trainable_kernels:
            self.kernel_tangents = nn.Parameter(tangents)
        else:
            # In the state dict: a model keeps its kernels should a later version solve for others.
            self.register_buffer("kernel_tangents", tangents)
        self.trainable_kernels = trainable_kernels
        lorentz = self.model == "lorentz"
        shape = (num_kernels, out_features + lorentz, in_features + lorentz)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(shape[:2])) if bias else None
        self.log_scale = nn.Parameter(torch.full((num_kernels,), math.log(scale))) if lorentz else None
        learned = correlation == "learned"
        # Near kernels weigh more at the start.
        self.mix = nn.Parameter(-torch.eye(num_kernels)) if learned else None
        self.mix_bias = nn.Parameter(torch.zeros(num_kernels)) if learned else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw each kernel's weights as :class:`~hyperkit.nn.LorentzLinear` or ``PoincareLinear`` does."""
        if self.model == "poincare":
            self.weight.normal_(std=(2 * self.in_features) ** -0.5)
        else:
            bound = (self.out_features + 1) ** -0.5
            self.weight.uniform_(-bound, bound)
            self.weight[..., 0] = 0.0
        if self.bias is not None:
            self.bias.zero_()

    def points(self) -> Tensor:
        """Kernel points ``(K, in_features + 1)`` in Lorentz coordinates, at the present curvature."""
        return ops.expmap0(nn.functional.pad(self.kernel_tangents, (1, 0)), self.manifold.c)

    def forward(self, neighbour: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Points ``(R, o + 1)`` and their weights ``(R, 1)`` for R pairs ``(R, d + 1)``."""
        if neighbour.dtype != self.weight.dtype:
            raise TypeError(
                f"x is {neighbour.dtype} but the layer's weights are {self.weight.dtype}: "
                "give both the same dtype"
            )
        c = self.manifold.c
        keep = None
        if self.dropout and self.training:
            # Drawn here and not in the rows, whose forward pass is run again on the way back.
            keep = nn.functional.dropout(torch.ones_like(neighbour), self.dropout)
        fixed = None if isinstance(c, Tensor) else c
        rule = Rule(self.model, self.correlation, self.sigma, self.activation, fixed)
        shared = Shared(
            self.points(),
            self.weight,
            self.bias,
            self.log_scale,
            self.mix,
            self.mix_bias,
            c if isinstance(c, Tensor) else None,
        )
        return by_blocks(rule, neighbour, centre, keep, shared)
