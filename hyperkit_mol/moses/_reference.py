"""Reference sets: what the metrics need of a set of molecules, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import rdBase

from hyperkit_mol.moses import _cache, _compat
from hyperkit_mol.moses._chemistry import PROPERTIES
from hyperkit_mol.moses._nearest import bit_columns

_FORMAT = 1  # part of every cache name: raise it when the content changes


@dataclass
class Reference:
    """Statistics of one reference set.

    Attributes
    ----------
    name : str
        For the report, e.g. ``MOSES test``.
    size : int
        Number of valid molecules behind the figures.
    mean, covariance : ndarray
        Of ChemNet's activations.
    starts, popcounts : ndarray
        Groups of the fingerprint columns, see `_nearest.BitColumns`.
    columns_path : Path or None
        Where the columns lie, for workers to map; None only while unsaved.
    fragments, scaffolds : dict
        Counts by SMILES.
    values : dict of ndarray
        logP, SA, QED and weight of each molecule.
    """

    name: str
    size: int
    mean: np.ndarray
    covariance: np.ndarray
    columns: np.ndarray
    starts: np.ndarray
    popcounts: np.ndarray
    fragments: dict[str, int]
    scaffolds: dict[str, int]
    values: dict[str, np.ndarray]
    columns_path: Path | None = None


def _counts_to_arrays(counts: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    text = "\n".join(counts).encode()
    return np.frombuffer(text, dtype=np.uint8), np.fromiter(counts.values(), np.int64, len(counts))


def _arrays_to_counts(text: np.ndarray, numbers: np.ndarray) -> dict[str, int]:
    if not len(numbers):
        return {}
    return dict(zip(text.tobytes().decode().split("\n"), numbers.tolist(), strict=True))


def _save(reference: Reference, path: Path) -> None:
    arrays = {
        "mean": reference.mean,
        "covariance": reference.covariance,
        "starts": reference.starts,
        "popcounts": reference.popcounts,
        **{f"value_{name}": values for name, values in reference.values.items()},
    }
    for name, counts in (("fragments", reference.fragments), ("scaffolds", reference.scaffolds)):
        arrays[f"{name}_text"], arrays[f"{name}_count"] = _counts_to_arrays(counts)
    header = json.dumps({"name": reference.name, "size": reference.size}).encode()
    with open(path, "wb") as file:
        np.savez(file, header=np.frombuffer(header, dtype=np.uint8), **arrays)  # type: ignore[arg-type]


def _load(path: Path) -> Reference:
    with np.load(path, allow_pickle=False) as stored:
        header = json.loads(stored["header"].tobytes())
        return Reference(
            name=header["name"],
            size=header["size"],
            mean=stored["mean"],
            covariance=stored["covariance"],
            columns=np.zeros((0, 0), dtype=np.uint64),
            starts=stored["starts"],
            popcounts=stored["popcounts"],
            fragments=_arrays_to_counts(stored["fragments_text"], stored["fragments_count"]),
            scaffolds=_arrays_to_counts(stored["scaffolds_text"], stored["scaffolds_count"]),
            values={name: stored[f"value_{name}"] for name in PROPERTIES},
        )


def _cached_reference(key: str, build: Callable[[], Reference]) -> Reference:
    """A reference from the cache; its bit columns stay a file of their own, for workers to map."""
    columns_name, stats_name = f"{key}-columns.npy", f"{key}-stats.npz"
    columns_path = _cache.cache_dir() / columns_name
    built: list[Reference] = []

    def make() -> Reference:
        if not built:
            built.append(build())
        return built[0]

    def save_columns(value: np.ndarray, path: Path) -> None:
        with open(path, "wb") as file:
            np.save(file, value)

    columns = _cache.cached(
        columns_name,
        build=lambda: make().columns,
        save=save_columns,
        load=lambda path: np.load(path, mmap_mode="r"),
    )
    reference = _cache.cached(stats_name, build=make, save=_save, load=_load)
    reference.columns = columns
    reference.columns_path = columns_path if columns_path.is_file() else None
    return reference


def moses_reference(split: str) -> Reference:
    """MOSES's test or scaffold-test set, from the statistics shipped with molsets."""
    names = {"test": "MOSES test", "test_scaffolds": "MOSES scaffold test"}
    path = _compat.moses_file(f"dataset/data/{split}_stats.npz")

    def build() -> Reference:
        stats = _compat.read_statistics(path)
        columns = bit_columns(np.packbits(stats["SNN"]["fps"], axis=1))
        return Reference(
            name=names[split],
            size=len(stats["SNN"]["fps"]),
            mean=np.asarray(stats["FCD"]["mu"], dtype=np.float64),
            covariance=np.asarray(stats["FCD"]["sigma"], dtype=np.float64),
            columns=columns.columns,
            starts=columns.starts,
            popcounts=columns.popcounts,
            fragments=dict(stats["Frag"]["frag"]),
            scaffolds=dict(stats["Scaf"]["scaf"]),
            values={name: np.asarray(stats[name]["values"], dtype=np.float64) for name in PROPERTIES},
        )

    return _cached_reference(f"moses-{split}-{_cache.sha256(path)[:16]}-v{_FORMAT}", build)


def custom_reference(
    name: str, smiles: Sequence[str], compute: Callable[[Sequence[str]], Reference]
) -> Reference:
    """Statistics of any molecules, kept under a hash of the strings and of RDKit's version."""
    digest = hashlib.sha256("\n".join(smiles).encode(errors="replace")).hexdigest()[:16]
    reference = _cached_reference(
        f"custom-{digest}-rdkit{rdBase.rdkitVersion}-v{_FORMAT}", lambda: compute(smiles)
    )
    reference.name = name
    return reference


def fragment_score_files() -> tuple[str, str]:
    """Paths of the SA score's fragment ids and scores as ``.npy``, converted once."""
    key = f"sa-{_cache.sha256(_compat.moses_file('metrics/SA_Score/fpscores.pkl.gz'))[:16]}-v{_FORMAT}"
    paths = [_cache.cache_dir() / f"{key}-{part}.npy" for part in ("ids", "scores")]
    if not all(path.is_file() for path in paths):
        for path, array in zip(paths, _compat.read_fragment_scores(), strict=True):
            _cache.write_atomically(path, lambda temporary, array=array: _save_array(temporary, array))
    return str(paths[0]), str(paths[1])


def _save_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, array)


__all__ = [
    "Reference",
    "custom_reference",
    "fragment_score_files",
    "moses_reference",
]
