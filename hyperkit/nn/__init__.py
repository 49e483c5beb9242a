"""Layers. `features` is the manifold's dimension d: Lorentz points are ``(*, d + 1)``, others ``(*, d)``."""

from hyperkit import _geoopt  # noqa: F401  (before anything that imports geoopt)

# isort: split
from hyperkit.nn._kernel_points import kernel_points
from hyperkit.nn.activation import LorentzActivation, LorentzBatchNorm, LorentzDropout
from hyperkit.nn.attention import (
    EuclideanAttention,
    EuclideanTransformerBlock,
    KVCache,
    LorentzAttention,
    LorentzTransformerBlock,
)
from hyperkit.nn.conv import LorentzConv1d, LorentzConv2d, LorentzConv3d
from hyperkit.nn.embedding import EuclideanEmbedding, EuclideanLift, ExpMap0, LorentzEmbedding
from hyperkit.nn.graph import EuclideanGraphConv, LorentzGraphConv
from hyperkit.nn.graph_attention import LorentzGraphAttention
from hyperkit.nn.hkattention import HKAttention, HKTransformerBlock
from hyperkit.nn.hkconv import HKConv, PoincareHKConv
from hyperkit.nn.hknet import HKNet
from hyperkit.nn.linear import EuclideanLinear, LorentzLinear
from hyperkit.nn.linear_attention import LorentzLinearAttention
from hyperkit.nn.mlr import EuclideanMLR, LorentzMLR
from hyperkit.nn.poincare import PoincareEmbedding, PoincareLinear, PoincareMLR
from hyperkit.nn.poincare_attention import PoincareAttention
from hyperkit.nn.poincare_conv import PoincareConv1d, PoincareConv2d, PoincareConv3d
from hyperkit.nn.poincare_graph import PoincareGraphConv
from hyperkit.nn.poincare_points import (
    PoincareActivation,
    PoincareBatchNorm,
    PoincareCentroid,
    PoincareConcat,
    PoincareDropout,
    PoincareResidual,
)
from hyperkit.nn.poincare_recurrent import PoincareGRU, PoincareGRUCell
from hyperkit.nn.poincare_transformer import (
    PoincareLayerNorm,
    PoincarePositionalEncoding,
    PoincareRMSNorm,
    PoincareTransformerBlock,
)
from hyperkit.nn.pooling import EuclideanCentroid, EuclideanConcat, LorentzCentroid, LorentzConcat
from hyperkit.nn.recurrent import LorentzGRU, LorentzGRUCell
from hyperkit.nn.residual import (
    EuclideanLayerNorm,
    EuclideanResidual,
    LorentzChangeCurvature,
    LorentzLayerNorm,
    LorentzPositionalEncoding,
    LorentzResidual,
    LorentzRMSNorm,
)
from hyperkit.nn.window_pooling import (
    LorentzAvgPool1d,
    LorentzAvgPool2d,
    LorentzAvgPool3d,
    PoincareAvgPool1d,
    PoincareAvgPool2d,
    PoincareAvgPool3d,
)

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
    "HKAttention",
    "HKConv",
    "HKNet",
    "HKTransformerBlock",
    "KVCache",
    "LorentzActivation",
    "LorentzAttention",
    "LorentzAvgPool1d",
    "LorentzAvgPool2d",
    "LorentzAvgPool3d",
    "LorentzBatchNorm",
    "LorentzCentroid",
    "LorentzChangeCurvature",
    "LorentzConcat",
    "LorentzConv1d",
    "LorentzConv2d",
    "LorentzConv3d",
    "LorentzDropout",
    "LorentzEmbedding",
    "LorentzGRU",
    "LorentzGRUCell",
    "LorentzGraphAttention",
    "LorentzGraphConv",
    "LorentzLayerNorm",
    "LorentzLinear",
    "LorentzLinearAttention",
    "LorentzMLR",
    "LorentzPositionalEncoding",
    "LorentzRMSNorm",
    "LorentzResidual",
    "LorentzTransformerBlock",
    "PoincareActivation",
    "PoincareAttention",
    "PoincareAvgPool1d",
    "PoincareAvgPool2d",
    "PoincareAvgPool3d",
    "PoincareBatchNorm",
    "PoincareCentroid",
    "PoincareConcat",
    "PoincareConv1d",
    "PoincareConv2d",
    "PoincareConv3d",
    "PoincareDropout",
    "PoincareEmbedding",
    "PoincareGRU",
    "PoincareGRUCell",
    "PoincareGraphConv",
    "PoincareHKConv",
    "PoincareLayerNorm",
    "PoincareLinear",
    "PoincareMLR",
    "PoincarePositionalEncoding",
    "PoincareRMSNorm",
    "PoincareResidual",
    "PoincareTransformerBlock",
    "geometry",
    "kernel_points",
]
