"""Layers on the Poincaré ball: linear, logistic regression, embedding (Shimizu et al., HNN++, ICLR 2021)."""

from __future__ import annotations

import geoopt
import torch
from torch import Tensor, nn

from hyperkit._checks import floats, full_precision, width
from hyperkit.manifolds.poincare import PoincareBall
from hyperkit.nn._base import Activation, activation_of, positive, share
from hyperkit.ops import _fused
from hyperkit.ops import poincare as ops
from hyperkit.ops._rows import ball_from_space

BallCurvature = float | PoincareBall
"""A fixed curvature, or a :class:`~hyperkit.PoincareBall`, whose curvature may be learnable."""


class BallLayer(nn.Module):
    """A layer on the Poincaré ball; holds its manifold."""

    def __init__(self, c: BallCurvature) -> None:
        super().__init__()
        self.manifold = c if isinstance(c, PoincareBall) else PoincareBall(c)

    @property
    def c(self) -> float | Tensor:
        """Curvature of the layer's manifold."""
        return self.manifold.c


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None, c: float | Tensor) -> Tensor:
    """``v_k = 2 |z_k|/sqrt(c) asinh(sqrt(c) (X.u_k cosh(2 sqrt(c) r_k) - X_0 sinh(2 sqrt(c) r_k)))``.

    ``u_k = z_k/|z_k|``; the paper's conformal factors are the Lorentz coordinates ``X = 2 x/g`` and
    ``X_0 = (2/g - 1)/sqrt(c)`` of the point. One matrix product.
    """
    root = c**0.5
    (x,) = floats(x=x)
    factor = ops.conformal(x, c, keepdim=True)
    norm = torch.linalg.vector_norm(weight, dim=-1)
    with full_precision(x):
        along = nn.functional.linear(factor * x, weight / norm.unsqueeze(-1))
    if bias is None:
        inside = root * along
    else:
        turn = 2.0 * root * bias
        inside = root * along * torch.cosh(turn) - (factor - 1.0) * torch.sinh(turn)
    return (2.0 / root) * norm * torch.asinh(inside)


def point_from_logits(logits: Tensor, c: float | Tensor) -> Tensor:
    """The point whose signed distances to the axes are ``v_k``: ``w/(1 + sqrt(1 + c |w|^2))``, ``(*, d)``.

    ``w_k = sinh(sqrt(c) v_k)/sqrt(c)`` is the space part of its Lorentz point. The sinh ends at 1e17 in
    float32 (1e130 in float64), where its square is still finite: a point with such a coordinate is far beyond
    the last radius of the format (15.9, 36), and :func:`hyperkit.ops.poincare.projx` takes it to the edge.
    """
    root = c**0.5
    far = 40.0 if logits.dtype == torch.float32 else 300.0
    w = torch.sinh(torch.clamp(root * logits, -far, far)) / root
    return ball_from_space(w, c)


def ball_tail(
    z: Tensor,
    space: Tensor,
    time: Tensor,
    gain: Tensor,
    tilt: Tensor,
    power: Tensor,
    c: float | Tensor,
) -> Tensor:
    """Make points of the outputs of a matrix product or a convolution: the layers of HNN++ after it.

    The point's signed distances to the axes (:func:`point_from_logits`) are ``u_k/sqrt(c)`` with
    ``u_k = power_k asinh(gain_k space z_k - tilt_k time)``. In one compiled operator where there is one.

    Parameters
    ----------
    z : Tensor
        Inner products with the normals of the hyperplanes, ``(*, d)``.
    space, time : Tensor
        What makes them those of the Lorentz point, and ``sqrt(c)`` times its time, ``(*, 1)``, > 0.
    gain, tilt, power : Tensor
        Of :func:`hyperplanes`, ``(d)``.
    c : float or Tensor
        Curvature, > 0.
    """
    out = _fused.ball_tail(z, space, time, gain, tilt, power, c)
    if out is not None:
        return out
    inside = gain * (space * z) - tilt * time
    return point_from_logits(power * torch.asinh(inside) / c**0.5, c)


