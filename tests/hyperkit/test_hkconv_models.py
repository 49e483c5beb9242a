"""HKNet and the attention through kernel points."""

import sys
from types import SimpleNamespace

import hkconv_reference as ref
import pytest
import torch

from hyperkit import Lorentz
from hyperkit.nn import HKAttention, HKNet, HKTransformerBlock, KVCache, geometry
from hyperkit.ops import lorentz as L
from hyperkit.optim import RiemannianAdam
from hyperkit.testing import LayerContract, assert_permutation_equivariant

F64 = torch.float64
C = 0.7


def sequence(*shape, features=6, dtype=F64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return geometry("lorentz", C).random_normal(*shape, features=features, dtype=dtype, generator=g)


def ring(n):
    a = torch.arange(n)
    return torch.cat([torch.stack([a, (a + 1) % n]), torch.stack([(a + 1) % n, a])], 1)


# ---------------------------------------------------------------- HKNet


@pytest.mark.parametrize("aggregation", ["mean", "attention", "gin"])
@pytest.mark.parametrize("residual", [False, True])
def test_node_logits_follow_the_nodes(aggregation, residual):
    torch.manual_seed(0)
    net = HKNet(3, 5, 4, num_kernels=3, aggregation=aggregation, residual=residual, self_loop=True).double()
    x = torch.randn(7, 3, dtype=F64)
    order = torch.randperm(7)
    back = torch.argsort(order)
    torch.testing.assert_close(net(x[order], back[ring(7)]), net(x, ring(7))[order])


def test_graph_logits_do_not():
    torch.manual_seed(0)
    net = HKNet(3, 5, 4, num_kernels=3, task="graph", c=0.5).double()
    x = torch.randn(9, 3, dtype=F64)
    edges = torch.cat([ring(4), ring(5) + 4], 1)
    batch = torch.tensor([0] * 4 + [1] * 5)
    out = net(x, edges, batch)
    assert out.shape == (2, 4)
    torch.testing.assert_close(out[0], net(x[:4], ring(4))[0])
    torch.testing.assert_close(out[1], net(x[4:], ring(5))[0])
    order = torch.cat([torch.randperm(4), 4 + torch.randperm(5)])
    torch.testing.assert_close(net(x[order], torch.argsort(order)[edges], batch), out)
    # A graph without nodes among others has its readout at the origin.
    more = net(x, edges, batch, num_graphs=3)
    torch.testing.assert_close(more[2], net.mlr(L.origin(6, c=0.5, dtype=F64)))


def test_takes_data_objects_without_knowing_them():
    net = HKNet(3, 5, 4, num_kernels=3, task="graph")
    x, edges, batch = torch.randn(9, 3), torch.cat([ring(4), ring(5) + 4], 1), torch.tensor([0] * 4 + [1] * 5)
    data = SimpleNamespace(x=x, edge_index=edges, batch=batch)
    torch.testing.assert_close(net(data), net(x, edges, batch))
    assert "torch_geometric" not in sys.modules


def test_every_parameter_learns():
    torch.manual_seed(0)
    net = HKNet(
        3, 5, 4, num_kernels=3, num_layers=3, residual=True, c=Lorentz(0.8, learnable=True), aggregation="gin"
    )
    out = net(torch.randn(7, 3), ring(7))
    grads = torch.autograd.grad((out * torch.randn_like(out)).sum(), list(net.parameters()))
    for (name, _), g in zip(net.named_parameters(), grads, strict=True):
        assert bool(g.isfinite().all()), name
        assert bool((g != 0).any()), name


def test_learns_what_only_neighbours_know():
    """The class of a node is the majority among its neighbours' features, which are noise for the node."""
    g = torch.Generator().manual_seed(0)
    n, m = 120, 5
    neighbors = torch.randint(0, n, (n, m), generator=g)
    sign = torch.randint(0, 2, (n,), generator=g)
    x = torch.nn.functional.one_hot(sign, 2).float()
    label = (sign[neighbors].sum(1) * 2 > m).long()
    torch.manual_seed(0)
    # One layer: the differences to the centre and the centre itself are both needed, so with a residual.
    net = HKNet(2, 8, 2, num_layers=1, num_kernels=4, residual=True)
    optimiser = RiemannianAdam(net.parameters(), lr=0.03)
    for _ in range(120):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x, neighbors=neighbors), label)
        loss.backward()
        optimiser.step()
    accuracy = float((net(x, neighbors=neighbors).argmax(1) == label).float().mean())
    base = float(label.bincount().max()) / n
    assert base < 0.65
    assert accuracy > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "edge"}, "task must be one of .*node.*, got 'edge'"),
        ({"num_layers": 0}, "num_layers must be >= 1, got 0"),
        ({"num_kernels": 0}, "num_kernels must be >= 1"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        HKNet(3, 5, 4, **options)


def test_refused_batches():
    net = HKNet(3, 5, 4, task="graph", num_kernels=2)
    with pytest.raises(ValueError, match=r"batch must have shape \(7,\), got \(6,\)"):
        net(torch.randn(7, 3), ring(7), torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ValueError, match="num_graphs must come with batch"):
        net(torch.randn(7, 3), ring(7), num_graphs=2)
    with pytest.raises(ValueError, match="x must have last dimension 3"):
        net(torch.randn(7, 4), ring(7))


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("correlation", ["distance", "linear", "gaussian", "learned"])
def test_attention_agrees_with_the_equations(correlation):
    """One head and one sequence, pair by pair; q, k, v are the layer's own projections."""
    torch.manual_seed(0)
    attention = HKAttention(4, 1, 3, c=C, correlation=correlation).double()
    x = sequence(1, 4, features=4)
    q, k, v = (t[0, 0] for t in attention._project(x, 0, 3))
    tau = float(attention.log_temperature.detach().exp())
    assert tau == pytest.approx(2.0)  # sqrt(n)
    conv = SimpleNamespace(kernels=attention.kernels)
    steps = list(v)  # x (-) x is told from others by identity
    rows = []
    for i in range(4):
        pairs = [ref.neighbour(conv, steps[j], steps[i], C, correlation) for j in range(4)]
        w = torch.softmax(torch.stack([-(ref.dist(q[i], k[j], C) ** 2) / tau for j in range(4)]), 0)
        rows.append(ref.centroid([p for p, _ in pairs], [w[j] * pairs[j][1] for j in range(4)], C))
    expected = attention.out(torch.stack(rows))
    torch.testing.assert_close(attention(x)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("score", ["geodesic", "lorentzian"])
def test_cache_and_causal_mask(score):
    torch.manual_seed(0)
    attention, cache = HKAttention(6, 2, 3, c=C, score=score).double(), KVCache()
    x = sequence(2, 5)
    steps = [attention(x[:, i : i + 1], causal=True, cache=cache) for i in range(5)]
    whole = attention(x, causal=True)
    torch.testing.assert_close(torch.cat(steps, 1), whole)
    # A later step is not seen.
    moved = x.clone()
    moved[:, 4] = x[:, 0]
    torch.testing.assert_close(attention(moved, causal=True)[:, :4], whole[:, :4])
    assert bool((attention(moved, causal=True)[:, 4] != whole[:, 4]).any())


def test_memory_masks_and_bias():
    torch.manual_seed(0)
    attention = HKAttention(6, 2, 3, c=C).double()
    x, memory = sequence(2, 3), sequence(2, 4, seed=1)
    mask = torch.tensor([True, True, False, False])
    torch.testing.assert_close(attention(x, memory, mask=mask), attention(x, memory[:, :2]))
    bias = torch.zeros(4, dtype=F64).masked_fill(~mask, -1e4)
    torch.testing.assert_close(attention(x, memory, bias=bias), attention(x, memory[:, :2]))
    nobody = attention(x, memory, mask=torch.zeros(4, dtype=torch.bool))
    alone = attention.out(L.origin(7, c=C, dtype=F64))
    torch.testing.assert_close(nobody, alone.expand(2, 3, -1))
    cache = KVCache()
    first = attention(x, memory, cache=cache)
    torch.testing.assert_close(attention(x, torch.zeros_like(memory), cache=cache), first)


def test_attention_refuses():
    with pytest.raises(ValueError, match=r"score must be one of .*geodesic.*, got 'dot'"):
        HKAttention(6, 2, 3, score="dot")
    with pytest.raises(ValueError, match="features must be divisible by num_heads=4"):
        HKAttention(6, 4, 3)
    with pytest.raises(TypeError, match="mask must be boolean"):
        HKAttention(6, 2, 3)(sequence(1, 3, dtype=torch.float32), mask=torch.ones(3, 3))


class TestAttention(LayerContract):
    def make(self):
        return HKAttention(6, 2, 3, c=C, trainable_kernels=True)

    def inputs(self, dtype=torch.float32):
        return (sequence(2, 4, dtype=dtype),)

    def manifold(self):
        return Lorentz(C)

    def test_symmetry(self):
        assert_permutation_equivariant(self._layer(), *self.inputs(), tolerance=1e-4)


class TestBlock(TestAttention):
    compiles = False  # takes seconds; its new part is the attention, which is compiled above

    def make(self):
        return HKTransformerBlock(6, 2, 3, 8, c=C, score="lorentzian", trainable_kernels=True)


def test_block_with_memory_and_dropout():
    torch.manual_seed(0)
    block = HKTransformerBlock(6, 2, 3, cross=True, dropout=0.3, c=C)
    x, memory = sequence(2, 5, dtype=torch.float32), sequence(2, 3, dtype=torch.float32, seed=1)
    out = block(x, memory, causal=True)
    assert Lorentz(C).check_point_on_manifold(out.detach())
    grads = torch.autograd.grad((out * torch.randn_like(out)).sum(), list(block.parameters()))
    for (name, _), g in zip(block.named_parameters(), grads, strict=True):
        assert bool(g.isfinite().all()), name
    assert bool((block(x, memory) != block(x, memory)).any())
