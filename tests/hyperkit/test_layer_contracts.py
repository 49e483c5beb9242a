"""Every layer passes the shipped battery."""

import pytest
import torch

from hyperkit import Lorentz, PoincareBall
from hyperkit import nn as hnn
from hyperkit.nn import geometry
from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P
from hyperkit.testing import (
    LayerContract,
    assert_isometry_equivariant,
    assert_isometry_invariant,
    assert_permutation_equivariant,
)

C = 0.7


def points(*shape: int, features: int = 6, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return geometry("lorentz", C).random_normal(*shape, features=features, dtype=dtype, generator=g)


class _Lorentz(LayerContract):
    def inputs(self, dtype=torch.float32):
        return (points(2, 5, dtype=dtype),)

    def manifold(self):
        return Lorentz(C)


class TestLinear(_Lorentz):
    def make(self):
        return hnn.LorentzLinear(6, 4, c=C, activation="tanh")


class TestExpMap0(_Lorentz):
    def make(self):
        return hnn.ExpMap0(6, c=C)

    def inputs(self, dtype=torch.float32):
        return (points(2, 5, features=5, dtype=dtype),)


class TestEmbedding(_Lorentz):
    def make(self):
        return hnn.LorentzEmbedding(7, 6, C)

    def inputs(self, dtype=torch.float32):
        return (torch.tensor([[1, 2], [2, 0]]),)


class TestConcat(_Lorentz):
    def make(self):
        return hnn.LorentzConcat(c=C)

    def inputs(self, dtype=torch.float32):
        return points(3, dtype=dtype), points(3, dtype=dtype, seed=1)


class TestCentroid(_Lorentz):
    def make(self):
        return hnn.LorentzCentroid(c=C)

    def test_symmetry(self) -> None:
        x = points(2, 5, dtype=torch.float64)
        assert_isometry_equivariant(self.make(), self.manifold(), x)


class TestResidual(_Lorentz):
    def make(self):
        return hnn.LorentzResidual(c=C)

    def inputs(self, dtype=torch.float32):
        return points(2, 5, dtype=dtype), points(2, 5, dtype=dtype, seed=1)

    def test_symmetry(self) -> None:
        assert_isometry_equivariant(self.make().double(), self.manifold(), *self.inputs(torch.float64))


class TestLayerNorm(_Lorentz):
    def make(self):
        return hnn.LorentzLayerNorm(6, c=C)


class TestGraphConv(_Lorentz):
    def make(self):
        return hnn.LorentzGraphConv(6, 4, c=C)

    def inputs(self, dtype=torch.float32):
        g = torch.Generator().manual_seed(0)
        return points(2, 5, dtype=dtype), (torch.rand(2, 5, 5, generator=g) > 0.5)


class TestAttention(_Lorentz):
    def make(self):
        return hnn.LorentzAttention(6, 2, c=C, double_backward=True)

    def test_symmetry(self) -> None:
        assert_permutation_equivariant(self._layer(), *self.inputs())


class TestFusedAttention(_Lorentz):
    double_backward = False

    def make(self):
        return hnn.LorentzAttention(6, 2, c=C)


class TestTransformerBlock(_Lorentz):
    def make(self):
        return hnn.LorentzTransformerBlock(6, 2, 8, c=C, double_backward=True)

    def test_symmetry(self) -> None:
        assert_permutation_equivariant(self._layer(), *self.inputs())


class TestMLR(_Lorentz):
    def make(self):
        return hnn.LorentzMLR(6, 4, c=C)

    def manifold(self):
        return None

    def test_symmetry(self) -> None:
        mlr = hnn.LorentzMLR(6, 4, c=C)
        x, p = points(3, dtype=torch.float64), points(4, dtype=torch.float64, seed=2)
        assert_isometry_invariant(mlr.against, Lorentz(C), x, p)


class _Ball(LayerContract):
    def inputs(self, dtype=torch.float32):
        x = points(2, 5, dtype=dtype)
        return (L.to_poincare(x, C),)

    def manifold(self):
        return PoincareBall(C)


class TestPoincareLinear(_Ball):
    def make(self):
        return hnn.PoincareLinear(6, 4, c=C)

    def test_outputs_are_signed_distances_to_the_axes(self) -> None:
        layer, (x,) = self._layer(torch.float64), self.inputs(torch.float64)
        with torch.no_grad():
            layer.bias.normal_()
        y, axes = layer(x), torch.eye(4, dtype=torch.float64)
        logits = hnn.poincare._logits(x, layer.weight, layer.bias, C)
        d = [P.dist_to_hyperplane(y, torch.zeros_like(y), axes[k], C, signed=True) for k in range(4)]
        torch.testing.assert_close(torch.stack(d, -1), logits)


class TestPoincareMLR(_Ball):
    def make(self):
        return hnn.PoincareMLR(6, 4, c=C)

    def manifold(self):
        return None

    def test_logits_are_scaled_distances_to_hyperplanes(self) -> None:
        layer, (x,) = self._layer(torch.float64), self.inputs(torch.float64)
        with torch.no_grad():
            layer.bias.normal_(std=0.5)
        for k in range(4):
            z = layer.weight[k] / layer.weight[k].norm()
            p = P.expmap0(layer.bias[k] * z, C)
            d = P.dist_to_hyperplane(x, p, z, C, signed=True)
            expected = 2 * layer.weight[k].norm() * d
            torch.testing.assert_close(layer(x)[..., k], expected)


class TestPoincareEmbedding(_Ball):
    def make(self):
        return hnn.PoincareEmbedding(7, 6, C)

    def inputs(self, dtype=torch.float32):
        return (torch.tensor([[1, 2], [2, 0]]),)


class TestActivation(_Lorentz):
    def make(self):
        return hnn.LorentzActivation("tanh", c=C)


class TestDropout(_Lorentz):
    def make(self):
        return hnn.LorentzDropout(0.3, c=C)

    def test_drops_while_training_only(self) -> None:
        layer, (x,) = self.make(), self.inputs()
        assert float((layer(x)[..., 1:] == 0).float().mean()) > 0.1
        assert torch.equal(layer.eval()(x), x)


class TestBatchNorm(_Lorentz):
    def make(self):
        return hnn.LorentzBatchNorm(6, c=C)

    def test_normalises_and_remembers(self) -> None:
        layer, m = self.make().double(), Lorentz(C)
        g = torch.Generator().manual_seed(0)
        base = points(4000, dtype=torch.float64)
        x = L.boost(base, points(1, dtype=torch.float64, seed=1), C)
        y = layer(x)
        o = m.origin(7, dtype=y.dtype).as_subclass(torch.Tensor)
        torch.testing.assert_close(L.centroid(y, c=C), o, atol=0.05, rtol=0)
        assert abs(float(L.sqdist(y, L.origin(7, c=C, dtype=y.dtype), C).mean()) - 1) < 1e-4
        for _ in range(60):
            layer(x[torch.randint(4000, (2000,), generator=g)])
        layer.eval()
        torch.testing.assert_close(layer(x), y, rtol=0.1, atol=0.1)

    def test_does_not_see_isometries_but_for_a_rotation(self) -> None:
        layer, x = self.make().double(), points(50, dtype=torch.float64)
        iso = Lorentz(C).random_isometry(6, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
        a, b = layer(x), layer(x @ iso.T)
        torch.testing.assert_close(L.cdist(a, a, C), L.cdist(b, b, C), rtol=1e-6, atol=1e-6)


class _Conv(_Lorentz):
    ndim = 1

    def make(self):
        kind = {1: hnn.LorentzConv1d, 2: hnn.LorentzConv2d, 3: hnn.LorentzConv3d}[self.ndim]
        layer = kind(6, 4, 3, stride=2, padding=1, c=C)
        with torch.no_grad():
            layer.time_weight.normal_(std=0.3)
        return torch.nn.Sequential(_Channels(), layer, _Channels(back=True))

    def inputs(self, dtype=torch.float32):
        return (points(2, *[5] * self.ndim, dtype=dtype),)

    def test_equals_the_unfolded_form(self) -> None:
        """Concatenate the window's points, then one matrix: the layer by its definition."""
        if self.ndim != 1:
            return
        layer, (x,) = self._layer(torch.float64), self.inputs(torch.float64)
        conv = layer[1]
        o = L.origin(2, 1, 7, c=C, dtype=x.dtype)
        padded = torch.cat([o, x, o], 1)
        windows = [L.direct_concat([padded[:, i + k] for k in range(3)], C) for i in (0, 2, 4)]
        weight = torch.cat([conv.time_weight[:, None], conv.weight.permute(0, 2, 1).flatten(1)], 1)
        z = torch.stack(windows, 1) @ weight.T + conv.bias
        expected = hnn._base.lorentz_tail(z, conv.log_scale, C)
        torch.testing.assert_close(layer(x), expected)


class _Channels(torch.nn.Module):
    """Between points in the last dimension and points in the channels."""

    def __init__(self, back: bool = False) -> None:
        super().__init__()
        self.back = back

    def forward(self, x):
        return x.movedim(1, -1) if self.back else x.movedim(-1, 1)


class TestConv1d(_Conv):
    ndim = 1


class TestConv2d(_Conv):
    ndim = 2


class TestConv3d(_Conv):
    ndim = 3


class TestAvgPool2d(_Lorentz):
    def make(self):
        return torch.nn.Sequential(_Channels(), hnn.LorentzAvgPool2d(2, c=C), _Channels(back=True))

    def inputs(self, dtype=torch.float32):
        return (points(2, 4, 4, dtype=dtype),)

    def test_is_the_centroid(self) -> None:
        (x,) = self.inputs(torch.float64)
        expected = L.centroid(x[:, :2, :2].flatten(1, 2), c=C)
        torch.testing.assert_close(self.make()(x)[:, 0, 0], expected)


class TestGRUCell(_Lorentz):
    def make(self):
        return hnn.LorentzGRUCell(6, 5, c=C)

    def inputs(self, dtype=torch.float32):
        return points(4, dtype=dtype), points(4, features=5, dtype=dtype, seed=1)

    def test_sequence_is_the_cell_step_by_step(self) -> None:
        gru, x = hnn.LorentzGRU(6, 5, c=C), points(2, 4)
        states, last = gru(x)
        h = None
        for t in range(4):
            h = gru.cell(x[:, t], h)
            torch.testing.assert_close(states[:, t], h)
        torch.testing.assert_close(last, h)


class TestRMSNorm(_Lorentz):
    def make(self):
        return hnn.LorentzRMSNorm(6, c=C)


class TestPositionalEncoding(_Lorentz):
    def make(self):
        return hnn.LorentzPositionalEncoding(6, 5, c=C)

    def test_step_by_step_and_bounds(self) -> None:
        layer, (x,) = self.make(), self.inputs()
        steps = [layer(x[:, i : i + 1], start=i) for i in range(5)]
        torch.testing.assert_close(torch.cat(steps, 1), layer(x))
        with pytest.raises(ValueError, match="positions 1 to 6 are beyond max_length=5"):
            layer(x, start=1)


class TestChangeCurvature(_Lorentz):
    def make(self):
        return hnn.LorentzChangeCurvature(C, 2.0)

    def manifold(self):
        return Lorentz(2.0)

    def test_scales_distances(self) -> None:
        x, y = points(5, dtype=torch.float64), points(5, dtype=torch.float64, seed=1)
        layer = self.make()
        torch.testing.assert_close(L.dist(layer(x), layer(y), 2.0), (C / 2.0) ** 0.5 * L.dist(x, y, C))

    def test_learnable_curvatures_get_gradients(self) -> None:
        a, b = Lorentz(C, learnable=True), Lorentz(2.0, learnable=True)
        hnn.LorentzChangeCurvature(a, b)(points(3)).sum().backward()
        assert float(a.log_c.grad) != 0.0
        assert float(b.log_c.grad) != 0.0
