"""The data sets of the hyperbolic literature, as plain tensors with their published splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hyperkit.graphs import _formats as formats
from hyperkit.graphs._files import Folder
from hyperkit.graphs.splits import Split, both_directions, checked, folds, planetoid_split, random_split


@dataclass
class Graph:
    """One graph with features, and classes of nodes where it has them.

    Attributes
    ----------
    name : str
        Of the data set.
    x : Tensor
        Features ``(N, F)``, float32.
    edge_index : Tensor
        ``(2, E)``: source, target; both directions of each link, sorted by target, no self-loops.
    y : Tensor, optional
        Classes ``(N)``, int64.
    splits : list of Split
        Published ones, or those made by the rule given in the data set's entry.
    degree_features : bool
        Whether the degree (one-hot, capped at 5) and a constant are to be joined to `x`, as HGCN does for
        Airport; counted on the links of the training graph.
    labels : list of str
        Names of the nodes, where there are some.
    """

    name: str
    x: Tensor
    edge_index: Tensor
    y: Tensor | None = None
    splits: list[Split] = field(default_factory=list)
    degree_features: bool = False
    labels: list[str] = field(default_factory=list)

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.x.shape[0]

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without any."""
        return 0 if self.y is None else int(self.y.max()) + 1


@dataclass
class GraphSet:
    """Graphs with a class each, joined to one large graph.

    Attributes
    ----------
    name : str
        Of the data set.
    x : Tensor
        Features of all nodes ``(N, F)``.
    edge_index : Tensor
        ``(2, E)``, numbered over all nodes, sorted by target.
    start : Tensor
        Graph g has the nodes ``start[g]`` to ``start[g + 1] - 1``; ``(B + 1)``.
    y : Tensor
        Classes ``(B)``.
    tests : list of Tensor
        Test sets of the folds, which share no graph.
    """

    name: str
    x: Tensor
    edge_index: Tensor
    start: Tensor
    y: Tensor
    tests: list[Tensor]

    @property
    def num_graphs(self) -> int:
        """B."""
        return len(self.y)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.y.max()) + 1


@dataclass
class Triples:
    """A knowledge graph: ``(T, 3)`` of head, relation, tail for training, validation and test."""

    name: str
    train: Tensor
    val: Tensor
    test: Tensor
    entities: list[str]
    relations: list[str]


def from_pyg(data: Any, name: str = "pyg") -> Graph | GraphSet:
    """A graph from PyG's ``Data`` (or anything with its attributes), or a list or data set of them.

    Parameters
    ----------
    data : object or sequence of objects
        With ``x``, ``edge_index`` and ``y``; masks ``train_mask``, ``val_mask``, ``test_mask`` of shape
        ``(N)`` or ``(N, S)`` become the splits. A list becomes a graph set, and so does a PyG data set,
        unless it holds one graph only. Graphs of a set without ``x`` get their nodes' degrees one-hot (at
        most 63), as TUDataset's IMDB needs. PyG itself is not needed.
    name : str
        Of the result.

    Raises
    ------
    TypeError
        If `x` or `edge_index` is missing, in a set `x` of some graphs only.
    ValueError
        If the masks share nodes.
    """
    if isinstance(data, torch.utils.data.Dataset):  # has the attributes of all its graphs joined, unshifted
        data = [data[i] for i in range(len(data))]  # type: ignore[arg-type]
        data = data[0] if len(data) == 1 else data
    if isinstance(data, list | tuple) or (hasattr(data, "__getitem__") and not hasattr(data, "edge_index")):
        return _set_from_pyg(list(data), name)
    x, edges = getattr(data, "x", None), getattr(data, "edge_index", None)
    if not isinstance(x, Tensor) or not isinstance(edges, Tensor):
        raise TypeError(f"data must have tensors x and edge_index (PyG's Data), got {type(data).__name__}")
    y = getattr(data, "y", None)
    found = [getattr(data, f"{part}_mask", None) for part in ("train", "val", "test")]
    masks = [m.reshape(len(x), -1).bool() for m in found if isinstance(m, Tensor)]
    splits = []
    if len(masks) == 3:
        count = max(m.shape[1] for m in masks)
        splits = [checked(*(m[:, min(i, m.shape[1] - 1)] for m in masks), size=len(x)) for i in range(count)]
    return Graph(
        name, x.float(), both_directions(edges, len(x)), None if y is None else y.flatten().long(), splits
    )


