"""Poincaré ball: layer and RMS norm, positions, the Transformer block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperkit._checks import width
from hyperkit.nn._base import Activation, positive
from hyperkit.nn.attention import KVCache, _Block
from hyperkit.nn.poincare import BallCurvature, BallLayer, PoincareLinear
from hyperkit.nn.poincare_attention import PoincareAttention
from hyperkit.nn.poincare_points import BallResidualKind, PoincareResidual
from hyperkit.nn.residual import steps
from hyperkit.ops._rows import ball_from_space, ball_to_space


class _SpaceNorm(BallLayer):
    """A norm of torch.nn on the space coordinates ``2 x/(1 - c |x|^2)`` of the Lorentz point.

    These grow as ``sinh(r)``: normalised to a length of ``sqrt(d)`` they are at radius ``asinh(sqrt(d))``,
    where a tangent vector of that length would be at ``2 sqrt(d)``, beyond float32's ball from d = 64 on.
    """

    def __init__(self, features: int, c: BallCurvature) -> None:
        super().__init__(c)
        positive(features=features)
        self.features = features
        self.norm: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Map points ``(*, d)`` to points ``(*, d)``."""
        width(x, self.features, "x", "features")
        return ball_from_space(self.norm(ball_to_space(x, self.c)), self.c)


class PoincareLayerNorm(_SpaceNorm):
    """:class:`~hyperkit.nn.LorentzLayerNorm` in the coordinates of the ball: the same map of points.

    Parameters
    ----------
    features : int
        Dimension d of the ball.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.
    eps : float
        Added to the variance.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareLayerNorm
    >>> PoincareLayerNorm(8)(0.1 * torch.randn(2, 8)).shape
    torch.Size([2, 8])
    """

    def __init__(self, features: int, *, c: BallCurvature = 1.0, eps: float = 1e-5) -> None:
        super().__init__(features, c)
        self.norm = nn.LayerNorm(features, eps=eps)


class PoincareRMSNorm(_SpaceNorm):
    """:class:`~hyperkit.nn.LorentzRMSNorm` in the coordinates of the ball: the same map of points.

    Parameters
    ----------
    features : int
        Dimension d of the ball.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.
    eps : float
        Added to the mean square.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareRMSNorm
    >>> PoincareRMSNorm(8)(0.1 * torch.randn(2, 8)).shape
    torch.Size([2, 8])
    """

    def __init__(self, features: int, *, c: BallCurvature = 1.0, eps: float = 1e-6) -> None:
        super().__init__(features, c)
        self.norm = nn.RMSNorm(features, eps=eps)


class PoincarePositionalEncoding(BallLayer):
    """Join each step with a learned point for its position by the weighted Einstein midpoint.

    Parameters
    ----------
    features : int
        Dimension d of the ball.
    max_length : int
        Number of positions.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincarePositionalEncoding
    >>> PoincarePositionalEncoding(8, max_length=100)(0.1 * torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, features: int, max_length: int, *, c: BallCurvature = 1.0) -> None:
        super().__init__(c)
        positive(features=features, max_length=max_length)
        self.features, self.max_length = features, max_length
        # Space coordinates of Lorentz points: no constraint, so that any optimiser may move them.
        self.position = nn.Parameter(torch.randn(max_length, features) * features**-0.5)
        self.residual = PoincareResidual(c=self.manifold)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Encode points ``(*, T, d)``; `start` is the position of the first (step-by-step decoding).

        Raises
        ------
        ValueError
            If a position is beyond `max_length`, or the width is not `features`.
        """
        width(x, self.features, "x", "features")
        return self.residual(x, ball_from_space(steps(self.position, x, start), self.c))

    def extra_repr(self) -> str:
        return f"features={self.features}, max_length={self.max_length}"


class PoincareTransformerBlock(BallLayer, _Block):
    """Attention, residual, feed-forward, residual; all on the Poincaré ball.

    The twin of :class:`~hyperkit.nn.LorentzTransformerBlock`, of :class:`~hyperkit.nn.PoincareAttention`,
    residuals and :class:`~hyperkit.nn.PoincareLinear` layers.

    Parameters
    ----------
    features : int
        Dimension d of the ball.
    num_heads : int
        Divides `features`.
    ffn_features : int, optional
        Width of the feed-forward layer, ``4 features`` by default.
    dropout : float
        Of attention weights and of the feed-forward layers' inputs.
    activation : str or callable, optional
        Of the feed-forward layer, on tangent vectors at the origin.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.
    norm : bool
        Layer norm before attention and feed-forward.
    cross : bool
        Attend to a memory after the self-attention.
    score : {"distance", "inner"}
        See :class:`~hyperkit.nn.PoincareAttention`.
    residual : {"space", "midpoint", "mobius"}
        See :class:`~hyperkit.nn.PoincareResidual`; without the norms ``"midpoint"`` keeps the radius.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareTransformerBlock
    >>> PoincareTransformerBlock(8, num_heads=2)(0.1 * torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        ffn_features: int | None = None,
        dropout: float = 0.0,
        activation: Activation = "gelu",
        *,
        c: BallCurvature = 1.0,
        norm: bool = True,
        cross: bool = False,
        score: str = "distance",
        residual: BallResidualKind = "space",
    ) -> None:
        super().__init__(c)
        m = self.manifold
        hidden = ffn_features or 4 * features

        def attention() -> PoincareAttention:
            return PoincareAttention(features, num_heads, c=m, dropout=dropout, score=score)

        def join() -> PoincareResidual:
            return PoincareResidual(c=m, kind=residual)

        self.attention = attention()
        self.cross = attention() if cross else None
        self.residual1, self.residual2 = join(), join()
        self.residual3 = join() if cross else None
        self.norm1 = PoincareLayerNorm(features, c=m) if norm else None
        self.norm2 = PoincareLayerNorm(features, c=m) if norm else None
        self.norm3 = PoincareLayerNorm(features, c=m) if norm and cross else None
        self.ffn1 = PoincareLinear(features, hidden, c=m, dropout=dropout)
        self.ffn2 = PoincareLinear(hidden, features, c=m, dropout=dropout, activation=activation)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        causal: bool = False,
        memory_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Map points ``(B, T, d)`` to points; arguments as in :meth:`PoincareAttention.forward`.

        `memory` and `memory_mask` are for a block with ``cross=True``. One cache serves both attentions.

        Raises
        ------
        TypeError
            If a mask is not boolean.
        ValueError
            If a shape does not fit, or `memory` is missing or not wanted.
        """
        return self._forward(x, memory, mask, bias, causal, memory_mask, cache)
