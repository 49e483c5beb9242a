"""The battery for the ball's Transformer block, norms, positions, graph convolution, space residual."""

import pytest
import torch
from torch import Tensor, nn

from hyperkit import Lorentz, PoincareBall
from hyperkit import nn as hnn
from hyperkit.nn import KVCache, geometry
from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P
from hyperkit.testing import LayerContract, assert_permutation_equivariant

C, D = 0.7, 6
EDGES = torch.tensor([[0, 1, 2, 3, 1, 4, 0], [1, 0, 1, 4, 4, 3, 4]])


def lorentz_points(*shape: int, features: int = D, dtype=torch.float32, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return geometry("lorentz", C).random_normal(*shape, features=features, dtype=dtype, generator=g)


def ball_points(*shape: int, features: int = D, dtype=torch.float32, seed: int = 0) -> Tensor:
    return L.to_poincare(lorentz_points(*shape, features=features, dtype=dtype, seed=seed), C)


def hard_points() -> Tensor:
    """float32: the origin, next to it, all in one place, far out, at the last radius of the format."""
    g = torch.Generator().manual_seed(1)
    u = nn.functional.normalize(torch.randn(5, D, generator=g), dim=-1)
    radii = torch.tensor([0.0, 1e-6, 1.0, 8.0, 15.0, 100.0]).view(-1, 1, 1)
    apart = P.expmap0(0.5 * radii * u, C)
    return torch.cat([apart, apart[:, :1].expand(-1, 5, -1)])


class _Ball(LayerContract):
    def inputs(self, dtype=torch.float32):
        return (ball_points(2, 5, dtype=dtype),)

    def manifold(self):
        return PoincareBall(C)

    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x)

    def test_hard_points(self) -> None:
        """Value and every gradient finite in float32 on single sets of hard points, output on the ball."""
        for row in hard_points():
            layer, x = self._layer(), row[None].clone().requires_grad_()
            out = self.call(layer, x)
            assert self.manifold().check_point_on_manifold(out.detach())
            weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
            (out * weight).sum().backward()
            for tensor in (x, *layer.parameters()):
                assert tensor.grad is None or bool(tensor.grad.isfinite().all())
            assert x.grad is not None

    def test_learnable_curvature(self) -> None:
        """One manifold for the layer and its parts, and its curvature learns."""
        layer = self._layer()
        for module in layer.modules():
            if hasattr(module, "manifold"):
                module.manifold = PoincareBall(C, learnable=True)
        out = self.call(layer, *self.inputs()[:1])
        torch.testing.assert_close(out, self.call(self._layer(), *self.inputs()[:1]))
        out.square().sum().backward()
        log_c = [p.grad for name, p in layer.named_parameters() if name.endswith("log_c")]
        assert any(g is not None and float(g) != 0.0 and bool(g.isfinite()) for g in log_c)


class TestLayerNorm(_Ball):
    ball, twin = hnn.PoincareLayerNorm, hnn.LorentzLayerNorm

    def make(self):
        return self.ball(D, c=C)

    def test_is_the_lorentz_layer_in_other_coordinates(self) -> None:
        layer, twin = self._layer(torch.float64), self.twin(D, c=C).double()
        with torch.no_grad():
            for p in layer.parameters():
                p.normal_()
        twin.load_state_dict(layer.state_dict())
        (x,) = self.inputs(torch.float64)
        expected = L.to_poincare(twin(L.from_poincare(x, C)), C)
        torch.testing.assert_close(layer(x), expected)

    def test_bad_input_is_named(self) -> None:
        with pytest.raises(ValueError, match="x must have last dimension 6"):
            self.make()(torch.zeros(2, 5))
        with pytest.raises(ValueError, match="features must be >= 1, got 0"):
            self.ball(0)
        with pytest.raises(ValueError, match="c must be > 0"):
            self.ball(D, c=-1.0)


class TestRMSNorm(TestLayerNorm):
    ball, twin = hnn.PoincareRMSNorm, hnn.LorentzRMSNorm


