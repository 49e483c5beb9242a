"""Fully connected layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hyperkit._checks import width
from hyperkit.nn._base import (
    Activation,
    LorentzCurvature,
    LorentzLayer,
    activation_of,
    lorentz_linear,
    positive,
    share,
)


class LorentzLinear(LorentzLayer):
    """Fully hyperbolic linear layer (Chen et al., HyboNet, ACL 2022), with the curvature respected.

    ``z = W dropout(activation(x)) + b``; the output's time is ``sigmoid(z_0) exp(s) + (1 + 1e-4)/sqrt(c)``
    with a learnable ``s``, its space part has the direction of ``z_s``. The radius is bounded by the scale,
    which keeps deep networks stable without any clamp.

    Parameters
    ----------
    in_features, out_features : int
        Dimensions of the manifolds, so that points have one coordinate more.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    bias : bool
        Add a bias to the matrix product.
    activation : str or callable, optional
        Applied to the input, as in HyboNet.
    dropout : float
        Of the input's coordinates.
    scale : float
        ``exp(s)`` at the start: how far the time may rise above the origin's.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import LorentzLinear, geometry
    >>> layer = LorentzLinear(8, 16)
    >>> layer(geometry("lorentz").random_normal(2, features=8)).shape
    torch.Size([2, 17])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        c: LorentzCurvature = 1.0,
        bias: bool = True,
        activation: Activation = None,
        dropout: float = 0.0,
        scale: float = 10.0,
    ) -> None:
        super().__init__(c)
        positive(in_features=in_features, out_features=out_features)
        share(dropout=dropout)
        if not scale > 0:
            raise ValueError(f"scale must be > 0, got {scale}")
        self.in_features, self.out_features = in_features, out_features
        self.activation = activation_of(activation)
        self.dropout = dropout
        self.weight = nn.Parameter(torch.empty(out_features + 1, in_features + 1))
        self.bias = nn.Parameter(torch.zeros(out_features + 1)) if bias else None
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weights from U(±1/sqrt(d + 1)); the column that reads the input's time starts at zero."""
        bound = (self.out_features + 1) ** -0.5
        self.weight.uniform_(-bound, bound)
        self.weight[:, 0] = 0.0
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map points ``(*, in_features + 1)`` to points ``(*, out_features + 1)``."""
        width(x, self.in_features + 1, "x", "in_features + 1")
        if self.activation is not None:
            x = self.activation(x)
        if self.dropout and self.training:
            x = nn.functional.dropout(x, self.dropout)
        return lorentz_linear(x, self.weight, self.bias, self.log_scale, self.c)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class EuclideanLinear(nn.Module):
    """Euclidean twin of :class:`LorentzLinear`: the same arguments, ``W dropout(activation(x)) + b``.

    `c` and `scale` are accepted so that models are written once, and have no meaning here.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        c: LorentzCurvature = 1.0,
        bias: bool = True,
        activation: Activation = None,
        dropout: float = 0.0,
        scale: float = 10.0,
    ) -> None:
        super().__init__()
        positive(in_features=in_features, out_features=out_features)
        share(dropout=dropout)
        self.in_features, self.out_features = in_features, out_features
        self.activation = activation_of(activation)
        self.dropout = dropout
        self.linear = nn.Linear(in_features, out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(*, in_features)`` to ``(*, out_features)``."""
        width(x, self.in_features, "x", "in_features")
        if self.activation is not None:
            x = self.activation(x)
        if self.dropout and self.training:
            x = nn.functional.dropout(x, self.dropout)
        return self.linear(x)
