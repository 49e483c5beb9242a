"""Attention whose values are joined through kernel points (the translation model of arXiv:2306.08862)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hyperkit._checks import full_precision, width
from hyperkit.nn._base import Activation, LorentzCurvature, one_of
from hyperkit.nn._kernel_module import Correlation, KernelTransform
from hyperkit.nn._kernel_rows import join
from hyperkit.nn.attention import KVCache, LorentzAttention, LorentzTransformerBlock, attention_weights
from hyperkit.nn.residual import ResidualKind
from hyperkit.ops import lorentz as ops


class HKAttention(LorentzAttention):
    """Multi-head attention with kernel points in place of the weighted sum of values.

    With queries, keys and values as in :class:`~hyperkit.nn.LorentzAttention`, step i gets from step j the
    point ``v_ij = centroid_k(HLinear_k(v_j (-) v_i), weights d(v_j (-) v_i, k_k))``, and the head's output
    is the centroid of ``v_ij`` over j with the weights ``softmax_j(-d(q_i, k_j)^2/tau)``. Only the values of
    other steps relative to its own reach a step, so put it in a block with a residual
    (:class:`HKTransformerBlock`).

    All heads share the K kernels: each has its own projection of the values before them. Time and memory
    grow with ``T S`` as for any attention; the K transformed values of a pair exist for a block of pairs at
    a time only.

    Parameters
    ----------
    features : int
        Dimension d of the manifold.
    num_heads : int
        Divides `features`.
    num_kernels : int
        K; 5 in the paper.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    dropout : float
        Of the attention weights, while training.
    scale : float
        Of the linear layers.
    score : {"geodesic", "lorentzian"}
        Squared geodesic distance (the paper), or the squared Lorentzian distance (HyboNet), which is one
        matrix product.
    correlation, trainable_kernels, extent, sigma
        As in :class:`~hyperkit.nn.HKConv`. With ``"linear"`` a value counts with the sum of its kernels'
        weights besides its attention.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import HKAttention, geometry
    >>> x = geometry("lorentz").random_normal(2, 5, features=8)
    >>> HKAttention(8, num_heads=2, num_kernels=3)(x, causal=True).shape
    torch.Size([2, 5, 9])
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        num_kernels: int = 5,
        *,
        c: LorentzCurvature = 1.0,
        dropout: float = 0.0,
        scale: float = 10.0,
        score: Literal["geodesic", "lorentzian"] = "geodesic",
        correlation: Correlation = "distance",
        trainable_kernels: bool = False,
        extent: float = 0.66,
        sigma: float | None = None,
    ) -> None:
        super().__init__(features, num_heads, c=c, dropout=dropout, scale=scale, double_backward=True)
        one_of(score=(score, ("geodesic", "lorentzian")))
        self.score = score
        self.kernels = KernelTransform(
            self.head_features,
            self.head_features,
            num_kernels,
            manifold=self.manifold,
            correlation=correlation,
            trainable_kernels=trainable_kernels,
            scale=scale,
            extent=extent,
            sigma=sigma,
        )

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        tau = torch.exp(self.log_temperature)
        if self.score == "geodesic":
            return -ops.pairwise_sqdist(q, k, self.c) / tau
        return 2.0 * ops.pairwise_inner(q, k) / tau

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
        """Attend from `x` to itself, or to `memory`; arguments as in :meth:`LorentzAttention.forward`.

        The centre of a step is the value projection of its own feature, also where it attends to `memory`.
        """
        width(x, self.features + 1, "x", "features + 1")
        q, k, v = self._project(x, 0, 3)
        centre = v
        if memory is not None:
            if cache is not None and cache.memory is not None:
                k, v = cache.memory
            else:
                k, v = self._project(memory, 1, 3)
                if cache is not None:
                    cache.memory = (k, v)
        elif cache is not None:
            k, v = cache.append(k, v)

        with full_precision(x):
            heads = self._join(q, k, v, centre, mask, bias, causal)
        space = heads[..., 1:].transpose(1, 2).flatten(2)
        return self.out(ops.from_space(space, self.c))

    def _join(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        centre: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
        causal: bool,
    ) -> Tensor:
        """Heads' points ``(B, H, T, head_features + 1)``."""
        dropout = self.dropout if self.training else 0.0
        weights = attention_weights(self._scores(q, k), mask, bias, causal, dropout)
        shape = (*weights.shape, v.shape[-1])
        points, reach = self.kernels(
            v.unsqueeze(-3).expand(shape).reshape(-1, shape[-1]),
            centre.unsqueeze(-2).expand(shape).reshape(-1, shape[-1]),
        )
        weights = weights * reach.view(weights.shape)
        mean = (weights.unsqueeze(-2) @ points.view(shape)).squeeze(-2)
        return join(mean, weights.sum(-1, keepdim=True), self.c)

    def extra_repr(self) -> str:
        return f"features={self.features}, num_heads={self.num_heads}, score={self.score!r}"


class HKTransformerBlock(LorentzTransformerBlock):
    """:class:`~hyperkit.nn.LorentzTransformerBlock` with :class:`HKAttention`.

    Parameters
    ----------
    features, num_heads, ffn_features, dropout, activation, c, norm, cross, scale
        As in :class:`~hyperkit.nn.LorentzTransformerBlock`.
    num_kernels : int
        K.
    residual : {"midpoint", "space"}
        As there. A direction between near values is made of little, so the layer's own derivative is large:
        midpoints multiply the gradient by 2 and more a block where heads have 4 features.
    score, correlation, trainable_kernels, extent, sigma
        As in :class:`HKAttention`.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import HKTransformerBlock, geometry
    >>> x = geometry("lorentz").random_normal(2, 5, features=8)
    >>> HKTransformerBlock(8, num_heads=2, num_kernels=3)(x).shape
    torch.Size([2, 5, 9])
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        num_kernels: int = 5,
        ffn_features: int | None = None,
        dropout: float = 0.0,
        activation: Activation = "gelu",
        *,
        c: LorentzCurvature = 1.0,
        norm: bool = True,
        cross: bool = False,
        scale: float = 10.0,
        residual: ResidualKind = "space",
        score: Literal["geodesic", "lorentzian"] = "geodesic",
        correlation: Correlation = "distance",
        trainable_kernels: bool = False,
        extent: float = 0.66,
        sigma: float | None = None,
    ) -> None:
        super().__init__(
            features,
            num_heads,
            ffn_features,
            dropout,
            activation,
            c=c,
            norm=norm,
            cross=cross,
            scale=scale,
            residual=residual,
        )

        def attention() -> HKAttention:
            return HKAttention(
                features,
                num_heads,
                num_kernels,
                c=self.manifold,
                dropout=dropout,
                scale=scale,
                score=score,
                correlation=correlation,
                trainable_kernels=trainable_kernels,
                extent=extent,
                sigma=sigma,
            )

        self.attention = attention()
        self.cross = attention() if cross else None
