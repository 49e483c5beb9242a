"""Models against dense formulas, their symmetry, and that they learn."""

import math

import pytest
import torch

from hyperkit.graphs import MODELS, Adjacency, Features, GraphNetwork, ModelSettings
from hyperkit.graphs._euclidean import GATConv, GCNConv, SAGEConv
from hyperkit.graphs._hyperbolic import HGCN, HKOurs, HyboNet, LorentzInput, spread, within
from hyperkit.graphs._sparse import Pattern
from hyperkit.graphs.splits import both_directions
from hyperkit.nn import ExpMap0, LorentzGraphConv, LorentzLinear, geometry
from hyperkit.ops import lorentz as L

HYPERBOLIC = MODELS[4:]


def graph(n=12, seed=0, alone=2):
    """A random graph whose last nodes have no neighbours."""
    g = torch.Generator().manual_seed(seed)
    edges = torch.randint(n - alone, (2, 3 * n), generator=g)
    return Adjacency(both_directions(edges, n), n)


def dense(a: Adjacency, loops=True):
    m = torch.zeros(a.nodes, a.nodes)
    m[a.edge_index[1], a.edge_index[0]] = 1
    return m + torch.eye(a.nodes) if loops else m


def words(n=12, width=80, seed=0, share=0.1):
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(n, width, generator=g) < share).float() * torch.rand(n, width, generator=g)


def test_pattern_matches_dense_with_gradients():
    torch.manual_seed(0)
    rows, cols = (torch.rand(5, 7) < 0.4).nonzero(as_tuple=True)
    shuffle = torch.randperm(len(rows))
    p = Pattern(rows[shuffle], cols[shuffle], (5, 7))
    assert torch.equal(rows[shuffle][p.order], p.rows)
    values = torch.randn(len(rows), dtype=torch.float64, requires_grad=True)
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    m = torch.zeros(5, 7, dtype=torch.float64).index_put((p.rows, p.cols), values)
    assert torch.allclose(p.matmul(values, x), m @ x)
    assert torch.autograd.gradcheck(p.matmul, (values, x))
    scores = torch.randn(len(rows), 2, dtype=torch.float64, requires_grad=True)
    weight = p.softmax(scores + 800)  # no overflow
    for row in range(5):
        own = p.rows == row
        assert torch.allclose(weight[own], scores[own].softmax(0))
    assert torch.autograd.gradcheck(p.softmax, (scores,))
    with pytest.raises(ValueError, match="rows and cols"):
        Pattern(rows, cols[1:], (5, 7))


def test_adjacency_normalised():
    a = graph()
    m = dense(a)
    d = m.sum(1)
    assert torch.allclose(a.loops.matmul(a.symmetric, torch.eye(12)), m / (d.outer(d)).sqrt())
    assert torch.allclose(a.loops.matmul(a.mean, torch.eye(12)), m / d.unsqueeze(1))
    plain = a.plain.matmul(a.neighbours, torch.eye(12))
    assert torch.allclose(plain, dense(a, False) / (d - 1).clamp(min=1).unsqueeze(1))
    assert bool((plain[-1] == 0).all())
    weight = a.edge_weight()
    assert torch.allclose(weight, ((d - 1)[a.edge_index[0]] * (d - 1)[a.edge_index[1]]).rsqrt())


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_features(share):
    x = words(share=share)
    f = Features(x)
    assert (f.pattern is not None) == (share == 0.1)
    w, b, s = torch.randn(5, 80), torch.randn(5), torch.rand(12, 1)
    assert torch.allclose(f.linear(w, b), x @ w.t() + b, atol=1e-5)
    assert torch.allclose(f.linear(w, scale=s), (s * x) @ w.t(), atol=1e-5)
    torch.manual_seed(0)
    many = torch.stack([f.linear(w, dropout=0.5) for _ in range(800)])
    assert torch.allclose(many.mean(0), x @ w.t(), atol=0.6)
    assert many.std(0).max() > 0.1


