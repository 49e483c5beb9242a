"""HKConv as a torch layer: blocks and memory, derivatives, compilation, autocast, what it refuses."""

from types import SimpleNamespace

import pytest
import torch
from hkconv_case import CORRELATIONS, EDGES, layer, near, on_hyperboloid, points

from hyperkit import Lorentz, PoincareBall
from hyperkit.graphs import pad_neighbors
from hyperkit.nn import HKConv, PoincareHKConv
from hyperkit.nn import _kernel_rows as rows
from hyperkit.ops import _fused
from hyperkit.ops import lorentz as L
from hyperkit.testing import LayerContract

# ---------------------------------------------------------------- blocks, derivatives, contracts


@pytest.mark.parametrize("correlation", ["distance", "linear"])
@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("cls", [HKConv, PoincareHKConv])
def test_blocks_change_nothing(monkeypatch, correlation, learnable, cls):
    manifold = (Lorentz if cls is HKConv else PoincareBall)(0.8, learnable=learnable)
    conv = layer(cls=cls, c=manifold, correlation=correlation, trainable_kernels=True)
    x = points(30, c=0.8)
    x = L.to_poincare(x, 0.8) if cls is PoincareHKConv else x
    edges = torch.randint(0, 30, (2, 200), generator=torch.Generator().manual_seed(0))
    results = []
    for block in (1, 1 << 40):  # 64 rows, all rows
        monkeypatch.setattr(rows, "BLOCK", block)
        leaf = x.clone().requires_grad_()
        out = conv(leaf, edges)
        assert ("_Blocks" in graph_nodes(out)) == (block == 1)
        # Twice: the second derivative goes through the blocks' backward pass.
        params = [leaf, *conv.parameters()]
        first = torch.autograd.grad(out.square().sum(), params, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), params)
        leaf2 = x.clone().requires_grad_()
        plain = torch.autograd.grad(conv(leaf2, edges).square().sum(), [leaf2, *conv.parameters()])
        results.append([out, *first, *second, *plain])
    for a, b in zip(*results, strict=True):
        near(a, b, 1e-11)


def graph_nodes(out):
    """Names of the autograd functions that made a tensor."""
    names, todo, seen = "", [out.grad_fn], set()
    while todo:
        f = todo.pop()
        if f is not None and f not in seen:
            seen.add(f)
            names += f.name() + " "
            todo += [g for g, _ in f.next_functions]
    return names


def test_memory_kept_for_the_backward_pass(monkeypatch):
    """In blocks a pair costs its two points, not its K transformed ones."""
    n, m, k, d = 300, 8, 8, 16
    conv = layer(d, d, k, dtype=torch.float32)
    x = points(n, d, dtype=torch.float32)
    neighbors = torch.randint(0, n, (n, m), generator=torch.Generator().manual_seed(0))
    kept = {}
    for block in (1 << 14, 1 << 40):
        monkeypatch.setattr(rows, "BLOCK", block)
        held = {}

        def pack(t, held=held):
            held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        # The compiled kernel keeps less still, and has no blocks.
        with _fused.disabled(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            conv(x.clone().requires_grad_(), neighbors=neighbors)
        kept[block] = sum(held.values())
    whole = n * m * k * d * 4
    assert kept[1 << 40] > whole
    assert kept[1 << 14] < 0.7 * whole
    assert kept[1 << 14] < kept[1 << 40] / 4


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_gradcheck(correlation):
    conv = layer(3, 2, 3, correlation=correlation, trainable_kernels=True, aggregation="attention")
    names, values = zip(*conv.named_parameters(), strict=True)

    def f(space, *params):
        return torch.func.functional_call(
            conv, dict(zip(names, params, strict=True)), (L.from_space(space), EDGES)
        )

    args = [
        points(5, 3)[:, 1:].clone().requires_grad_(),
        *(v.detach().clone().requires_grad_() for v in values),
    ]
    assert torch.autograd.gradcheck(f, args)


class _Contract(LayerContract):
    cls = HKConv

    def options(self):
        return {}

    def make(self):
        return self.cls(6, 4, 4, c=0.7, trainable_kernels=True, **self.options())

    def inputs(self, dtype=torch.float32):
        x = points(5, 6, c=0.7, dtype=dtype)
        return (x if self.cls is HKConv else L.to_poincare(x, 0.7)), EDGES

    def manifold(self):
        return Lorentz(0.7) if self.cls is HKConv else PoincareBall(0.7)


class TestFaithful(_Contract):
    pass


class TestAttentionLearned(_Contract):
    def options(self):
        return {"aggregation": "attention", "correlation": "learned", "self_loop": True}


class TestGINGaussian(_Contract):
    compiles = False  # two others and the linear layers' own tests do

    def options(self):
        return {"aggregation": "gin", "correlation": "gaussian", "activation": "tanh"}


class TestLinearBall(_Contract):
    cls = PoincareHKConv

    def options(self):
        return {"correlation": "linear"}


def test_padded_form_compiles():
    conv = layer()
    neighbors, _ = pad_neighbors(EDGES, 5)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: conv(x, neighbors=neighbors), fullgraph=True, backend="aot_eager")
    near(compiled(points()), conv(points(), neighbors=neighbors), 1e-12)
    torch._dynamo.reset()