class TestPositionalEncoding(_Ball):
    def make(self):
        return hnn.PoincarePositionalEncoding(D, max_length=7, c=C)

    def test_is_the_lorentz_layer_in_other_coordinates(self) -> None:
        layer, twin = self._layer(torch.float64), hnn.LorentzPositionalEncoding(D, 7, c=C).double()
        twin.load_state_dict(layer.state_dict())
        (x,) = self.inputs(torch.float64)
        torch.testing.assert_close(layer(x), L.to_poincare(twin(L.from_poincare(x, C)), C))

    def test_steps_from_the_start(self) -> None:
        layer, (x,) = self._layer(torch.float64), self.inputs(torch.float64)
        torch.testing.assert_close(layer(x[:, 2:4], start=2), layer(x)[:, 2:4])

    def test_bad_input_is_named(self) -> None:
        layer, (x,) = self.make(), self.inputs()
        with pytest.raises(ValueError, match="positions 3 to 8 are beyond max_length=7"):
            layer(x, start=3)
        with pytest.raises(ValueError, match="positions -1 to 4 are beyond max_length=7"):
            layer(x, start=-1)
        with pytest.raises(ValueError, match=r"x must have shape \(\*, T, 6\), got \(6,\)"):
            layer(x[0, 0])
        with pytest.raises(ValueError, match="x must have last dimension 6"):
            layer(torch.zeros(2, 5))
        with pytest.raises(ValueError, match="max_length must be >= 1, got 0"):
            hnn.PoincarePositionalEncoding(D, 0)


class TestGraphConv(_Ball):
    def make(self):
        layer = hnn.PoincareGraphConv(D, 4, c=C, activation="tanh")
        with torch.no_grad():
            assert layer.linear.bias is not None
            layer.linear.bias.normal_(std=0.3)
        return layer

    def inputs(self, dtype=torch.float32):
        g = torch.Generator().manual_seed(0)
        return ball_points(2, 5, dtype=dtype), (torch.rand(2, 5, 5, generator=g) > 0.5)

    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x, torch.ones(5, 5))

    def test_forms_agree(self) -> None:
        x, w = ball_points(5, dtype=torch.float64), torch.rand(7, dtype=torch.float64) + 0.1
        adjacency = torch.zeros(5, 5, dtype=torch.float64)
        adjacency[EDGES[1], EDGES[0]] = w
        for loop in (True, False):
            torch.manual_seed(0)
            layer = hnn.PoincareGraphConv(D, 4, c=C, self_loop=loop).double()
            sparse = layer(x, edge_index=EDGES, edge_weight=w)
            weights = adjacency + loop * torch.eye(5, dtype=torch.float64)
            torch.testing.assert_close(sparse, P.centroid(layer.linear(x), weights, c=C))
            torch.testing.assert_close(layer(x, adjacency), sparse)
            torch.testing.assert_close(layer(x[None], adjacency[None])[0], sparse)
            if not loop:  # node 2 has no neighbour
                torch.testing.assert_close(sparse[2], torch.zeros(4, dtype=torch.float64))

    def test_permuted_nodes_give_permuted_results(self) -> None:
        layer, x = self._layer(torch.float64), ball_points(5, dtype=torch.float64)
        order = torch.tensor([3, 0, 4, 1, 2])
        moved = layer(x[order], edge_index=torch.argsort(order)[EDGES])
        torch.testing.assert_close(moved, layer(x, edge_index=EDGES)[order])

    def test_far_neighbours_keep_their_digits(self) -> None:
        """Points at radius 10, where sums in float32 have lost everything (their squares are 1e8)."""
        layer = hnn.PoincareGraphConv(D, D, c=C)
        with torch.no_grad():
            layer.linear.weight.copy_(0.5 * torch.eye(D))
        u = nn.functional.normalize(lorentz_points(5)[..., 1:], dim=-1)
        base = P.expmap0(5.0 * u[0], C)
        x = P.expmap(base, 0.1 * u * P.gap(base, C), C)  # a neighbourhood of size 0.2, far out
        got = layer(x, torch.ones(5, 5)).detach().double()
        expected = layer.double()(x.double(), torch.ones(5, 5)).detach()
        assert float(P.dist0(expected, C).min()) > 9.0
        assert float(P.dist(got, expected, C).max()) < 0.01

    def test_bad_input_is_named(self) -> None:
        layer, (x, adjacency) = self.make(), self.inputs()
        with pytest.raises(ValueError, match="give either adjacency or edge_index, and not both"):
            layer(x, adjacency, edge_index=EDGES)
        with pytest.raises(ValueError, match="give either adjacency or edge_index"):
            layer(x)
        with pytest.raises(ValueError, match=r"adjacency must end in \(5, 5\)"):
            layer(x, torch.ones(4, 4))
        with pytest.raises(ValueError, match=r"edge_index must have shape \(2, E\)"):
            layer(x[0], edge_index=EDGES.T)
        with pytest.raises(ValueError, match="x must have last dimension 6"):
            layer(x[..., :5], adjacency)
        with pytest.raises(ValueError, match="activation must be one of"):
            hnn.PoincareGraphConv(D, 4, activation="sine")
        with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1\.5"):
            hnn.PoincareGraphConv(D, 4, dropout=1.5)


