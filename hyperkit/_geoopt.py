"""Import geoopt without the warnings of its decorators; to be imported before anything that imports geoopt.

geoopt compiles scripts when it is imported, and torch 2.14 warns that this is deprecated. A person who asked
for a Lorentz model can do nothing about it.
"""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r".*torch\.jit\.")
    import geoopt

__all__ = ["geoopt"]