def test_euclidean_layers_match_their_formulas():
    torch.manual_seed(0)
    a, x = graph(), torch.randn(12, 6)
    m = dense(a)
    d = m.sum(1)
    gcn, sage, gat = GCNConv(6, 4), SAGEConv(6, 4), GATConv(6, 4, 3)
    want = m / d.outer(d).sqrt() @ x @ gcn.linear.weight.t() + gcn.bias
    assert torch.allclose(gcn(x, a), want, atol=1e-5)
    mean = dense(a, False) @ x / (d - 1).clamp(min=1).unsqueeze(1)
    want = x @ sage.own.weight.t() + sage.own.bias + mean @ sage.others.weight.t()
    assert torch.allclose(sage(x, a), want, atol=1e-5)
    h = (x @ gat.linear.weight.t()).view(12, 3, 4)
    outs = []
    for k in range(3):
        s = (h[:, k] @ gat.target[k]).unsqueeze(1) + (h[:, k] @ gat.source[k]).unsqueeze(0)
        s = torch.nn.functional.leaky_relu(s, 0.2).masked_fill(m == 0, -torch.inf)
        outs.append(s.softmax(1) @ h[:, k])
    assert torch.allclose(gat(x, a), torch.cat(outs, 1), atol=1e-5)
    last = GATConv(6, 4, 3, average=True)
    last.load_state_dict({**gat.state_dict(), "bias": torch.ones(4)})
    assert torch.allclose(last(x, a), torch.stack(outs).mean(0) + 1, atol=1e-5)


@pytest.mark.parametrize("c", [0.5, 1.0])
def test_lorentz_input_is_lift_and_linear(c):
    torch.manual_seed(0)
    x = words()
    layer = LorentzInput(80, 5, c=c)
    with torch.no_grad():
        layer.weight[:, 0].normal_()
        layer.bias.normal_()
    plain = LorentzLinear(80, 5, c=c)
    plain.load_state_dict(layer.state_dict())
    scaled = x * 2.0 / x.square().sum(1).mean().sqrt()
    assert torch.allclose(layer(Features(x)), plain(ExpMap0(c=c)(scaled)), atol=1e-4)


def test_hybonet_is_the_toolkits_graph_convolution():
    torch.manual_seed(0)
    a, x = graph(), words()
    net = HyboNet(80, 5, layers=2, dropout=0.0).eval()
    conv = LorentzGraphConv(5, 5, activation="relu", self_loop=True)
    conv.linear.load_state_dict(net.linears[0].state_dict())
    first = L.centroid(net.first(Features(x)).expand(12, 12, 6), dense(a))
    want = conv(first, edge_index=a.edge_index)
    assert torch.allclose(net(Features(x), a), want, atol=1e-4)


def test_ours_without_a_convolution_can_be_hybonet():
    torch.manual_seed(0)
    a, x = graph(), words()
    net = HyboNet(80, 5, layers=2, dropout=0.0)
    ours = HKOurs(80, 5, layers=1, dropout=0.0, smooth=2, before=1)
    ours.load_state_dict(net.state_dict(), strict=False)  # its dropout has no state but the manifold
    assert torch.allclose(ours(Features(x), a), net(Features(x), a), atol=1e-5)


def test_hgcn_layer_is_the_tangent_space_formula_and_stays_finite_far_out():
    """Near the origin the boost is exp and transport; at radius 20 it is finite, where those are not."""
    torch.manual_seed(0)
    net, a = HGCN(3, 4, layers=1, dropout=0.0), graph()
    with torch.no_grad():
        net.biases.normal_(std=0.5)
    x = torch.randn(12, 3)
    c = net.c
    y = L.expmap0(torch.nn.functional.pad(net.linears[0](x), (1, 0)), c)
    bias = torch.nn.functional.pad(net.biases[0], (1, 0)).expand_as(y)
    y = L.expmap(y, L.transp0(y, bias, c), c)
    v = a.loops.matmul(a.mean, L.logmap0(y, c)[:, 1:])
    want = L.expmap0(torch.nn.functional.pad(v, (1, 0)), c)
    assert torch.allclose(net(Features(x), a), want, atol=1e-4)
    far = HGCN(3, 4, layers=2, dropout=0.0)
    with torch.no_grad():
        far.linears[0].weight.mul_(20.0 / far.linears[0].weight.norm())
        far.biases.normal_()
    out = far(Features(torch.nn.functional.normalize(torch.randn(12, 3), dim=1)), a)
    out[:, 1:].sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in far.parameters())


def test_hgcn_stays_in_float32_when_curvature_and_weights_grow():
    """As training on Cora had it: c = 6 and tangent vectors so long that sqrt(c) r was beyond 44."""
    torch.manual_seed(0)
    net, a, x = HGCN(80, 4, layers=2, dropout=0.0), graph(), words()
    with torch.no_grad():
        net.manifold.log_c.fill_(math.log(6.0))
        for linear in net.linears:
            linear.weight.mul_(60.0)
        net.biases.normal_().mul_(20.0)
    out = net(Features(x), a)
    assert out.isfinite().all()
    assert out[:, 1:].square().sum(1).mul(6.0).sqrt().asinh().max() > 12.0
    out[:, 1:].square().sum(1).log().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_within_shortens_and_keeps_the_direction():
    v = torch.tensor([[3.0, 4.0], [30.0, 40.0], [0.0, 0.0]], requires_grad=True)
    out = within(v, 4.0, 20.0)
    assert torch.allclose(out, torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 0.0]]))
    out.sum().backward()
    assert v.grad is not None
    assert torch.equal(v.grad[0], torch.ones(2))
    assert torch.allclose((v.grad[1] * v[1]).sum(), torch.zeros(()), atol=1e-5)  # no pull along the length


