"""Every layer passes the shipped battery."""

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