def _set_from_pyg(items: list[Any], name: str) -> GraphSet:
    features = [getattr(d, "x", None) for d in items]
    bare = all(x is None for x in features)
    if not bare and any(x is None for x in features):
        raise TypeError("data must have x in every graph or in none, got some of each")
    sizes = [d.num_nodes if bare else len(d.x) for d in items]
    start = torch.tensor([0, *np.cumsum(sizes).tolist()])
    n = int(start[-1])
    edges = both_directions(torch.cat([d.edge_index + start[i] for i, d in enumerate(items)], 1), n)
    if bare:
        degree = torch.bincount(edges[1], minlength=n).clamp(max=63)
        x = torch.nn.functional.one_hot(torch.unique(degree, return_inverse=True)[1]).float()
    else:
        x = torch.cat([d.x.float() for d in items])
    y = torch.cat([d.y.flatten().long() for d in items])
    return GraphSet(name, x, edges, start, y, folds(y, min(10, len(y)), seed=0))


def _graph(name: str, arrays: formats.Arrays, splits: list[Split], **options: Any) -> Graph:
    x = torch.from_numpy(arrays["x"])
    edges = both_directions(torch.from_numpy(arrays["edges"]), len(x))
    return Graph(name, x, edges, torch.from_numpy(arrays["y"]), splits, **options)


def rows_to_one(x: Tensor) -> Tensor:
    """Rows divided by their sums: what is done with bags of words."""
    total = x.sum(1, keepdim=True)
    return x / torch.where(total == 0, torch.ones_like(total), total)


def standard(x: Tensor) -> Tensor:
    """Columns with mean 0 and deviation 1; a constant column becomes 0."""
    deviation = x.std(0, keepdim=True)
    return (x - x.mean(0, keepdim=True)) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def _masks(masks: list[tuple[np.ndarray, ...]], nodes: int) -> list[Split]:
    return [checked(*(torch.from_numpy(m) for m in three), size=nodes) for three in masks]


def _planetoid(folder: Folder, name: str, splits: str) -> Graph:
    a = formats.planetoid(folder, name)
    n = len(a["x"])
    if splits == "geom-gcn":
        made = _masks(formats.geom_gcn_masks(folder, name), n)
    else:
        made = [planetoid_split(torch.from_numpy(a["test"]), a["train"], n)]
    g = _graph(name, a, made)
    g.x = rows_to_one(g.x)
    return g


def _disease(folder: Folder, name: str, splits: str) -> Graph:
    a = formats.disease(folder, "disease_lp" if name == "disease" else name)
    y = torch.from_numpy(a["y"])
    g = _graph(name, a, [random_split(y, 0.1, 0.6, seed) for seed in range(10)])
    g.x = standard(g.x)
    return g


def _airport(folder: Folder, name: str, splits: str) -> Graph:
    a = formats.airport(folder)
    y = torch.from_numpy(a["y"])
    g = _graph(name, a, [random_split(y, 0.15, 0.15, seed) for seed in range(10)], degree_features=True)
    g.x = standard(g.x)
    return g


def _heterophilous(folder: Folder, name: str, splits: str) -> Graph:
    file = f"heterophilous/{name.replace('-', '_')}.npz"
    raw = {"actor": "film"}.get(name, name)
    if not folder.has(file) and folder.has(f"{raw}/out1_graph_edges.txt"):
        a = formats.geom_gcn(folder, raw, width=932 if raw == "film" else None)
        a["masks"] = formats.geom_gcn_masks(folder, raw)
    else:
        a = formats.masked_npz(folder, file)
    g = _graph(name, a, _masks(a["masks"], len(a["x"])))
    g.x = rows_to_one(g.x)
    return g


def _geom_gcn(folder: Folder, name: str, splits: str) -> Graph:
    a = formats.geom_gcn(folder, name)
    g = _graph(name, a, _masks(formats.geom_gcn_masks(folder, name), len(a["x"])))
    g.x = rows_to_one(g.x)
    return g


_TU = {
    "ptc": ("PTC", "PTC_MR"),
    "enzymes": ("ENZYMES", "ENZYMES"),
    "proteins": ("PROTEINS", "PROTEINS"),
    "imdb-b": ("IMDBBINARY", "IMDB-BINARY"),
    "imdb-m": ("IMDBMULTI", "IMDB-MULTI"),
}


def _tu(folder: Folder, name: str, splits: str) -> GraphSet:
    gin, own = _TU[name]
    if not folder.has(f"tu/{gin}/{gin}.txt") and folder.has(f"tu/{own}/{own}_A.txt"):
        a = formats.tu_text(folder, own)
    else:
        a = formats.gin_text(folder, gin)
    y = torch.from_numpy(a["y"])
    tests = a["folds"]
    if tests is None:
        made = folds(y, 10, seed=0)
    else:
        made = [torch.from_numpy(t) for t in tests]
        # The published files leave four graphs of PTC and three of PROTEINS out of every test set.
        if int(torch.bincount(torch.cat(made), minlength=len(y)).max()) > 1:
            raise ValueError(f"{name}: a graph is in the test sets of two folds")
    x = torch.from_numpy(a["x"])
    start = torch.tensor([0, *np.cumsum(a["sizes"]).tolist()])
    return GraphSet(name, x, both_directions(torch.from_numpy(a["edges"]), len(x)), start, y, made)


