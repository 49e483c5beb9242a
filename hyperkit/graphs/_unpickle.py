"""Reading the few pickles of the literature without running what is in them.

A pickle is a program: loading one calls whatever it names. The files here need arrays, lists, dictionaries
and the state of two classes of other packages, so nothing else can be named, and for those classes an inert
record stands in.
"""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np


class Record:
    """State of an object whose class is not imported; attributes are read from ``state``."""

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"state must be a dictionary, got {type(state).__name__}")
        self.state = state


class _CSR(Record):
    pass


class _Graph(Record):
    pass


def _reconstruct() -> Any:
    """numpy's own function, wherever this version of numpy keeps it."""
    return np.ndarray(0).__reduce__()[0]


_PLAIN: dict[tuple[str, str], Any] = {
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("__builtin__", "dict"): dict,
    ("__builtin__", "list"): list,
    ("collections", "defaultdict"): defaultdict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct(),
    ("scipy.sparse.csr", "csr_matrix"): _CSR,
    ("scipy.sparse._csr", "csr_matrix"): _CSR,
    ("networkx.classes.graph", "Graph"): _Graph,
    ("networkx.classes.reportviews", "NodeView"): Record,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _PLAIN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the pickle asks for {module}.{name}, which a graph file has no use for; it is not loaded"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("the pickle refers to objects outside itself; it is not loaded")


def read_pickle(path: str | Path) -> Any:
    """Load a pickle of arrays, containers, scipy CSR matrices and networkx graphs; nothing else.

    Parameters
    ----------
    path : str or Path
        The file, written by Python 2 or 3.

    Returns
    -------
    object
        CSR matrices and graphs as :class:`Record`.

    Raises
    ------
    pickle.UnpicklingError
        If it names any other class or function. Nothing has been called then.
    """
    return _Restricted(io.BytesIO(Path(path).read_bytes()), encoding="latin1").load()


def dense(matrix: Any) -> np.ndarray:
    """A CSR record, or an array, as a dense float32 array."""
    if isinstance(matrix, np.ndarray):
        return matrix.astype(np.float32)
    if not isinstance(matrix, _CSR):
        raise ValueError(f"matrix must be an array or a CSR matrix, got {type(matrix).__name__}")
    s = matrix.state
    shape = tuple(int(n) for n in s["_shape"])
    return csr_to_dense(s["indptr"], s["indices"], s["data"], (shape[0], shape[1]))


def csr_to_dense(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Dense float32 array ``(N, F)`` of the three arrays of a CSR matrix; equal places are added up."""
    out = np.zeros(shape, dtype=np.float32)
    rows = np.repeat(np.arange(shape[0]), np.diff(indptr))
    np.add.at(out, (rows, indices), data.astype(np.float32))
    return out
