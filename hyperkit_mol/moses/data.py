"""MOSES's data as installed: splits, reference statistics, hashes. Nothing of the package is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from hyperkit_mol.moses import _cache, _compat
from hyperkit_mol.moses._compat import INSTALL_COMMAND, MosesNotInstalledError

__all__ = [
    "INSTALL_COMMAND",
    "SPLITS",
    "MosesNotInstalledError",
    "Split",
    "chemnet_weights",
    "data_hashes",
    "load_split",
    "reference_stats",
    "split_path",
]

Split = Literal["train", "test", "test_scaffolds"]
SPLITS: tuple[Split, ...] = ("train", "test", "test_scaffolds")


def split_path(split: Split) -> Path:
    """Path of a split inside the installed molsets package.

    Raises
    ------
    MosesNotInstalledError
        If molsets is not installed; the message has the command.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    return _compat.moses_file(f"dataset/data/{split}.csv.gz")


def load_split(split: Split) -> list[str]:
    """SMILES of one MOSES split, as published in 2020, in the published order.

    Parameters
    ----------
    split : {"train", "test", "test_scaffolds"}
        1,584,663, 176,074 and 176,225 molecules.

    Returns
    -------
    list of str

    Raises
    ------
    MosesNotInstalledError
        If molsets is not installed; the message has the command.
    """
    return _compat.read_split(split_path(split))


def reference_stats(split: Literal["test", "test_scaffolds"] = "test") -> dict[str, dict[str, Any]]:
    """Reference statistics as shipped with molsets.

    Parameters
    ----------
    split : {"test", "test_scaffolds"}

    Returns
    -------
    dict
        ``FCD`` (``mu``, ``sigma``), ``SNN`` (``fps``, unpacked bits), ``Frag`` and ``Scaf`` (counters),
        ``logP``, ``SA``, ``QED`` and ``weight`` (``values``).
    """
    if split not in ("test", "test_scaffolds"):
        raise ValueError(f"split must be 'test' or 'test_scaffolds', got {split!r}")
    return _compat.read_statistics(_compat.moses_file(f"dataset/data/{split}_stats.npz"))


def chemnet_weights() -> Path:
    """Path of ChemNet's weights inside fcd_torch."""
    return _compat.chemnet_file()


def data_hashes() -> dict[str, str]:
    """SHA-256 of every data file that a figure depends on, by file name."""
    files = [split_path(split) for split in SPLITS]
    files += [_compat.moses_file(f"dataset/data/{split}_stats.npz") for split in ("test", "test_scaffolds")]
    files += [_compat.moses_file(f"metrics/{name}") for name in ("mcf.csv", "wehi_pains.csv")]
    files += [_compat.moses_file("metrics/SA_Score/fpscores.pkl.gz"), chemnet_weights()]
    return {file.name: _cache.sha256(file) for file in files}
