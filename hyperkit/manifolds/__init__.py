"""Manifolds in the sense of geoopt, thin over :mod:`hyperkit.ops`."""

from hyperkit import _geoopt  # noqa: F401  (before anything that imports geoopt)

# isort: split
from hyperkit.manifolds.charts import Klein, ProperVelocity, UpperHalfSpace
from hyperkit.manifolds.lorentz import Lorentz
from hyperkit.manifolds.poincare import PoincareBall
from hyperkit.manifolds.product import Product

__all__ = ["Klein", "Lorentz", "PoincareBall", "Product", "ProperVelocity", "UpperHalfSpace"]
