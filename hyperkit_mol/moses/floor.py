"""The finite-sample floor: what molecules drawn from MOSES's training set itself score.

FCD and Scaf depend on the number of molecules so strongly that a figure means little without the floor at
that number. The table in ``floor.json`` is measured by ``tests/benchmarks/moses_floor.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np


@lru_cache(maxsize=1)
def floor_table() -> dict[str, Any]:
    """The measured table: ``sizes`` and, by metric, one mean for each size."""
    return json.loads(files("hyperkit_mol.moses").joinpath("floor.json").read_text(encoding="utf-8"))


def training_floor(n: int, metrics: Iterable[str] | None = None) -> dict[str, float]:
    """What ``n`` molecules drawn from MOSES's training set score.

    Interpolated linearly in 1/n between measured sizes (FCD's bias falls as 1/n, as does what hides in the
    others). Outside the measured sizes the nearest one is given, except FCD, which is continued.

    Parameters
    ----------
    n : int
        Number of valid molecules.
    metrics : iterable of str, optional
        Names to give; by default all in the table.

    Returns
    -------
    dict
        Floor by metric name. ``Novelty`` (0 by construction) and ``valid`` are left out.
    """
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    table = floor_table()
    sizes = np.array(table["sizes"], dtype=float)
    x = 1.0 / sizes[::-1]
    result = {}
    for name in table["metrics"] if metrics is None else metrics:
        if name not in table["metrics"]:
            continue
        y = np.array(table["metrics"][name], dtype=float)[::-1]
        value = float(np.interp(1.0 / n, x, y))
        if name.startswith("FCD"):
            if n < sizes[0]:
                value = float(y[-1] + (y[-1] - y[-2]) / (x[-1] - x[-2]) * (1.0 / n - x[-1]))
            elif n > sizes[-1]:
                value = float(y[0] + (y[1] - y[0]) / (x[1] - x[0]) * (1.0 / n - x[0]))
        result[name] = value
    return result
