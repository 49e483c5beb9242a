"""The original molsets 0.3.1 and fcd_torch 1.0.7, patched just enough to run on today's libraries.

For comparison only; nothing of this is used by hyperkit. It runs in a process of its own, since it patches
numpy and pandas, and since its matrix root is ten times slower when OpenBLAS's threads fight for the cores.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def load(*, float_cosine: bool = False) -> types.ModuleType:
    """The original's ``moses.metrics.metrics``, with what was removed since 2020 put back.

    Parameters
    ----------
    float_cosine : bool
        Also mend the integer overflow of Frag and Scaf, without which more than some 17,800 molecules give
        an exception or 1.0.
    """
    import matplotlib
    import pandas as pd
    from rdkit import RDLogger

    matplotlib.use("Agg")
    six = types.ModuleType("rdkit.six")
    six.iteritems = lambda mapping: iter(mapping.items())  # type: ignore[attr-defined]
    sys.modules["rdkit.six"] = six
    pd.DataFrame.append = (  # type: ignore[attr-defined]
        lambda self, other, sort=False: pd.concat([self, other], sort=sort)
    )
    np.NaN = np.nan  # type: ignore[attr-defined]  # noqa: NPY201
    np.row_stack = np.vstack  # type: ignore[attr-defined]  # noqa: NPY201
    warnings.simplefilter("ignore")
    metrics = importlib.import_module("moses.metrics.metrics")
    # The original switches RDKit's log off and then on again: thousands of deprecation lines.
    metrics.enable_rdkit_log = lambda: None
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    if float_cosine:
        cosine = metrics.cos_distance
        metrics.cos_distance = lambda a, b: cosine(np.asarray(a, float), np.asarray(b, float))
    return metrics


def _run(request: dict[str, Any]) -> dict[str, Any]:
    metrics = load(float_cosine=request["float_cosine"])
    settings: dict[str, Any] = {"n_jobs": request["n_jobs"], "train": request["train"]}
    reference = request["reference"]
    if reference is not None:
        statistics = metrics.compute_intermediate_statistics(reference)
        settings |= {"test": reference, "ptest": statistics}
        settings |= {"test_scaffolds": reference, "ptest_scaffolds": statistics}
        _remember_distances()
    if request["canonical_train"]:
        settings["train"] = [text for text in map(metrics.canonic_smiles, request["train"]) if text]
    begin = time.perf_counter()
    result = metrics.get_all_metrics(request["smiles"], **settings)
    seconds = time.perf_counter() - begin
    memory = sum(
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {
        "metrics": {name: float(value) for name, value in result.items()},
        "seconds": seconds,
        "peak_mb": memory / 1024,
    }


def _remember_distances() -> None:
    """Do not take the same matrix root (seconds) twice when both references are the same."""
    import fcd_torch.fcd

    distance = fcd_torch.fcd.calculate_frechet_distance
    known: dict[bytes, float] = {}

    def remembered(*moments: np.ndarray) -> float:
        key = b"".join(np.ascontiguousarray(moment).tobytes() for moment in moments)
        if key not in known:
            known[key] = distance(*moments)
        return known[key]

    fcd_torch.fcd.calculate_frechet_distance = remembered


def run_original(
    smiles: Sequence[str],
    *,
    train: Sequence[str] | None = None,
    reference: Sequence[str] | None = None,
    canonical_train: bool = False,
    n_jobs: int = 1,
    float_cosine: bool = False,
    blas_threads: int = 1,
) -> dict[str, Any]:
    """Figures, seconds and peak memory of the original.

    Parameters
    ----------
    smiles : sequence of str
    train : sequence of str, optional
        For Novelty; MOSES's own, as stored in 2020, by default.
    reference : sequence of str, optional
        Used for Test and TestSF in place of MOSES's.
    canonical_train : bool
        Bring ``train`` to today's canonical form first.
    n_jobs, float_cosine
        As in `load` and the original.
    blas_threads : int
        Threads of OpenBLAS; torch keeps its own.
    """
    request = {
        "smiles": list(smiles),
        "train": None if train is None else list(train),
        "reference": None if reference is None else list(reference),
        "canonical_train": canonical_train,
        "n_jobs": n_jobs,
        "float_cosine": float_cosine,
    }
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "request.json", Path(folder) / "result.json"
        given.write_text(json.dumps(request))
        done = subprocess.run(
            [sys.executable, __file__, str(given), str(found)],
            env={**os.environ, "OPENBLAS_NUM_THREADS": str(blas_threads)},
            stderr=subprocess.PIPE,
        )
        if done.returncode:
            raise RuntimeError(f"the original failed:\n{done.stderr.decode(errors='replace')[-3000:]}")
        return json.loads(found.read_text())


def main() -> None:
    """``python original.py request.json result.json``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("request", type=Path)
    parser.add_argument("result", type=Path)
    arguments = parser.parse_args()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        result = _run(json.loads(arguments.request.read_text()))
    arguments.result.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
