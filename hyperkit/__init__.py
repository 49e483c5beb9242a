"""hyperkit: hyperbolic geometry and layers for PyTorch, exact in float32 far from the origin."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hyperkit._checks import check
from hyperkit._version import __version__

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    # Looked up when asked for: manifolds need geoopt, whose import costs a quarter of torch's.
    if name in __all__:
        return getattr(import_module("hyperkit.manifolds"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
