"""hyperkit: hyperbolic geometry and layers for PyTorch, exact in float32 far from the origin."""

from hyperkit._checks import check
from hyperkit._version import __version__
from hyperkit.manifolds import Lorentz

__all__ = ["Lorentz", "__version__", "check"]
