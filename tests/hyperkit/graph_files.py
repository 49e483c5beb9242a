"""Small files in each format of the graph literature, made on the spot."""

import json
import pickle
import sys
import types
from collections import defaultdict

import numpy as np


def _class(module, name):
    """A class that pickles under another package's name, without that package."""
    made = type(name, (), {"__module__": module})
    parts = module.split(".")
    for i in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    return made


def dump_as(path, module, name, build):
    """Write a pickle of an instance of `module.name`; `build` gives its state."""
    before = dict(sys.modules)
    for key in [k for k in sys.modules if k.split(".")[0] == module.split(".")[0]]:
        del sys.modules[key]
    try:
        cls = _class(module, name)
        setattr(sys.modules[module], name, cls)
        thing = cls()
        thing.__dict__.update(build())
        path.write_bytes(pickle.dumps(thing, protocol=3))
    finally:
        for key in [k for k in sys.modules if k not in before]:
            del sys.modules[key]
        sys.modules.update(before)


def csr_state(dense):
    dense = np.asarray(dense, dtype=np.float32)
    rows, cols = dense.nonzero()
    return {
        "_shape": dense.shape,
        "indptr": np.searchsorted(rows, np.arange(len(dense) + 1)).astype(np.int32),
        "indices": cols.astype(np.int32),
        "data": dense[rows, cols],
    }


def planetoid(root, name="cora", train=2, rest=510, test=4, classes=3, width=70, gap=False, seed=0):
    """`train` + `rest` nodes before `test` test nodes; with `gap` one test node is nowhere (Citeseer)."""
    rng = np.random.default_rng(seed)
    folder = root / name
    folder.mkdir(parents=True)
    first = train + rest
    place = rng.permutation(first + np.arange(test + gap))
    place = place[place != first + 1][:test] if gap else place
    x = (rng.random((first + test + gap, width)) < 0.1).astype(np.float32)
    x[:, 0] = 1
    y = np.eye(classes, dtype=np.int32)[rng.integers(classes, size=len(x))]
    graph = defaultdict(list)
    for i in range(len(x) - 1):
        graph[i].append(i + 1)
        graph[i + 1] += [i, i]  # repeated, as in the original
    parts = {"x": x[:train], "allx": x[:first], "tx": x[place]}
    for key, value in parts.items():
        dump_as(folder / f"ind.{name}.{key}", "scipy.sparse.csr", "csr_matrix", lambda v=value: csr_state(v))
    for key, value in {"y": y[:train], "ally": y[:first], "ty": y[place], "graph": graph}.items():
        (folder / f"ind.{name}.{key}").write_bytes(pickle.dumps(value, protocol=3))
    (folder / f"ind.{name}.test.index").write_text("\n".join(map(str, place)) + "\n")
    return x, y.argmax(1), place


