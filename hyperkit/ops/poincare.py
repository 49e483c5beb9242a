"""The Poincaré ball as pure functions on tensors.

Points are ``(*, d)`` with ``sqrt(c) |x| < 1``; the metric is ``(2/(1 - c |x|^2))^2 dx^2``. Names and
conventions are geoopt's. Every function broadcasts over leading dimensions.
"""

from hyperkit.ops._lorentz_points import from_poincare as to_lorentz
from hyperkit.ops._lorentz_points import to_poincare as from_lorentz
from hyperkit.ops._planes import poincare_busemann as busemann
from hyperkit.ops._planes import poincare_centroid as centroid
from hyperkit.ops._planes import poincare_dist_to_horosphere as dist_to_horosphere
from hyperkit.ops._planes import poincare_dist_to_hyperplane as dist_to_hyperplane
from hyperkit.ops._planes import poincare_frechet_mean as frechet_mean
from hyperkit.ops._poincare_core import (
    cdist,
    conformal,
    dist,
    dist0,
    egrad2rgrad,
    expmap,
    expmap0,
    gap,
    geodesic,
    geodesic_unit,
    inner,
    logmap,
    logmap0,
    mobius_add,
    mobius_matvec,
    mobius_scalar_mul,
    norm,
    projx,
    rotate,
    sqdist,
    transp,
    transp0,
    transp0back,
)

__all__ = [
    "busemann",
    "cdist",
    "centroid",
    "conformal",
    "dist",
    "dist0",
    "dist_to_horosphere",
    "dist_to_hyperplane",
    "egrad2rgrad",
    "expmap",
    "expmap0",
    "frechet_mean",
    "from_lorentz",
    "gap",
    "geodesic",
    "geodesic_unit",
    "inner",
    "logmap",
    "logmap0",
    "mobius_add",
    "mobius_matvec",
    "mobius_scalar_mul",
    "norm",
    "projx",
    "rotate",
    "sqdist",
    "to_lorentz",
    "transp",
    "transp0",
    "transp0back",
]
