"""Graphs in hyperbolic space: nearest neighbours and the forms in which layers take neighbours."""

from hyperkit.graphs._knn import knn, knn_graph
from hyperkit.graphs._tables import edges_from_neighbors, pad_neighbors

__all__ = ["edges_from_neighbors", "knn", "knn_graph", "pad_neighbors"]
