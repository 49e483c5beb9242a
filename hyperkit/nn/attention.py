"""Multi-head attention and the Transformer block, Lorentz and Euclidean, with a cache for decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from hyperkit._checks import full_precision, width
from hyperkit.nn._base import Activation, LorentzCurvature, LorentzLayer, lorentz_tail, positive, share
from hyperkit.nn.linear import EuclideanLinear, LorentzLinear
from hyperkit.nn.residual import (
    EuclideanLayerNorm,
    EuclideanResidual,
    LorentzLayerNorm,
    LorentzResidual,
    ResidualKind,
)
from hyperkit.ops import lorentz as ops


class KVCache:
    """Keys and values of the steps so far, for decoding step by step. Make one for each attention layer.

    Its buffers are written in place: decode under ``torch.no_grad()``, and train with whole sequences.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import EuclideanAttention, KVCache
    >>> attention, cache = EuclideanAttention(8, 2).eval(), KVCache()
    >>> x = torch.randn(1, 3, 8)
    >>> steps = [attention(x[:, i : i + 1], causal=True, cache=cache) for i in range(3)]
    >>> torch.allclose(torch.cat(steps, 1), attention(x, causal=True), atol=1e-6)
    True
    """

    def __init__(self) -> None:
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._length = 0
        self.memory: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return self._length

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add steps ``(B, H, T, k)``; return all keys and values so far. The buffers double when full."""
        end = self._length + key.shape[2]
        keys, values = self._keys, self._values
        if keys is None or values is None or end > keys.shape[2]:
            room = max(16, 2 * end)
            wide_k = key.new_empty(*key.shape[:2], room, key.shape[3])
            wide_v = value.new_empty(*value.shape[:2], room, value.shape[3])
            if keys is not None and values is not None:
                wide_k[:, :, : self._length] = keys[:, :, : self._length]
                wide_v[:, :, : self._length] = values[:, :, : self._length]
            self._keys, self._values = keys, values = wide_k, wide_v
        keys[:, :, self._length : end] = key
        values[:, :, self._length : end] = value
        self._length = end
        return keys[:, :, :end], values[:, :, :end]

    def select(self, index: Tensor) -> None:
        """Keep the batch rows `index` (indices or booleans), in that order: finished rows, beam search."""
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._keys[index], self._values[index]
        if self.memory is not None:
            self.memory = (self.memory[0][index], self.memory[1][index])


def seen(mask: Tensor | None, causal: bool, scores: Sequence[int], device: torch.device) -> Tensor | None:
    """The mask and the causal order as one mask for scores of a shape ``(*, T, S)``.

    Raises
    ------
    TypeError
        If `mask` is not boolean.
    """
    steps, keys = scores[-2:]
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean (True = may attend), got {mask.dtype}; use bias for numbers")
    if causal and steps > 1:
        lower = torch.ones(steps, keys, dtype=torch.bool, device=device).tril(keys - steps)
        return lower if mask is None else mask & lower
    return mask


def attention_weights(
    scores: Tensor, mask: Tensor | None, bias: Tensor | None, causal: bool, dropout: float
) -> Tensor:
    """Softmax of ``(*, T, S)`` over the keys that a step may see; all 0 where it may see none."""
    if bias is not None:
        scores = scores + bias
    mask = seen(mask, causal, scores.shape, scores.device)
    if mask is not None:
        # The lowest finite number: a row without keys gets equal weights, and is emptied after the softmax.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    if mask is not None:
        weights = weights * mask
    return nn.functional.dropout(weights, dropout) if dropout else weights


class _Projects(Protocol):
    def _project(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]: ...


