"""Manifolds in the sense of geoopt, thin over :mod:`hyperkit.ops`."""

from hyperkit.manifolds.lorentz import Lorentz

__all__ = ["Lorentz"]
