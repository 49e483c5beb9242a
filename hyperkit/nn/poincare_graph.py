"""Graph convolution on the Poincaré ball."""

from __future__ import annotations

from torch import Tensor

from hyperkit.nn._base import Activation
from hyperkit.nn.graph import _gather
from hyperkit.nn.poincare import BallCurvature, BallLayer, PoincareLinear
from hyperkit.ops import lorentz, poincare
from hyperkit.ops._rows import ball_to_space


class PoincareGraphConv(BallLayer):
    """Graph convolution: a linear layer, then the neighbours' weighted Einstein midpoint.

    The twin of :class:`~hyperkit.nn.LorentzGraphConv`. Nothing bounds the radius of the linear layer's
    points, so the midpoint's sums are taken in float64: they keep their digits to the last radius of float32.

    Parameters
    ----------
    in_features, out_features : int
        Dimensions of the balls.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.
    bias, activation, dropout
        As in :class:`~hyperkit.nn.PoincareLinear`.
    self_loop : bool
        Count a node among its neighbours, with weight 1 (instead of writing it into the adjacency).

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareGraphConv
    >>> x = 0.1 * torch.randn(3, 8)
    >>> PoincareGraphConv(8, 4)(x, edge_index=torch.tensor([[0, 1], [1, 2]])).shape
    torch.Size([3, 4])
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
        self_loop: bool = False,
    ) -> None:
        super().__init__(c)
        self.linear = PoincareLinear(
            in_features, out_features, c=self.manifold, bias=bias, activation=activation, dropout=dropout
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
            Nodes ``(*, A, in_features)``; with `edge_index` ``(N, in_features)``.
        adjacency, edge_index, edge_weight : Tensor, optional
            The graph, as in :meth:`LorentzGraphConv.forward`.

        Returns
        -------
        Tensor
            Points ``(*, A, out_features)``; a node without neighbours (padding) is the origin.

        Raises
        ------
        ValueError
            If neither or both forms of the graph are given, or a shape does not fit.
        """
        c = self.c
        y = self.linear(x)
        # The time from the wide space coordinates: a rounded one would bring float32's error back.
        wide = lorentz.from_space(ball_to_space(y, c).double(), c)
        summed, total = _gather(wide, adjacency, edge_index, edge_weight, self.self_loop)
        return poincare.from_lorentz(lorentz.normalize(summed, c, total), c).to(y.dtype)