def test_dropout_and_autocast(monkeypatch):
    conv = layer(dropout=0.5, dtype=torch.float32)
    x = points(dtype=torch.float32)
    assert bool((conv(x, EDGES) != conv(x, EDGES)).any())
    on_hyperboloid(conv(x, EDGES).detach(), 1.0)
    conv.eval()
    near(conv(x, EDGES), conv(x, EDGES), 0)
    big = torch.randint(0, 5, (2, 100), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(rows, "BLOCK", 1)
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(conv(leaf, big).square().sum(), leaf)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(leaf, big)
        on_hyperboloid(out.detach(), 1.0)
        near(out, conv(x, big), 0)
        # Going backward inside the block as well: the blocks are computed again there.
        near(torch.autograd.grad(out.square().sum(), leaf)[0], expected, 1e-6)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_kernels": 0}, "num_kernels must be >= 1, got 0"),
        ({"in_features": 0}, "in_features must be >= 1"),
        ({"c": -1.0}, "c must be > 0"),
        ({"correlation": "cosine"}, "correlation must be one of .*distance.*, got 'cosine'"),
        ({"aggregation": "max"}, "aggregation must be one of .*gin.*, got 'max'"),
        ({"empty": "zero"}, "empty must be one of .*origin.*, got 'zero'"),
        ({"empty": "self"}, "in_features=4 and out_features=3"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"scale": 0.0}, "scale must be > 0"),
        ({"extent": 0.0}, "extent must be > 0"),
        ({"sigma": 1.0}, "sigma has no meaning with correlation='distance'"),
        ({"sigma": -1.0, "correlation": "linear"}, "sigma must be > 0"),
        ({"activation": "step"}, "activation must be one of"),
    ],
)
def test_refused_options(options, message):
    given = {"in_features": 4, "out_features": 3, "num_kernels": 3, **options}
    with pytest.raises(ValueError, match=message):
        HKConv(given.pop("in_features"), given.pop("out_features"), given.pop("num_kernels"), **given)


def _table(*shape):
    return torch.zeros(shape, dtype=torch.int64)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({}, ValueError, "either edge_index or neighbors"),
        ({"edge_index": EDGES, "neighbors": _table(5, 2)}, ValueError, "either edge_index or neighbors"),
        ({"edge_index": EDGES.T}, ValueError, r"edge_index must have shape \(2, E\), got \(8, 2\)"),
        ({"edge_index": EDGES.float()}, TypeError, "edge_index must be a tensor of int64 or int32"),
        ({"edge_index": EDGES + 1}, ValueError, "edge_index must name nodes 0 to 4, got values from 1 to 5"),
        ({"edge_index": EDGES - 1}, ValueError, "edge_index must name nodes 0 to 4, got values from -1 to 3"),
        ({"neighbors": _table(4, 2)}, ValueError, r"neighbors must have shape \(N, M\) with N=5"),
        ({"neighbors": _table(5, 2) + 5}, ValueError, "neighbors must name nodes 0 to 4"),
        ({"neighbors": _table(5, 2), "mask": _table(5, 2)}, TypeError, "mask must be boolean"),
        ({"neighbors": _table(5, 2), "mask": _table(5, 3) > 0}, ValueError, "mask must have the shape"),
        ({"edge_index": EDGES, "mask": _table(5, 2) > 0}, ValueError, "mask belongs to neighbors"),
        (
            {"edge_index": EDGES, "edge_weight": torch.ones(7)},
            ValueError,
            r"edge_weight must have shape \(8,\)",
        ),
        (
            {"edge_index": EDGES, "edge_weight": -torch.ones(8)},
            ValueError,
            "edge_weight must be >= 0, got -1.0",
        ),
        ({"edge_index": EDGES, "edge_weight": EDGES[0]}, TypeError, "edge_weight must be floating point"),
    ],
)
def test_refused_graphs(kwargs, error, message):
    with pytest.raises(error, match=message):
        layer()(points(), **kwargs)


def test_refused_nodes():
    conv = layer()
    with pytest.raises(ValueError, match="x must have last dimension 5"):
        conv(points(5, 5), EDGES)
    with pytest.raises(ValueError, match=r"x must have shape \(N, D\)"):
        conv(points().unsqueeze(0), EDGES)
    with pytest.raises(TypeError, match="x must be floating point"):
        conv(torch.ones(5, 5, dtype=torch.int64), EDGES)
    with pytest.raises(TypeError, match=r"x is torch.float32 but the layer's weights are torch.float64"):
        conv(points().float(), EDGES)
    with pytest.raises(TypeError, match="object with x and edge_index"):
        conv(SimpleNamespace(x=points()))
    with pytest.raises(ValueError, match="already holds edge_index"):
        conv(SimpleNamespace(x=points(), edge_index=EDGES), EDGES)
