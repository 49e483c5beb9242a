"""Layers. `features` is the manifold's dimension d: Lorentz points are ``(*, d + 1)``, others ``(*, d)``."""

from hyperkit.nn.attention import (
    EuclideanAttention,
    EuclideanTransformerBlock,
    KVCache,
    LorentzAttention,
    LorentzTransformerBlock,
)
from hyperkit.nn.embedding import EuclideanEmbedding, EuclideanLift, ExpMap0, LorentzEmbedding
from hyperkit.nn.graph import EuclideanGraphConv, LorentzGraphConv
from hyperkit.nn.linear import EuclideanLinear, LorentzLinear
from hyperkit.nn.mlr import EuclideanMLR, LorentzMLR
from hyperkit.nn.poincare import PoincareEmbedding, PoincareLinear, PoincareMLR
from hyperkit.nn.pooling import EuclideanCentroid, EuclideanConcat, LorentzCentroid, LorentzConcat
from hyperkit.nn.residual import EuclideanLayerNorm, EuclideanResidual, LorentzLayerNorm, LorentzResidual

# isort: split
from hyperkit.nn.geometry import Geometry, geometry

__all__ = [
    "EuclideanAttention",
    "EuclideanCentroid",
    "EuclideanConcat",
    "EuclideanEmbedding",
    "EuclideanGraphConv",
    "EuclideanLayerNorm",
    "EuclideanLift",
    "EuclideanLinear",
    "EuclideanMLR",
    "EuclideanResidual",
    "EuclideanTransformerBlock",
    "ExpMap0",
    "Geometry",
    "KVCache",
    "LorentzAttention",
    "LorentzCentroid",
    "LorentzConcat",
    "LorentzEmbedding",
    "LorentzGraphConv",
    "LorentzLayerNorm",
    "LorentzLinear",
    "LorentzMLR",
    "LorentzResidual",
    "LorentzTransformerBlock",
    "PoincareEmbedding",
    "PoincareLinear",
    "PoincareMLR",
    "geometry",
]
