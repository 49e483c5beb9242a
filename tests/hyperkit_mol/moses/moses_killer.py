"""Jobs that end their worker process, as a crash inside RDKit does."""

import os

from hyperkit_mol.moses import _chemistry


class Pass(_chemistry.Pass):
    """The chemistry pass, killed by one molecule."""

    def __call__(self, smiles, weights):
        if "CCCCN" in smiles:
            os._exit(11)
        return super().__call__(smiles, weights)


def dies():
    """A job that never answers."""
    return lambda *_: os._exit(3)