def test_dropout_leaves_the_time_of_the_features_alone():
    torch.manual_seed(0)
    layer, x = LorentzInput(80, 5, dropout=0.5), Features(words())
    with torch.no_grad():
        layer.weight[:, 1:] = 0.0
        layer.weight[:, 0].normal_()
    assert torch.equal(layer(x), layer.eval()(x))


def test_spread_is_personalised_pagerank():
    a = graph()
    h = geometry("lorentz").random_normal(12, features=4, std=0.5)
    m = dense(a)
    s = m / m.sum(1).outer(m.sum(1)).sqrt()
    rank = 0.2 * torch.linalg.inv(torch.eye(12) - 0.8 * s)
    want = L.centroid(h.expand(12, 12, 5), rank)
    assert torch.allclose(spread(h, a, 200, 0.2, 1.0), want, atol=1e-4)
    assert torch.allclose(spread(h, a, 3, 1.0, 1.0), h, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", ["nc", "lp", "gc"])
def test_permuting_nodes_permutes_the_output(model, task):
    torch.manual_seed(0)
    a, x = graph(), words()
    hidden = 16
    net = GraphNetwork(ModelSettings(model, hidden, 2, 0.3), task, 80, 3).eval()
    p = torch.randperm(12)
    place = torch.empty_like(p)
    place[p] = torch.arange(12)
    b = Adjacency(place[a.edge_index], 12)
    with torch.no_grad():
        h, moved = net.embed(Features(x), a), net.embed(Features(x[p]), b)
    assert torch.allclose(moved, h[p], atol=1e-3, rtol=1e-3)
    if model in HYPERBOLIC:
        norm = L.inner(h, h) * net.encoder.c
        assert torch.allclose(norm, -torch.ones(12), atol=1e-3)
    if task == "gc":
        batch = torch.tensor([0] * 5 + [1] * 7)
        with torch.no_grad():
            out = net(Features(x), a, batch, 2)
            again = net(Features(x[p]), b, batch[p], 2)
        assert out.shape == (2, 3)
        assert torch.allclose(out, again, atol=1e-3, rtol=1e-3)
    elif task == "lp":
        pairs = torch.tensor([[0, 3, 5], [1, 3, 9]])
        with torch.no_grad():
            out, back = net.score(h, pairs), net.score(h, pairs.flip(0))
        assert torch.allclose(out, back, atol=1e-4)
        assert out[1] == pytest.approx(2.0, abs=1e-3)  # distance 0


@pytest.mark.parametrize("model", MODELS)
def test_gradients_reach_every_parameter(model):
    torch.manual_seed(0)
    a, x = graph(), words()
    options = {"spread": 2, "smooth": 1, "before": 1} if model == "hknet" else {}
    net = GraphNetwork(ModelSettings(model, 16, 3, 0.0, options), "nc", 80, 3)
    torch.nn.functional.cross_entropy(net(Features(x), a), torch.arange(12) % 3).backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.isfinite().all()), name
        assert bool((p.grad != 0).any()), name


def test_bad_settings():
    with pytest.raises(ValueError, match="model must be one of"):
        GraphNetwork(ModelSettings("gnn"), "nc", 4, 2)
    with pytest.raises(ValueError, match="task must be one of"):
        GraphNetwork(ModelSettings("gcn"), "xx", 4, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="options of 'hybonet'"):
        GraphNetwork(ModelSettings("hybonet", options={"kernels": 3}), "nc", 4, 2)
    with pytest.raises(ValueError, match="heads must divide"):
        GraphNetwork(ModelSettings("gat", 12), "nc", 4, 2)
    with pytest.raises(ValueError, match="layers must be"):
        GraphNetwork(ModelSettings("gcn", layers=0), "nc", 4, 2)
    net = GraphNetwork(ModelSettings("gcn"), "gc", 4, 2)
    with pytest.raises(ValueError, match="batch and num_graphs"):
        net(Features(torch.zeros(12, 4)), graph())
