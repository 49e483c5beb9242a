"""The layers of both geometries."""

import pytest
import torch
from torch import nn

from hyperkit import Lorentz
from hyperkit.nn import (
    EuclideanAttention,
    EuclideanTransformerBlock,
    KVCache,
    LorentzAttention,
    LorentzConcat,
    LorentzGraphConv,
    LorentzLinear,
    LorentzMLR,
    LorentzTransformerBlock,
    geometry,
)
from hyperkit.nn._base import lorentz_tail
from hyperkit.ops import lorentz as L

GEOMETRIES = ["lorentz", "euclidean"]


def assert_points(x: torch.Tensor, c: float) -> None:
    assert bool(x.isfinite().all())
    torch.testing.assert_close(x[..., 0], L.projx(x, c)[..., 0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("c", [0.3, 1.0, 5.0])
def test_tail_derivatives(c: float) -> None:
    z = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    s = torch.randn(3, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, s: lorentz_tail(z, s, c), (z, s))
    assert torch.autograd.gradgradcheck(lambda z, s: lorentz_tail(z, s, c), (z, s))
    plain = lorentz_tail(z, s, torch.tensor(c, dtype=torch.float64))
    torch.testing.assert_close(lorentz_tail(z, s, c), plain)
    assert_points(plain, c)
    # HyboNet's formula: the time is sigmoid(z_0) exp(s) + (1 + margin)/sqrt(c).
    time = torch.sigmoid(z[..., :1]) * s.exp() + 1.0001 * c**-0.5
    torch.testing.assert_close(plain[..., :1], time, rtol=1e-6, atol=0)


@pytest.mark.parametrize("z0", [0.0, 1e-30, 1e-6, 1e6])
def test_tail_at_hard_inputs(z0: float) -> None:
    z = torch.zeros(2, 4)
    z[:, 1] = z0
    z.requires_grad_()
    s = torch.zeros(1, requires_grad=True)
    out = lorentz_tail(z, s, 1.0)
    assert_points(out, 1.0)
    (g,) = torch.autograd.grad(out.square().sum(), z, create_graph=True)
    (gg,) = torch.autograd.grad(g.sum(), z)
    assert bool(g.isfinite().all())
    assert bool(gg.isfinite().all())


def layers(name: str, c: float):
    g = geometry(name, c)
    tokens = torch.tensor([[1, 2, 3, 0, 1], [4, 2, 2, 1, 0], [0, 0, 0, 0, 0]])
    adjacency = torch.rand(3, 5, 5) * (torch.rand(3, 5, 5) > 0.4)
    x = g.random_normal(3, 5, features=6, std=1.5)
    return {
        "Linear": (g.Linear(6, 4, activation="relu", dropout=0.2), (x,), 4),
        "Embedding": (g.Embedding(5, 6), (tokens,), 6),
        "Lift": (g.Lift(6), (torch.randn(3, 6),), 6),
        "Concat": (g.Concat(), (x, x), 12),
        "Centroid": (g.Centroid(), (x, torch.rand(3, 5)), 6),
        "Residual": (g.Residual(), (x, x.flip(0)), 6),
        "LayerNorm": (g.LayerNorm(6), (x,), 6),
        "GraphConv": (g.GraphConv(6, 4), (x, adjacency), 4),
        "Attention": (g.Attention(6, 2, dropout=0.1), (x,), 6),
        "TransformerBlock": (g.TransformerBlock(6, 2, 12, dropout=0.1), (x,), 6),
        "MLR": (g.MLR(6, 7), (x,), None),
    }


@pytest.mark.parametrize("c", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_layer(name: str, c: float) -> None:
    torch.manual_seed(0)
    g = geometry(name, c)
    for kind, (layer, args, features) in layers(name, c).items():
        out = layer(*args)
        if features is not None:
            assert out.shape[-1] == g.ambient(features), kind
            if name == "lorentz":
                assert_points(out, c)
        params = list(layer.parameters())
        if params:
            grads = torch.autograd.grad((out * torch.randn_like(out)).sum(), params)
            assert all(bool(p.isfinite().all()) for p in grads), kind
            assert all(bool((p != 0).any()) for p in grads), kind


def test_twins_have_the_same_parameters_but_for_the_time() -> None:
    a, b = layers("lorentz", 1.0), layers("euclidean", 1.0)
    for kind in a:
        ours = sum(p.numel() for p in a[kind][0].parameters())
        theirs = sum(p.numel() for p in b[kind][0].parameters())
        assert theirs <= ours <= 1.7 * theirs + 1, kind  # at width 6 a time is a sixth of each side
    wide = geometry("lorentz").TransformerBlock(256, 4), geometry("euclidean").TransformerBlock(256, 4)
    ours, theirs = (sum(p.numel() for p in block.parameters()) for block in wide)
    assert ours < 1.02 * theirs


def test_hundred_layers_stay_on_the_manifold() -> None:
    torch.manual_seed(0)
    x = geometry().random_normal(8, features=16)
    for _ in range(100):
        x = LorentzLinear(16, 16, c=1.0)(x)
        assert_points(x, 1.0)


def test_curvature_may_be_learnable() -> None:
    m = Lorentz(0.7, learnable=True)
    g = geometry("lorentz", m)
    x = g.random_normal(2, 5, features=4)
    g.TransformerBlock(4, 2)(x).sum().backward()
    assert float(m.log_c.grad) != 0.0


def rows(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    return x.index_select(-2, i)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_permutations(name: str) -> None:
    torch.manual_seed(0)
    g = geometry(name)
    x, perm = g.random_normal(2, 6, features=8), torch.randperm(6)
    block = g.TransformerBlock(8, 2).eval()
    torch.testing.assert_close(rows(block(x), perm), block(rows(x, perm)), rtol=1e-4, atol=1e-5)
    conv = g.GraphConv(8, 8)
    a = torch.rand(2, 6, 6)
    moved = conv(rows(x, perm), a[:, perm][:, :, perm])
    torch.testing.assert_close(rows(conv(x, a), perm), moved, rtol=1e-4, atol=1e-5)


def test_isometries() -> None:
    """Centroid, residual and logits move with (or do not see) an isometry of the whole space."""
    m = Lorentz(0.5).double()
    g = torch.Generator().manual_seed(0)
    iso = m.random_isometry(4, generator=g)
    x = m.random_normal(3, 6, 5, generator=g).as_subclass(torch.Tensor)
    y = m.random_normal(3, 6, 5, generator=g).as_subclass(torch.Tensor)
    geo = geometry("lorentz", 0.5)
    for layer in (geo.Centroid(), geo.Residual(weight=0.3).double()):
        args = (x,) if "Centroid" in type(layer).__name__ else (x, y)
        moved = layer(*(a @ iso.T for a in args))
        torch.testing.assert_close(layer(*args) @ iso.T, moved, rtol=1e-9, atol=1e-9)
    mlr = LorentzMLR(4, 3, c=0.5, bias=False).double()
    points = mlr.centroids.detach().as_subclass(torch.Tensor)
    torch.testing.assert_close(mlr.against(x @ iso.T, points @ iso.T), mlr(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("c", [0.5, 2.0])
def test_mlr_is_the_squared_lorentzian_distance(c: float) -> None:
    torch.manual_seed(0)
    mlr = LorentzMLR(4, 6, c=c).double()
    with torch.no_grad():
        mlr.bias.normal_()
        mlr.centroids.copy_(L.projx(mlr.centroids, c))  # times to float64
    x = geometry("lorentz", c).random_normal(3, 5, features=4, dtype=torch.float64)
    points = mlr.centroids.detach().as_subclass(torch.Tensor)
    d = L.cdist(x, points, c)
    expected = -2 * (torch.cosh(c**0.5 * d) - 1) / c + mlr.bias
    torch.testing.assert_close(mlr(x), expected, rtol=1e-9, atol=1e-9)
    shared = torch.tensor([4, 0])
    torch.testing.assert_close(mlr.subset(x, shared), expected[..., shared])
    own = torch.randint(0, 6, (3, 5, 2))
    torch.testing.assert_close(mlr.subset(x, own), expected.gather(-1, own))
    rows_of = points[own]
    torch.testing.assert_close(mlr.against(x, rows_of), (expected - mlr.bias).gather(-1, own))


def test_euclidean_mlr_is_the_squared_distance() -> None:
    mlr = geometry("euclidean").MLR(4, 6).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    expected = -torch.cdist(x, mlr.centroids.expand(3, 6, 4)).square()
    torch.testing.assert_close(mlr(x), expected)
    own = torch.randint(0, 6, (3, 5, 2))
    torch.testing.assert_close(mlr.subset(x, own), expected.gather(-1, own))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_graph_convolution_forms_agree(name: str) -> None:
    torch.manual_seed(0)
    g = geometry(name)
    conv = g.GraphConv(4, 3)
    x = g.random_normal(1, 5, features=4)
    a = torch.rand(1, 5, 5) * (torch.rand(1, 5, 5) > 0.5)
    a[0, 2] = 0.0  # no neighbours
    dense = conv(x, a)[0]
    target, source = a[0].nonzero().T
    sparse = conv(x[0], edge_index=torch.stack([source, target]), edge_weight=a[0][target, source])
    torch.testing.assert_close(dense, sparse)
    torch.testing.assert_close(dense[2], g.origin(features=3))
    looped = g.GraphConv(4, 3, self_loop=True)
    looped.load_state_dict(conv.state_dict())
    torch.testing.assert_close(looped(x, a), conv(x, a + torch.eye(5)))
    with pytest.raises(ValueError, match=r"adjacency must end in \(5, 5\)"):
        conv(x, a[:, :4, :4])


@pytest.mark.parametrize("cls", [LorentzAttention, EuclideanAttention])
def test_attention_masks_bias_and_both_paths(cls) -> None:
    torch.manual_seed(0)
    x = geometry("lorentz" if cls is LorentzAttention else "euclidean").random_normal(2, 6, features=8)
    mask = torch.rand(2, 1, 6, 6) > 0.4
    mask[1, 0, 3] = False
    bias = torch.randn(1, 2, 6, 6)
    fused, plain = cls(8, 2), cls(8, 2, double_backward=True)
    plain.load_state_dict(fused.state_dict())
    for kwargs in ({}, {"mask": mask}, {"bias": bias}, {"mask": mask, "bias": bias, "causal": True}):
        torch.testing.assert_close(fused(x, **kwargs), plain(x, **kwargs), rtol=1e-4, atol=1e-5)
    # A masked step has no influence.
    y = x.clone()
    y[:, 5] = x[:, 0]
    keep = torch.ones(6, dtype=torch.bool)
    keep[5] = False
    torch.testing.assert_close(fused(x, mask=keep)[:, :5], fused(y, mask=keep)[:, :5])
    assert not torch.allclose(fused(x)[:, :5], fused(y)[:, :5])
    # Causal: later steps have no influence on earlier ones.
    torch.testing.assert_close(fused(x, causal=True)[:, :5], fused(y, causal=True)[:, :5])


def test_lorentz_attention_scores_are_distances() -> None:
    """The fused inner-product form equals softmax(-|q-k|_L^2/tau) with the Lorentz centroid."""
    torch.manual_seed(0)
    c = 0.6
    layer = LorentzAttention(8, 2, c=c).double()
    x = geometry("lorentz", c).random_normal(2, 5, features=8, dtype=torch.float64)
    q, k, v = layer._project(x, 0, 3)
    square = -(2 / c + 2 * L.pairwise_inner(q, k))
    weights = torch.softmax(-square / layer.log_temperature.exp(), -1)
    heads = L.centroid(v.unsqueeze(-3).expand(2, 2, 5, 5, 5), weights, c=c)
    joined = L.direct_concat([heads[:, 0], heads[:, 1]], c)
    torch.testing.assert_close(layer(x), layer.out(joined))


@pytest.mark.parametrize("cls", [LorentzTransformerBlock, EuclideanTransformerBlock])
def test_cache_decodes_as_the_whole(cls) -> None:
    torch.manual_seed(0)
    g = geometry("lorentz" if cls is LorentzTransformerBlock else "euclidean")
    x, memory = g.random_normal(3, 20, features=8), g.random_normal(3, 4, features=8)
    block = cls(8, 2, cross=True).eval()
    whole = block(x, memory, causal=True)
    cache = KVCache()
    steps = [block(x[:, :2], memory, causal=True, cache=cache)]
    steps += [block(x[:, i : i + 1], memory, causal=True, cache=cache) for i in range(2, 19)]
    keep = torch.tensor([2, 0])
    cache.select(keep)
    torch.testing.assert_close(torch.cat(steps, 1), whole[:, :19], rtol=1e-4, atol=1e-4)
    last = block(x[keep, 19:], memory[keep], causal=True, cache=cache)
    torch.testing.assert_close(last, whole[keep, 19:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_gradient_penalty(name: str) -> None:
    """The penalty of a WGAN differentiates the critic twice: right by finite differences."""
    torch.manual_seed(0)
    g = geometry(name, 0.8)
    critic = nn.Sequential(g.Linear(4, 6), g.Linear(6, 6, activation="tanh"), g.MLR(6, 1)).double()
    real = g.random_normal(5, features=4, dtype=torch.float64)
    fake = g.random_normal(5, features=4, dtype=torch.float64)
    x = g.geodesic(torch.rand(5, dtype=torch.float64), real, fake).detach()
    weight = critic[0].weight if name == "lorentz" else critic[0].linear.weight

    def penalty() -> torch.Tensor:
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(critic(leaf).sum(), leaf, create_graph=True)
        return (g.riemannian_grad_norm(leaf, grad) - 1).square().mean()

    (analytic,) = torch.autograd.grad(penalty(), weight)
    direction = torch.randn_like(weight)
    h = 1e-6
    with torch.no_grad():
        weight += h * direction
    up = float(penalty().detach())
    with torch.no_grad():
        weight -= 2 * h * direction
    down = float(penalty().detach())
    assert abs((up - down) / (2 * h) - float((analytic * direction).sum())) < 1e-5


def test_double_backward_through_attention() -> None:
    torch.manual_seed(0)
    layer = LorentzAttention(4, 2, double_backward=True).double()
    v = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda v: layer(L.from_space(v), causal=True), (v,))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_geometry_operations(name: str) -> None:
    g = geometry(name, 0.5)
    x, y = (g.random_normal(7, features=3, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(g.expmap0(g.logmap0(x)), x)
    torch.testing.assert_close(g.geodesic(1.0, x, y), y)
    torch.testing.assert_close(g.sqdist(x, g.geodesic(0.5, x, y)) * 4, g.sqdist(x, y))
    torch.testing.assert_close(g.logmap0(g.origin(2, features=3)), torch.zeros(2, g.ambient(3)))
    assert g.centroid(x.view(1, 7, -1)).shape == (1, g.ambient(3))
    with pytest.raises(ValueError, match="name must be"):
        geometry("spherical")


def test_errors_name_the_argument() -> None:
    layer = LorentzLinear(4, 3)
    with pytest.raises(
        ValueError, match=r"x must have last dimension 5 \(in_features \+ 1\), got shape \(2, 4\)"
    ):
        layer(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="out_features must be >= 1, got 0"):
        LorentzLinear(4, 0)
    with pytest.raises(ValueError, match="activation must be one of"):
        LorentzLinear(4, 3, activation="swishy")
    with pytest.raises(ValueError, match="features must be divisible by num_heads=3, got 8"):
        LorentzAttention(8, 3)
    with pytest.raises(ValueError, match="points must hold at least one tensor"):
        LorentzConcat()([])
    with pytest.raises(ValueError, match="give either adjacency or edge_index"):
        LorentzGraphConv(4, 3)(torch.zeros(2, 5))