def query_key_value(
    layer: _Projects, x: Tensor, memory: Tensor | None, cache: KVCache | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of `x`, keys and values of `x` or of `memory`; the cache adds the steps before."""
    if memory is None:
        q, k, v = layer._project(x, 0, 3)
        return (q, k, v) if cache is None else (q, *cache.append(k, v))
    (q,) = layer._project(x, 0, 1)
    if cache is not None and cache.memory is not None:
        return (q, *cache.memory)
    k, v = layer._project(memory, 1, 3)
    if cache is not None:
        cache.memory = (k, v)
    return q, k, v


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    causal: bool,
    dropout: float,
    double_backward: bool,
) -> Tensor:
    """``softmax(q k^T + bias) v``, zero where every key of a row is masked; q carries the scale."""
    if not double_backward:
        steps, keys = q.shape[-2], k.shape[-2]
        extra = mask = seen(mask, causal, (steps, keys), q.device)
        if bias is not None:
            extra = bias.to(q.dtype) if mask is None else bias.to(q.dtype).masked_fill(~mask, -math.inf)
        if extra is not None:
            extra = extra.expand(*q.shape[:2], steps, keys)
        return nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=extra, dropout_p=dropout, scale=1.0
        )
    return attention_weights(q @ k.transpose(-1, -2), mask, bias, causal, dropout) @ v


def _sizes(features: int, num_heads: int, dropout: float) -> int:
    positive(features=features, num_heads=num_heads)
    if features % num_heads:
        raise ValueError(f"features must be divisible by num_heads={num_heads}, got {features}")
    share(dropout=dropout)
    return features // num_heads


class LorentzAttention(LorentzLayer):
    """Multi-head attention with the squared Lorentzian distance as its score.

    Queries, keys and values are Lorentz linear layers, one for each head, all in one matrix product. The
    score is ``-|q - k|_L^2/tau = (2/c + 2 <q, k>)/tau`` with a learnable temperature ``tau`` for each head;
    the constant cancels in the softmax, so a score is an inner product. Values are joined by the Lorentz
    centroid, heads by direct concatenation and a Lorentz linear layer (Chen et al., HyboNet, ACL 2022).

    Parameters
    ----------
    features : int
        Dimension d of the manifold.
    num_heads : int
        Divides `features`.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    dropout : float
        Of the attention weights, while training.
    scale : float
        Of the linear layers, see :class:`~hyperkit.nn.LorentzLinear`.
    double_backward : bool
        Write the softmax out instead of calling the fused kernel, which has no second derivative on the CPU.
        Needed under a gradient penalty.

    Examples
    --------
    >>> from hyperkit.nn import LorentzAttention, geometry
    >>> x = geometry("lorentz").random_normal(2, 5, features=8)
    >>> LorentzAttention(8, num_heads=2)(x, causal=True).shape
    torch.Size([2, 5, 9])
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        *,
        c: LorentzCurvature = 1.0,
        dropout: float = 0.0,
        scale: float = 10.0,
        double_backward: bool = False,
    ) -> None:
        super().__init__(c)
        self.head_features = _sizes(features, num_heads, dropout)
        self.features, self.num_heads, self.dropout = features, num_heads, dropout
        self.double_backward = double_backward
        rows = 3 * num_heads * (self.head_features + 1)
        self.in_weight = nn.Parameter(torch.empty(rows, features + 1))
        self.in_bias = nn.Parameter(torch.zeros(rows))
        self.log_scale = nn.Parameter(torch.full((3, num_heads, 1), math.log(scale)))
        self.log_temperature = nn.Parameter(torch.full((num_heads, 1, 1), 0.5 * math.log(features)))
        self.out = LorentzLinear(features, features, c=self.manifold, scale=scale)
        with torch.no_grad():
            bound = (features + 1) ** -0.5
            self.in_weight.uniform_(-bound, bound)
            self.in_weight[:, 0] = 0.0

    def _project(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        """Projections `first` to `last` of (query, key, value) as points ``(B, H, T, head_features + 1)``."""
        size = self.num_heads * (self.head_features + 1)
        z = nn.functional.linear(
            x, self.in_weight[first * size : last * size], self.in_bias[first * size : last * size]
        )
        z = z.view(*x.shape[:2], last - first, self.num_heads, self.head_features + 1)
        return lorentz_tail(z, self.log_scale[first:last], self.c).permute(2, 0, 3, 1, 4).unbind(0)

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
            Points ``(B, T, d + 1)``.
        memory : Tensor, optional
            Points ``(B, S, d + 1)`` to attend to in place of `x`.
        mask : Tensor, optional
            Boolean, True where a query may see a key; broadcasts to ``(B, H, T, S)``.
        bias : Tensor, optional
            Added to the scores; broadcasts to ``(B, H, T, S)``.
        causal : bool
            A step sees itself and earlier ones. With a cache the steps of `x` are the last ones.
        cache : KVCache, optional
            Self-attention: keys and values of `x` are appended to it, and all of it is seen (S counts the
            cached steps). With `memory`: its keys and values are computed at the first call only.

        Returns
        -------
        Tensor
            Points ``(B, T, d + 1)``. A query that may see no key gets the origin as its centroid.
        """
        width(x, self.features + 1, "x", "features + 1")
        q, k, v = query_key_value(self, x, memory, cache)
        # The Minkowski sign, the factor 2 and the temperature go into the query.
        factor = 2.0 * torch.exp(-self.log_temperature).expand(-1, 1, q.shape[-1])
        sign = torch.ones(q.shape[-1], dtype=q.dtype, device=q.device)
        sign[0] = -1.0
        dropout = self.dropout if self.training else 0.0
        with full_precision(x):
            mean = _attend(q * (factor * sign), k, v, mask, bias, causal, dropout, self.double_backward)
        total: Tensor | float = 1.0
        if dropout:
            # The weights left add up to an unknown, maybe tiny number. The result does not depend on the
            # scale of the mean, so it is made about 1 first; where nothing is left the mean is 0: the origin.
            size = mean[..., :1].detach()
            kept = size > 1e-30
            mean = mean / torch.where(kept, size, torch.ones_like(size)) * kept
            total = kept * torch.finfo(mean.dtype).eps ** 0.5
        points = ops.normalize(mean, self.c, total)
        heads = points[..., 1:].transpose(1, 2).flatten(2)
        return self.out(ops.from_space(heads, self.c))

    def extra_repr(self) -> str:
        return f"features={self.features}, num_heads={self.num_heads}"


class EuclideanAttention(nn.Module):
    """Euclidean twin of :class:`LorentzAttention`: scaled dot-product attention with the same arguments."""

    def __init__(
        self,
        features: int,
        num_heads: int,
        *,
        c: LorentzCurvature = 1.0,
        dropout: float = 0.0,
        scale: float = 10.0,
        double_backward: bool = False,
    ) -> None:
        super().__init__()
        self.head_features = _sizes(features, num_heads, dropout)
        self.features, self.num_heads, self.dropout = features, num_heads, dropout
        self.double_backward = double_backward
        self.in_proj = nn.Linear(features, 3 * features)
        self.out = EuclideanLinear(features, features)

    def _project(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        rows = slice(first * self.features, last * self.features)
        z = nn.functional.linear(x, self.in_proj.weight[rows], self.in_proj.bias[rows])
        z = z.view(*x.shape[:2], last - first, self.num_heads, self.head_features)
        return z.permute(2, 0, 3, 1, 4).unbind(0)

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
        """Attend from `x` ``(B, T, d)``; arguments as in :meth:`LorentzAttention.forward`."""
        width(x, self.features, "x", "features")
        q, k, v = query_key_value(self, x, memory, cache)
        dropout = self.dropout if self.training else 0.0
        q = q * self.head_features**-0.5
        mean = _attend(q, k, v, mask, bias, causal, dropout, self.double_backward)
        return self.out(mean.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        return f"features={self.features}, num_heads={self.num_heads}"


class _Block:
    """The forward pass that both Transformer blocks share; their layers differ."""

    def _forward(self, x, memory, mask, bias, causal, memory_mask, cache):  # type: ignore[no-untyped-def]
        h = self.norm1(x) if self.norm1 is not None else x  # type: ignore[attr-defined]
        x = self.residual1(x, self.attention(h, mask=mask, bias=bias, causal=causal, cache=cache))  # type: ignore[attr-defined]
        if self.cross is not None:  # type: ignore[attr-defined]
            if memory is None:
                raise ValueError("memory must be given to a block made with cross=True, got None")
            h = self.norm3(x) if self.norm3 is not None else x  # type: ignore[attr-defined]
            x = self.residual3(x, self.cross(h, memory, mask=memory_mask, cache=cache))  # type: ignore[attr-defined]
        elif memory is not None:
            raise ValueError("memory is read only by a block made with cross=True")
        h = self.norm2(x) if self.norm2 is not None else x  # type: ignore[attr-defined]
        return self.residual2(x, self.ffn2(self.ffn1(h)))  # type: ignore[attr-defined]


class LorentzTransformerBlock(LorentzLayer, _Block):
    """Attention, residual, feed-forward, residual; all on the Lorentz model.

    Parameters
    ----------
    features : int
        Dimension d of the manifold.
    num_heads : int
        Divides `features`.
    ffn_features : int, optional
        Width of the feed-forward layer, ``4 features`` by default.
    dropout : float
        Of attention weights and of the feed-forward layers' inputs.
    activation : str or callable, optional
        Of the feed-forward layer.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    norm : bool
        Layer norm before attention and feed-forward.
    cross : bool
        Attend to a memory after the self-attention.
    scale : float
        Of the linear layers.
    double_backward : bool
        See :class:`LorentzAttention`.
    residual : {"midpoint", "space"}
        See :class:`~hyperkit.nn.LorentzResidual`; ``"space"``, with the norms, for many blocks.

    Examples
    --------
    >>> from hyperkit.nn import LorentzTransformerBlock, geometry
    >>> x = geometry("lorentz").random_normal(2, 5, features=8)
    >>> LorentzTransformerBlock(8, num_heads=2)(x).shape
    torch.Size([2, 5, 9])
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        ffn_features: int | None = None,
        dropout: float = 0.0,
        activation: Activation = "gelu",
        *,
        c: LorentzCurvature = 1.0,
        norm: bool = True,
        cross: bool = False,
        scale: float = 10.0,
        double_backward: bool = False,
        residual: ResidualKind = "midpoint",
    ) -> None:
        super().__init__(c)
        m = self.manifold
        hidden = ffn_features or 4 * features

        def attention() -> LorentzAttention:
            return LorentzAttention(
                features, num_heads, c=m, dropout=dropout, scale=scale, double_backward=double_backward
            )

        def join() -> LorentzResidual:
            return LorentzResidual(c=m, kind=residual)

        self.attention = attention()
        self.cross = attention() if cross else None
        self.residual1, self.residual2 = join(), join()
        self.residual3 = join() if cross else None
        self.norm1 = LorentzLayerNorm(features, c=m) if norm else None
        self.norm2 = LorentzLayerNorm(features, c=m) if norm else None
        self.norm3 = LorentzLayerNorm(features, c=m) if norm and cross else None
        self.ffn1 = LorentzLinear(features, hidden, c=m, dropout=dropout, scale=scale)
        self.ffn2 = LorentzLinear(hidden, features, c=m, dropout=dropout, activation=activation, scale=scale)

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
        """Map points ``(B, T, d + 1)`` to points; arguments as in :meth:`LorentzAttention.forward`.

        `memory` and `memory_mask` are for a block with ``cross=True``. One cache serves both attentions.
        """
        return self._forward(x, memory, mask, bias, causal, memory_mask, cache)


