"""Residual connection, norms, positions, change of curvature."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hyperkit._checks import width
from hyperkit.manifolds.lorentz import Lorentz
from hyperkit.nn._base import LorentzCurvature, LorentzLayer, one_of, positive
from hyperkit.ops import lorentz as ops

ResidualKind = Literal["midpoint", "space"]


class LorentzResidual(LorentzLayer):
    """Weighted Lorentzian sum ``(x + w y)/sqrt(-c <x + w y, x + w y>)``: a point between both.

    The midpoint commutes with isometries, but each block of a deep network replaces the same share of the
    stream, so that gradients grow or vanish exponentially with the depth. The space coordinates' sum lets the
    stream grow (its radius as the logarithm of the depth); with a norm before each branch gradients then
    keep their size, as in Euclidean networks.

    Parameters
    ----------
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    weight : float
        ``w > 0`` at the start; learnable, as its logarithm.
    kind : {"midpoint", "space"}
        The Lorentzian sum, or ``x_s + w y_s`` with the time over it.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import LorentzResidual
    >>> LorentzResidual()(torch.tensor([1.25, 0.75]), torch.tensor([1.25, -0.75])).detach()
    tensor([1., 0.])
    """

    def __init__(
        self, *, c: LorentzCurvature = 1.0, weight: float = 1.0, kind: ResidualKind = "midpoint"
    ) -> None:
        super().__init__(c)
        one_of(kind=(kind, ("midpoint", "space")))
        self.kind = kind
        self.log_weight = _log_weight(weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Join points ``(*, d + 1)`` and ``(*, d + 1)``."""
        weight = self.log_weight.exp()
        if self.kind == "space":
            return ops.from_space(torch.addcmul(x[..., 1:], y[..., 1:], weight), self.c)
        return ops.normalize(torch.addcmul(x, y, weight), self.c, 1.0 + weight)

    def extra_repr(self) -> str:
        return f"kind={self.kind}"


class EuclideanResidual(nn.Module):
    """Euclidean twin of :class:`LorentzResidual`: ``x + w y``, of whatever `kind`."""

    def __init__(
        self, *, c: LorentzCurvature = 1.0, weight: float = 1.0, kind: ResidualKind = "midpoint"
    ) -> None:
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

    Examples
    --------
    >>> from hyperkit.nn import LorentzLayerNorm, geometry
    >>> LorentzLayerNorm(8)(geometry("lorentz").random_normal(2, features=8)).shape
    torch.Size([2, 9])
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


class LorentzRMSNorm(LorentzLayer):
    """Root-mean-square norm of the space coordinates, the time over them.

    Parameters
    ----------
    features : int
        Dimension d of the manifold.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    eps : float
        Added to the mean square.

    Examples
    --------
    >>> from hyperkit.nn import LorentzRMSNorm, geometry
    >>> LorentzRMSNorm(8)(geometry("lorentz").random_normal(2, features=8)).shape
    torch.Size([2, 9])
    """

    def __init__(self, features: int, *, c: LorentzCurvature = 1.0, eps: float = 1e-6) -> None:
        super().__init__(c)
        positive(features=features)
        self.features = features
        self.norm = nn.RMSNorm(features, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map points ``(*, d + 1)`` to points ``(*, d + 1)``."""
        width(x, self.features + 1, "x", "features + 1")
        return ops.from_space(self.norm(x[..., 1:]), self.c)


class LorentzPositionalEncoding(LorentzLayer):
    """Add a learned point for each position by the weighted Lorentzian sum (HyboNet's way).

    Parameters
    ----------
    features : int
        Dimension d of the manifold.
    max_length : int
        Number of positions.
    c : float or Lorentz
        Curvature, > 0, or a manifold.

    Examples
    --------
    >>> from hyperkit.nn import LorentzPositionalEncoding, geometry
    >>> x = geometry("lorentz").random_normal(2, 5, features=8)
    >>> LorentzPositionalEncoding(8, max_length=100)(x).shape
    torch.Size([2, 5, 9])
    """

    def __init__(self, features: int, max_length: int, *, c: LorentzCurvature = 1.0) -> None:
        super().__init__(c)
        positive(features=features, max_length=max_length)
        self.features, self.max_length = features, max_length
        # Space coordinates: no constraint, so that any optimiser may move them.
        self.position = nn.Parameter(torch.randn(max_length, features) * features**-0.5)
        self.residual = LorentzResidual(c=self.manifold)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Encode points ``(*, T, d + 1)``; `start` is the position of the first (step-by-step decoding)."""
        width(x, self.features + 1, "x", "features + 1")
        position = steps(self.position, x, start)
        return self.residual(x, ops.from_space(position, self.c).expand_as(x))


def steps(position: Tensor, x: Tensor, start: int) -> Tensor:
    """Rows of ``(max_length, d)`` for the T steps of `x`, ``(*, T, width)``, from `start` on.

    Raises
    ------
    ValueError
        If `x` has no dimension of steps, or a step lies beyond the table.
    """
    if x.ndim < 2:
        raise ValueError(f"x must have shape (*, T, {x.shape[-1]}), got {tuple(x.shape)}")
    end = start + x.shape[-2]
    if start < 0 or end > len(position):
        raise ValueError(f"positions {start} to {end} are beyond max_length={len(position)}")
    return position[start:end]


class LorentzChangeCurvature(nn.Module):
    """Take points from one curvature to another by scaling: ``sqrt(c_in/c_out) x`` (Hypformer, KDD 2024).

    Distances are multiplied by ``sqrt(c_in/c_out)``. Gradients reach learnable curvatures.

    Parameters
    ----------
    c_in, c_out : float or Lorentz
        Curvatures, > 0, or manifolds.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import LorentzChangeCurvature
    >>> LorentzChangeCurvature(1.0, 4.0)(torch.tensor([1.25, 0.75]))
    tensor([0.6250, 0.3750])
    """

    def __init__(self, c_in: LorentzCurvature, c_out: LorentzCurvature) -> None:
        super().__init__()
        self.source = c_in if isinstance(c_in, Lorentz) else Lorentz(c_in)
        self.target = c_out if isinstance(c_out, Lorentz) else Lorentz(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map points ``(*, d + 1)`` of curvature ``-c_in`` to points of curvature ``-c_out``."""
        c = self.target.c
        return ops.from_space((self.source.c / c) ** 0.5 * x[..., 1:], c)
