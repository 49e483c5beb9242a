"""Everything that has to be worked around in molsets 0.3.1 and fcd_torch 1.0.7, in one place.

Both packages date from 2020 and cannot be imported beside today's libraries: ``rdkit.six``,
``DataFrame.append``, ``numpy.NaN`` and ``numpy.row_stack`` are gone, pomegranate does not build, and
``import moses`` pulls in matplotlib and every baseline model. Their *data files* are sound. So nothing of
theirs is ever executed: this module finds the installed files and reads them with readers of its own.

The two pickles among them (reference statistics, fragment scores) go through an unpickler that knows
only arrays, counters and plain containers; ChemNet's weights load with ``weights_only=True``.
"""

from __future__ import annotations

import csv
import gzip
import importlib.metadata
import importlib.util
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

INSTALL_COMMAND = "pip install --no-deps molsets==0.3.1 fcd_torch==1.0.7"

_ALLOWED_GLOBALS = {
    ("_codecs", "encode"),  # how protocol 2 writes bytes
    ("collections", "Counter"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
}


class MosesNotInstalledError(ImportError):
    """molsets or fcd_torch, which carry MOSES's data and ChemNet's weights, is not installed."""

    def __init__(self, missing: str) -> None:
        super().__init__(
            f"{missing}. MOSES's data come with two packages whose 2020 requirements no longer install, "
            f"so they are installed without them. Run:\n\n    {INSTALL_COMMAND}\n"
        )


def package_file(distribution: str, package: str, relative: str) -> Path:
    """Path of a file inside an installed package, found without importing the package.

    Parameters
    ----------
    distribution : str
        Name on PyPI (``molsets``); PyPI's ``moses`` is another project, so the import name alone would
        not tell whether the right one is there.
    package : str
        Import name (``moses``).
    relative : str
        Path of the file below the package folder.

    Raises
    ------
    MosesNotInstalledError
        If the distribution, the package or the file is absent.
    """
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise MosesNotInstalledError(f"The package '{distribution}' is not installed") from None
    path = Path(str(found.locate_file(f"{package}/{relative}")))
    if not path.is_file():  # editable installs keep their files elsewhere
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            path = Path(folder) / relative
            if path.is_file():
                break
        else:
            raise MosesNotInstalledError(
                f"The package '{distribution}' is installed without its file {relative}"
            )
    return path


def moses_file(relative: str) -> Path:
    """Path of a file of molsets."""
    return package_file("molsets", "moses", relative)


def chemnet_file() -> Path:
    """Path of ChemNet's weights inside fcd_torch."""
    return package_file("fcd_torch", "fcd_torch", "ChemNet_v0.13_pretrained.pt")


def package_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


class _DataUnpickler(pickle.Unpickler):
    """Unpickler of numbers, strings, arrays and counters; anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"refused to load {module}.{name} from a data file")
        if module.startswith("numpy.core"):  # the module moved in numpy 2
            module = module.replace("numpy.core", "numpy._core")
            if importlib.util.find_spec("numpy._core") is None:  # pragma: no cover (numpy 1)
                module = module.replace("numpy._core", "numpy.core")
        return super().find_class(module, name)


def read_split(path: Path) -> list[str]:
    """SMILES of a MOSES split (a gzipped one-column table with the header ``SMILES``)."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    if lines[0].split(",")[0].strip() != "SMILES":
        raise ValueError(f"{path}: expected the header 'SMILES', got {lines[0][:40]!r}")
    return [line for line in lines[1:] if line]


def read_statistics(path: Path) -> dict[str, dict[str, Any]]:
    """Shipped reference statistics: a dictionary pickled into the only array of an npz file."""
    with zipfile.ZipFile(path) as archive, archive.open("stats.npy") as member:
        stream = io.BufferedReader(member)  # type: ignore[arg-type]
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"{path}: unexpected array format {version}")
        np.lib.format.read_array_header_1_0(stream)
        return _DataUnpickler(stream).load().item()


def read_fragment_scores() -> tuple[np.ndarray, np.ndarray]:
    """Ertl's fragment scores of the SA score as two arrays (sorted ids, scores)."""
    with gzip.open(moses_file("metrics/SA_Score/fpscores.pkl.gz")) as file:
        rows = _DataUnpickler(file).load()
    # A later row wins where an id occurs twice, as in a dictionary filled in this order.
    scores = {identifier: float(row[0]) for row in rows for identifier in row[1:]}
    ids = np.fromiter(scores.keys(), dtype=np.uint32, count=len(scores))
    values = np.fromiter(scores.values(), dtype=np.float64, count=len(scores))
    order = np.argsort(ids)
    return ids[order], values[order]


def read_filters() -> list[str]:
    """SMARTS of MOSES's medicinal chemistry filters (MCF) and PAINS, in the original's order."""
    with open(moses_file("metrics/mcf.csv"), newline="", encoding="utf-8") as file:
        smarts = [row["smarts"].strip() for row in csv.DictReader(file)]
    with open(moses_file("metrics/wehi_pains.csv"), newline="", encoding="utf-8") as file:
        smarts += [row[0].strip() for row in csv.reader(file) if row]
    return smarts


def read_chemnet() -> list[tuple[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]]:
    """ChemNet's layers as stored: (kind, (weights, constructor arguments, other settings))."""
    import torch

    return torch.load(chemnet_file(), map_location="cpu", weights_only=True)
