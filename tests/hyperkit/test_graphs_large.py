"""Graphs too large to go through at once: blocks of edges, sampled neighbourhoods."""

import pytest
import torch

from hyperkit.graphs import (
    Adjacency,
    EdgeBlocks,
    Features,
    Graph,
    GraphNetwork,
    ModelSettings,
    NeighborSampler,
    NodeTask,
    TrainSettings,
    fit,
    random_split,
)
from hyperkit.graphs.experiment import settings_of, settings_text
from hyperkit.graphs.splits import both_directions
from hyperkit.nn import HKConv, LorentzGraphConv, geometry


def random_graph(nodes=60, links=200, seed=0):
    g = torch.Generator().manual_seed(seed)
    edges = torch.randint(nodes - 3, (2, links), generator=g)  # the last three have no neighbours
    edges[0, : nodes // 3] = 0  # a hub
    return both_directions(edges, nodes)


def points(nodes=60, features=5):
    g = torch.Generator().manual_seed(1)
    x = geometry("lorentz").random_normal(nodes, features=features, generator=g)
    return x.double().requires_grad_()


LAYERS = {
    "fused": lambda: HKConv(5, 5, 3, empty="self"),
    "origin": lambda: HKConv(5, 4, 3, correlation="linear"),
    "gin": lambda: HKConv(5, 5, 3, aggregation="gin"),
    "attention": lambda: HKConv(5, 5, 3, aggregation="attention", trainable_kernels=True),
    "hybonet": lambda: LorentzGraphConv(5, 5, activation="relu", self_loop=True),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("max_edges", [1, 37, 10_000])
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_give_values_and_gradients_of_the_whole(name, max_edges, weighted):
    if weighted and name == "hybonet":
        pytest.skip("takes no weights")
    torch.manual_seed(0)
    layer, edges, x = LAYERS[name]().double(), random_graph(), points()
    edges = edges[:, torch.randperm(edges.shape[1])]
    weight = torch.rand(edges.shape[1], dtype=torch.float64) if weighted else None
    blocks = EdgeBlocks(edges, 60, edge_weight=weight, max_edges=max_edges)
    if max_edges != 37:
        assert len(blocks) == {1: 58, 10_000: 1}[max_edges]  # the last nodes have no edges and share a block
    options = {} if weight is None else {"edge_weight": weight}
    whole = layer(x, edge_index=edges, **options)
    up = torch.randn_like(whole)
    wanted = [x, *layer.parameters()]
    want = torch.autograd.grad(whole, wanted, up)
    out = blocks(layer, x)
    assert torch.allclose(out, whole, atol=1e-10)
    out.backward(up)
    for p, g in zip(wanted, want, strict=True):
        assert p.grad is not None
        assert torch.allclose(p.grad, g, atol=1e-9), p.shape


def test_blocks_drop_the_same_on_the_way_back():
    """The gradient of a block that dropped something else would not be that of the values seen."""
    torch.manual_seed(0)
    layer, x = HKConv(5, 5, 3, dropout=0.5).double(), points()
    blocks = EdgeBlocks(random_graph(), 60, max_edges=50)
    up = torch.randn(60, 6, dtype=torch.float64)

    def value(shift):
        torch.manual_seed(3)
        return (blocks(layer, x.detach() + shift) * up).sum()

    direction = torch.zeros(60, 6, dtype=torch.float64)
    direction[7] = direction[40] = torch.tensor([0.0, 0.3, -0.2, 0.5, 0.1, 0.4])
    torch.manual_seed(3)
    out = blocks(layer, x)
    state = torch.get_rng_state()
    (grad,) = torch.autograd.grad(out, x, up)
    assert torch.equal(torch.get_rng_state(), state)
    slope = (value(1e-6 * direction) - value(-1e-6 * direction)) / 2e-6
    assert slope.item() == pytest.approx((grad * direction).sum().item(), rel=1e-5)


def test_blocks_take_frozen_inputs_and_refuse_what_does_not_fit():
    layer, edges = HKConv(5, 5, 3).double(), random_graph()
    blocks = EdgeBlocks(edges, 60, max_edges=50)
    blocks(layer, points().detach()).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    with torch.no_grad():
        assert not blocks(layer, points()).requires_grad
    with pytest.raises(ValueError, match="60 rows"):
        blocks(layer, points(61))
    with pytest.raises(ValueError, match="nodes 0 to 9"):
        EdgeBlocks(edges, 10)
    with pytest.raises(ValueError, match="shape"):
        EdgeBlocks(edges[0], 60)
    with pytest.raises(ValueError, match="edge_weight"):
        EdgeBlocks(edges, 60, edge_weight=torch.ones(3))
    with pytest.raises(ValueError, match="max_edges"):
        EdgeBlocks(edges, 60, max_edges=0)


def test_samples_hold_neighbours_each_once_and_follow_the_seed():
    edges = random_graph()
    known = set((edges[0] * 60 + edges[1]).tolist())
    degree = torch.bincount(edges[1], minlength=60)
    sampler = NeighborSampler(edges, 60, [4, 2])
    seeds = torch.tensor([5, 0, 59])
    a, b = (sampler(seeds, torch.Generator().manual_seed(1)) for _ in range(2))
    assert all(torch.equal(u, v) for u, v in zip(a, b, strict=True))
    c = sampler(seeds, torch.Generator().manual_seed(2))
    assert not torch.equal(a.edge_index, c.edge_index) or not torch.equal(a.nodes, c.nodes)
    assert torch.equal(a.nodes[:3], seeds)
    assert len(torch.unique(a.nodes)) == len(a.nodes)
    assert torch.equal(a.degree, degree[a.nodes])
    codes = (a.nodes[a.edge_index[0]] * 60 + a.nodes[a.edge_index[1]]).tolist()
    assert set(codes) <= known
    assert len(set(codes)) == len(codes)
    count = torch.bincount(a.edge_index[1], minlength=len(a.nodes))
    assert torch.equal(count[:3], degree[seeds].clamp(max=4))
    with pytest.raises(ValueError, match="twice"):
        sampler(torch.tensor([1, 1]), torch.Generator())
    again = sampler(seeds, torch.Generator().manual_seed(1))  # nothing is left behind by an error
    assert torch.equal(a.edge_index, again.edge_index)
    for sizes in ([], [0], [-2]):
        with pytest.raises(ValueError, match="sizes"):
            NeighborSampler(edges, 60, sizes)


def test_each_neighbour_is_drawn_as_often():
    edges = random_graph()
    sampler, generator = NeighborSampler(edges, 60, [5]), torch.Generator().manual_seed(0)
    neighbours = edges[0][edges[1] == 0]
    seen, draws = torch.zeros(60), 4000
    for _ in range(draws):
        s = sampler(torch.tensor([0]), generator)
        seen[s.nodes[s.edge_index[0]]] += 1
    share = 5 / len(neighbours)
    noise = (draws * share * (1 - share)) ** 0.5
    assert (seen[neighbours] - draws * share).abs().max() < 4.5 * noise
    assert seen.sum() == 5 * draws


@pytest.mark.parametrize("name", ["symmetric", "mean", "neighbours"])
def test_sums_over_sampled_neighbours_have_the_expectation_of_the_whole(name):
    edges, x = random_graph(), torch.randn(60, 3, generator=torch.Generator().manual_seed(2))
    whole = Adjacency(edges, 60)
    pattern = "plain" if name == "neighbours" else "loops"
    want = getattr(whole, pattern).matmul(getattr(whole, name), x)
    sampler, generator = NeighborSampler(edges, 60, [5]), torch.Generator().manual_seed(0)
    found = []
    for _ in range(3000):
        s = sampler(torch.tensor([0, 3]), generator)
        a = s.adjacency()
        found.append(getattr(a, pattern).matmul(getattr(a, name), x[s.nodes])[:2])
    found = torch.stack(found)
    error = (found.mean(0) - want[[0, 3]]).abs()
    assert (error < 4.5 * found.std(0) / 3000**0.5 + 1e-6).all()
    assert found.std(0)[0].max() > 0.01  # the hub's do vary


@pytest.mark.parametrize("model", ["gcn", "sage", "gat", "hgcn", "hybonet", "hknet", "hknet-paper"])
def test_all_neighbours_give_the_values_of_the_whole_graph(model):
    torch.manual_seed(0)
    edges, x = random_graph(), torch.randn(60, 7)
    net = GraphNetwork(ModelSettings(model, 8, 3, 0.0), "nc", 7, 3).eval()
    seeds = torch.tensor([4, 0, 58])
    sample = NeighborSampler(edges, 60, [-1] * 3)(seeds, torch.Generator())
    with torch.no_grad():
        want = net(Features(x), Adjacency(edges, 60))[seeds]
        part = Features(x[sample.nodes], mean_square=Features(x).mean_square)
        out = net(part, sample.adjacency())[:3]
    assert torch.allclose(out, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", ["sage", "hybonet", "hknet"])
def test_training_on_samples_learns(model):
    y = torch.arange(90) % 3
    g = torch.Generator().manual_seed(0)
    steps = torch.tensor([3, 6, 9]).repeat_interleave(90)
    source = torch.arange(90).repeat(3)
    edges = both_directions(torch.stack([source, (source + steps) % 90]), 90)
    x = torch.nn.functional.one_hot(y, 3).float() + 1.2 * torch.randn(90, 3, generator=g)
    data = Graph("rings", x, edges, y, [random_split(y, 0.2, 0.3, 0)])
    train = TrainSettings(lr=0.03, weight_decay=0.0, epochs=15, patience=15, batch=16, sample=(3, 3))
    options = {"smooth": 1, "keep": 4.0} if model == "hknet" else {}
    task, settings = NodeTask(data, data.splits[0]), ModelSettings(model, 16, 2, 0.0, options)
    result = fit(task, settings, train, 0)
    assert result.test > 75
    again = fit(NodeTask(data, data.splits[0]), settings, train, 0)
    assert (result.val, result.test) == (again.val, again.test)
    assert settings_of(settings_text(settings, train)) == (settings, train)