def _wordnet(folder: Folder, name: str, splits: str) -> Graph:
    edges, labels = formats.node_link_json(folder, "wordnet/wordnet_mammals.json")
    n = len(labels)
    # No features are given: each node is its own.
    return Graph(name, torch.eye(n), both_directions(torch.from_numpy(edges), n), labels=labels)


def _wn18rr(folder: Folder, name: str, splits: str) -> Triples:
    files = [folder.file(f"wn18rr/{part}.txt") for part in ("train", "valid", "test")]
    rows, entities, relations = formats.triples(files)
    train, val, test = (torch.from_numpy(r) for r in rows)
    return Triples(name, train, val, test, entities, relations)


_Loader = Callable[[Folder, str, str], Graph | GraphSet | Triples]
DATASETS: dict[str, tuple[_Loader, str]] = {
    "cora": (_planetoid, "citations, 7 classes; planetoid split"),
    "citeseer": (_planetoid, "citations, 6 classes; planetoid split"),
    "pubmed": (_planetoid, "citations, 3 classes; planetoid split"),
    "disease": (_disease, "tree of an epidemic, 2 classes; ten stratified splits 30/10/60"),
    "airport": (_airport, "flights, 4 classes; ten stratified splits 70/15/15"),
    "texas": (_heterophilous, "web pages, 5 classes; ten splits 48/32/20"),
    "cornell": (_heterophilous, "web pages, 5 classes; ten splits 48/32/20"),
    "wisconsin": (_geom_gcn, "web pages, 5 classes; ten splits 48/32/20"),
    "chameleon-filtered": (_heterophilous, "Wikipedia without duplicates, 5 classes; ten splits 50/25/25"),
    "squirrel-filtered": (_heterophilous, "Wikipedia without duplicates, 5 classes; ten splits 50/25/25"),
    "actor": (_heterophilous, "actors, 5 classes; ten splits 48/32/20"),
    "ptc": (_tu, "molecules, 2 classes; ten folds"),
    "enzymes": (_tu, "proteins, 6 classes; ten folds"),
    "proteins": (_tu, "proteins, 2 classes; ten folds"),
    "imdb-b": (_tu, "films, 2 classes; ten folds"),
    "imdb-m": (_tu, "films, 3 classes; ten folds"),
    "wordnet": (_wordnet, "closure of WordNet's mammals; no features, no classes"),
    "wn18rr": (_wn18rr, "knowledge graph; triples in three files"),
}


def load(
    name: str,
    root: str | Path | None = None,
    *,
    splits: Literal["default", "geom-gcn"] = "default",
    mirror: str | None = None,
    verify: bool = False,
) -> Graph | GraphSet | Triples:
    """Load a data set from its original files.

    Parameters
    ----------
    name : str
        One of ``hyperkit.graphs.DATASETS``.
    root : str or Path, optional
        Data folder; by default ``HYPERKIT_DATA``, else a folder in the user's cache.
    splits : {"default", "geom-gcn"}
        For Cora, Citeseer and PubMed the ten 48/32/20 splits in place of the planetoid split.
    mirror : str, optional
        Address of a copy of the data folder, from which missing files with a known checksum are fetched.
    verify : bool
        Compare the files that are there with the known checksums.

    Raises
    ------
    ValueError
        If the name is unknown, or a checksum is not the known one.
    FileNotFoundError
        If a file is missing; says which, and where to put it.

    Notes
    -----
    Bags of words are divided by their row sums, measured features (Disease, Airport) brought to mean 0 and
    deviation 1, the tags of nodes in graph sets one-hot (degrees where there are no tags). Airport has five
    features of which the last gives the classes; :class:`~hyperkit.graphs.NodeTask` leaves it out.
    """
    if name not in DATASETS:
        raise ValueError(f"name must be one of {sorted(DATASETS)}, got {name!r}")
    loader, _ = DATASETS[name]
    if splits not in ("default", "geom-gcn"):
        raise ValueError(f"splits must be 'default' or 'geom-gcn', got {splits!r}")
    if splits == "geom-gcn" and loader is not _planetoid:
        raise ValueError(f"splits='geom-gcn' is for cora, citeseer and pubmed, got {name!r}")
    return loader(Folder(root, mirror, verify), name, splits)