def hyperplanes(weight: Tensor, bias: Tensor | None, c: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gain, tilt and power of :func:`ball_tail` for normals ``(d, *)`` and offsets ``(d)`` along them.

    ``sqrt(c) cosh(2 sqrt(c) r_k)/|z_k|``, ``sinh(2 sqrt(c) r_k)`` and ``2 |z_k|``.
    """
    root = c**0.5
    norm = torch.linalg.vector_norm(weight.flatten(1), dim=-1)
    if bias is None:
        return root / norm, torch.zeros_like(norm), 2.0 * norm
    turn = 2.0 * root * bias
    return root * torch.cosh(turn) / norm, torch.sinh(turn), 2.0 * norm


class PoincareMLR(BallLayer):
    """Multinomial logistic regression: signed, scaled distances to hyperplanes, unidirectional form of HNN++.

    A hyperplane is given by its normal ``z_k`` at the origin and its offset ``r_k`` along it; all parameters
    are Euclidean.

    Parameters
    ----------
    features : int
        Dimension d of the ball.
    num_classes : int
        Number of hyperplanes.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.
    bias : bool
        Learn offsets; without, all hyperplanes go through the origin.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareMLR
    >>> PoincareMLR(8, num_classes=3)(torch.zeros(2, 8)).shape
    torch.Size([2, 3])
    """

    def __init__(self, features: int, num_classes: int, *, c: BallCurvature = 1.0, bias: bool = True) -> None:
        super().__init__(c)
        positive(features=features, num_classes=num_classes)
        self.features = features
        self.weight = nn.Parameter(torch.randn(num_classes, features) * features**-0.5)
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(*, num_classes)`` of points ``(*, d)``."""
        width(x, self.features, "x", "features")
        return _logits(x, self.weight, self.bias, self.c)


class PoincareLinear(BallLayer):
    """Fully connected layer of HNN++: the output's signed distances to the axes are the logits of the input.

    ``y = w/(1 + sqrt(1 + c |w|^2))`` with ``w_k = sinh(sqrt(c) v_k(x))/sqrt(c)``; ``w`` is the space part of
    the output's Lorentz point.

    Parameters
    ----------
    in_features, out_features : int
        Dimensions of the balls.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.
    bias : bool
        Learn offsets.
    activation : str or callable, optional
        Applied to the input's tangent vector at the origin, before the dropout.
    dropout : float
        Of the coordinates of that vector, while training.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareLinear
    >>> PoincareLinear(8, 3)(torch.zeros(2, 8)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        c: BallCurvature = 1.0,
        bias: bool = True,
        activation: Activation = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(c)
        positive(in_features=in_features, out_features=out_features)
        share(dropout=dropout)
        self.in_features, self.out_features = in_features, out_features
        self.activation, self.dropout = activation_of(activation), dropout
        # Near the origin the layer is y = 2 W x: rows of norm 1/2 keep the size of a point, however deep.
        self.weight = nn.Parameter(torch.randn(out_features, in_features) * 0.5 * in_features**-0.5)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map points ``(*, in_features)`` to points ``(*, out_features)``."""
        width(x, self.in_features, "x", "in_features")
        dropout = self.dropout if self.training else 0.0
        if self.activation is not None or dropout:
            v = ops.logmap0(x, self.c)
            if self.activation is not None:
                v = self.activation(v)
            x = ops.expmap0(nn.functional.dropout(v, dropout) if dropout else v, self.c)
        (x,) = floats(x=x)
        space = ops.conformal(x, self.c, keepdim=True)
        with full_precision(x):
            z = nn.functional.linear(x, self.weight)
        return ball_tail(z, space, space - 1.0, *hyperplanes(self.weight, self.bias, self.c), self.c)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class PoincareEmbedding(BallLayer):
    """Embedding whose rows are points of the ball (Nickel and Kiela, NeurIPS 2017).

    The table is a :class:`geoopt.ManifoldParameter`: give it to a Riemannian optimiser.

    Parameters
    ----------
    num_embeddings : int
        Size of the vocabulary.
    features : int
        Dimension d of the ball.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.
    std : float
        Spread of the points at the start (wrapped normal).
    sparse : bool
        Sparse gradients; :class:`hyperkit.optim.RiemannianAdam` and ``RiemannianSGD`` take them.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareEmbedding
    >>> PoincareEmbedding(100, 8)(torch.tensor([[3, 1, 4]])).shape
    torch.Size([1, 3, 8])
    """

    def __init__(
        self,
        num_embeddings: int,
        features: int,
        c: BallCurvature = 1.0,
        *,
        std: float = 1e-2,
        sparse: bool = False,
    ) -> None:
        super().__init__(c)
        positive(num_embeddings=num_embeddings, features=features)
        start = self.manifold.random_normal(num_embeddings, features, std=std)
        self.weight = geoopt.ManifoldParameter(start, manifold=self.manifold)  # type: ignore[call-arg]
        self.sparse = sparse

    def forward(self, index: Tensor) -> Tensor:
        """Map indices ``(*)`` to points ``(*, d)``."""
        return nn.functional.embedding(index, self.weight, sparse=self.sparse)
