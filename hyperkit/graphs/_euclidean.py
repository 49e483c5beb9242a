"""The Euclidean networks that the hyperbolic ones are measured against."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperkit.graphs._sparse import Adjacency, Features


class FirstLinear(nn.Module):
    """A linear layer that reads :class:`Features` or a tensor, with dropout of its input."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Features | Tensor) -> Tensor:
        """Map ``(N, in_features)`` to ``(N, out_features)``."""
        p = self.dropout if self.training else 0.0
        if isinstance(x, Features):
            return x.linear(self.weight, self.bias, dropout=p)
        return nn.functional.linear(nn.functional.dropout(x, p) if p else x, self.weight, self.bias)


class GCNConv(nn.Module):
    """``D^(-1/2) (A + I) D^(-1/2) X W + b`` (Kipf and Welling, ICLR 2017)."""

    def __init__(self, in_features: int, out_features: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = FirstLinear(in_features, out_features, bias=False, dropout=dropout)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Features | Tensor, graph: Adjacency) -> Tensor:
        """Map ``(N, in_features)`` to ``(N, out_features)``."""
        return graph.loops.matmul(graph.symmetric, self.linear(x)) + self.bias


class SAGEConv(nn.Module):
    """``X W_1 + mean(neighbours) W_2 + b`` (Hamilton et al., NeurIPS 2017)."""

    def __init__(self, in_features: int, out_features: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.own = FirstLinear(in_features, out_features, dropout=dropout)
        self.others = FirstLinear(in_features, out_features, bias=False, dropout=dropout)

    def forward(self, x: Features | Tensor, graph: Adjacency) -> Tensor:
        """Map ``(N, in_features)`` to ``(N, out_features)``."""
        return self.own(x) + graph.plain.matmul(graph.neighbours, self.others(x))


class GATConv(nn.Module):
    """Attention over neighbours and the node itself (Veličković et al., ICLR 2018).

    Parameters
    ----------
    in_features, out_features : int
        `out_features` is that of one head.
    heads : int
        H; their outputs are put side by side, or averaged.
    average : bool
        Average the heads (the last layer).
    dropout : float
        Of the input and of the attention.
    """

    def __init__(
        self, in_features: int, out_features: int, heads: int, *, average: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.average, self.dropout = heads, average, dropout
        self.linear = FirstLinear(in_features, heads * out_features, bias=False, dropout=dropout)
        self.source = nn.Parameter(torch.empty(heads, out_features))
        self.target = nn.Parameter(torch.empty(heads, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features if average else heads * out_features))
        nn.init.xavier_uniform_(self.source)
        nn.init.xavier_uniform_(self.target)

    def forward(self, x: Features | Tensor, graph: Adjacency) -> Tensor:
        """Map ``(N, in_features)`` to ``(N, heads * out_features)``, or ``(N, out_features)`` if averaged."""
        h = self.linear(x)
        n, edges = h.shape[0], graph.loops
        h = h.view(n, self.heads, -1)
        score = (h * self.source).sum(-1)[edges.cols] + (h * self.target).sum(-1)[edges.rows]
        weight = edges.softmax(nn.functional.leaky_relu(score, 0.2))
        weight = nn.functional.dropout(weight, self.dropout, self.training)
        message = h[edges.cols] * weight.unsqueeze(-1)
        out = torch.zeros_like(h).index_add(0, edges.rows, message)
        return (out.mean(1) if self.average else out.flatten(1)) + self.bias


class EuclideanNet(nn.Module):
    """MLP, GCN, GraphSAGE or GAT of some layers, with relu (elu in GAT) between them.

    Parameters
    ----------
    kind : {"mlp", "gcn", "sage", "gat"}
        Of the layers.
    in_features, hidden, out_features : int
        Widths; a GAT's hidden width is divided among its heads.
    layers : int
        Number of layers.
    dropout : float
        Of each layer's input, and of GAT's attention.
    heads : int
        Of GAT; the last layer has one.
    """

    def __init__(
        self,
        kind: str,
        in_features: int,
        hidden: int,
        out_features: int,
        *,
        layers: int = 2,
        dropout: float = 0.5,
        heads: int = 8,
    ) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gat" and hidden % heads:
            raise ValueError(f"heads must divide the hidden width {hidden}, got {heads}")
        modules: list[nn.Module] = []
        width = in_features
        for i in range(layers):
            last = i == layers - 1
            out = out_features if last else hidden
            if kind == "mlp":
                modules.append(FirstLinear(width, out, dropout=dropout))
            elif kind == "gcn":
                modules.append(GCNConv(width, out, dropout=dropout))
            elif kind == "sage":
                modules.append(SAGEConv(width, out, dropout=dropout))
            elif kind == "gat":
                count = 1 if last else heads
                modules.append(GATConv(width, out // count, count, average=last, dropout=dropout))
            else:
                raise ValueError(f"kind must be 'mlp', 'gcn', 'sage' or 'gat', got {kind!r}")
            width = out
        self.layers = nn.ModuleList(modules)

    def forward(self, x: Features, graph: Adjacency) -> Tensor:
        """Map features to ``(N, out_features)``."""
        act = nn.functional.elu if self.kind == "gat" else torch.relu
        h: Features | Tensor = x
        for i, layer in enumerate(self.layers):
            if i:
                assert isinstance(h, Tensor)
                h = act(h)
            h = layer(h) if self.kind == "mlp" else layer(h, graph)
        assert isinstance(h, Tensor)
        return h
