"""Residual connection and layer norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperkit._checks import width
from hyperkit.nn._base import LorentzCurvature, LorentzLayer, positive
from hyperkit.ops import lorentz as ops


class LorentzResidual(LorentzLayer):
    """Weighted Lorentzian sum ``(x + w y)/sqrt(-c <x + w y, x + w y>)``: a point between both.

    Parameters
    ----------
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    weight : float
        ``w > 0`` at the start; learnable, as its logarithm.
    """

    def __init__(self, *, c: LorentzCurvature = 1.0, weight: float = 1.0) -> None:
        super().__init__(c)
        self.log_weight = _log_weight(weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Join points ``(*, d + 1)`` and ``(*, d + 1)``."""
        weight = self.log_weight.exp()
        return ops.normalize(torch.addcmul(x, y, weight), self.c, 1.0 + weight)


class EuclideanResidual(nn.Module):
    """Euclidean twin of :class:`LorentzResidual`: ``x + w y``."""

    def __init__(self, *, c: LorentzCurvature = 1.0, weight: float = 1.0) -> None:
        super().__init__()
        self.log_weight = _log_weight(weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Join vectors ``(*, d)`` and ``(*, d)``."""
        return torch.addcmul(x, y, self.log_weight.exp())


def _log_weight(weight: float) -> nn.Parameter:
    if not weight > 0:
        raise ValueError(f"weight must be > 0, got {weight}")
    return nn.Parameter(torch.tensor([weight]).log())


class LorentzLayerNorm(LorentzLayer):
    """Layer norm of the space coordinates, the time over them (Hypformer, KDD 2024).

    Parameters
    ----------
    features : int
        Dimension d of the manifold.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    eps : float
        Added to the variance.
    """

    def __init__(self, features: int, *, c: LorentzCurvature = 1.0, eps: float = 1e-5) -> None:
        super().__init__(c)
        positive(features=features)
        self.features = features
        self.norm = nn.LayerNorm(features, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map points ``(*, d + 1)`` to points ``(*, d + 1)``."""
        width(x, self.features + 1, "x", "features + 1")
        return ops.from_space(self.norm(x[..., 1:]), self.c)


class EuclideanLayerNorm(nn.Module):
    """Euclidean twin of :class:`LorentzLayerNorm`."""

    def __init__(self, features: int, *, c: LorentzCurvature = 1.0, eps: float = 1e-5) -> None:
        super().__init__()
        positive(features=features)
        self.norm = nn.LayerNorm(features, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map vectors ``(*, d)`` to vectors ``(*, d)``."""
        return self.norm(x)
