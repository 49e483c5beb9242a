"""The Lorentz model (hyperboloid) as pure functions on tensors.

Points are ``(*, d + 1)``, time first, ``x_0 = sqrt(1/c + |x_s|^2)``; tangent vectors at x satisfy
``<x, v> = 0``. The space coordinates are the truth: but for :func:`inner`, :func:`norm`,
:func:`pairwise_inner` and :func:`centroid`, which are linear algebra on whole vectors, and the
projections, no function reads a time. Every function broadcasts over leading dimensions, has right first and
second derivatives, and takes the curvature as a number or a (learnable) tensor.
"""

from hyperkit.ops._isometries import isometry, rotation
from hyperkit.ops._lorentz_maps import (
    boost,
    boost_matrix,
    carry,
    expmap,
    expmap0,
    geodesic,
    geodesic_unit,
    logmap,
    logmap0,
    transp,
    transp0,
    transp0back,
)
from hyperkit.ops._lorentz_metric import (
    cdist,
    dist,
    dist0,
    egrad2rgrad,
    from_space,
    haversine,
    inner,
    norm,
    origin,
    pairwise_inner,
    pairwise_sqdist,
    proju,
    projx,
    rgrad_and_square,
    rgrad_norm,
    sqdist,
    tangent_inner,
    tangent_norm,
)
from hyperkit.ops._lorentz_points import (
    centroid,
    direct_concat,
    direct_split,
    from_poincare,
    normalize,
    to_poincare,
)
from hyperkit.ops._planes import lorentz_busemann as busemann
from hyperkit.ops._planes import lorentz_dist_to_horosphere as dist_to_horosphere
from hyperkit.ops._planes import lorentz_dist_to_hyperplane as dist_to_hyperplane
from hyperkit.ops._planes import lorentz_frechet_mean as frechet_mean
from hyperkit.ops._planes import lorentz_reflection as reflection

__all__ = [
    "boost",
    "boost_matrix",
    "busemann",
    "carry",
    "cdist",
    "centroid",
    "direct_concat",
    "direct_split",
    "dist",
    "dist0",
    "dist_to_horosphere",
    "dist_to_hyperplane",
    "egrad2rgrad",
    "expmap",
    "expmap0",
    "frechet_mean",
    "from_poincare",
    "from_space",
    "geodesic",
    "geodesic_unit",
    "haversine",
    "inner",
    "isometry",
    "logmap",
    "logmap0",
    "norm",
    "normalize",
    "origin",
    "pairwise_inner",
    "pairwise_sqdist",
    "proju",
    "projx",
    "reflection",
    "rgrad_and_square",
    "rgrad_norm",
    "rotation",
    "sqdist",
    "tangent_inner",
    "tangent_norm",
    "to_poincare",
    "transp",
    "transp0",
    "transp0back",
]
