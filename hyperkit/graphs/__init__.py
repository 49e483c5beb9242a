"""Graphs in hyperbolic space: data sets, splits that cannot leak, models under one trainer, neighbours.

``python -m hyperkit.graphs --help`` trains and tests from the command line.
"""

from hyperkit.graphs._edge_blocks import EdgeBlocks
from hyperkit.graphs._knn import knn, knn_graph
from hyperkit.graphs._sampling import NeighborSampler, Sample
from hyperkit.graphs._sparse import Adjacency, Features
from hyperkit.graphs._tables import edges_from_neighbors, pad_neighbors
from hyperkit.graphs.datasets import DATASETS, Graph, GraphSet, Triples, from_pyg, load
from hyperkit.graphs.splits import (
    LinkSplit,
    Split,
    fold_split,
    folds,
    link_split,
    random_split,
    sample_negatives,
)

# isort: split
from hyperkit.graphs.models import MODELS, GraphNetwork, ModelSettings
from hyperkit.graphs.training import (
    GraphTask,
    LinkTask,
    NodeTask,
    Result,
    TrainSettings,
    fit,
    roc_auc,
)

__all__ = [
    "DATASETS",
    "MODELS",
    "Adjacency",
    "EdgeBlocks",
    "Features",
    "Graph",
    "GraphNetwork",
    "GraphSet",
    "GraphTask",
    "LinkSplit",
    "LinkTask",
    "ModelSettings",
    "NeighborSampler",
    "NodeTask",
    "Result",
    "Sample",
    "Split",
    "TrainSettings",
    "Triples",
    "edges_from_neighbors",
    "fit",
    "fold_split",
    "folds",
    "from_pyg",
    "knn",
    "knn_graph",
    "link_split",
    "load",
    "pad_neighbors",
    "random_split",
    "roc_auc",
    "sample_negatives",
]
