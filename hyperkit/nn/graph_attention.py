"""Graph attention on edge lists, padded neighbours and dense adjacency matrices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hyperkit._checks import full_precision, width
from hyperkit.nn._base import Activation, LorentzCurvature, LorentzLayer, activation_of, lorentz_tail
from hyperkit.nn._pairs import Pairs, pairs, unpack
from hyperkit.nn.attention import _attend, _sizes
from hyperkit.ops import lorentz as ops


class LorentzGraphAttention(LorentzLayer):
    """Multi-head attention over the neighbours of each node, by Lorentzian distance.

    Queries, keys and values are Lorentz linear layers (one for each head, one matrix product). A neighbour j
    of node i has the weight ``w_ij exp(-|q_i - k_j|_L^2/tau)``, normalised over the neighbourhood, with a
    learnable temperature ``tau`` for each head; the heads' values are joined by the Lorentz centroid and
    direct concatenation. This is the attention of HyboNet (Chen et al., ACL 2022), restricted to edges as in
    GAT (Veličković et al., ICLR 2018).

    Parameters
    ----------
    in_features, out_features : int
        Dimensions of the manifolds.
    num_heads : int
        Divides `out_features`.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    activation : str or callable, optional
        Applied to the input, as in :class:`~hyperkit.nn.LorentzLinear`.
    dropout : float
        Of the attention weights, while training.
    scale : float
        Of the linear layers, see :class:`~hyperkit.nn.LorentzLinear`.
    self_loop : bool
        Count a node among its neighbours, with weight 1.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import LorentzGraphAttention, geometry
    >>> layer = LorentzGraphAttention(8, 6, num_heads=2)
    >>> x = geometry("lorentz").random_normal(3, features=8)
    >>> layer(x, edge_index=torch.tensor([[0, 1, 2], [1, 2, 0]])).shape
    torch.Size([3, 7])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_heads: int = 1,
        *,
        c: LorentzCurvature = 1.0,
        activation: Activation = None,
        dropout: float = 0.0,
        scale: float = 10.0,
        self_loop: bool = True,
    ) -> None:
        super().__init__(c)
        self.head_features = _sizes(out_features, num_heads, dropout)
        if in_features < 1:
            raise ValueError(f"in_features must be >= 1, got {in_features}")
        if not scale > 0:
            raise ValueError(f"scale must be > 0, got {scale}")
        self.in_features, self.out_features, self.num_heads = in_features, out_features, num_heads
        self.dropout, self.self_loop = dropout, self_loop
        self.activation = activation_of(activation)
        rows = 3 * num_heads * (self.head_features + 1)
        self.weight = nn.Parameter(torch.empty(rows, in_features + 1))
        self.bias = nn.Parameter(torch.zeros(rows))
        self.log_scale = nn.Parameter(torch.full((3, num_heads, 1), math.log(scale)))
        self.log_temperature = nn.Parameter(torch.full((num_heads,), 0.5 * math.log(out_features)))
        with torch.no_grad():
            bound = (in_features + 1) ** -0.5
            self.weight.uniform_(-bound, bound)
            self.weight[:, 0] = 0.0

    def forward(
        self,
        x: Any,
        adjacency: Tensor | None = None,
        *,
        edge_index: Tensor | None = None,
        edge_weight: Tensor | None = None,
        neighbors: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Apply the layer to one of three forms of a graph.

        Parameters
        ----------
        x : Tensor or object
            Nodes ``(N, in_features + 1)``, with `adjacency` ``(*, N, in_features + 1)``; or an object with
            attributes `x` and `edge_index`, such as PyG's ``Data``.
        adjacency : Tensor, optional
            Weights >= 0 (or booleans) ``(*, N, N)``; row i holds the neighbours of node i.
        edge_index : Tensor, optional
            Source and target nodes, ``(2, E)``.
        edge_weight : Tensor, optional
            Weights >= 0, ``(E)``, or ``(N, M)`` with `neighbors`.
        neighbors, mask : Tensor, optional
            Padded neighbours ``(N, M)``, see :meth:`hyperkit.nn.HKConv.forward`.

        Returns
        -------
        Tensor
            Points ``(*, N, out_features + 1)``; a node without neighbours is the origin.

        Raises
        ------
        TypeError, ValueError
            If the graph is given twice or not at all, or a shape or dtype does not fit.
        """
        if not isinstance(x, Tensor):
            x, edge_index, edge_weight = unpack(x, edge_index, neighbors, edge_weight)
        width(x, self.in_features + 1, "x", "in_features + 1")
        if adjacency is not None and (edge_index is not None or neighbors is not None):
            raise ValueError("give one of adjacency, edge_index and neighbors, and not two")
        h = x if self.activation is None else self.activation(x)
        z = nn.functional.linear(h, self.weight, self.bias)
        z = z.view(*x.shape[:-1], 3, self.num_heads, self.head_features + 1)
        points = lorentz_tail(z, self.log_scale, self.c)
        if adjacency is not None:
            return self._dense(points, adjacency)
        return self._sparse(points, pairs(x, edge_index, neighbors, mask, edge_weight, self.self_loop))

    def _scaled(self, q: Tensor) -> Tensor:
        """Queries with the Minkowski sign, the factor 2 and the temperature: a score is a dot product."""
        sign = torch.ones(q.shape[-1], dtype=q.dtype, device=q.device)
        sign[0] = -1.0
        return q * (2.0 * torch.exp(-self.log_temperature).unsqueeze(-1) * sign)

    def _join(self, mean: Tensor, total: Tensor) -> Tensor:
        """Means of the values ``(*, H, head_features + 1)`` to points ``(*, out_features + 1)``.

        `total` ``(*, H, 1)`` is the weight in the mean: 1, or 0 for a node without neighbours.
        """
        if self.dropout and self.training:
            # The weights left add up to an unknown number; the result does not depend on the mean's scale.
            size = mean[..., :1].detach()
            kept = size > 1e-30
            mean = mean / torch.where(kept, size, torch.ones_like(size)) * kept
            total = kept * torch.finfo(mean.dtype).eps ** 0.5
        heads = ops.normalize(mean, self.c, total)[..., 1:]
        return ops.from_space(heads.flatten(-2), self.c)

    def _dense(self, points: Tensor, adjacency: Tensor) -> Tensor:
        n = points.shape[-4]
        if adjacency.shape[-2:] != (n, n):
            raise ValueError(
                f"adjacency must end in ({n}, {n}) for x with {n} nodes, got shape {tuple(adjacency.shape)}"
            )
        if self.self_loop:
            adjacency = adjacency + torch.eye(n, dtype=adjacency.dtype, device=adjacency.device)
        q, k, v = points.movedim(-3, 0).unbind(0)  # each (*, N, H, head_features + 1)
        q, k, v = (t.transpose(-2, -3) for t in (self._scaled(q), k, v))
        weights = adjacency.to(q.dtype).unsqueeze(-3)
        seen = weights > 0
        bias = torch.log(torch.where(seen, weights, torch.ones_like(weights)))
        dropout = self.dropout if self.training else 0.0
        with full_precision(q):
            mean = _attend(q, k, v, seen, bias, False, dropout, True)
        some = seen.any(-1, keepdim=True).to(q.dtype).expand(*mean.shape[:-1], 1)
        return self._join(mean.transpose(-2, -3), some.transpose(-2, -3))

    def _sparse(self, points: Tensor, graph: Pairs) -> Tensor:
        q, k, v = points.unbind(-3)  # each (N, H, head_features + 1)
        score = (self._scaled(q)[graph.target] * k[graph.source]).sum(-1)
        if graph.weight is not None:
            seen = graph.weight > 0
            log_weight = torch.log(torch.where(seen, graph.weight, torch.ones_like(graph.weight)))
            score = torch.where(seen, score + log_weight, -torch.inf)
        # The largest score of a neighbourhood: it cancels, so it needs no derivative.
        with torch.no_grad():
            top = torch.stack([graph.max(s) for s in score.unbind(-1)], -1)
            top = torch.where(top.isfinite(), top, torch.zeros_like(top))
        weights = torch.exp(score - top[graph.target])
        total = graph.sum(weights)
        if self.dropout and self.training:
            weights = nn.functional.dropout(weights, self.dropout)
        values = weights.unsqueeze(-1) * v[graph.source]
        summed = graph.sum(values.flatten(1)).view_as(v)
        some = (total > 0).unsqueeze(-1)
        mean = summed / torch.where(some, total.unsqueeze(-1), 1.0)
        return self._join(mean, some.to(mean.dtype))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, num_heads={self.num_heads}"
