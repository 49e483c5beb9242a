"""Pure functions on tensors, one module a model of hyperbolic space."""

from hyperkit.ops import lorentz

__all__ = ["lorentz"]
