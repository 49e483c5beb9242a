"""Multi-head attention on the Poincaré ball."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hyperkit._checks import full_precision, width
from hyperkit.nn.attention import _sizes
from hyperkit.nn.poincare import BallCurvature, BallLayer, PoincareLinear
from hyperkit.nn.poincare_points import beta_ratio
from hyperkit.ops import lorentz, poincare


class PoincareAttention(BallLayer):
    """Multi-head attention of ball points (Gulcehre et al., ICLR 2019; Shimizu et al., HNN++, ICLR 2021).

    Queries, keys and values are Poincaré linear layers, cut into heads by the inverse of the
    beta-concatenation. The score is ``-d(q, k)/tau`` (or, as a matrix product, minus the squared Lorentzian
    distance over tau) with a learnable temperature for each head; values are joined by the Einstein midpoint,
    heads by beta-concatenation and a linear layer.

    Parameters
    ----------
    features : int
        Dimension d of the ball.
    num_heads : int
        Divides `features`.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.
    dropout : float
        Of the attention weights, while training.
    score : {"distance", "inner"}
        The geodesic distance, all digits at any radius, with temporaries of ``B T S d`` numbers; or the
        inner product, in ``B H T S`` numbers.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareAttention
    >>> PoincareAttention(8, 2)(0.1 * torch.randn(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        *,
        c: BallCurvature = 1.0,
        dropout: float = 0.0,
        score: str = "distance",
    ) -> None:
        super().__init__(c)
        self.head_features = _sizes(features, num_heads, dropout)
        if score not in ("distance", "inner"):
            raise ValueError(f"score must be 'distance' or 'inner', got {score!r}")
        self.features, self.num_heads, self.dropout, self.score = features, num_heads, dropout, score
        m = self.manifold
        self.query, self.key = (
            PoincareLinear(features, features, c=m),
            PoincareLinear(features, features, c=m),
        )
        self.value, self.out = (
            PoincareLinear(features, features, c=m),
            PoincareLinear(features, features, c=m),
        )
        self.log_temperature = nn.Parameter(torch.full((num_heads, 1, 1), 0.5 * math.log(features)))
        self._beta = beta_ratio(features, self.head_features)

    def _heads(self, x: Tensor) -> Tensor:
        """Points ``(B, T, d)`` to the Lorentz points of the heads, ``(B, H, T, head_features + 1)``."""
        v = poincare.logmap0(x, self.c) / self._beta
        v = v.unflatten(-1, (self.num_heads, self.head_features)).transpose(1, 2)
        # The tangent vector of the same point in the Lorentz model has twice the coordinates.
        return lorentz.expmap0(nn.functional.pad(2.0 * v, (1, 0)), self.c)

    def forward(
        self, x: Tensor, memory: Tensor | None = None, *, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attend from `x` to itself, or to `memory`.

        Parameters
        ----------
        x : Tensor
            Points ``(B, T, d)``.
        memory : Tensor, optional
            Points ``(B, S, d)`` to attend to in place of `x`.
        mask : Tensor, optional
            Boolean, True where a query may see a key; broadcasts to ``(B, H, T, S)``.
        causal : bool
            A step sees itself and earlier ones.

        Returns
        -------
        Tensor
            Points ``(B, T, d)``. A query that may see no key gets the origin as its midpoint.

        Raises
        ------
        TypeError
            If `mask` is not boolean.
        ValueError
            If a shape does not fit.
        """
        width(x, self.features, "x", "features")
        if x.ndim != 3:
            raise ValueError(f"x must have shape (B, T, features), got {tuple(x.shape)}")
        if mask is not None and mask.dtype != torch.bool:
            raise TypeError(f"mask must be boolean (True = may be seen), got {mask.dtype}")
        source = x if memory is None else memory
        c = self.c
        q, k = self._heads(self.query(x)), self._heads(self.key(source))
        v = self._heads(self.value(source))
        if self.score == "distance":
            scores = -lorentz.cdist(q, k, c)
        else:
            scores = 2.0 / c + 2.0 * lorentz.pairwise_inner(q, k)
        scores = scores * torch.exp(-self.log_temperature)
        steps, keys = scores.shape[-2:]
        if causal:
            lower = torch.ones(steps, keys, dtype=torch.bool, device=x.device).tril(keys - steps)
            mask = lower if mask is None else mask & lower
        if mask is not None:
            # The lowest finite number: a row without keys gets equal weights, emptied after the softmax.
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        if mask is not None:
            weights = weights * mask
        if self.dropout and self.training:
            weights = nn.functional.dropout(weights, self.dropout)
        total = weights.sum(-1, keepdim=True)
        # The midpoint does not see the scale of the weights; dropout must not make it tiny.
        weights = weights / torch.where(total > 0, total, torch.ones_like(total))
        with full_precision(x):
            mean = weights @ v
        points = lorentz.normalize(mean, c, (total > 0).to(mean.dtype))
        heads = 0.5 * lorentz.logmap0(points, c)[..., 1:].transpose(1, 2).flatten(2)
        return self.out(poincare.expmap0(self._beta * heads, c))

    def extra_repr(self) -> str:
        return f"features={self.features}, num_heads={self.num_heads}, score={self.score}"
