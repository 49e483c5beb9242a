"""The battery for the layers of the ball, linear and graph attention, and pooling."""

import pytest
import torch

from hyperkit import Lorentz, PoincareBall
from hyperkit import nn as hnn
from hyperkit.nn import geometry
from hyperkit.nn.poincare_points import beta_ratio
from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P
from hyperkit.testing import LayerContract, assert_permutation_equivariant

C = 0.7


def lorentz_points(*shape: int, features: int = 6, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return geometry("lorentz", C).random_normal(*shape, features=features, dtype=dtype, generator=g)


def ball_points(*shape: int, features: int = 6, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    return L.to_poincare(lorentz_points(*shape, features=features, dtype=dtype, seed=seed), C)


def rotation(features: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(5)
    return torch.linalg.qr(torch.randn(features, features, generator=g, dtype=torch.float64))[0]


class _Lorentz(LayerContract):
    def inputs(self, dtype=torch.float32):
        return (lorentz_points(2, 5, dtype=dtype),)

    def manifold(self):
        return Lorentz(C)


class _Ball(LayerContract):
    def inputs(self, dtype=torch.float32):
        return (ball_points(2, 5, dtype=dtype),)

    def manifold(self):
        return PoincareBall(C)


class TestLinearAttention(_Lorentz):
    def make(self):
        return hnn.LorentzLinearAttention(6, 2, c=C)

    def test_symmetry(self) -> None:
        assert_permutation_equivariant(self._layer(), *self.inputs())

    def test_equals_the_quadratic_form(self) -> None:
        layer, (x,) = self._layer(torch.float64), self.inputs(torch.float64)
        q, k, v = layer._project(x, 0, 3)
        q, k = (hnn.linear_attention._focus(t / layer.log_norm.exp(), 2.0) for t in (q, k))
        scores = q @ k.transpose(-1, -2)
        heads = scores / scores.sum(-1, keepdim=True) @ v + layer.skip(v)
        expected = layer.out(L.from_space(heads.transpose(1, 2).flatten(2), C))
        torch.testing.assert_close(layer(x), expected)
        lower = scores.tril()
        heads = lower / lower.sum(-1, keepdim=True) @ v + layer.skip(v)
        expected = layer.out(L.from_space(heads.transpose(1, 2).flatten(2), C))
        torch.testing.assert_close(layer(x, causal=True), expected)

    def test_masked_keys_have_no_influence(self) -> None:
        layer, (x,) = self._layer(torch.float64), self.inputs(torch.float64)
        keep = torch.ones(2, 5, dtype=torch.bool)
        keep[:, 4] = False
        torch.testing.assert_close(layer(x, mask=keep)[:, :4], layer(x[:, :4]))
        memory = lorentz_points(2, 3, dtype=torch.float64, seed=2)
        none = torch.zeros(2, 3, dtype=torch.bool)
        origin = layer.out(L.origin(2, 5, 7, c=C, dtype=x.dtype))
        torch.testing.assert_close(layer(x, memory, mask=none), origin)

    def test_bad_input_is_named(self) -> None:
        layer, (x,) = self.make(), self.inputs()
        with pytest.raises(TypeError, match="mask must be boolean"):
            layer(x, mask=torch.ones(2, 5))
        with pytest.raises(ValueError, match=r"mask must have shape \(B, S\) = \(2, 5\), got \(2, 4\)"):
            layer(x, mask=torch.ones(2, 4, dtype=torch.bool))
        with pytest.raises(ValueError, match=r"power must be >= 1, got 0\.5"):
            hnn.LorentzLinearAttention(6, 2, power=0.5)


EDGES = torch.tensor([[0, 1, 2, 3, 1, 4, 0], [1, 0, 1, 4, 4, 3, 4]])


class _GraphForm(torch.nn.Module):
    """The layer with a fixed graph, so that it has one input."""

    def __init__(self, layer: torch.nn.Module, **graph: torch.Tensor) -> None:
        super().__init__()
        self.layer, self.graph = layer, graph

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, **self.graph)


class TestGraphAttention(_Lorentz):
    def make(self):
        layer = hnn.LorentzGraphAttention(6, 4, 2, c=C, activation="tanh")
        return _GraphForm(layer, edge_index=EDGES)

    def inputs(self, dtype=torch.float32):
        return (lorentz_points(5, dtype=dtype),)

    def test_forms_agree(self) -> None:
        x, w = lorentz_points(5, dtype=torch.float64), torch.rand(7, dtype=torch.float64) + 0.1
        for loop in (True, False):
            torch.manual_seed(0)
            layer = hnn.LorentzGraphAttention(6, 4, 2, c=C, self_loop=loop).double()
            adjacency = torch.zeros(5, 5, dtype=torch.float64)
            adjacency[EDGES[1], EDGES[0]] = w
            table = torch.full((5, 3), -1)
            weights = torch.zeros(5, 3, dtype=torch.float64)
            for i in range(5):
                mine = EDGES[1] == i
                table[i, : int(mine.sum())] = EDGES[0][mine]
                weights[i, : int(mine.sum())] = w[mine]
            sparse = layer(x, edge_index=EDGES, edge_weight=w)
            torch.testing.assert_close(layer(x, adjacency), sparse)
            torch.testing.assert_close(layer(x[None], adjacency[None])[0], sparse)
            torch.testing.assert_close(layer(x, neighbors=table, edge_weight=weights), sparse)
            if not loop:  # node 2 has no neighbour
                torch.testing.assert_close(sparse[2], L.origin(5, c=C, dtype=x.dtype))

    def test_is_a_softmax_of_distances(self) -> None:
        torch.manual_seed(0)
        layer = hnn.LorentzGraphAttention(6, 4, 1, c=C).double()
        x = lorentz_points(5, dtype=torch.float64)
        z = torch.nn.functional.linear(x, layer.weight, layer.bias).view(5, 3, 1, 5)
        q, k, v = hnn._base.lorentz_tail(z, layer.log_scale, C).squeeze(-2).unbind(-2)
        square = -(2 / C + 2 * L.pairwise_inner(q, k))
        weights = torch.softmax(-square / layer.log_temperature.exp(), -1)
        torch.testing.assert_close(layer(x, torch.ones(5, 5) - torch.eye(5)), L.centroid(v, weights, c=C))

    def test_permuted_nodes_give_permuted_results(self) -> None:
        layer, (x,) = self._layer(torch.float64), self.inputs(torch.float64)
        order = torch.tensor([3, 0, 4, 1, 2])
        layer.graph = {"edge_index": EDGES}
        expected = layer(x)[order]
        layer.graph = {"edge_index": torch.argsort(order)[EDGES]}
        torch.testing.assert_close(layer(x[order]), expected)

    def test_far_scores_do_not_overflow_and_dropout_keeps_points(self) -> None:
        layer = hnn.LorentzGraphAttention(6, 4, 2, c=C, dropout=0.6)
        x = L.expmap0(20 * torch.nn.functional.pad(torch.eye(6), (1, 0)), C)
        edges = torch.cartesian_prod(torch.arange(6), torch.arange(6)).T
        with torch.no_grad():
            layer.log_temperature.fill_(-6.0)
        out = layer(x, edge_index=edges)
        out.sum().backward()
        assert Lorentz(C).check_point_on_manifold(out.detach())
        assert bool(layer.weight.grad.isfinite().all())

    def test_bad_input_is_named(self) -> None:
        layer, (x,) = hnn.LorentzGraphAttention(6, 4, 2, c=C), self.inputs()
        with pytest.raises(ValueError, match="give one of adjacency, edge_index and neighbors"):
            layer(x, torch.ones(5, 5), edge_index=EDGES)
        with pytest.raises(ValueError, match="give either edge_index or neighbors"):
            layer(x)
        with pytest.raises(ValueError, match=r"adjacency must end in \(5, 5\)"):
            layer(x, torch.ones(4, 4))
        with pytest.raises(ValueError, match="divisible by num_heads=3, got 4"):
            hnn.LorentzGraphAttention(6, 4, 3)


class _Channels(torch.nn.Module):
    """Between points in the last dimension and points in the channels."""

    def __init__(self, back: bool = False) -> None:
        super().__init__()
        self.back = back

    def forward(self, x):
        return x.movedim(1, -1) if self.back else x.movedim(-1, 1)


def channels(layer: torch.nn.Module) -> torch.nn.Sequential:
    return torch.nn.Sequential(_Channels(), layer, _Channels(back=True))


class _Conv(_Ball):
    ndim = 1

    def make(self):
        kind = {1: hnn.PoincareConv1d, 2: hnn.PoincareConv2d, 3: hnn.PoincareConv3d}[self.ndim]
        layer = kind(4, 3, 3, stride=2, padding=1, c=C)
        with torch.no_grad():
            layer.bias.normal_(std=0.3)
        return channels(layer)

    def inputs(self, dtype=torch.float32):
        return (ball_points(2, *[5] * self.ndim, features=4, dtype=dtype),)


class TestPoincareConv1d(_Conv):
    def test_equals_the_unfolded_form(self) -> None:
        """Beta-concatenate the window's points, then the linear layer: the layer by its definition."""
        layer, (x,) = self._layer(torch.float64), self.inputs(torch.float64)
        conv = layer[1]
        linear = hnn.PoincareLinear(12, 3, c=C).double()
        with torch.no_grad():
            linear.weight.copy_(conv.weight.permute(0, 2, 1).flatten(1))
            linear.bias.copy_(conv.bias)
        o = torch.zeros(2, 1, 4, dtype=x.dtype)
        padded = torch.cat([o, x, o], 1)
        join = hnn.PoincareConcat(c=C)
        windows = torch.stack([join([padded[:, i + k] for k in range(3)]) for i in (0, 2, 4)], 1)
        torch.testing.assert_close(layer(x), linear(windows))

    def test_bad_input_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"x must have shape \(B, 4, n\), got \(2, 3, 5\)"):
            hnn.PoincareConv1d(4, 3, 3)(torch.zeros(2, 3, 5))
        with pytest.raises(ValueError, match="padding must be >= 0, got -1"):
            hnn.PoincareConv1d(4, 3, 3, padding=-1)


class TestPoincareConv2d(_Conv):
    ndim = 2


class TestPoincareConv3d(_Conv):
    ndim = 3


class TestPoincareActivation(_Ball):
    def make(self):
        return hnn.PoincareActivation("tanh", c=C)


class TestPoincareDropout(_Ball):
    def make(self):
        return hnn.PoincareDropout(0.3, c=C)

    def test_drops_while_training_only(self) -> None:
        layer, (x,) = self.make(), self.inputs()
        assert float((layer(x) == 0).float().mean()) > 0.1
        assert torch.equal(layer.eval()(x), x)


class TestPoincareResidual(_Ball):
    kind = "midpoint"

    def make(self):
        return hnn.PoincareResidual(c=C, weight=0.6, kind=self.kind)

    def inputs(self, dtype=torch.float32):
        return ball_points(2, 5, dtype=dtype), ball_points(2, 5, dtype=dtype, seed=1)

    def test_symmetry(self) -> None:
        """The midpoint commutes with every isometry, the addition with rotations."""
        layer, (x, y) = self._layer(torch.float64), self.inputs(torch.float64)
        turn = rotation(6)
        torch.testing.assert_close(layer(x @ turn, y @ turn), layer(x, y) @ turn)
        if self.kind == "midpoint":
            p = ball_points(1, dtype=torch.float64, seed=9)
            moved = layer(P.mobius_add(p, x, C), P.mobius_add(p, y, C))
            torch.testing.assert_close(moved, P.mobius_add(p, layer(x, y), C))


class TestMobiusResidual(TestPoincareResidual):
    kind = "mobius"


class TestPoincareConcat(_Ball):
    def make(self):
        return hnn.PoincareConcat(c=C)

    def inputs(self, dtype=torch.float32):
        return ball_points(3, dtype=dtype), ball_points(3, features=2, dtype=dtype, seed=1)

    def test_split_is_the_inverse(self) -> None:
        x, y = self.inputs(torch.float64)
        a, b = self.make().split(self.make()(x, y), [6, 2])
        torch.testing.assert_close(a, x)
        torch.testing.assert_close(b, y)

    def test_beta_keeps_the_expected_coordinate(self) -> None:
        """E|v_k| of a uniform direction in n dimensions is B(1/2, n/2)-scaled: the ratio undoes it."""
        g = torch.Generator().manual_seed(0)
        mean = {}
        for n in (3, 12):
            u = torch.randn(200_000, n, generator=g)
            mean[n] = float((u / u.norm(dim=-1, keepdim=True)).abs().mean())
        assert abs(mean[12] / mean[3] / beta_ratio(12, 3) - 1) < 0.01


class TestPoincareCentroid(_Ball):
    def make(self):
        return hnn.PoincareCentroid(c=C)

    def test_symmetry(self) -> None:
        (x,), p = self.inputs(torch.float64), ball_points(1, dtype=torch.float64, seed=9)
        moved = self.make()(P.mobius_add(p, x, C))
        torch.testing.assert_close(moved, P.mobius_add(p, self.make()(x), C))


class TestPoincareBatchNorm(_Ball):
    def make(self):
        return hnn.PoincareBatchNorm(6, c=C)

    def test_normalises_and_remembers(self) -> None:
        layer = self.make().double()
        g = torch.Generator().manual_seed(0)
        base = ball_points(4000, dtype=torch.float64)
        x = P.mobius_add(ball_points(1, dtype=torch.float64, seed=1), base, C)
        y = layer(x)
        assert float(P.dist0(P.centroid(y, c=C), C).detach()) < 0.05
        assert abs(float(P.dist0(y, C).square().mean().detach()) - 1) < 1e-4
        for _ in range(60):
            layer(x[torch.randint(4000, (2000,), generator=g)])
        layer.eval()
        torch.testing.assert_close(layer(x), y, rtol=0.1, atol=0.1)

    def test_does_not_see_isometries_but_for_a_rotation(self) -> None:
        layer, x = self.make().double(), ball_points(50, dtype=torch.float64)
        moved = P.mobius_add(ball_points(1, dtype=torch.float64, seed=7), x, C)
        a, b = layer(x), layer(moved)
        torch.testing.assert_close(P.cdist(a, a, C), P.cdist(b, b, C), rtol=1e-6, atol=1e-6)

    def test_images(self) -> None:
        x = ball_points(3, 4, 4)
        torch.manual_seed(0)
        expected = hnn.PoincareBatchNorm(6, c=C)(x)
        images = hnn.PoincareBatchNorm(6, c=C, dim=1)(x.movedim(-1, 1))
        torch.testing.assert_close(images.movedim(1, -1), expected)
        with pytest.raises(ValueError, match="at least 2 points while training, got 1"):
            self.make()(x[:1, 0, 0])


class TestPoincareAttention(_Ball):
    score = "distance"

    def make(self):
        return hnn.PoincareAttention(6, 2, c=C, score=self.score)

    def test_symmetry(self) -> None:
        assert_permutation_equivariant(self._layer(torch.float64), *self.inputs(torch.float64))

    def test_masks(self) -> None:
        layer, (x,) = self._layer(torch.float64), self.inputs(torch.float64)
        y = x.clone()
        y[:, 4] = x[:, 0]
        keep = torch.ones(5, dtype=torch.bool)
        keep[4] = False
        torch.testing.assert_close(layer(x, mask=keep)[:, :4], layer(y, mask=keep)[:, :4])
        torch.testing.assert_close(layer(x, causal=True)[:, :4], layer(y, causal=True)[:, :4])
        assert not torch.allclose(layer(x)[:, :4], layer(y)[:, :4])
        none = torch.zeros(5, 5, dtype=torch.bool)
        torch.testing.assert_close(layer(x, mask=none), layer.out(torch.zeros_like(x)))
        with pytest.raises(TypeError, match="mask must be boolean"):
            layer(x, mask=keep.double())

    def test_one_head_by_its_definition(self) -> None:
        layer = hnn.PoincareAttention(6, 1, c=C, score=self.score).double()
        (x,) = self.inputs(torch.float64)
        q, k, v = layer.query(x), layer.key(x), layer.value(x)
        d = P.cdist(q, k, C)
        if self.score == "inner":
            d = 2 * (torch.cosh(C**0.5 * d) - 1) / C
        weights = torch.softmax(-d / layer.log_temperature.exp(), -1)
        torch.testing.assert_close(layer(x), layer.out(P.centroid(v, weights, c=C)))


class TestPoincareInnerAttention(TestPoincareAttention):
    score = "inner"


class TestPoincareGRUCell(_Ball):
    def make(self):
        layer = hnn.PoincareGRUCell(6, 5, c=C, activation="tanh")
        with torch.no_grad():
            layer.bias.normal_(std=0.2)
        return layer

    def inputs(self, dtype=torch.float32):
        return ball_points(4, dtype=dtype), ball_points(4, features=5, dtype=dtype, seed=1)

    def test_gates_choose_between_state_and_candidate(self) -> None:
        layer, (x, h) = self._layer(torch.float64), self.inputs(torch.float64)
        with torch.no_grad():
            layer.weight_state[0].zero_()
            layer.weight_input[0].zero_()
            layer.bias[0] = -40.0
            torch.testing.assert_close(layer(x, h), P.geodesic(0.0, h, layer(x, h), C), rtol=1e-4, atol=1e-4)
            kept = layer(x, h)
            layer.bias[0] = 40.0
            taken = layer(x, h)
        # The edge of the ball bounds log_0 of the gate (18 in float64): the gates are 1e-8 from 0 and 1.
        torch.testing.assert_close(kept, h, rtol=1e-4, atol=1e-4)
        assert float(P.dist(taken, h, C).min()) > 1e-2

    def test_sequence_is_the_cell_step_by_step(self) -> None:
        gru, x = hnn.PoincareGRU(6, 5, c=C), ball_points(2, 4)
        states, last = gru(x)
        h = None
        for t in range(4):
            h = gru.cell(x[:, t], h)
            torch.testing.assert_close(states[:, t], h)
        torch.testing.assert_close(last, h)
        with pytest.raises(ValueError, match="with T >= 1"):
            gru(x[:, :0])


class _Pool(LayerContract):
    kind = hnn.PoincareAvgPool1d
    ndim = 1
    ball = True

    def make(self):
        return channels(self.kind(2, c=C))

    def inputs(self, dtype=torch.float32):
        draw = ball_points if self.ball else lorentz_points
        return (draw(2, *[4] * self.ndim, dtype=dtype),)

    def manifold(self):
        return PoincareBall(C) if self.ball else Lorentz(C)

    def test_is_the_centroid(self) -> None:
        (x,) = self.inputs(torch.float64)
        corner = x[(slice(None), *[slice(2)] * self.ndim)].flatten(1, self.ndim)
        expected = P.centroid(corner, c=C) if self.ball else L.centroid(corner, c=C)
        torch.testing.assert_close(self.make()(x)[(slice(None), *[0] * self.ndim)], expected)


class TestPoincareAvgPool1d(_Pool):
    pass


class TestPoincareAvgPool2d(_Pool):
    kind, ndim = hnn.PoincareAvgPool2d, 2


class TestPoincareAvgPool3d(_Pool):
    kind, ndim = hnn.PoincareAvgPool3d, 3


class TestLorentzAvgPool1d(_Pool):
    kind, ball = hnn.LorentzAvgPool1d, False


class TestLorentzAvgPool3d(_Pool):
    kind, ndim, ball = hnn.LorentzAvgPool3d, 3, False
