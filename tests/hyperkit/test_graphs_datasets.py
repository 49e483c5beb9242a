"""Loaders on small files of each format; what a file may not do."""

import collections
import hashlib
import os
import pickle
from types import SimpleNamespace

import graph_files as files
import numpy as np
import pytest
import torch

from hyperkit.graphs import DATASETS, Graph, GraphSet, from_pyg, load
from hyperkit.graphs import _files as lookup
from hyperkit.graphs._unpickle import read_pickle
from hyperkit.graphs.datasets import rows_to_one


def pairs(edge_index):
    return {tuple(sorted(p)) for p in edge_index.t().tolist()}


def well_formed(edge_index, nodes):
    both = {tuple(p) for p in edge_index.t().tolist()}
    assert len(both) == edge_index.shape[1]
    assert all((v, u) in both and u != v for u, v in both)
    assert edge_index.max() < nodes
    assert bool((edge_index[1].diff() >= 0).all())


@pytest.mark.parametrize("gap", [False, True])
def test_planetoid(tmp_path, gap):
    x, y, place = files.planetoid(tmp_path, gap=gap)
    g = load("cora", tmp_path)
    assert isinstance(g, Graph)
    known = np.setdiff1d(np.arange(len(x)), [513]) if gap else np.arange(len(x))
    assert torch.equal(g.x[known], rows_to_one(torch.from_numpy(x))[known])
    assert torch.equal(g.y[known], torch.from_numpy(y)[known])
    if gap:  # the node that no file has: no features, in no set
        assert not g.x[513].any()
        assert 513 not in torch.cat(list(g.splits[0]))
    well_formed(g.edge_index, len(x))
    assert pairs(g.edge_index) == {(i, i + 1) for i in range(len(x) - 1)}
    (split,) = g.splits
    assert split.train.tolist() == [0, 1]
    assert split.val.tolist() == list(range(2, 502))
    assert split.test.tolist() == sorted(place)


def test_planetoid_with_geom_gcn_splits(tmp_path):
    files.planetoid(tmp_path, "citeseer", rest=514, test=4)
    n = 520
    (tmp_path / "geomgcn_splits").mkdir()
    for i in range(10):
        part = np.arange(n) % 3
        np.savez(
            tmp_path / "geomgcn_splits" / f"citeseer_split_0.6_0.2_{i}.npz",
            train_mask=part == 0,
            val_mask=part == 1,
            test_mask=part == 2,
        )
    g = load("citeseer", tmp_path, splits="geom-gcn")
    assert len(g.splits) == 10
    assert g.splits[3].val.tolist() == list(range(1, n, 3))
    with pytest.raises(ValueError, match="geom-gcn"):
        load("disease", tmp_path, splits="geom-gcn")


def test_disease(tmp_path):
    x, y, edges = files.disease(tmp_path)
    g = load("disease", tmp_path)
    x = torch.from_numpy(x).float()
    assert torch.allclose(g.x, (x - x.mean(0)) / x.std(0), atol=1e-5)
    assert torch.equal(g.y, torch.from_numpy(y))
    assert pairs(g.edge_index) == set(edges)
    assert len(g.splits) == 10


def test_airport(tmp_path):
    names, feats, adj = files.airport(tmp_path)
    g = load("airport", tmp_path)
    place = {v: i for i, v in enumerate(names)}
    assert pairs(g.edge_index) == {tuple(sorted((place[u], place[v]))) for u in adj for v in adj[u]}
    last = np.array([feats[v]["feat"][4] for v in names])
    assert g.y.tolist() == [int(np.sum(v >= np.array([1, 8 / 7, 9 / 7]))) for v in last]
    assert g.x.shape == (40, 5)
    assert g.degree_features


def test_heterophilous(tmp_path):
    x, y, masks = files.heterophilous(tmp_path, "chameleon_filtered")
    g = load("chameleon-filtered", tmp_path)
    assert torch.equal(g.x, rows_to_one(torch.from_numpy(x)))
    assert torch.equal(g.y, torch.from_numpy(y))
    assert len(g.splits) == 10
    for i, split in enumerate(g.splits):
        assert split.test.tolist() == masks["test_masks"][i].nonzero()[0].tolist()


