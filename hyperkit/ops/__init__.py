"""Pure functions on tensors, one module a model of hyperbolic space."""

from hyperkit.ops import convert, lorentz, poincare

__all__ = ["convert", "lorentz", "poincare"]
