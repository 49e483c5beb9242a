"""Test batteries to inherit and symmetry assertions, for this package's own tests and for extensions.

A new manifold or layer gets the whole battery by naming itself; run it with pytest::

    from hyperkit.testing import ManifoldContract

    class TestMine(ManifoldContract):
        width = 4

        def make(self):
            return MyManifold()
"""

from hyperkit import _geoopt  # noqa: F401  (before anything that imports geoopt)

# isort: split
from hyperkit.testing._assertions import (
    assert_gradients_finite,
    assert_isometry_equivariant,
    assert_isometry_invariant,
    assert_permutation_equivariant,
)
from hyperkit.testing._layer import LayerContract
from hyperkit.testing._manifold import ManifoldContract

__all__ = [
    "LayerContract",
    "ManifoldContract",
    "assert_gradients_finite",
    "assert_isometry_equivariant",
    "assert_isometry_invariant",
    "assert_permutation_equivariant",
]
