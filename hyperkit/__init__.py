"""hyperkit: hyperbolic geometry and layers for PyTorch, exact in float32 far from the origin."""

from hyperkit._checks import check
from hyperkit._version import __version__
from hyperkit.manifolds import Klein, Lorentz, PoincareBall, Product, ProperVelocity, UpperHalfSpace

__all__ = [
    "Klein",
    "Lorentz",
    "PoincareBall",
    "Product",
    "ProperVelocity",
    "UpperHalfSpace",
    "__version__",
    "check",
]
