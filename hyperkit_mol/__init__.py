"""Chemistry on top of hyperkit: a hyperbolic molecule generator and the MOSES metrics."""

from hyperkit._version import __version__

__all__ = ["__version__"]
