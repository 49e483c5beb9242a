"""Parsers of the file formats that the graphs of the literature come in."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hyperkit.graphs._files import Folder
from hyperkit.graphs._unpickle import csr_to_dense, dense, read_pickle

Arrays = dict[str, Any]
"""``x`` float32 ``(N, F)``, ``edges`` int64 ``(2, E)``, ``y`` int64 ``(N)``, and what else a format has."""


def planetoid(folder: Folder, name: str) -> Arrays:
    """Cora, Citeseer, PubMed as ``<name>/ind.<name>.{x,tx,allx,y,ty,ally,graph,test.index}``.

    Citeseer's test index leaves out nodes that have no features; they get rows of zeros and are in no set.
    """
    path = f"{name}/ind.{name}."
    parts = {k: read_pickle(folder.file(path + k)) for k in ("tx", "allx", "y", "ty", "ally", "graph")}
    test = np.array(folder.file(path + "test.index").read_text().split(), dtype=np.int64)
    allx, tx = dense(parts["allx"]), dense(parts["tx"])
    n = max(len(allx) + len(tx), int(test.max()) + 1)
    x = np.zeros((n, allx.shape[1]), dtype=np.float32)
    labels = np.zeros((n, parts["ally"].shape[1]), dtype=np.int64)
    x[: len(allx)], labels[: len(allx)] = allx, parts["ally"]
    x[test], labels[test] = tx, parts["ty"]
    edges = [(u, v) for u, others in parts["graph"].items() for v in others]
    return {
        "x": x,
        "edges": np.array(edges, dtype=np.int64).reshape(-1, 2).T,
        "y": labels.argmax(1),
        "test": np.sort(test),
        "train": len(parts["y"]),
    }


def disease(folder: Folder, name: str = "disease_lp") -> Arrays:
    """HGCN's tree: ``<name>/<name>.{edges.csv,feats.npz,labels.npy}``; nodes are numbered as they appear."""
    path = f"{name}/{name}."
    place: dict[str, int] = {}
    edges = []
    for line in folder.file(path + "edges.csv").read_text().split():
        u, v = line.split(",")[:2]
        edges.append((place.setdefault(u, len(place)), place.setdefault(v, len(place))))
    with np.load(folder.file(path + "feats.npz")) as f:
        if "indptr" in f:
            a, b = (int(v) for v in f["shape"])
            x = csr_to_dense(f["indptr"], f["indices"], f["data"], (a, b))
        else:
            x = f[f.files[0]].astype(np.float32)
    y = np.load(folder.file(path + "labels.npy")).astype(np.int64)
    return {"x": x, "edges": np.array(edges, dtype=np.int64).T, "y": y}


def airport(folder: Folder) -> Arrays:
    """HGCN's ``airport/airport.p``, a networkx graph, by the restricted unpickler.

    Of the five features the last is what the classes are cut from (at 1, 8/7 and 9/7, as in HGCN).
    """
    path = folder.file("airport/airport.p")
    state = getattr(read_pickle(path), "state", {})
    if not {"_node", "_adj"} <= set(state):
        raise ValueError(f"{path} must hold a networkx graph")
    place = {node: i for i, node in enumerate(state["_node"])}
    features = np.array([attributes["feat"] for attributes in state["_node"].values()], dtype=np.float64)
    edges = [(place[u], place[v]) for u, others in state["_adj"].items() for v in others]
    y = np.digitize(features[:, 4], [1.0, 8.0 / 7.0, 9.0 / 7.0])
    y = (y - y.min()).astype(np.int64)
    return {"x": features.astype(np.float32), "edges": np.array(edges, dtype=np.int64).T, "y": y}


def masked_npz(folder: Folder, path: str) -> Arrays:
    """Platonov et al. (ICLR 2023): an npz with ten splits in ``{train,val,test}_masks``."""
    with np.load(folder.file(path)) as f:
        return {
            "x": f["node_features"].astype(np.float32),
            "edges": f["edges"].astype(np.int64).T,
            "y": f["node_labels"].astype(np.int64),
            "masks": [
                tuple(f[f"{part}_masks"][i].astype(bool) for part in ("train", "val", "test"))
                for i in range(len(f["train_masks"]))
            ],
        }


def geom_gcn(folder: Folder, name: str, *, width: int | None = None) -> Arrays:
    """Pei et al. (ICLR 2020): ``<name>/out1_node_feature_label.txt`` and ``<name>/out1_graph_edges.txt``.

    Parameters
    ----------
    folder : Folder
        Where.
    name : str
        Of the folder.
    width : int, optional
        Number of features where a line names those that are 1 (Actor: 932), and does not list all.
    """
    rows: dict[int, tuple[list[int], int]] = {}
    for line in folder.file(f"{name}/out1_node_feature_label.txt").read_text().splitlines()[1:]:
        node, features, label = line.rstrip().split("\t")
        rows[int(node)] = ([int(v) for v in features.split(",")], int(label))
    n = len(rows)
    if sorted(rows) != list(range(n)):
        raise ValueError(f"{name}: nodes must be numbered 0 to {n - 1}")
    if width is None:
        x = np.array([rows[i][0] for i in range(n)], dtype=np.float32)
    else:
        x = np.zeros((n, width), dtype=np.float32)
        for i in range(n):
            x[i, rows[i][0]] = 1.0
    text = folder.file(f"{name}/out1_graph_edges.txt").read_text().splitlines()[1:]
    edges = np.array([[int(v) for v in line.split()] for line in text], dtype=np.int64).T
    return {"x": x, "edges": edges, "y": np.array([rows[i][1] for i in range(n)], dtype=np.int64)}