def test_geom_gcn_text(tmp_path):
    x, y, edges = files.geom_gcn(tmp_path)
    g = load("wisconsin", tmp_path)
    assert torch.equal(g.x, rows_to_one(torch.from_numpy(x).float()))
    assert g.y.tolist() == y.tolist()
    assert pairs(g.edge_index) == {tuple(sorted(e)) for e in edges if e[0] != e[1]}


def test_actor_from_its_own_text(tmp_path):
    x, y, _ = files.geom_gcn(tmp_path, "film", active=932)
    g = load("actor", tmp_path)
    assert torch.equal(g.x, rows_to_one(torch.from_numpy(x).float()))
    assert g.y.tolist() == y.tolist()


def check_set(g, made):
    assert isinstance(g, GraphSet)
    assert g.num_graphs == len(made)
    well_formed(g.edge_index, len(g.x))
    for i, (tags, edges, label) in enumerate(made):
        a, b = int(g.start[i]), int(g.start[i + 1])
        assert b - a == len(tags)
        assert (g.x[a:b].argmax(1) + 2).tolist() == tags.tolist()
        inside = (g.edge_index[1] >= a) & (g.edge_index[1] < b)
        assert pairs(g.edge_index[:, inside] - a) == {tuple(sorted(e)) for e in edges}
        assert int(g.y[i]) == label - 7


def test_graph_sets_in_both_formats(tmp_path):
    made = files.gin_text(tmp_path)
    g = load("ptc", tmp_path)
    check_set(g, made)
    assert torch.cat(g.tests).sort().values.tolist() == list(range(40))
    other = tmp_path / "other"
    files.tu_text(other)
    check_set(load("ptc", other), made)


def test_graphs_without_tags_get_degrees(tmp_path):
    files.gin_text(tmp_path, "IMDBBINARY", folds=False)
    text = (tmp_path / "tu/IMDBBINARY/IMDBBINARY.txt").read_text().splitlines()
    lines = [" ".join(["0", *line.split()[1:]]) if len(line.split()) > 2 else line for line in text]
    (tmp_path / "tu/IMDBBINARY/IMDBBINARY.txt").write_text("\n".join(lines))
    g = load("imdb-b", tmp_path)
    degree = torch.bincount(g.edge_index[1], minlength=len(g.x))
    assert torch.equal(torch.unique(degree, return_inverse=True)[1], g.x.argmax(1))
    assert torch.cat(g.tests).sort().values.tolist() == list(range(40))


def test_fold_files_that_leak_are_refused(tmp_path):
    files.gin_text(tmp_path, folds=False)
    files.fold_files(tmp_path, "PTC", 40, leak=True)
    with pytest.raises(ValueError, match="test_idx-1"):
        load("ptc", tmp_path)


def test_wordnet_and_wn18rr(tmp_path):
    files.wordnet(tmp_path)
    files.wn18rr(tmp_path)
    g = load("wordnet", tmp_path)
    assert g.labels == ["mammal", "cat", "dog"]
    assert pairs(g.edge_index) == {(0, 1), (0, 2)}
    t = load("wn18rr", tmp_path)
    assert [[t.entities[h], t.relations[r], t.entities[v]] for h, r, v in t.test.tolist()] == [
        ["d", "r", "a"]
    ]
    assert [len(p) for p in (t.train, t.val, t.test)] == [2, 1, 1]


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_missing_files_are_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="put it at") as error:
        load(name, tmp_path)
    assert str(tmp_path) in str(error.value)


def test_where_data_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HYPERKIT_DATA", raising=False)
    assert lookup.data_folder() == tmp_path / "cache" / "hyperkit" / "graphs"
    (tmp_path / "data" / "graphs").mkdir(parents=True)
    monkeypatch.setenv("HYPERKIT_DATA", str(tmp_path / "data"))
    assert lookup.data_folder() == tmp_path / "data" / "graphs"
    assert lookup.data_folder(tmp_path / "cache") == tmp_path / "cache"


