"""Multinomial logistic regression: logits from distances to trainable points."""

from __future__ import annotations

import geoopt
import torch
from torch import Tensor, nn

from hyperkit._checks import floats, full_precision, width
from hyperkit.nn._base import LorentzCurvature, LorentzLayer, positive
from hyperkit.ops import lorentz as ops


def _rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``weight x + bias`` for a weight shared by all rows ``(K, D)``, or one for each ``(*, K, D)``."""
    if weight.ndim == 2:
        return nn.functional.linear(x, weight, bias)
    out = (weight @ x.unsqueeze(-1)).squeeze(-1)
    return out if bias is None else out + bias


class LorentzMLR(LorentzLayer):
    """Logits ``-|x - c_i|_L^2 + b_i = 2/c + 2 <x, c_i> + b_i`` (HAEGAN's HCDist), one matrix product.

    The squared Lorentzian distance (Law et al., ICML 2019) grows with the geodesic distance d as
    ``2 (cosh(sqrt(c) d) - 1)/c``.

    Parameters
    ----------
    features : int
        Dimension d of the manifold.
    num_classes : int
        Number of trainable points, a :class:`geoopt.ManifoldParameter` ``(num_classes, d + 1)``: give them to
        a Riemannian optimiser.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    bias : bool
        Add a bias for each class.

    Examples
    --------
    >>> from hyperkit.nn import LorentzMLR, geometry
    >>> LorentzMLR(8, num_classes=3)(geometry("lorentz").random_normal(2, features=8)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self, features: int, num_classes: int, *, c: LorentzCurvature = 1.0, bias: bool = True
    ) -> None:
        super().__init__(c)
        positive(features=features, num_classes=num_classes)
        self.features, self.num_classes = features, num_classes
        start = self.manifold.random_normal(num_classes, features + 1, std=features**-0.5)
        self.centroids = geoopt.ManifoldParameter(start, manifold=self.manifold)  # type: ignore[call-arg]
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias else None

    def _points(self) -> Tensor:
        points = self.centroids
        # A learnable curvature moves the times of points that are stored.
        return ops.projx(points, self.c) if self.manifold.learnable else points

    def _logits(self, x: Tensor, points: Tensor, bias: Tensor | None) -> Tensor:
        (x,) = floats(x=x)
        weight = torch.cat([-2.0 * points[..., :1], 2.0 * points[..., 1:]], -1)
        shift = 2.0 / self.c
        with full_precision(x):
            if bias is None:
                return _rows(x, weight, None) + shift
            return _rows(x, weight, bias + shift)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(*, num_classes)`` of points ``(*, d + 1)``."""
        width(x, self.features + 1, "x", "features + 1")
        return self._logits(x, self._points(), self.bias)

    def subset(self, x: Tensor, index: Tensor) -> Tensor:
        """Logits for some classes only.

        Parameters
        ----------
        x : Tensor
            Points ``(*, d + 1)``.
        index : Tensor
            Classes ``(K)`` for all points, or ``(*, K)`` for each point its own.

        Returns
        -------
        Tensor
            Shape ``(*, K)``.
        """
        width(x, self.features + 1, "x", "features + 1")
        return self._logits(x, self._points()[index], None if self.bias is None else self.bias[index])

    def against(self, x: Tensor, points: Tensor) -> Tensor:
        """Logits (without bias) against given points ``(K, d + 1)``, or ``(*, K, d + 1)`` for each row."""
        width(x, self.features + 1, "x", "features + 1")
        width(points, self.features + 1, "points", "features + 1")
        return self._logits(x, points, None)


class EuclideanMLR(nn.Module):
    """Euclidean twin of :class:`LorentzMLR`: logits ``-|x - c_i|^2 + b_i``."""

    def __init__(
        self, features: int, num_classes: int, *, c: LorentzCurvature = 1.0, bias: bool = True
    ) -> None:
        super().__init__()
        positive(features=features, num_classes=num_classes)
        self.features, self.num_classes = features, num_classes
        self.centroids = nn.Parameter(torch.randn(num_classes, features) * features**-0.5)
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias else None

    def _logits(self, x: Tensor, points: Tensor, bias: Tensor | None) -> Tensor:
        shift = -points.square().sum(-1)
        out = _rows(x, 2.0 * points, shift if bias is None else bias + shift)
        return out - x.square().sum(-1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(*, num_classes)`` of vectors ``(*, d)``."""
        width(x, self.features, "x", "features")
        return self._logits(x, self.centroids, self.bias)

    def subset(self, x: Tensor, index: Tensor) -> Tensor:
        """Logits for the classes ``(K)`` or ``(*, K)`` only; see :meth:`LorentzMLR.subset`."""
        width(x, self.features, "x", "features")
        return self._logits(x, self.centroids[index], None if self.bias is None else self.bias[index])

    def against(self, x: Tensor, points: Tensor) -> Tensor:
        """Logits (without bias) against given points ``(K, d)``, or ``(*, K, d)`` for each row."""
        width(x, self.features, "x", "features")
        return self._logits(x, points, None)