def geom_gcn_masks(folder: Folder, name: str, count: int = 10) -> list[tuple[np.ndarray, ...]]:
    """``geomgcn_splits/<name>_split_0.6_0.2_<i>.npz`` (48/32/20): training, validation and test masks."""
    out = []
    for i in range(count):
        with np.load(folder.file(f"geomgcn_splits/{name}_split_0.6_0.2_{i}.npz")) as f:
            out.append(tuple(f[f"{part}_mask"].astype(bool) for part in ("train", "val", "test")))
    return out


def gin_text(folder: Folder, name: str) -> Arrays:
    """Xu et al. (ICLR 2019): ``tu/<name>/<name>.txt``, and ``10fold_idx`` beside it where there is one.

    The first line is the number of graphs. A graph is a line ``nodes label`` and for each node a line ``tag
    degree neighbour ... [attributes]``.
    """
    lines = iter(folder.file(f"tu/{name}/{name}.txt").read_text().splitlines())
    tags, edges, sizes, labels = [], [], [], []
    start = 0
    for _ in range(int(next(lines))):
        n, label = (int(v) for v in next(lines).split()[:2])
        for i in range(n):
            row = next(lines).split()
            degree = int(row[1])
            tags.append(int(row[0]))
            edges += [(start + int(v), start + i) for v in row[2 : 2 + degree]]
        sizes.append(n)
        labels.append(label)
        start += n
    return {
        **_graphs(np.array(tags), np.array(edges, dtype=np.int64).reshape(-1, 2).T, sizes, labels),
        "folds": fold_index(folder, name),
    }


def fold_index(folder: Folder, name: str, count: int = 10) -> list[np.ndarray] | None:
    """Test sets ``tu/<name>/10fold_idx/test_idx-<i>.txt``, or None where there is no such folder.

    Raises
    ------
    ValueError
        If a fold's training file is there and names a graph of its test file.
    """
    path = f"tu/{name}/10fold_idx/"
    if not folder.has(path + "test_idx-1.txt") and not (folder.root / path).is_dir():
        return None
    out = []
    for i in range(1, count + 1):
        test = np.array(folder.file(f"{path}test_idx-{i}.txt").read_text().split(), dtype=np.int64)
        if folder.has(f"{path}train_idx-{i}.txt"):
            train = folder.file(f"{path}train_idx-{i}.txt").read_text().split()
            if np.intersect1d(test, np.array(train, dtype=np.int64)).size:
                raise ValueError(f"{path}: graphs of test_idx-{i}.txt are in train_idx-{i}.txt, too")
        out.append(test)
    return out


def tu_text(folder: Folder, name: str) -> Arrays:
    """TUDataset's own files: ``tu/<name>/<name>_{A,graph_indicator,graph_labels[,node_labels]}.txt``."""

    def numbers(part: str) -> np.ndarray:
        text = folder.file(f"tu/{name}/{name}_{part}.txt").read_text().split()
        return np.array([int(float(v.split(",")[0])) for v in text], dtype=np.int64)

    text = folder.file(f"tu/{name}/{name}_A.txt").read_text().replace(",", " ").split()
    edges = np.array(text, dtype=np.int64).reshape(-1, 2).T - 1
    graph = numbers("graph_indicator") - 1
    if np.any(np.diff(graph) < 0):
        raise ValueError(f"{name}_graph_indicator.txt must list the nodes graph by graph")
    sizes = np.bincount(graph).tolist()
    if folder.has(f"tu/{name}/{name}_node_labels.txt"):
        tags = numbers("node_labels")
    else:
        tags = np.zeros(len(graph), dtype=np.int64)
    arrays = _graphs(tags, edges, sizes, numbers("graph_labels").tolist())
    return {**arrays, "folds": fold_index(folder, name)}


def _graphs(tags: np.ndarray, edges: np.ndarray, sizes: list[int], labels: list[int]) -> Arrays:
    """Tags one-hot (degrees, at most 63, where all tags are alike), labels numbered from 0."""
    if len(np.unique(tags)) == 1:
        tags = np.minimum(np.bincount(edges[1], minlength=len(tags)), 63)
    kinds, column = np.unique(tags, return_inverse=True)
    x = np.zeros((len(tags), len(kinds)), dtype=np.float32)
    x[np.arange(len(tags)), column] = 1.0
    _, y = np.unique(np.array(labels), return_inverse=True)
    return {"x": x, "edges": edges, "sizes": np.array(sizes), "y": y.astype(np.int64)}


def node_link_json(folder: Folder, path: str) -> tuple[np.ndarray, list[str]]:
    """Edges ``(2, E)`` and labels of a networkx node-link file."""
    data = json.loads(folder.file(path).read_text())
    place = {node["id"]: i for i, node in enumerate(data["nodes"])}
    links = data["links"] if "links" in data else data["edges"]
    edges = [(place[e["source"]], place[e["target"]]) for e in links]
    labels = [str(node.get("label", node["id"])) for node in data["nodes"]]
    return np.array(edges, dtype=np.int64).reshape(-1, 2).T, labels


def triples(files: Iterable[Path]) -> tuple[list[np.ndarray], list[str], list[str]]:
    """Tab-separated ``head relation tail`` files as int64 ``(T, 3)``, with all entities and relations."""
    entities: dict[str, int] = {}
    relations: dict[str, int] = {}
    out = []
    for file in files:
        rows = []
        for line in file.read_text().splitlines():
            head, relation, tail = line.split("\t")
            rows.append(
                (
                    entities.setdefault(head, len(entities)),
                    relations.setdefault(relation, len(relations)),
                    entities.setdefault(tail, len(entities)),
                )
            )
        out.append(np.array(rows, dtype=np.int64).reshape(-1, 3))
    return out, list(entities), list(relations)