def disease(root, depth=5, seed=0):
    """A binary tree; features that follow it."""
    rng = np.random.default_rng(seed)
    n = 2**depth - 1
    folder = root / "disease_lp"
    folder.mkdir(parents=True)
    edges = [((i - 1) // 2, i) for i in range(1, n)]
    (folder / "disease_lp.edges.csv").write_text("".join(f"{u},{v}\n" for u, v in edges))
    x = rng.normal(size=(n, 6))
    for u, v in edges:
        x[v] = 0.8 * x[u] + 0.4 * x[v]
    y = (x[:, 0] > np.median(x[:, 0])).astype(np.int64)
    state = csr_state(x)
    np.savez(
        folder / "disease_lp.feats.npz",
        indices=state["indices"],
        indptr=state["indptr"],
        data=state["data"],
        shape=np.array(x.shape),
        format=np.array(b"csr"),
    )
    np.save(folder / "disease_lp.labels.npy", y)
    return x, y, edges


def airport(root, n=40, seed=0):
    """A ring with chords as a networkx 2.2 graph."""
    rng = np.random.default_rng(seed)
    (root / "airport").mkdir(parents=True)
    names = [int(v) for v in rng.permutation(10 * n)[:n]]
    feats = {v: {"feat": [float(a) for a in rng.random(5) + 0.6]} for v in names}
    adj = {v: {} for v in names}
    for i in range(n):
        for j in (1, 5):
            u, v = names[i], names[(i + j) % n]
            adj[u][v] = adj[v][u] = {}
    state = {"graph": {}, "_node": feats, "_adj": adj, "adjlist_outer_dict_factory": dict}
    dump_as(root / "airport" / "airport.p", "networkx.classes.graph", "Graph", lambda: state)
    return names, feats, adj


def heterophilous(root, name="texas", n=60, width=80, splits=10, seed=0):
    rng = np.random.default_rng(seed)
    (root / "heterophilous").mkdir(parents=True, exist_ok=True)
    masks = {}
    parts = np.stack([rng.permutation(n) for _ in range(splits)])
    for part, (a, b) in {"train": (0, 30), "val": (30, 45), "test": (45, 60)}.items():
        mask = np.zeros((splits, n), dtype=bool)
        for i in range(splits):
            mask[i, parts[i, a:b]] = True
        masks[f"{part}_masks"] = mask
    x = (rng.random((n, width)) < 0.1).astype(np.float32)
    y = rng.permutation(np.arange(n) % 5)
    edges = np.stack([np.arange(n - 1), np.arange(1, n)], 1)
    np.savez(root / "heterophilous" / f"{name}.npz", node_features=x, node_labels=y, edges=edges, **masks)
    return x, y, masks


def geom_gcn(root, name="wisconsin", n=20, seed=0, active=None):
    """Geom-GCN's two text files and ten split files; with `active` a line lists the features that are 1."""
    rng = np.random.default_rng(seed)
    (root / name).mkdir(parents=True)
    (root / "geomgcn_splits").mkdir(exist_ok=True)
    x = (rng.random((n, active or 7)) < 0.4).astype(int)
    x[:, 0] = 1
    y = np.arange(n) % 5
    lines = ["node_id\tfeature\tlabel"]
    for i in rng.permutation(n):
        feature = x[i].nonzero()[0] if active else x[i]
        lines.append(f"{i}\t{','.join(map(str, feature))}\t{y[i]}")
    (root / name / "out1_node_feature_label.txt").write_text("\n".join(lines) + "\n")
    edges = [(i, (3 * i + 1) % n) for i in range(n)]
    text = "node_id\tnode_id\n" + "".join(f"{u}\t{v}\n" for u, v in edges)
    (root / name / "out1_graph_edges.txt").write_text(text)
    for i in range(10):
        order = rng.permutation(n)
        masks = {k: np.isin(np.arange(n), v) for k, v in zip("abc", np.split(order, [10, 15]), strict=True)}
        np.savez(
            root / "geomgcn_splits" / f"{name}_split_0.6_0.2_{i}.npz",
            train_mask=masks["a"],
            val_mask=masks["b"],
            test_mask=masks["c"],
        )
    return x, y, edges


def graphs(seed=0, count=40):
    """Rings (class 0) and stars (class 1): tags and edges of each graph."""
    rng = np.random.default_rng(seed)
    out = []
    for g in range(count):
        n, star = int(rng.integers(4, 8)), g % 2
        edges = [(0, i) for i in range(1, n)] if star else [(i, (i + 1) % n) for i in range(n)]
        out.append((rng.integers(2, 5, size=n), edges, 7 + star))
    return out


def gin_text(root, name="PTC", seed=0, count=40, folds=True):
    (root / "tu" / name).mkdir(parents=True)
    made = graphs(seed, count)
    lines = [str(count)]
    for tags, edges, label in made:
        lines.append(f"{len(tags)} {label}")
        for i, tag in enumerate(tags):
            others = [v for u, v in edges if u == i] + [u for u, v in edges if v == i]
            lines.append(" ".join(map(str, [tag, len(others), *others])))
    (root / "tu" / name / f"{name}.txt").write_text("\n".join(lines) + "\n")
    if folds:
        fold_files(root, name, count)
    return made


def fold_files(root, name, count, leak=False):
    folder = root / "tu" / name / "10fold_idx"
    folder.mkdir()
    order = np.random.default_rng(1).permutation(count)
    for i in range(10):
        test, train = order[i::10], np.setdiff1d(order, order[i::10])
        train = np.append(train, test[0]) if leak else train
        (folder / f"test_idx-{i + 1}.txt").write_text("".join(f"{v}\n" for v in test))
        (folder / f"train_idx-{i + 1}.txt").write_text("".join(f"{v}\n" for v in train))


def tu_text(root, name="PTC_MR", seed=0, count=40):
    """TUDataset's files of the graphs of :func:`gin_text`."""
    folder = root / "tu" / name
    folder.mkdir(parents=True)
    made = graphs(seed, count)
    a, indicator, labels, tags_text, start = [], [], [], [], 1
    for g, (tags, edges, label) in enumerate(made):
        for u, v in edges:
            a += [f"{u + start}, {v + start}", f"{v + start}, {u + start}"]
        indicator += [g + 1] * len(tags)
        tags_text += list(tags)
        labels.append(label)
        start += len(tags)
    parts = {"A": a, "graph_indicator": indicator, "graph_labels": labels, "node_labels": tags_text}
    for part, rows in parts.items():
        (folder / f"{name}_{part}.txt").write_text("".join(f"{r}\n" for r in rows))
    return made


def wordnet(root):
    (root / "wordnet").mkdir(parents=True)
    nodes = [{"label": name, "id": 10 + i} for i, name in enumerate(["mammal", "cat", "dog"])]
    links = [{"source": 11, "target": 10}, {"source": 12, "target": 10}]
    data = {"directed": True, "multigraph": False, "graph": {}, "nodes": nodes, "links": links}
    (root / "wordnet" / "wordnet_mammals.json").write_text(json.dumps(data))


def wn18rr(root):
    (root / "wn18rr").mkdir(parents=True)
    for part, text in {"train": "a\tr\tb\nb\tr\tc\n", "valid": "a\tq\tc\n", "test": "d\tr\ta\n"}.items():
        (root / "wn18rr" / f"{part}.txt").write_text(text)
