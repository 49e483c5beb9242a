"""Hyperbolic encoders of nodes: HGCN, HyboNet's, Hypformer-style, HKNet as in the paper and as we would.

All give Lorentz points ``(N, hidden + 1)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperkit.graphs._euclidean import FirstLinear
from hyperkit.graphs._sparse import Adjacency, Features
from hyperkit.manifolds.lorentz import Lorentz
from hyperkit.nn import (
    HKConv,
    LorentzDropout,
    LorentzLayerNorm,
    LorentzLinear,
    LorentzLinearAttention,
    LorentzResidual,
)
from hyperkit.nn._base import LorentzLayer, lorentz_tail
from hyperkit.ops import lorentz as ops
from hyperkit.ops._scalar import sinhc

REACH = 2.0
"""Root mean square distance from the origin of the points that :class:`LorentzInput` reads, at c = 1."""


class LorentzInput(LorentzLinear):
    """:class:`~hyperkit.nn.LorentzLinear` on the points over Euclidean features, which may be sparse.

    The features, scaled so that their rows have the root mean square norm :data:`REACH`, are lifted by the
    exponential map at the origin. Its space part is a multiple of them, so that a bag of words stays sparse
    up to the matrix product. The layer keeps only the direction of ``W x + b``: rows of a bag of words
    divided by their sums are so short that without the scale the bias would soon be all of it.

    Dropout leaves the time alone. It is one large number for a whole row, nearly the same for all rows, so
    that dropping it (HyboNet's code does) multiplies a shared term of all outputs by 0 or ``1/(1 - p)``.
    """

    def forward(self, x: Features) -> Tensor:  # type: ignore[override]
        """Map features ``(N, in_features)`` to points ``(N, out_features + 1)``."""
        c = self.c
        unit = REACH / x.mean_square.clamp(min=1e-12).sqrt()
        scale = sinhc(c * unit.square() * x.square) * unit
        time = torch.sqrt(scale.square() * x.square + 1.0 / c)
        p = self.dropout if self.training else 0.0
        z = x.linear(self.weight[:, 1:], self.bias, dropout=p, scale=scale)
        return lorentz_tail(torch.addcmul(z, time, self.weight[:, 0]), self.log_scale, c)


RADIUS_LIMIT = 15.0
"""Largest ``sqrt(c) |v|`` of a tangent vector of HGCN: where its code clamps cosh and sinh."""


def within(v: Tensor, c: float | Tensor, limit: float = RADIUS_LIMIT) -> Tensor:
    """Tangent vectors at the origin, shortened to ``sqrt(c) |v| <= limit``; the direction stays.

    Parameters
    ----------
    v : Tensor
        Space parts ``(*, d)``.
    c : float or Tensor
        Curvature, > 0.
    limit : float
        Largest length, times ``sqrt(c)``.
    """
    square = c * v.square().sum(-1, keepdim=True)
    return v * torch.rsqrt((square / limit**2).clamp(min=1.0))


def lorentz_mean(h: Tensor, graph: Adjacency, c: float | Tensor) -> Tensor:
    """Lorentz centroid of each node and its neighbours, equal weights."""
    return ops.normalize(graph.loops.matmul(graph.mean, h), c)


class HyboNet(LorentzLayer):
    """Graph convolutions of HyboNet (Chen et al., ACL 2022): a Lorentz linear layer, then the centroid.

    Parameters
    ----------
    in_features, hidden : int
        Widths; `hidden` is the manifold's dimension.
    layers : int
        Number of convolutions.
    dropout : float
        Of the linear layers' inputs.
    c : float
        Curvature.
    """

    def __init__(self, in_features: int, hidden: int, *, layers: int, dropout: float, c: float = 1.0) -> None:
        super().__init__(c)
        self.first = LorentzInput(in_features, hidden, c=self.manifold, dropout=dropout)
        self.linears = nn.ModuleList(
            LorentzLinear(hidden, hidden, c=self.manifold, dropout=dropout, activation="relu")
            for _ in range(layers - 1)
        )

    def forward(self, x: Features, graph: Adjacency) -> Tensor:
        """Points of the nodes."""
        h = lorentz_mean(self.first(x), graph, self.c)
        for linear in self.linears:
            h = lorentz_mean(linear(h), graph, self.c)
        return h


class HGCN(LorentzLayer):
    """Hyperbolic GCN (Chami et al., NeurIPS 2019), by way of the tangent space at the origin.

    A layer is ``exp_0(relu(A log_0(exp_0(W log_0(x)) (+) b)))`` with the mean over the neighbourhood and a
    learnable curvature, one for the network.

    Tangent vectors and the bias are shortened to ``sqrt(c) |v| <= 15`` (:func:`within`). Nothing else bounds
    them: where the loss gains from it, the curvature and the weights grow together until the squares of a
    point's coordinates leave float32, at 44. The authors' code clamps the arguments of cosh and sinh at the
    same 15, which leaves points off the hyperboloid; here they stay on it.

    Parameters
    ----------
    in_features, hidden, layers, dropout
        As for :class:`HyboNet`.
    """

    def __init__(self, in_features: int, hidden: int, *, layers: int, dropout: float, c: float = 1.0) -> None:
        super().__init__(Lorentz(c, learnable=True))
        self.linears = nn.ModuleList(
            FirstLinear(hidden if i else in_features, hidden, bias=False, dropout=dropout)
            for i in range(layers)
        )
        self.biases = nn.Parameter(torch.zeros(layers, hidden))

    def forward(self, x: Features, graph: Adjacency) -> Tensor:
        """Points of the nodes."""
        c = self.c
        v: Features | Tensor = x  # log_0 of what exp_0 gives
        for i, linear in enumerate(self.linears):
            y = ops.expmap0(nn.functional.pad(within(linear(v), c), (1, 0)), c)
            # x (+) exp_0(b) as a boost: the tangent vector moved to x would lose its digits far out.
            y = ops.boost(ops.expmap0(nn.functional.pad(within(self.biases[i], c), (1, 0)), c), y, c)
            v = graph.loops.matmul(graph.mean, ops.logmap0(y, c)[..., 1:])
            if i < len(self.linears) - 1:
                v = torch.relu(v)
        assert isinstance(v, Tensor)
        return ops.expmap0(nn.functional.pad(v, (1, 0)), c)


class Hypformer(LorentzLayer):
    """Hypformer-style: linear attention over all nodes and a graph branch, joined (Yang et al., KDD 2024).

    After the published model: Lorentz linear layer, layer norm and relu, then blocks of attention with
    residual and layer norm; beside them graph convolutions; the Lorentzian sum of both.

    Parameters
    ----------
    in_features, hidden, layers, dropout, c
        As for :class:`HyboNet`; `layers` counts the graph branch, the attention has one block.
    """

    def __init__(self, in_features: int, hidden: int, *, layers: int, dropout: float, c: float = 1.0) -> None:
        super().__init__(c)
        m = self.manifold
        self.first = LorentzInput(in_features, hidden, c=m, dropout=dropout)
        self.norms = nn.ModuleList(LorentzLayerNorm(hidden, c=m) for _ in range(2))
        self.attention = LorentzLinearAttention(hidden, 1, c=m)
        self.residual = LorentzResidual(c=m)
        self.branch = HyboNet(in_features, hidden, layers=layers, dropout=dropout, c=c)
        # Attention to graph as 0.2 to 0.8 at the start, SGFormer's weights on citations; learnt from there.
        self.join = LorentzResidual(c=m, weight=0.25)

    def forward(self, x: Features, graph: Adjacency) -> Tensor:
        """Points of the nodes."""
        h = self.norms[0](self.first(x))
        h = ops.from_space(torch.relu(h[..., 1:]), self.c)
        h = self.norms[1](self.residual(self.attention(h.unsqueeze(0)).squeeze(0), h))
        return self.join(self.branch(x, graph), h)


class HKPaper(LorentzLayer):
    """HKNet as published (Qu and Zou, arXiv:2306.08862): no residual, no weights, no self-loops.

    One difference: a node without neighbours gives the origin, where the released code gives the zero vector,
    which is no point.

    Parameters
    ----------
    in_features, hidden, layers, dropout, c
        As for :class:`HyboNet`; `layers` counts the linear layer at the start, so that the paper's two layers
        are one convolution.
    kernels : int
        K.
    """

    def __init__(
        self, in_features: int, hidden: int, *, layers: int, dropout: float, kernels: int = 4, c: float = 1.0
    ) -> None:
        super().__init__(c)
        self.first = LorentzInput(in_features, hidden, c=self.manifold, dropout=dropout)
        self.convs = nn.ModuleList(
            HKConv(
                hidden, hidden, kernels, c=self.manifold, dropout=dropout, activation="relu" if i else None
            )
            for i in range(layers - 1)
        )

    def forward(self, x: Features, graph: Adjacency) -> Tensor:
        """Points of the nodes."""
        h = self.first(x)
        for conv in self.convs:
            h = conv(h, graph.edge_index)
        return h


class HKOurs(LorentzLayer):
    """HKNet with what its layer leaves out given back, every part an option.

    A kernel convolution sees how the neighbours lie around a node, but not where the node is. Here each one
    is joined with its input (Lorentz residual), neighbours are weighted by ``1/sqrt(deg_i deg_j)``, dropout
    is that of the nodes and not of each pair, the points can be averaged with their neighbours first, and
    spread in the end by a personalised PageRank of Lorentz points (after APPNP, Gasteiger et al., ICLR 2019).
    No activation is needed (every layer is nonlinear), and the compiled kernel takes the whole convolution.

    Parameters
    ----------
    in_features, hidden, layers, dropout, c, kernels
        As for :class:`HKPaper`.
    aggregation, correlation
        As for :class:`~hyperkit.nn.HKConv`.
    keep : float
        Weight of a convolution's input beside its output at the start (learned from there on).
    smooth : int
        How often points are averaged with their neighbours before the convolutions.
    before : int
        Lorentz linear layers with relu before the convolutions, one after each averaging while there are any.
        One averaging more than there are of these makes this part HyboNet's graph convolutions.
    spread : int
        Steps of the PageRank; 0 leaves it out.
    restart : float
        Its restart probability.
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        *,
        layers: int,
        dropout: float,
        kernels: int = 4,
        aggregation: str = "mean",
        correlation: str = "distance",
        keep: float = 1.0,
        smooth: int = 0,
        before: int = 0,
        spread: int = 0,
        restart: float = 0.1,
        c: float = 1.0,
    ) -> None:
        super().__init__(c)
        m = self.manifold
        self.smooth, self.spread, self.restart = smooth, spread, restart
        self.first = LorentzInput(in_features, hidden, c=m, dropout=dropout)
        self.linears = nn.ModuleList(
            LorentzLinear(hidden, hidden, c=m, activation="relu") for _ in range(before)
        )
        self.convs = nn.ModuleList(
            HKConv(
                hidden,
                hidden,
                kernels,
                c=m,
                aggregation=aggregation,  # type: ignore[arg-type]
                correlation=correlation,  # type: ignore[arg-type]
                empty="self",
            )
            for _ in range(layers - 1)
        )
        self.dropout = LorentzDropout(dropout, c=m)
        self.residuals = nn.ModuleList(LorentzResidual(c=m, weight=keep) for _ in range(layers - 1))

    def forward(self, x: Features, graph: Adjacency) -> Tensor:
        """Points of the nodes."""
        h = self.first(x)
        for i in range(max(self.smooth, len(self.linears))):
            if i < self.smooth:
                h = lorentz_mean(h, graph, self.c)
            if i < len(self.linears):
                h = self.linears[i](self.dropout(h))
        weight = graph.edge_weight()
        for conv, residual in zip(self.convs, self.residuals, strict=True):
            h = residual(conv(self.dropout(h), graph.edge_index, edge_weight=weight), h)
        return spread(h, graph, self.spread, self.restart, self.c) if self.spread else h


def spread(h: Tensor, graph: Adjacency, steps: int, restart: float, c: float | Tensor) -> Tensor:
    """Personalised PageRank of Lorentz points: sums of points, brought back to the hyperboloid once.

    Parameters
    ----------
    h : Tensor
        Points ``(N, d + 1)``.
    graph : Adjacency
        Of the nodes; its symmetric normalisation with self-loops is used.
    steps : int
        Number of steps.
    restart : float
        Probability of going back to the start, in [0, 1].
    c : float or Tensor
        Curvature, > 0.
    """
    start = h = torch.cat([h, torch.ones_like(h[:, :1])], 1)  # the last column adds the weights up
    for _ in range(steps):
        h = torch.lerp(graph.loops.matmul(graph.symmetric, h), start, restart)
    return ops.normalize(h[:, :-1] / h[:, -1:], c)
