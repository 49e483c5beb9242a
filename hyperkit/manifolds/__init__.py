"""Manifolds in the sense of geoopt, thin over :mod:`hyperkit.ops`."""

from hyperkit.manifolds.charts import Klein, Product, ProperVelocity, UpperHalfSpace
from hyperkit.manifolds.lorentz import Lorentz
from hyperkit.manifolds.poincare import PoincareBall

__all__ = ["Klein", "Lorentz", "PoincareBall", "Product", "ProperVelocity", "UpperHalfSpace"]
