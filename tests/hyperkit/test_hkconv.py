"""HKConv against the paper's equations, its symmetries, and inputs that break other layers."""

import copy
from types import SimpleNamespace

import hkconv_reference as ref
import pytest
import torch
from hkconv_case import AGGREGATIONS, CORRELATIONS, EDGES, F64, layer, near, on_hyperboloid, points

from hyperkit import Lorentz, PoincareBall
from hyperkit.graphs import pad_neighbors
from hyperkit.nn import HKConv, PoincareHKConv, PoincareLinear
from hyperkit.nn import _kernel_rows as rows
from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P
from hyperkit.testing import assert_gradients_finite, assert_permutation_equivariant

# ---------------------------------------------------------------- the equations


@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize(("c", "learnable"), [(1.0, False), (0.3, False), (0.3, True)])
def test_agrees_with_the_equations(correlation, c, learnable):
    """Values and gradients for nodes, parameters, kernel points and a learnable curvature."""
    m = Lorentz(c, learnable=learnable)
    conv = layer(c=m, correlation=correlation, trainable_kernels=True)
    target = torch.randn(5, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
    target[3] = 0.0  # the node without neighbours is the origin by definition, not by the equations
    results = {}
    for name in ("equations", "float64", "float32"):
        dtype = torch.float32 if name == "float32" else F64
        net = copy.deepcopy(conv).to(dtype)
        # The numbers are those of float32, so that all three start from the same ones.
        for p in net.parameters():
            p.data = p.data.float().to(dtype)
        space = points(c=c)[:, 1:].float().to(dtype).requires_grad_()
        if name == "equations":
            out = ref.hkconv(net, space, EDGES.T.tolist(), net.manifold.c, correlation)
        else:
            out = net(L.from_space(space, net.c), EDGES)
        grads = torch.autograd.grad((out * target.to(dtype)).sum(), [space, *net.parameters()])
        results[name] = [out, *grads]
    names = ["out", "space", *(n for n, _ in conv.named_parameters())]
    for name, expected, wide, single in zip(names, *results.values(), strict=True):
        assert bool((expected != 0).any()), name
        near(wide, expected, 1e-12)
        near(single, expected, 1e-5)


def test_faithful_mode_is_the_default():
    conv = HKConv(4, 3, 5)
    assert (conv.correlation, conv.aggregation, conv.self_loop) == ("distance", "mean", False)
    assert "kernel_tangents" in dict(conv.kernels.named_buffers())
    radius = L.dist0(conv.kernel_points())
    assert float(radius[0]) == 0.0
    assert float(radius.max()) == pytest.approx(0.66, abs=1e-6)


def test_weights_are_raw_distances():
    """The farther kernel weighs more, as the paper has it: a property that users ask about."""
    conv = layer(k=2)
    z = points(1)
    w, _ = rows.correlate(
        rows.kernel_distances(z, conv.kernel_points(), 1.0),
        rows.Rule("lorentz", "distance", 1.0, None, 1.0),
        None,
    )
    near(w[0], torch.stack([L.dist(z[0], p) for p in conv.kernel_points()]), 1e-13)


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_padded_neighbours_give_the_same(correlation):
    conv, x = layer(correlation=correlation), points()
    neighbors, mask = pad_neighbors(EDGES, 5)
    expected = conv(x, EDGES)
    near(conv(x, neighbors=neighbors), expected, 1e-14)
    # Under a mask padding may hold anything.
    garbage = torch.where(mask, neighbors, torch.full_like(neighbors, 10**6))
    near(conv(x, neighbors=garbage, mask=mask), expected, 1e-14)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_int32_indices(aggregation):
    conv, x = layer(aggregation=aggregation), points()
    near(conv(x, EDGES.int()), conv(x, EDGES), 0)
    near(conv(x, neighbors=pad_neighbors(EDGES, 5)[0].int()), conv(x, EDGES), 1e-14)


def test_data_objects_and_edge_weights():
    conv, x = layer(), points()
    near(conv(SimpleNamespace(x=x, edge_index=EDGES)), conv(x, EDGES), 0)
    w = torch.rand(8, dtype=F64) + 0.1
    weighted = conv(x, EDGES, edge_weight=w)
    near(conv(SimpleNamespace(x=x, edge_index=EDGES, edge_weight=w)), weighted, 0)
    doubled = torch.cat([EDGES, EDGES[:, :1]], 1)
    near(conv(x, doubled), conv(x, EDGES, edge_weight=torch.tensor([2.0] + [1.0] * 7)), 1e-14)
    near(conv(x, EDGES, edge_weight=torch.tensor([0.0] + [1.0] * 7)), conv(x, EDGES[:, 1:]), 1e-14)


@pytest.mark.parametrize("scale", [1e-20, 7.0, 1e15])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_weights_are_scale_free(scale, aggregation):
    conv, x = layer(aggregation=aggregation, dtype=torch.float32), points(dtype=torch.float32)
    w = torch.rand(8) + 0.1
    near(conv(x, EDGES, edge_weight=scale * w), conv(x, EDGES, edge_weight=w), 1e-5)


@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("c", [1.0, 0.4, 3.0])
def test_ball_twin(correlation, aggregation, c):
    conv = layer(
        cls=PoincareHKConv, c=c, correlation=correlation, aggregation=aggregation, dtype=torch.float32
    )
    x = L.to_poincare(points(c=c, dtype=torch.float32), c)
    out = conv(x, EDGES)
    assert PoincareBall(c).check_point_on_manifold(out.detach())
    assert bool((out[3] == 0).all())
    grads = torch.autograd.grad((out * torch.randn_like(out)).sum(), list(conv.parameters()))
    for (name, _), g in zip(conv.named_parameters(), grads, strict=True):
        assert bool(g.isfinite().all()), name
        assert bool((g != 0).any()), name


def test_ball_twin_is_moebius_addition_and_hnn_layers():
    """Against the ball's own operations: one neighbour, kernels one by one."""
    c = 0.7
    conv = layer(cls=PoincareHKConv, c=c)
    x = L.to_poincare(points(2, c=c), c)
    z = P.mobius_add(-x[0], x[1], c)
    kernels = L.to_poincare(conv.kernel_points(), c)
    linear = []
    for i in range(5):
        one = PoincareLinear(4, 3, c=c).double()
        one.load_state_dict(
            {**one.state_dict(), "weight": conv.kernels.weight[i], "bias": conv.kernels.bias[i]}
        )
        linear.append(one(z))
    expected = P.centroid(torch.stack(linear), P.dist(z.expand(5, -1), kernels, c), c=c)
    near(conv(x, torch.tensor([[1], [0]]))[0], expected, 1e-12)


# ---------------------------------------------------------------- symmetries


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_permutation_of_nodes_and_of_edges(aggregation):
    conv, x = layer(aggregation=aggregation), points()
    adjacency = torch.zeros(5, 5, dtype=torch.bool)
    adjacency[EDGES[1], EDGES[0]] = True
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    near(conv(x, EDGES[:, order]), conv(x, EDGES), 1e-13)

    def apply(both):
        nodes, adj = both[:, :5], both[:, 5:] > 0
        return conv(nodes, adj.nonzero().T.flip(0))

    # Permuting rows permutes nodes; the adjacency's columns have to follow.
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    moved = torch.cat([x, adjacency.double()], 1)[order]
    moved[:, 5:] = moved[:, 5:][:, order]
    near(apply(moved), apply(torch.cat([x, adjacency.double()], 1))[order], 1e-13)


def star(x):
    """Node 0 with all others as its neighbours."""
    n = len(x)
    return torch.stack([torch.arange(1, n), torch.zeros(n - 1, dtype=torch.int64)])


@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("t", [0.0, 0.4, 1.7, -0.5])
def test_theorem_2(correlation, aggregation, t):
    """Transport along the geodesic from the origin through the centre leaves the output."""
    c = 0.6
    conv = layer(correlation=correlation, aggregation=aggregation, c=c, self_loop=True)
    x = points(c=c)
    y = L.expmap0(t * L.logmap0(x[:1], c), c)
    moved = L.expmap(y, L.transp(x[:1], y, L.logmap(x[:1], x[1:], c), c), c)
    near(conv(torch.cat([y, moved]), star(x))[0], conv(x, star(x))[0], 1e-11)


def test_what_other_isometries_do():
    """Off that geodesic and for a general isometry g, the neighbourhood arrives turned by a rotation.

    The rotation is ``B_{gx}^-1 g B_x``, which fixes the origin. The output changes, and it is that of a layer
    whose kernel points and weights are turned the other way.
    """
    conv, x = layer(), points()
    g = Lorentz().random_isometry(4, dtype=F64, generator=torch.Generator().manual_seed(1))
    gx = x @ g.T
    turn = torch.linalg.inv(L.boost_matrix(gx[0])) @ g @ L.boost_matrix(x[0])
    eye = torch.eye(5, dtype=F64)
    near(turn[0], eye[0], 1e-12)
    near(turn.T @ turn, eye, 1e-12)
    before, after = conv(x, star(x))[0], conv(gx, star(x))[0]
    assert float(L.dist(before, after).detach()) > 0.01
    near(turned(conv, turn[1:, 1:])(gx, star(x))[0], before, 1e-12)
    # Parallel transport to a point off the geodesic is such an isometry, too.
    y = points(1, seed=5)
    moved = torch.cat([y, L.expmap(y, L.transp(x[:1], y, L.logmap(x[:1], x[1:])))])
    assert float(L.dist(before, conv(moved, star(x))[0]).detach()) > 0.01


def turned(conv, rotation):
    """The layer whose kernel points and input directions are turned by a rotation."""
    out = copy.deepcopy(conv)
    with torch.no_grad():
        out.kernels.kernel_tangents.copy_(conv.kernels.kernel_tangents @ rotation.T)
        out.kernels.weight[..., 1:] = conv.kernels.weight[..., 1:] @ rotation.T
    return out


def test_rotations_about_the_origin():
    """Not an invariance: the layer has directions. Turning nodes, kernels and weights together is."""
    conv, x = layer(), points()
    q, _ = torch.linalg.qr(torch.randn(4, 4, dtype=F64, generator=torch.Generator().manual_seed(0)))
    rotated = torch.cat([x[:, :1], x[:, 1:] @ q.T], 1)
    near(turned(conv, q)(rotated, EDGES), conv(x, EDGES), 1e-13)
    assert float(L.dist(conv(rotated, EDGES)[0], conv(x, EDGES)[0]).detach()) > 0.01


# ---------------------------------------------------------------- nodes without neighbours, hard points


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("c", [1.0, 0.4])
def test_nodes_without_neighbours_are_points(aggregation, c):
    x = points(c=c, dtype=torch.float32)
    none = torch.empty(2, 0, dtype=torch.int64)
    tables = torch.full((5, 2), -1), torch.empty(5, 0, dtype=torch.int64)
    for graph in ({"edge_index": none}, {"neighbors": tables[0]}, {"neighbors": tables[1]}):
        o = layer(c=c, aggregation=aggregation, dtype=torch.float32)(x, **graph)
        torch.testing.assert_close(o.detach(), L.origin(5, 4, c=c))
        own = layer(o=4, c=c, aggregation=aggregation, dtype=torch.float32, empty="self")
        torch.testing.assert_close(own(x, **graph).detach(), x, rtol=1e-6, atol=1e-6)
    out = layer(c=c, aggregation=aggregation, dtype=torch.float32)(x, EDGES)
    on_hyperboloid(out, c)
    torch.testing.assert_close(out[3].detach(), L.origin(4, c=c))
    # With a self-loop nobody is alone, and all relative features of it are the origin: one constant point.
    loop = layer(c=c, aggregation=aggregation, dtype=torch.float32, self_loop=True)(x, none)
    on_hyperboloid(loop, c)
    near(loop, loop[:1].expand(5, -1), 1e-6)
    assert float(L.dist0(loop[0], c).detach()) > 0.1


@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_nan_is_not_replaced(correlation, aggregation):
    """It shows at the nodes that see it, and nowhere else."""
    x = points(dtype=torch.float32)
    x[3] = torch.nan  # a neighbour of node 0 only, and without neighbours itself
    out = layer(aggregation=aggregation, correlation=correlation, dtype=torch.float32)(x, EDGES)
    assert out.isnan().any(1).tolist() == [True, False, False, False, False]
    # Nor does it leak through padding: here node 0 is bad, and every row but one is padded.
    x = points(dtype=torch.float32)
    x[0] = torch.nan
    neighbors, _ = pad_neighbors(torch.tensor([[1, 2, 3, 2, 3], [4, 4, 4, 1, 2]]), 5)
    out = layer(aggregation=aggregation, correlation=correlation, dtype=torch.float32)(x, neighbors=neighbors)
    assert bool(out[1:].isfinite().all())


def test_no_nodes():
    conv = layer(dtype=torch.float32)
    assert conv(torch.empty(0, 5), torch.empty(2, 0, dtype=torch.int64)).shape == (0, 4)


def test_a_neighbour_beyond_every_kernel_does_not_count():
    """Linear correlation: as a neighbour leaves the reach, its influence goes to 0 without a jump."""
    conv = layer(correlation="linear", sigma=1.5)
    edges = torch.tensor([[1, 2], [0, 0]])

    def out(radius):
        space = torch.tensor([[0.0, 0, 0, 0], [0.5, 0.2, 0, 0], [0, 0, 0, 1]], dtype=F64)
        space[2] *= torch.sinh(torch.tensor(radius, dtype=F64))
        return conv(L.from_space(space), edges)[0]

    alone = conv(L.from_space(torch.tensor([[0.0, 0, 0, 0], [0.5, 0.2, 0, 0]], dtype=F64)), edges[:, :1])[0]
    near(out(6.0), alone, 1e-15)
    reach = 1.5 + float((torch.asinh(conv.kernel_points()[:, 4])).max().detach())
    near(out(reach - 1e-7), alone, 1e-6)
    assert float(L.dist(out(1.0), alone).detach()) > 0.01


@pytest.mark.parametrize("radius", [3.0, 9.0, 14.0])
def test_float32_is_right_far_from_the_origin(radius):
    """A neighbourhood of size 1 far out, in float32 against float64 on the same stored numbers."""
    g = torch.Generator().manual_seed(0)
    local = torch.nn.functional.pad(0.5 * torch.randn(6, 4, generator=g, dtype=F64), (1, 0))
    centre = torch.nn.functional.normalize(torch.randn(4, generator=g, dtype=F64), dim=0)
    p = L.expmap0(torch.nn.functional.pad(radius * centre, (1, 0)))
    space = L.boost(L.expmap0(local), p)[:, 1:].float()
    results = []
    for dtype in (torch.float32, F64):
        conv = layer(dtype=torch.float32).to(dtype)
        leaf = space.to(dtype).requires_grad_()
        out = conv(L.from_space(leaf), star(space))[0]
        (grad,) = torch.autograd.grad(out[1:].sum(), leaf)
        results.append((out, grad / grad.abs().max()))
    (out, grad), (expected, expected_grad) = results
    near(out, expected, 1e-6)
    near(grad, expected_grad, 1e-5)


@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_float32_gradients_are_finite_at_coincident_points(correlation, aggregation):
    conv = layer(
        correlation=correlation, aggregation=aggregation, dtype=torch.float32, trainable_kernels=True
    )
    with torch.no_grad():
        conv.kernels.kernel_tangents[0] = 0.0
    edges = torch.tensor([[1, 2, 0, 3, 4], [0, 0, 1, 2, 4]])
    x = points(dtype=torch.float32)
    x[1:3] = x[0]  # neighbours at the same place: relative feature and kernel point are both the origin
    hard = [x, L.origin(5, 5), torch.cat([conv.kernel_points().detach()[:4], L.origin(1, 5)])]
    far = torch.nn.functional.normalize(points(seed=7, dtype=torch.float32)[:, 1:])
    hard.append(L.expmap0(torch.nn.functional.pad(20.0 * far, (1, 0))))  # up to 40 apart
    for nodes in hard:
        assert_gradients_finite(lambda s: conv(L.from_space(s), edges), nodes[:, 1:], second=False)
        grads = torch.autograd.grad(conv(nodes, edges).sum(), list(conv.parameters()))
        assert all(bool(g.isfinite().all()) for g in grads)


def test_one_kernel_and_a_neighbour_at_the_same_place():
    """The only kernel is the origin and the weight, a distance, is 0: still the kernel's point."""
    conv = layer(k=1)
    x = points(1).expand(2, -1)
    k = conv.kernels
    expected = ref.hlinear(ref.origin(x[0], 1.0), k.weight[0], k.bias[0], k.log_scale[0], 1.0)
    near(conv(x, torch.tensor([[1], [0]]))[0], expected, 1e-14)


def test_trainable_kernels_stay_finite():
    """The paper reports NaN. Here the distance has a subgradient where a kernel meets a neighbour."""
    conv = layer(4, 4, 6, dtype=torch.float32, trainable_kernels=True)
    x = points(dtype=torch.float32)
    x[1] = x[0]
    before = conv.kernels.kernel_tangents.detach().clone()
    optimiser = torch.optim.Adam(conv.parameters(), lr=0.1)
    target = points(seed=3, dtype=torch.float32)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = L.sqdist(conv(x, EDGES)[:3], target[:3]).mean()
        loss.backward()
        assert all(bool(p.grad.isfinite().all()) for p in conv.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert float((conv.kernels.kernel_tangents - before).detach().abs().min(0)[0].max()) > 0.01
    on_hyperboloid(conv.kernel_points().detach(), 1.0)


def test_many_layers_stay_on_the_manifold():
    torch.manual_seed(0)
    x = points(12, 8, dtype=torch.float32, std=1.0)
    edges = torch.randint(0, 12, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for i in range(40):
            x = HKConv(8, 8, 4, activation="relu" if i else None, aggregation=AGGREGATIONS[i % 3])(x, edges)
    on_hyperboloid(x, 1.0)
    assert float(L.dist0(x).max()) < 20


def test_permutation_helper():
    """The package's own assertion, on a complete graph."""
    everybody = torch.ones(5, 5).nonzero().T
    conv = layer()
    assert_permutation_equivariant(lambda x: conv(x, everybody), points(), tolerance=1e-12)
