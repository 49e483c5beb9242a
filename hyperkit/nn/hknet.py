"""HKNet: HKConv layers for node and graph classification (Qu and Zou, arXiv:2306.08862)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from hyperkit._checks import width
from hyperkit.manifolds.lorentz import Lorentz
from hyperkit.nn._base import Activation, LorentzCurvature, LorentzLayer, one_of, positive
from hyperkit.nn._kernel_module import Correlation
from hyperkit.nn._pairs import unpack
from hyperkit.nn.embedding import ExpMap0
from hyperkit.nn.hkconv import Aggregation, HKConv
from hyperkit.nn.linear import LorentzLinear
from hyperkit.nn.mlr import LorentzMLR
from hyperkit.nn.residual import LorentzResidual
from hyperkit.ops import lorentz as ops


class HKNet(LorentzLayer):
    """Classifier of nodes or graphs made of :class:`~hyperkit.nn.HKConv` layers.

    Euclidean features are lifted by the exponential map at the origin, brought to the hidden dimension by a
    Lorentz linear layer, and go through the convolutions; for graphs the centroid of all nodes is taken;
    logits are squared Lorentzian distances to learnable points (:class:`~hyperkit.nn.LorentzMLR`), so train
    with a Riemannian optimiser. The activation is applied to the relative features that the linear layers of
    a convolution read, in every convolution but the first, as in the paper.

    Parameters
    ----------
    in_features : int
        Euclidean features of a node.
    hidden_features : int
        Dimension of the hidden manifolds (the paper's 16 counts the time: 15 here).
    num_classes : int
        Number of logits.
    num_layers : int
        Number of convolutions (the released code's "2 layers" are one).
    num_kernels : int
        K.
    task : {"node", "graph"}
        What is classified.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    correlation, aggregation, self_loop, trainable_kernels, empty, extent, sigma
        Of the convolutions. ``empty="self"`` is the default here: a node without neighbours keeps what is
        known of it.
    residual : bool
        Join each convolution's output with its input (:class:`~hyperkit.nn.LorentzResidual`). A convolution
        does not see the node's own feature; without this it reaches the logits through neighbours only.
        Not in the paper.
    activation : str or callable, optional
        Before the linear layers of the convolutions from the second on.
    dropout : float
        Of the linear layers' inputs.
    scale : float
        Of the linear layers.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import HKNet
    >>> net = HKNet(5, 15, 3, num_kernels=4, task="graph")
    >>> edges = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    >>> net(torch.randn(4, 5), edges, batch=torch.tensor([0, 0, 1, 1])).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        num_classes: int,
        *,
        num_layers: int = 2,
        num_kernels: int = 4,
        task: Literal["node", "graph"] = "node",
        c: LorentzCurvature = 1.0,
        correlation: Correlation = "distance",
        aggregation: Aggregation = "mean",
        self_loop: bool = False,
        trainable_kernels: bool = False,
        empty: Literal["origin", "self"] = "self",
        residual: bool = False,
        activation: Activation = "relu",
        dropout: float = 0.0,
        scale: float = 10.0,
        extent: float = 0.66,
        sigma: float | None = None,
    ) -> None:
        super().__init__(c)
        positive(num_layers=num_layers)
        one_of(task=(task, ("node", "graph")))
        m: Lorentz = self.manifold
        self.in_features, self.task = in_features, task
        self.lift = ExpMap0(in_features, c=m)
        self.linear = LorentzLinear(in_features, hidden_features, c=m, dropout=dropout, scale=scale)
        self.convs = nn.ModuleList(
            HKConv(
                hidden_features,
                hidden_features,
                num_kernels,
                c=m,
                correlation=correlation,
                aggregation=aggregation,
                self_loop=self_loop,
                trainable_kernels=trainable_kernels,
                empty=empty,
                activation=activation if i else None,
                dropout=dropout,
                scale=scale,
                extent=extent,
                sigma=sigma,
            )
            for i in range(num_layers)
        )
        self.residuals = nn.ModuleList(LorentzResidual(c=m) for _ in range(num_layers if residual else 0))
        self.mlr = LorentzMLR(hidden_features, num_classes, c=m)

    def embed(
        self,
        x: Tensor | Any,
        edge_index: Tensor | None = None,
        *,
        neighbors: Tensor | None = None,
        mask: Tensor | None = None,
        edge_weight: Tensor | None = None,
    ) -> Tensor:
        """Points of the nodes ``(N, hidden_features + 1)`` after the last convolution."""
        if not isinstance(x, Tensor):
            x, edge_index, edge_weight = unpack(x, edge_index, neighbors, edge_weight)
        width(x, self.in_features, "x", "in_features")
        h = self.linear(self.lift(x))
        for i, conv in enumerate(self.convs):
            out = conv(h, edge_index, neighbors=neighbors, mask=mask, edge_weight=edge_weight)
            h = self.residuals[i](out, h) if len(self.residuals) else out
        return h

    def forward(
        self,
        x: Tensor | Any,
        edge_index: Tensor | None = None,
        batch: Tensor | None = None,
        *,
        num_graphs: int | None = None,
        neighbors: Tensor | None = None,
        mask: Tensor | None = None,
        edge_weight: Tensor | None = None,
    ) -> Tensor:
        """Logits of nodes or graphs.

        Parameters
        ----------
        x : Tensor or object
            Euclidean features ``(N, in_features)``; or an object with ``x``, ``edge_index`` and maybe
            ``batch`` and ``edge_weight`` (PyG's ``Data`` or ``Batch``), given alone.
        edge_index, neighbors, mask, edge_weight
            The graph, as in :meth:`HKConv.forward`.
        batch : Tensor, optional
            Graph of each node, ``(N)``, for ``task="graph"``; all in one graph by default.
        num_graphs : int, optional
            Number of graphs B; the largest entry of `batch` plus one by default.

        Returns
        -------
        Tensor
            ``(N, num_classes)``, or ``(B, num_classes)`` for graphs.

        Raises
        ------
        ValueError
            If `batch` does not fit, or the graph is not as :meth:`HKConv.forward` wants it.
        """
        if not isinstance(x, Tensor) and batch is None:
            batch = getattr(x, "batch", None)
        h = self.embed(x, edge_index, neighbors=neighbors, mask=mask, edge_weight=edge_weight)
        if self.task == "graph":
            h = self._readout(h, batch, num_graphs)
        return self.mlr(h)

    def _readout(self, h: Tensor, batch: Tensor | None, num_graphs: int | None) -> Tensor:
        n = h.shape[0]
        if batch is None:
            if num_graphs not in (None, 1):
                raise ValueError(f"num_graphs must come with batch, got {num_graphs} without it")
            return ops.normalize(h.sum(0, keepdim=True), self.c, float(n))
        if batch.shape != (n,):
            raise ValueError(f"batch must have shape ({n},), got {tuple(batch.shape)}")
        graphs = (int(batch.max()) + 1 if n else 0) if num_graphs is None else num_graphs
        total = h.new_zeros(graphs, 1).index_add(0, batch, h.new_ones(n, 1))
        return ops.normalize(h.new_zeros(graphs, h.shape[1]).index_add(0, batch, h), self.c, total)
