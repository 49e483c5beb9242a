"""Nearest neighbours against all distances, and the tables of neighbours."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hyperkit.graphs import edges_from_neighbors, knn, knn_graph, pad_neighbors
from hyperkit.nn import geometry
from hyperkit.ops import lorentz as L

F64 = torch.float64


def cloud(n=200, d=5, c=1.0, std=1.0, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return geometry("lorentz", c).random_normal(n, features=d, std=std, dtype=dtype, generator=g)


def brute(x, k, c=1.0, loop=False):
    d = L.cdist(x.double(), x.double(), c)
    if not loop:
        d.fill_diagonal_(torch.inf)
    return d.topk(k, largest=False)


@pytest.mark.parametrize("c", [0.3, 1.0])
@pytest.mark.parametrize("std", [0.01, 1.0, 4.0])
@pytest.mark.parametrize("block", [1, 37, 1000])
def test_all_distances_agree(c, std, block):
    x = cloud(60 if block == 1 else 200, c=c, std=std)
    d, expected = brute(x, 4, c)
    index, distances = knn(x, 4, c=c, block=block)
    assert torch.equal(index, expected)
    torch.testing.assert_close(distances.double(), d, rtol=1e-5, atol=1e-6)
    assert index.dtype == torch.int64
    assert distances.dtype == torch.float32


def test_far_out_where_inner_products_lose_everything():
    """Clusters of width 0.1 at radius 18: products of 1e15, and cosh(d) - 1 about 1e-3."""
    g = torch.Generator().manual_seed(0)
    centre = L.expmap0(torch.nn.functional.pad(18.0 * torch.eye(3, dtype=F64), (1, 0)))
    local = L.expmap0(torch.nn.functional.pad(0.1 * torch.randn(40, 3, generator=g, dtype=F64), (1, 0)))
    x = torch.cat([L.boost(local, p) for p in centre])
    inner = -L.pairwise_inner(x, x)
    inner.fill_diagonal_(torch.inf)
    d, expected = brute(x, 5)
    assert not torch.equal(inner.topk(5, largest=False)[1].sort()[0], expected.sort()[0])
    for block in (16, 500):
        index, distances = knn(x, 5, block=block)
        assert torch.equal(index, expected)
        torch.testing.assert_close(distances, d)


def test_spare_candidates_are_checked(monkeypatch):
    """With no spare candidate and bounds of rounding size, the exact pass has to mend the choice."""
    import hyperkit.graphs._knn as module

    g = torch.Generator().manual_seed(0)
    local = L.expmap0(torch.nn.functional.pad(1e-3 * torch.randn(60, 3, generator=g, dtype=F64), (1, 0)))
    x = L.boost(local, L.expmap0(torch.tensor([0.0, 14.0, 0, 0], dtype=F64)))
    monkeypatch.setattr(module, "_SPARE", 0)
    assert torch.equal(knn(x, 3)[0], brute(x, 3)[1])


def test_bounds_are_bounds():
    from hyperkit.graphs._knn import _lower_bound

    for std in (0.1, 2.0, 6.0):
        x = cloud(100, std=std, dtype=F64)
        s = L.haversine(x[:, None, 1:], x[None, :, 1:], 1.0).squeeze(-1)
        assert bool((_lower_bound(x, x, 1.0) <= s).all())


def test_batches_loops_and_queries():
    x = cloud(30)
    batch = torch.tensor([0] * 2 + [1] * 10 + [3] * 18)
    index, distances = knn(x, 3, batch=batch, block=7)
    for first, last in ((2, 12), (12, 30)):
        assert torch.equal(index[first:last] - first, brute(x[first:last], 3)[1])
    assert index[:2].tolist() == [[1, -1, -1], [0, -1, -1]]
    assert bool(torch.isinf(distances[:2, 1:]).all())
    assert torch.equal(knn(x, 3, loop=True)[0][:, 0], torch.arange(30))
    q = cloud(4, seed=1)
    index, distances = knn(x, 2, queries=q)
    d, expected = L.cdist(q.double(), x.double()).topk(2, largest=False)
    assert torch.equal(index, expected)
    torch.testing.assert_close(distances.double(), d, rtol=1e-5, atol=1e-6)
    edges = knn_graph(x, 3, batch=batch)
    assert edges.shape == (2, 2 + 3 * 28)
    assert bool((batch[edges[0]] == batch[edges[1]]).all())
    assert knn(x[:0], 3, batch=batch[:0])[0].shape == (0, 3)


def test_equal_distances_by_index():
    x = L.from_space(torch.tensor([[0.0], [1.0], [-1.0], [1.0], [0.0]]))
    assert knn(x, 4)[0][0].tolist() == [4, 1, 2, 3]
    assert knn(x, 1)[0].flatten().tolist() == [4, 3, 0, 1, 0]
    same = cloud(1).expand(100, -1)  # more of them than there are candidates
    for block in (16, 1000):
        index, distances = knn(same, 3, block=block)
        assert index[:5].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]
        assert bool((distances == 0).all())


def test_distances_have_gradients():
    x = cloud(20, dtype=F64)
    leaf = x[:, 1:].clone().requires_grad_()
    c = torch.tensor(0.8, dtype=F64, requires_grad=True)
    index, distances = knn(L.from_space(leaf, c), 2, c=c)
    got = torch.autograd.grad(distances.sum(), [leaf, c])
    y = L.from_space(leaf, c)
    expected = torch.autograd.grad(L.dist(y.unsqueeze(1), y[index], c).sum(), [leaf, c])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor):
                self.size = max(self.size, t.untyped_storage().nbytes() // t.element_size())
        return out


@pytest.mark.parametrize("std", [1.0, 6.0])
def test_never_all_pairs(std):
    n = 1500
    x = cloud(n, std=std)
    with Largest() as largest:
        knn(x, 4, block=128)
    assert largest.size < n * n / 3
    with Largest() as largest:
        knn(x, 4, block=4096)
    assert largest.size >= n * n  # the meter measures


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"k": 0}, "k must be >= 1, got 0"),
        ({"k": 20}, "k must be at most 19, the number of points to choose from, got 20"),
        ({"k": 21, "loop": True}, "k must be at most 20"),
        ({"k": 2, "block": 0}, "block must be >= 1"),
        ({"k": 2, "c": 0.0}, "c must be > 0"),
        ({"k": 2, "batch": torch.zeros(3)}, r"batch must have shape \(20,\)"),
        ({"k": 2, "batch": torch.arange(20).flip(0)}, "batch must be sorted"),
        ({"k": 2, "batch": torch.zeros(20), "queries": cloud(2)}, "batch has no meaning with queries"),
        ({"k": 2, "queries": cloud(2, 3)}, "last dimension"),
    ],
)
def test_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        knn(cloud(20), kwargs.pop("k"), **kwargs)
    with pytest.raises(ValueError, match="x must have shape"):
        knn(cloud(20).unsqueeze(0), 2)


def test_tables_and_edges():
    g = torch.Generator().manual_seed(0)
    edges = torch.randint(0, 9, (2, 30), generator=g)
    neighbors, mask = pad_neighbors(edges, 9)
    for node in range(9):
        assert neighbors[node][mask[node]].tolist() == edges[0][edges[1] == node].tolist()
    back = edges_from_neighbors(neighbors)
    assert sorted(back.T.tolist()) == sorted(edges.T.tolist())
    assert torch.equal(edges_from_neighbors(neighbors, mask), back)
    few, _ = pad_neighbors(edges, 9, max_neighbors=2)
    assert torch.equal(few, neighbors[:, :2])
    assert pad_neighbors(edges[:, :0], 4)[0].shape == (4, 0)
    assert pad_neighbors(edges, 9, max_neighbors=99)[0].shape == neighbors.shape


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((torch.zeros(3, 4, dtype=torch.int64), 5), ValueError, r"edge_index must have shape \(2, E\)"),
        ((torch.zeros(2, 4), 5), TypeError, "edge_index must hold integers"),
        ((torch.full((2, 1), 5), 5), ValueError, "edge_index must name nodes 0 to 4, got values from 5 to 5"),
        ((torch.zeros(2, 1, dtype=torch.int64), 5, -1), ValueError, "max_neighbors must be >= 0, got -1"),
    ],
)
def test_tables_refuse(args, error, message):
    with pytest.raises(error, match=message):
        pad_neighbors(*args)
    with pytest.raises(ValueError, match="mask must be boolean of shape"):
        edges_from_neighbors(torch.zeros(2, 2, dtype=torch.int64), torch.ones(2, 2))
