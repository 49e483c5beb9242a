"""Pictures of the hyperbolic plane: Poincaré disk and upper half-plane on matplotlib axes.

Every function takes an axes first and draws in the model that :func:`disk` or :func:`half_plane` gave it.
Points are those of the Lorentz model ``(*, 3)`` or of the Poincaré ball ``(*, 2)`` with curvature ``-c``;
they may carry gradients and live on any device. Curves are sampled from exact geodesics in float64, so that
they stay right near the edge. Needs matplotlib: ``pip install 'hyperkit[plot]'``.

Examples
--------
>>> import torch
>>> import matplotlib
>>> matplotlib.use("Agg")
>>> from matplotlib.figure import Figure
>>> from hyperkit import plot
>>> ax = plot.disk(Figure().subplots())
>>> lines = plot.geodesic(ax, torch.tensor([0.9, 0.1]), torch.tensor([-0.2, 0.8]))
>>> len(lines)
1
"""

from hyperkit.plot._axes import disk, half_plane, points
from hyperkit.plot._curves import circle, geodesic, horocycle, tree
from hyperkit.plot._regions import decision_regions

__all__ = [
    "circle",
    "decision_regions",
    "disk",
    "geodesic",
    "half_plane",
    "horocycle",
    "points",
    "tree",
]
