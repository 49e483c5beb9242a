"""Graph convolution on dense adjacency matrices and on edge lists."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperkit._checks import full_precision
from hyperkit.nn._base import Activation, LorentzCurvature, LorentzLayer
from hyperkit.nn.linear import EuclideanLinear, LorentzLinear
from hyperkit.nn.pooling import weighted_mean
from hyperkit.ops import lorentz as ops


def _gather(
    h: Tensor,
    adjacency: Tensor | None,
    edge_index: Tensor | None,
    edge_weight: Tensor | None,
    self_loop: bool,
) -> tuple[Tensor, Tensor]:
    """Sum of the neighbours' vectors and of their weights, for either form of a graph."""
    if (adjacency is None) == (edge_index is None):
        raise ValueError("give either adjacency or edge_index, and not both")
    if adjacency is not None:
        if adjacency.shape[-2:] != (h.shape[-2], h.shape[-2]):
            raise ValueError(
                f"adjacency must end in ({h.shape[-2]}, {h.shape[-2]}) for x with {h.shape[-2]} nodes, "
                f"got shape {tuple(adjacency.shape)}"
            )
        weights = adjacency.to(h.dtype)
        total = weights.sum(-1, keepdim=True)
        with full_precision(h):
            summed = weights @ h
    else:
        assert edge_index is not None
        if h.ndim != 2 or edge_index.ndim != 2 or edge_index.shape[0] != 2:
            raise ValueError(
                f"edge_index must have shape (2, E) with x of shape (N, D), got {tuple(edge_index.shape)} "
                f"and {tuple(h.shape)}"
            )
        source, target = edge_index
        message = h[source]
        weight = h.new_ones(source.shape[0], 1) if edge_weight is None else edge_weight.unsqueeze(-1)
        if edge_weight is not None:
            message = message * weight
        summed = torch.zeros_like(h).index_add(0, target, message)
        total = h.new_zeros(h.shape[0], 1).index_add(0, target, weight)
    if self_loop:
        return summed + h, total + 1.0
    return summed, total


class LorentzGraphConv(LorentzLayer):
    """Graph convolution (HAEGAN's HGCN): a linear layer, then the weighted centroid of the neighbours.

    Parameters
    ----------
    in_features, out_features : int
        Dimensions of the manifolds.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    bias, activation, dropout, scale
        As in :class:`~hyperkit.nn.LorentzLinear`.
    self_loop : bool
        Count a node among its neighbours, with weight 1 (instead of writing it into the adjacency).

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import LorentzGraphConv, geometry
    >>> x = geometry("lorentz").random_normal(3, features=8)
    >>> LorentzGraphConv(8, 4)(x, edge_index=torch.tensor([[0, 1], [1, 2]])).shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        c: LorentzCurvature = 1.0,
        bias: bool = True,
        activation: Activation = None,
        dropout: float = 0.0,
        scale: float = 10.0,
        self_loop: bool = False,
    ) -> None:
        super().__init__(c)
        self.linear = LorentzLinear(
            in_features,
            out_features,
            c=self.manifold,
            bias=bias,
            activation=activation,
            dropout=dropout,
            scale=scale,
        )
        self.self_loop = self_loop

    def forward(
        self,
        x: Tensor,
        adjacency: Tensor | None = None,
        *,
        edge_index: Tensor | None = None,
        edge_weight: Tensor | None = None,
    ) -> Tensor:
        """Apply the layer.

        Parameters
        ----------
        x : Tensor
            Nodes ``(*, A, in_features + 1)``; with `edge_index` ``(N, in_features + 1)``.
        adjacency : Tensor, optional
            Weights >= 0 (or booleans) ``(*, A, A)``; row i holds the neighbours of node i. Need not be
            normalised: the centroid is.
        edge_index : Tensor, optional
            Source and target nodes, ``(2, E)``.
        edge_weight : Tensor, optional
            Weights >= 0, ``(E)``.

        Returns
        -------
        Tensor
            Points ``(*, A, out_features + 1)``; a node without neighbours (padding) is the origin.
        """
        summed, total = _gather(self.linear(x), adjacency, edge_index, edge_weight, self.self_loop)
        return ops.normalize(summed, self.c, total)


class EuclideanGraphConv(nn.Module):
    """Euclidean twin of :class:`LorentzGraphConv`: a linear layer, then the neighbours' weighted mean."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        c: LorentzCurvature = 1.0,
        bias: bool = True,
        activation: Activation = None,
        dropout: float = 0.0,
        scale: float = 10.0,
        self_loop: bool = False,
    ) -> None:
        super().__init__()
        self.linear = EuclideanLinear(
            in_features, out_features, bias=bias, activation=activation, dropout=dropout
        )
        self.self_loop = self_loop

    def forward(
        self,
        x: Tensor,
        adjacency: Tensor | None = None,
        *,
        edge_index: Tensor | None = None,
        edge_weight: Tensor | None = None,
    ) -> Tensor:
        """Apply the layer, arguments as in :meth:`LorentzGraphConv.forward`; no neighbours give zero."""
        return weighted_mean(*_gather(self.linear(x), adjacency, edge_index, edge_weight, self.self_loop))