class _OnEdges(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, edge_index=EDGES)


class TestGraphConvOfEdges(_Ball):
    def make(self):
        return _OnEdges(hnn.PoincareGraphConv(D, 4, c=C, self_loop=True))

    def inputs(self, dtype=torch.float32):
        return (ball_points(5, dtype=dtype),)

    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x.view(-1, D)[:5])


class TestTransformerBlock(_Ball):
    residual, score, norm = "space", "distance", True

    def make(self):
        return hnn.PoincareTransformerBlock(
            D, 2, 8, c=C, residual=self.residual, score=self.score, norm=self.norm
        )

    def test_symmetry(self) -> None:
        assert_permutation_equivariant(self._layer(torch.float64), *self.inputs(torch.float64))

    def test_by_its_definition(self) -> None:
        layer, (x,) = self._layer(torch.float64), self.inputs(torch.float64)

        def norm(which: nn.Module | None, y: Tensor) -> Tensor:
            return y if which is None else which(y)

        y = layer.residual1(x, layer.attention(norm(layer.norm1, x)))
        z = layer.ffn1(norm(layer.norm2, y))
        z = hnn.PoincareActivation("gelu", c=C)(z)
        plain = hnn.PoincareLinear(8, D, c=C).double()
        plain.load_state_dict(layer.ffn2.state_dict())
        torch.testing.assert_close(layer(x), layer.residual2(y, plain(z)))

    def test_decodes_step_by_step(self) -> None:
        layer, (x,) = self._layer(torch.float64).eval(), self.inputs(torch.float64)
        cache = KVCache()
        with torch.no_grad():
            steps = [layer(x[:, i : i + 1], causal=True, cache=cache) for i in range(5)]
            torch.testing.assert_close(torch.cat(steps, 1), layer(x, causal=True))


class TestMidpointBlock(TestTransformerBlock):
    residual, score = "midpoint", "inner"


class TestMobiusBlock(TestTransformerBlock):
    residual = "mobius"


class TestBareBlock(TestTransformerBlock):
    residual, norm = "midpoint", False


class TestCrossBlock(_Ball):
    def make(self):
        return hnn.PoincareTransformerBlock(D, 2, 8, c=C, cross=True)

    def inputs(self, dtype=torch.float32):
        return ball_points(2, 5, dtype=dtype), ball_points(2, 3, dtype=dtype, seed=1)

    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x, x.flip(-2))

    def test_masks_bias_and_cache(self) -> None:
        layer, (x, memory) = self._layer(torch.float64).eval(), self.inputs(torch.float64)
        keep = torch.tensor([True, True, False])
        two = layer(x, memory[:, :2])
        torch.testing.assert_close(layer(x, memory, memory_mask=keep), two)
        bias = torch.zeros(5, dtype=torch.float64)
        bias[4] = -1e4
        hidden = layer(x, memory, mask=torch.arange(5) < 4)
        torch.testing.assert_close(layer(x, memory, bias=bias), hidden)
        torch.testing.assert_close(hidden[:, :4], layer(x[:, :4], memory))
        cache = KVCache()
        with torch.no_grad():
            steps = [layer(x[:, i : i + 1], memory, causal=True, cache=cache) for i in range(5)]
            torch.testing.assert_close(torch.cat(steps, 1), layer(x, memory, causal=True))

    def test_dropout_keeps_points(self) -> None:
        layer = hnn.PoincareTransformerBlock(D, 2, 8, dropout=0.6, c=C, cross=True)
        x, memory = self.inputs()
        a, b = layer(x, memory), layer(x, memory)
        assert not torch.allclose(a, b)
        assert PoincareBall(C).check_point_on_manifold(a.detach())

    def test_bad_input_is_named(self) -> None:
        layer, (x, memory) = self.make(), self.inputs()
        with pytest.raises(ValueError, match="memory must be given to a block made with cross=True"):
            layer(x)
        with pytest.raises(ValueError, match="memory is read only by a block made with cross=True"):
            hnn.PoincareTransformerBlock(D, 2)(x, memory)
        with pytest.raises(TypeError, match="mask must be boolean"):
            layer(x, memory, mask=torch.ones(5))
        with pytest.raises(ValueError, match=r"x must have shape \(B, T, features\)"):
            layer(x[0], memory)
        with pytest.raises(ValueError, match="x must have last dimension 6"):
            layer(x[..., :5], memory)
        with pytest.raises(ValueError, match="divisible by num_heads=4, got 6"):
            hnn.PoincareTransformerBlock(D, 4)
        with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1\.0"):
            hnn.PoincareTransformerBlock(D, 2, dropout=1.0)
        with pytest.raises(ValueError, match="score must be 'distance' or 'inner', got 'dot'"):
            hnn.PoincareTransformerBlock(D, 2, score="dot")
        with pytest.raises(ValueError, match=r"kind must be one of .*mobius.*, got 'sum'"):
            hnn.PoincareTransformerBlock(D, 2, residual="sum")


