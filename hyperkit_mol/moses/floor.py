"""The finite-sample floor: what molecules drawn from MOSES's training set itself score.

FCD and Scaf depend on the number of molecules so strongly that a figure means little without the floor at
that number. The table in ``floor.json`` is measured by ``tests/benchmarks/moses_floor.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files

import numpy as np


@lru_cache(maxsize=1)
def floor_table() -> dict[str, list[tuple[int, float, int]]]:
    """The measured table: rows (molecules, mean, number of subsets) by metric, smallest sets first."""
    text = files("hyperkit_mol.moses").joinpath("floor.json").read_text(encoding="utf-8")
    return {name: [tuple(row) for row in rows] for name, rows in json.loads(text)["metrics"].items()}


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
        Floor by metric name. ``valid``, ``unique``, ``Filters`` (1 by construction) and ``Novelty`` (0) are
        left out.
    """
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    table = floor_table()
    result = {}
    for name in table if metrics is None else metrics:
        if name not in table:
            continue
        x = np.array([1.0 / size for size, _, _ in reversed(table[name])])
        y = np.array([value for _, value, _ in reversed(table[name])])
        at = 1.0 / n
        value = float(np.interp(at, x, y))
        if name.startswith("FCD"):
            if at > x[-1]:
                value = float(y[-1] + (y[-1] - y[-2]) / (x[-1] - x[-2]) * (at - x[-1]))
            elif at < x[0]:
                value = float(y[0] + (y[1] - y[0]) / (x[1] - x[0]) * (at - x[0]))
        result[name] = value
    return result