class EuclideanTransformerBlock(nn.Module, _Block):
    """Euclidean twin of :class:`LorentzTransformerBlock`, with the same arguments."""

    def __init__(
        self,
        features: int,
        num_heads: int,
        ffn_features: int | None = None,
        dropout: float = 0.0,
        activation: Activation = "gelu",
        *,
        c: LorentzCurvature = 1.0,
        norm: bool = True,
        cross: bool = False,
        scale: float = 10.0,
        double_backward: bool = False,
        residual: ResidualKind = "midpoint",
    ) -> None:
        super().__init__()
        hidden = ffn_features or 4 * features

        def attention() -> EuclideanAttention:
            return EuclideanAttention(features, num_heads, dropout=dropout, double_backward=double_backward)

        self.attention = attention()
        self.cross = attention() if cross else None
        self.residual1, self.residual2 = EuclideanResidual(), EuclideanResidual()
        self.residual3 = EuclideanResidual() if cross else None
        self.norm1 = EuclideanLayerNorm(features) if norm else None
        self.norm2 = EuclideanLayerNorm(features) if norm else None
        self.norm3 = EuclideanLayerNorm(features) if norm and cross else None
        self.ffn1 = EuclideanLinear(features, hidden, dropout=dropout)
        self.ffn2 = EuclideanLinear(hidden, features, dropout=dropout, activation=activation)

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
        """Map ``(B, T, d)`` to ``(B, T, d)``; arguments as in :meth:`LorentzTransformerBlock.forward`."""
        return self._forward(x, memory, mask, bias, causal, memory_mask, cache)