class TestSpaceResidual(_Ball):
    def make(self):
        return hnn.PoincareResidual(c=C, weight=0.6, kind="space")

    def inputs(self, dtype=torch.float32):
        return ball_points(2, 5, dtype=dtype), ball_points(2, 5, dtype=dtype, seed=1)

    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x, x.flip(-2))

    def test_is_the_lorentz_layer_in_other_coordinates(self) -> None:
        x, y = self.inputs(torch.float64)
        twin = hnn.LorentzResidual(c=C, weight=0.6, kind="space").double()
        expected = L.to_poincare(twin(L.from_poincare(x, C), L.from_poincare(y, C)), C)
        torch.testing.assert_close(self._layer(torch.float64)(x, y), expected)


class TestLorentzSpaceResidual(LayerContract):
    def make(self):
        return hnn.LorentzResidual(c=C, weight=0.6, kind="space")

    def inputs(self, dtype=torch.float32):
        return lorentz_points(2, 5, dtype=dtype), lorentz_points(2, 5, dtype=dtype, seed=1)

    def manifold(self):
        return Lorentz(C)

    def test_adds_space_coordinates(self) -> None:
        x, y = self.inputs(torch.float64)
        layer = self._layer(torch.float64)
        out = layer(x, y)
        torch.testing.assert_close(out[..., 1:], x[..., 1:] + layer.log_weight.exp() * y[..., 1:])
        with pytest.raises(ValueError, match=r"kind must be one of .*midpoint.*, got 'mobius'"):
            hnn.LorentzResidual(kind="mobius")


def test_linear_applies_activation_and_dropout_to_the_tangent_vector() -> None:
    x = ball_points(5)
    layer = hnn.PoincareLinear(D, 4, c=C, activation="tanh", dropout=0.4)
    plain = hnn.PoincareLinear(D, 4, c=C)
    plain.load_state_dict(layer.state_dict())
    active = hnn.PoincareActivation("tanh", c=C)
    torch.testing.assert_close(layer.eval()(x), plain(active(x)))
    torch.manual_seed(0)
    got = layer.train()(x)
    torch.manual_seed(0)
    torch.testing.assert_close(got, plain(hnn.PoincareDropout(0.4, c=C)(active(x))))
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got -0\.1"):
        hnn.PoincareLinear(D, 4, dropout=-0.1)
    for kind in (hnn.LorentzLinear, hnn.EuclideanLinear):
        with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1\.5"):
            kind(D, 4, dropout=1.5)


def test_normalize_far_out_is_finite() -> None:
    """``m_0^2 - |m_s|^2`` is lost in float32 and may be -1e12: the bound takes its place, not 0."""
    space = torch.tensor([[1e9, 1.0], [3e9, -2e9]])
    mean = torch.cat([0.9999 * space.norm(dim=-1, keepdim=True), space], -1)
    for c in (C, torch.tensor(C)):
        leaf = mean.clone().requires_grad_()
        out = L.normalize(leaf, c)
        torch.testing.assert_close(out[..., 1:], space)
        out.sum().backward()
        assert bool(leaf.grad.isfinite().all())
