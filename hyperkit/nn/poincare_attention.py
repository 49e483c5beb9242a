"""Multi-head attention on the Poincaré ball."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hyperkit._checks import full_precision, width
from hyperkit.nn.attention import KVCache, _sizes, attention_weights, query_key_value
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

    def _project(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        """Projections `first` to `last` of (query, key, value) as Lorentz points of the heads."""
        return tuple(self._heads(layer(x)) for layer in (self.query, self.key, self.value)[first:last])

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
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
        bias : Tensor, optional
            Added to the scores; broadcasts to ``(B, H, T, S)``.
        causal : bool
            A step sees itself and earlier ones. With a cache the steps of `x` are the last ones.
        cache : KVCache, optional
            As in :meth:`LorentzAttention.forward`.

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
        c = self.c
        q, k, v = query_key_value(self, x, memory, cache)
        if self.score == "distance":
            scores = -lorentz.cdist(q, k, c)
        else:
            scores = 2.0 / c + 2.0 * lorentz.pairwise_inner(q, k)
        scores = scores * torch.exp(-self.log_temperature)
        weights = attention_weights(scores, mask, bias, causal, self.dropout if self.training else 0.0)
        total = weights.sum(-1, keepdim=True)
        # The midpoint does not see the scale of the weights; dropout must not make it tiny.
        weights = weights / torch.where(total > 0, total, torch.ones_like(total))
        # Nothing bounds the radius of the values. In float64 their sum keeps its digits to radius 15; the
        # time comes from the wide space coordinates.
        wide = lorentz.from_space(v[..., 1:].double(), c)
        with full_precision(x):
            mean = weights.double() @ wide
        points = lorentz.normalize(mean, c, (total > 0).to(mean.dtype)).to(v.dtype)
        heads = 0.5 * lorentz.logmap0(points, c)[..., 1:].transpose(1, 2).flatten(2)
        return self.out(poincare.expmap0(self._beta * heads, c))

    def extra_repr(self) -> str:
        return f"features={self.features}, num_heads={self.num_heads}, score={self.score}"
