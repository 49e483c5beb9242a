"""One network for each task around any encoder, so that only the encoder differs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hyperkit.graphs._euclidean import EuclideanNet
from hyperkit.graphs._hyperbolic import HGCN, HKOurs, HKPaper, HyboNet, Hypformer
from hyperkit.graphs._sparse import Adjacency, Features
from hyperkit.nn import LorentzMLR
from hyperkit.ops import lorentz as ops

Task = Literal["nc", "lp", "gc"]
TASKS: tuple[Task, ...] = ("nc", "lp", "gc")


@dataclass(frozen=True)
class ModelSettings:
    """What a network is made of.

    Attributes
    ----------
    model : str
        One of ``hyperkit.graphs.MODELS``.
    hidden : int
        Width: the manifolds' dimension, or that of the Euclidean layers.
    layers : int
        Number of layers, the first linear one included.
    dropout : float
        Of the layers' inputs.
    options : dict
        What a model has besides: ``kernels``, ``spread``, ``restart``, ``aggregation``, ``correlation``,
        ``heads``.
    """

    model: str = "hknet"
    hidden: int = 16
    layers: int = 2
    dropout: float = 0.5
    options: dict[str, Any] = field(default_factory=dict)


_HYPERBOLIC: dict[str, Any] = {
    "hgcn": HGCN,
    "hybonet": HyboNet,
    "hypformer": Hypformer,
    "hknet-paper": HKPaper,
    "hknet": HKOurs,
}
MODELS: tuple[str, ...] = ("mlp", "gcn", "gat", "sage", *_HYPERBOLIC)


class GraphNetwork(nn.Module):
    """An encoder of nodes and what a task needs after it.

    Node classification: a Euclidean network's last layer has the logits; hyperbolic points go to distances
    from trainable points (:class:`~hyperkit.nn.LorentzMLR`), HGCN's to a linear layer on the tangent space at
    the origin. Links: ``(r - d^2)/t`` with learnable r and t (the Fermi-Dirac decoder of HGCN, whose r = 2
    and t = 1 are the start) for the Euclidean or the geodesic distance d. Graphs: the mean, or the Lorentz
    centroid, of a graph's nodes, then the logits.

    Parameters
    ----------
    settings : ModelSettings
        Of the encoder.
    task : {"nc", "lp", "gc"}
        Node classification, link prediction, graph classification.
    in_features : int
        Features of a node.
    num_classes : int
        Not read for links.

    Raises
    ------
    ValueError
        If the model or the task is unknown, or it has no such option.
    """

    def __init__(self, settings: ModelSettings, task: Task, in_features: int, num_classes: int = 0) -> None:
        super().__init__()
        if settings.model not in MODELS:
            raise ValueError(f"model must be one of {list(MODELS)}, got {settings.model!r}")
        if task not in TASKS:
            raise ValueError(f"task must be one of {list(TASKS)}, got {task!r}")
        if settings.layers < 1:
            raise ValueError(f"layers must be >= 1, got {settings.layers}")
        self.task, self.settings = task, settings
        hidden = settings.hidden
        self.lorentz = settings.model in _HYPERBOLIC
        self.encoder: Any
        common = {"layers": settings.layers, "dropout": settings.dropout, **settings.options}
        try:
            if self.lorentz:
                self.encoder = _HYPERBOLIC[settings.model](in_features, hidden, **common)
            else:
                out = num_classes if task == "nc" else hidden
                self.encoder = EuclideanNet(settings.model, in_features, hidden, out, **common)
        except TypeError as error:
            raise ValueError(f"options of {settings.model!r}: {error}") from None
        self.head: Any = None
        if task == "lp":
            self.radius = nn.Parameter(torch.tensor(2.0))
            self.log_temperature = nn.Parameter(torch.tensor(0.0))
        elif self.lorentz and settings.model != "hgcn":
            self.head = LorentzMLR(hidden, num_classes, c=self.encoder.manifold)
        elif self.lorentz or task == "gc":
            self.head = nn.Linear(hidden, num_classes)

    def embed(self, x: Features, graph: Adjacency) -> Tensor:
        """Nodes after the encoder: points ``(N, hidden + 1)``, or vectors."""
        return self.encoder(x, graph)

    def _logits(self, h: Tensor) -> Tensor:
        if self.head is None:
            return h
        if self.settings.model == "hgcn":
            h = ops.logmap0(h, self.encoder.c)[..., 1:]
        return self.head(h)

    def forward(
        self, x: Features, graph: Adjacency, batch: Tensor | None = None, num_graphs: int | None = None
    ) -> Tensor:
        """Logits of nodes ``(N, num_classes)``, or of graphs ``(B, num_classes)`` with `batch`.

        Parameters
        ----------
        x : Features
            Of the nodes.
        graph : Adjacency
            Of N nodes.
        batch : Tensor, optional
            Graph of each node ``(N)``, for graph classification.
        num_graphs : int, optional
            B.
        """
        h = self.embed(x, graph)
        if self.task != "gc":
            return self._logits(h)
        if batch is None or num_graphs is None:
            raise ValueError("batch and num_graphs must be given for graph classification")
        count = torch.bincount(batch, minlength=num_graphs).unsqueeze(-1).to(h.dtype)
        mean = h.new_zeros(num_graphs, h.shape[1]).index_add(0, batch, h) / count
        return self._logits(ops.normalize(mean, self.encoder.c) if self.lorentz else mean)

    def score(self, h: Tensor, pairs: Tensor) -> Tensor:
        """Logits ``(P)`` of links between the nodes of `pairs` ``(2, P)``, from embeddings `h`."""
        u, v = h.index_select(0, pairs[0]), h.index_select(0, pairs[1])
        d2 = ops.sqdist(u, v, self.encoder.c) if self.lorentz else (u - v).square().sum(-1)
        return (self.radius - d2) * torch.exp(-self.log_temperature)
