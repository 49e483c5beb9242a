"""Tasks and the one trainer for all models: chosen on validation, tested once."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import geoopt
import torch
from torch import Tensor, nn

from hyperkit.graphs._sampling import NeighborSampler
from hyperkit.graphs._sparse import Adjacency, Features
from hyperkit.graphs.datasets import Graph, GraphSet
from hyperkit.graphs.models import GraphNetwork, ModelSettings
from hyperkit.graphs.splits import Split, fold_split, link_split, sample_negatives
from hyperkit.optim import RiemannianAdam


@dataclass(frozen=True)
class TrainSettings:
    """How a network is trained.

    Attributes
    ----------
    lr : float
        Of (Riemannian) Adam.
    weight_decay : float
        L2 penalty on matrices; not on biases, scales and points of a manifold.
    epochs, patience : int
        Largest number of epochs; epochs without a better validation figure after which training ends.
    loss : {"ce", "margin"}
        Of classes: cross-entropy, or HyboNet's ``mean relu(margin - logit of the class + logits)``.
    margin : float
        Of the latter.
    clip : float, optional
        Largest norm of the gradient.
    every : int
        Epochs between two validations.
    batch : int
        Graphs in a batch of graph classification, nodes in one of node classification with `sample`.
    hide : float
        Share of the training links that a step of link prediction asks for and takes out of the graph that
        messages run on, drawn anew in each step. 0: all links are asked for and all carry messages, so that a
        network can learn "these two have seen each other", which a link held out never has.
    sample : tuple of int
        Neighbours drawn in each step from a node (:class:`~hyperkit.graphs.NeighborSampler`), one number for
        each layer: node classification then trains on the neighbourhoods of `batch` nodes. Empty: on the
        whole graph. Validation and test run on the whole graph, without gradients.
    """

    lr: float = 0.01
    weight_decay: float = 5e-4
    epochs: int = 500
    patience: int = 100
    loss: Literal["ce", "margin"] = "ce"
    margin: float = 2.0
    clip: float | None = None
    every: int = 1
    batch: int = 64
    hide: float = 0.0
    sample: tuple[int, ...] = ()


@dataclass
class Result:
    """What a run gives: figures in percent; `test` is NaN where the test set was not asked."""

    val: float
    test: float
    epochs: int
    best_epoch: int
    seconds: float
    model: GraphNetwork | None = field(repr=False)


class TaskData(Protocol):
    """A data set, a split and a figure of merit."""

    in_features: int
    num_classes: int
    task: Literal["nc", "lp", "gc"]

    def losses(self, model: GraphNetwork, settings: TrainSettings, generator: torch.Generator): ...

    def measure(self, model: GraphNetwork, part: Literal["val", "test"]) -> tuple[float, float]: ...


def class_loss(logits: Tensor, y: Tensor, settings: TrainSettings) -> Tensor:
    """Loss of classes by the rule of the settings."""
    if settings.loss == "ce":
        return nn.functional.cross_entropy(logits, y)
    own = logits.gather(1, y.unsqueeze(-1))
    return torch.relu(settings.margin - own + logits).mean()


def roc_auc(scores: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve in [0, 1]; equal scores count one half.

    Parameters
    ----------
    scores : Tensor
        ``(N)``.
    positive : Tensor
        Boolean ``(N)``.

    Raises
    ------
    ValueError
        If there are not both kinds, or a score is NaN.
    """
    n = int(positive.sum())
    if n == 0 or n == len(positive):
        raise ValueError(f"positive must hold both kinds, got {n} of {len(positive)}")
    if bool(scores.isnan().any()):
        raise ValueError("scores must not be NaN")
    _, place, count = torch.unique(scores.double(), return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    rank = (last - 0.5 * (count.double() - 1.0))[place]
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def degree_features(edge_index: Tensor, nodes: int) -> Tensor:
    """Degree one-hot, capped at 5, and a constant: ``(N, 7)`` (HGCN's for Airport)."""
    degree = torch.bincount(edge_index[1], minlength=nodes).clamp(max=5)
    return torch.cat([nn.functional.one_hot(degree, 6).float(), torch.ones(nodes, 1)], 1)


class NodeTask:
    """Node classification by accuracy, transductive.

    Parameters
    ----------
    graph : Graph
        With classes.
    split : Split
        One of its splits, or another.

    Raises
    ------
    ValueError
        If the graph has no classes.
    """

    task: Literal["nc"] = "nc"

    def __init__(self, graph: Graph, split: Split) -> None:
        if graph.y is None:
            raise ValueError(f"graph must have classes for node classification, {graph.name} has none")
        self.y, self.split = graph.y, split
        x = graph.x
        if graph.name == "airport":
            x = x[:, :4]  # the classes are cut from the fifth feature
        if graph.degree_features:
            x = torch.cat([x, degree_features(graph.edge_index, graph.num_nodes)], 1)
        self.x, self.graph = Features(x), Adjacency(graph.edge_index, graph.num_nodes)
        self.in_features, self.num_classes = x.shape[1], graph.num_classes
        self._plain = x
        self._sampler: NeighborSampler | None = None

    def losses(self, model: GraphNetwork, settings: TrainSettings, generator: torch.Generator):
        """One loss for each step of an epoch."""
        train = self.split.train
        if settings.sample:
            if self._sampler is None or self._sampler.sizes != settings.sample:
                self._sampler = NeighborSampler(self.graph.edge_index, self.graph.nodes, settings.sample)
            for seeds in train[torch.randperm(len(train), generator=generator)].split(settings.batch):
                part = self._sampler(seeds, generator)
                x = Features(self._plain[part.nodes], mean_square=self.x.mean_square)
                logits = model(x, part.adjacency())[: len(seeds)]
                yield class_loss(logits, self.y[seeds], settings)
            return
        yield class_loss(model(self.x, self.graph)[train], self.y[train], settings)

    def measure(self, model: GraphNetwork, part: Literal["val", "test"]) -> tuple[float, float]:
        """Accuracy in percent and cross-entropy of a set."""
        rows = getattr(self.split, part)
        logits, y = model(self.x, self.graph)[rows], self.y[rows]
        right = (logits.argmax(1) == y).float().mean()
        return 100.0 * float(right), float(nn.functional.cross_entropy(logits, y))


class LinkTask:
    """Link prediction by ROC AUC. The network sees the training links and nothing that depends on others.

    Parameters
    ----------
    graph : Graph
        Whose links are split.
    seed : int
        Of the split.
    val, test : float
        Shares of the links.
    """

    task: Literal["lp"] = "lp"
    num_classes = 0

    def __init__(self, graph: Graph, seed: int, *, val: float = 0.05, test: float = 0.10) -> None:
        n = graph.num_nodes
        self.nodes = n
        self.split = link_split(graph.edge_index, n, seed, val=val, test=test)
        # Rows of bags of words divided by their sums have a norm of some 0.2, and the decoder starts at a
        # distance of sqrt(2): Euclidean networks would have to grow first. The hyperbolic ones scale anyway.
        self._plain = graph.x * graph.x.square().sum(1).mean().rsqrt().clamp(min=1.0)
        self._whole = None if graph.degree_features else Features(self._plain)
        self.x, self.graph = self._messages(self.split.train)
        self.in_features = self.x.shape[1]

    def _messages(self, links: Tensor) -> tuple[Features, Adjacency]:
        """Features and graph of a network that sees these links."""
        edges = torch.cat([links, links.flip(0)], 1)
        x = self._whole
        if x is None:
            x = Features(torch.cat([self._plain, degree_features(edges, self.nodes)], 1))
        return x, Adjacency(edges, self.nodes)

    def losses(self, model: GraphNetwork, settings: TrainSettings, generator: torch.Generator):
        """One loss for each step of an epoch: training links against as many new negatives.

        The negatives are pairs that are no training links, hidden or not.
        """
        known = links = self.split.train
        x, graph = self.x, self.graph
        if settings.hide:
            order = torch.randperm(known.shape[1], generator=generator)
            cut = max(1, round(settings.hide * known.shape[1]))
            links = known[:, order[:cut]]
            x, graph = self._messages(known[:, order[cut:]])
        negative = sample_negatives(known, self.nodes, links.shape[1], generator)
        scores = model.score(model.embed(x, graph), torch.cat([links, negative], 1))
        target = torch.zeros_like(scores)
        target[: links.shape[1]] = 1.0
        yield nn.functional.binary_cross_entropy_with_logits(scores, target)

    def measure(self, model: GraphNetwork, part: Literal["val", "test"]) -> tuple[float, float]:
        """ROC AUC in percent and cross-entropy of a set."""
        positive, negative = getattr(self.split, part), getattr(self.split, f"{part}_negative")
        scores = model.score(model.embed(self.x, self.graph), torch.cat([positive, negative], 1))
        kind = torch.arange(len(scores)) < positive.shape[1]
        loss = nn.functional.binary_cross_entropy_with_logits(scores, kind.float())
        return 100.0 * roc_auc(scores, kind), float(loss)


class _Batch:
    def __init__(
        self, x: Tensor, data: GraphSet, rows: Tensor, edge_start: Tensor, mean_square: Tensor
    ) -> None:
        start = data.start
        nodes = torch.cat([torch.arange(int(start[g]), int(start[g + 1])) for g in rows])
        edges = torch.cat([torch.arange(int(edge_start[g]), int(edge_start[g + 1])) for g in rows])
        place = torch.empty(len(x), dtype=torch.int64)
        place[nodes] = torch.arange(len(nodes))
        sizes = (start[1:] - start[:-1])[rows]
        self.batch = torch.repeat_interleave(torch.arange(len(rows)), sizes)
        self.x, self.y = Features(x[nodes], mean_square=mean_square), data.y[rows]
        self.graph = Adjacency(place[data.edge_index[:, edges]], len(nodes))

    def logits(self, model: GraphNetwork) -> Tensor:
        return model(self.x, self.graph, self.batch, len(self.y))


class GraphTask:
    """Graph classification by accuracy on one fold; the validation set is cut from the fold's training part.

    Each node's features are joined by the logarithms of its degree and of its graph's size, which a mean over
    nodes does not see otherwise. Batches are drawn once for a run and shuffled each epoch.

    Parameters
    ----------
    data : GraphSet
        Graphs.
    fold : int
        Which test set.
    seed : int
        Of the validation set and the batches.
    batch : int
        Graphs in a batch.
    """

    task: Literal["gc"] = "gc"

    def __init__(self, data: GraphSet, fold: int, seed: int = 0, *, batch: int = 64) -> None:
        self.split = fold_split(data.y, data.tests[fold], seed)
        n = len(data.x)
        degree = torch.bincount(data.edge_index[1], minlength=n).float()
        sizes = data.start[1:] - data.start[:-1]
        size = torch.repeat_interleave(sizes, sizes).float()
        x = torch.cat([data.x, degree.log1p().unsqueeze(-1), 0.5 * size.log().unsqueeze(-1)], 1)
        edge_start = torch.searchsorted(data.edge_index[1].contiguous(), data.start)
        self.in_features, self.num_classes = x.shape[1], data.num_classes
        generator = torch.Generator().manual_seed(seed)
        # Of the training graphs: what a graph gives must not depend on the others of its batch.
        training = torch.isin(torch.repeat_interleave(torch.arange(len(sizes)), sizes), self.split.train)
        mean_square = x[training].square().sum(1).mean()
        self.batches = {}
        for part, rows in zip(("train", "val", "test"), self.split, strict=True):
            rows = rows[torch.randperm(len(rows), generator=generator)]
            self.batches[part] = [_Batch(x, data, r, edge_start, mean_square) for r in rows.split(batch)]

    def losses(self, model: GraphNetwork, settings: TrainSettings, generator: torch.Generator):
        """One loss for each batch."""
        train = self.batches["train"]
        for i in torch.randperm(len(train), generator=generator).tolist():
            yield class_loss(train[i].logits(model), train[i].y, settings)

    def measure(self, model: GraphNetwork, part: Literal["val", "test"]) -> tuple[float, float]:
        """Accuracy in percent and cross-entropy of a set."""
        logits = torch.cat([b.logits(model) for b in self.batches[part]])
        y = torch.cat([b.y for b in self.batches[part]])
        right = (logits.argmax(1) == y).float().mean()
        return 100.0 * float(right), float(nn.functional.cross_entropy(logits, y))


def _groups(model: nn.Module, weight_decay: float) -> list[dict]:
    decayed, free = [], []
    for p in model.parameters():
        matrix = p.ndim >= 2 and not isinstance(p, geoopt.ManifoldParameter)
        (decayed if matrix else free).append(p)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def fit(
    task: NodeTask | LinkTask | GraphTask,
    model: ModelSettings,
    train: TrainSettings,
    seed: int,
    *,
    test: bool = True,
    progress: Callable[[int, float, float], None] | None = None,
) -> Result:
    """Train a network and, on request, test it once.

    The weights kept are those of the epoch with the best validation figure (of equal ones, that with the
    lowest loss). The test set is read after training, by those weights, and never before.

    Parameters
    ----------
    task : NodeTask, LinkTask or GraphTask
        Data and split.
    model, train
        Settings.
    seed : int
        Of the weights, dropout and negatives.
    test : bool
        Whether to read the test set; not while tuning.
    progress : callable, optional
        Called after each validation with the epoch, its figure and the best.

    Returns
    -------
    Result
        With the trained network.

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite.
    """
    began = time.perf_counter()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = GraphNetwork(model, task.task, task.in_features, task.num_classes)
    optimiser = RiemannianAdam(_groups(network, train.weight_decay), lr=train.lr)
    best, kept, best_epoch, epoch = (-1.0, 0.0), copy.deepcopy(network.state_dict()), 0, 0
    for epoch in range(1, train.epochs + 1):
        network.train()
        for loss in task.losses(network, train, generator):
            if not bool(loss.isfinite()):
                raise FloatingPointError(f"the loss is {float(loss.detach())} in epoch {epoch}")
            optimiser.zero_grad()
            loss.backward()
            if train.clip is not None:
                nn.utils.clip_grad_norm_(network.parameters(), train.clip)
            optimiser.step()
        if epoch % train.every and epoch != train.epochs:
            continue
        network.eval()
        with torch.no_grad():
            figure, cost = task.measure(network, "val")
        if (figure, -cost) > best:
            best, best_epoch = (figure, -cost), epoch
            kept = copy.deepcopy(network.state_dict())
        if progress is not None:
            progress(epoch, figure, best[0])
        if epoch - best_epoch >= train.patience:
            break
    network.load_state_dict(kept)
    network.eval()
    with torch.no_grad():
        final = task.measure(network, "test")[0] if test else float("nan")
    return Result(best[0], final, epoch, best_epoch, time.perf_counter() - began, network)
