"""The MOSES metrics: the names and figures of molsets 0.3.1, each molecule parsed once, cached, checked.

>>> from hyperkit_mol.moses import evaluate
>>> report = evaluate(smiles)                                                     # doctest: +SKIP
>>> report.metrics["FCD/Test"], report.floor["FCD/Test"]                          # doctest: +SKIP
"""

from hyperkit_mol.moses._evaluate import evaluate, metric_names
from hyperkit_mol.moses.data import MosesNotInstalledError, load_split
from hyperkit_mol.moses.floor import training_floor
from hyperkit_mol.moses.results import MosesReport

__all__ = [
    "MosesNotInstalledError",
    "MosesReport",
    "evaluate",
    "load_split",
    "metric_names",
    "training_floor",
]
