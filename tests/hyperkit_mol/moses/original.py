"""The original molsets 0.3.1 and fcd_torch 1.0.7, patched just enough to run on today's libraries.

For comparison only: nothing of this is used by hyperkit.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def _append(self: Any, other: Any, sort: bool = False, **_: Any) -> Any:
    import pandas as pd

    return pd.concat([self, other], sort=sort)


@contextlib.contextmanager
def _today() -> Iterator[None]:
    """What was removed since 2020, put back."""
    import matplotlib
    import pandas as pd

    matplotlib.use("Agg")
    six = types.ModuleType("rdkit.six")
    six.iteritems = lambda mapping: iter(mapping.items())  # type: ignore[attr-defined]
    sys.modules["rdkit.six"] = six
    pd.DataFrame.append = _append  # type: ignore[attr-defined]
    np.NaN = np.nan  # type: ignore[attr-defined]  # noqa: NPY201
    np.row_stack = np.vstack  # type: ignore[attr-defined]  # noqa: NPY201
    yield


def load(*, float_cosine: bool = False) -> types.ModuleType:
    """The original's ``moses.metrics.metrics``.

    Parameters
    ----------
    float_cosine : bool
        Also mend the integer overflow of Frag and Scaf, without which more than some 17,800 molecules give
        an exception or 1.0.
    """
    from rdkit import RDLogger

    with _today(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = importlib.import_module("moses.metrics.metrics")
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    if float_cosine:
        integer = metrics.cos_distance
        metrics.cos_distance = lambda a, b: integer(np.asarray(a, float), np.asarray(b, float))
    return metrics


def _remember_distances() -> None:
    """Do not take the same matrix root (seconds each) twice when both references are the same."""
    import fcd_torch.fcd

    distance = fcd_torch.fcd.calculate_frechet_distance
    known: dict[bytes, float] = {}

    def remembered(*moments: np.ndarray) -> float:
        key = b"".join(np.ascontiguousarray(moment).tobytes() for moment in moments)
        if key not in known:
            known[key] = distance(*moments)
        return known[key]

    fcd_torch.fcd.calculate_frechet_distance = getattr(distance, "original", remembered)
    remembered.original = remembered  # type: ignore[attr-defined]


def all_metrics(
    smiles: Sequence[str], *, train: Sequence[str] | None = None, n_jobs: int = 1, **settings: Any
) -> dict[str, float]:
    """The original's figures.

    Parameters
    ----------
    smiles : sequence of str
    train : sequence of str, optional
        For Novelty; MOSES's own, as stored in 2020, by default.
    """
    metrics = load(float_cosine=settings.pop("float_cosine", False))
    _remember_distances()
    from rdkit import RDLogger

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = metrics.get_all_metrics(
            list(smiles), n_jobs=n_jobs, train=None if train is None else list(train), **settings
        )
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]  # the original switches the log on
    return {name: float(value) for name, value in result.items()}