def test_fetch_only_what_has_the_known_checksum(tmp_path, monkeypatch):
    files.wordnet(tmp_path / "there")
    path = "wordnet/wordnet_mammals.json"
    mirror = (tmp_path / "there").as_uri()
    content = (tmp_path / "there" / path).read_bytes()
    with pytest.raises(ValueError, match="checksum"):
        load("wordnet", tmp_path / "here", mirror=mirror)
    assert not (tmp_path / "here" / path).exists()
    monkeypatch.setitem(lookup.CHECKSUMS, path, hashlib.sha256(content).hexdigest())
    assert load("wordnet", tmp_path / "here", mirror=mirror, verify=True).num_nodes == 3
    assert (tmp_path / "here" / path).read_bytes() == content
    (tmp_path / "here" / path).write_bytes(content + b"\n")
    with pytest.raises(ValueError, match="checksum"):
        load("wordnet", tmp_path / "here", verify=True)
    with pytest.raises(FileNotFoundError, match="checksum is not known"):
        load("pubmed", tmp_path / "here", mirror=mirror)


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/hyperkit-was-here",)


@pytest.mark.parametrize("payload", [Evil(), [Evil()], {"x": Evil()}, print, collections.OrderedDict()])
def test_a_pickle_cannot_run_anything(tmp_path, monkeypatch, payload):
    called = []
    monkeypatch.setattr(os, "system", called.append)
    (tmp_path / "airport").mkdir()
    path = tmp_path / "airport" / "airport.p"
    monkeypatch.undo()
    path.write_bytes(pickle.dumps(payload))
    monkeypatch.setattr(os, "system", called.append)
    with pytest.raises(pickle.UnpicklingError, match="not loaded"):
        load("airport", tmp_path)
    assert not called


def test_plain_arrays_are_read(tmp_path):
    (tmp_path / "a").write_bytes(pickle.dumps({"a": np.arange(3.0), "b": [1]}))
    assert read_pickle(tmp_path / "a")["a"].tolist() == [0.0, 1.0, 2.0]


def test_pyg_objects():
    mask = torch.arange(6) % 3
    data = SimpleNamespace(
        x=torch.randn(6, 4),
        edge_index=torch.tensor([[0, 1, 1, 5], [1, 0, 1, 2]]),
        y=torch.arange(6).unsqueeze(-1) % 2,
        train_mask=mask == 0,
        val_mask=torch.stack([mask == 1, mask == 2], 1),
        test_mask=torch.stack([mask == 2, mask == 1], 1),
    )
    g = from_pyg(data)
    assert isinstance(g, Graph)
    assert pairs(g.edge_index) == {(0, 1), (2, 5)}
    assert [s.test.tolist() for s in g.splits] == [[2, 5], [1, 4]]
    data.test_mask = data.val_mask
    with pytest.raises(ValueError, match="once"):
        from_pyg(data)
    with pytest.raises(TypeError, match="edge_index"):
        from_pyg(SimpleNamespace(x=torch.zeros(2, 2), edge_index=None))
    small = [
        SimpleNamespace(x=torch.eye(3)[: 2 + i], edge_index=torch.tensor([[0], [1]]), y=torch.tensor([i]))
        for i in (0, 1)
    ]
    s = from_pyg(small)
    assert isinstance(s, GraphSet)
    assert s.start.tolist() == [0, 2, 5]
    assert pairs(s.edge_index) == {(0, 1), (2, 3)}


class PyGLike(torch.utils.data.Dataset):
    """As PyG's: attributes that no graph owns are those of all graphs joined, edges unshifted."""

    def __init__(self, items):
        self.items, self.edge_index = items, torch.cat([d.edge_index for d in items], 1)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def test_pyg_data_sets():
    edges = torch.tensor([[0, 1], [1, 2]])
    items = [SimpleNamespace(x=None, num_nodes=3, edge_index=edges, y=torch.tensor([i])) for i in (0, 1)]
    s = from_pyg(PyGLike(items))
    assert isinstance(s, GraphSet)
    assert pairs(s.edge_index) == {(0, 1), (1, 2), (3, 4), (4, 5)}
    assert s.x.argmax(1).tolist() == [0, 1, 0, 0, 1, 0]  # no features: degrees
    items[0].x = torch.zeros(3, 2)
    with pytest.raises(TypeError, match="some of each"):
        from_pyg(PyGLike(items))
    items[0].y = torch.tensor([0, 1, 1])
    one = from_pyg(PyGLike(items[:1]))
    assert isinstance(one, Graph)
    assert one.num_classes == 2


def test_bad_names():
    with pytest.raises(ValueError, match="name must be one of"):
        load("corra")
    with pytest.raises(ValueError, match="splits must be"):
        load("cora", splits="other")  # type: ignore[arg-type]
