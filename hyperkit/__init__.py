"""hyperkit: hyperbolic geometry and layers for PyTorch, exact in float32 far from the origin."""

from hyperkit._version import __version__

__all__ = ["__version__"]
