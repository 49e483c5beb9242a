"""Two scores in the manner of GuacaMol (Brown et al., arXiv:1811.09621), as an extra to the MOSES metrics.

``GuacaMol/FCD`` is ``exp(-0.2 FCD)``. ``GuacaMol/KL`` is the mean of ``exp(-KL)`` over nine physicochemical
descriptors and each molecule's similarity to its nearest neighbour in its own set; both go from 0 to 1, and
more is better. GuacaMol compares with its training set and takes count fingerprints; here both sides are
compared with the reference of the evaluation, and the similarity is that of MOSES's 1,024-bit fingerprints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyperkit_mol.moses import _cache
from hyperkit_mol.moses._chemistry import DESCRIPTORS
from hyperkit_mol.moses._features import Features, chemistry_pass
from hyperkit_mol.moses._statistics import nearest_in_set
from hyperkit_mol.moses._workers import Pool

_CONTINUOUS = frozenset({"BertzCT", "MolLogP", "MolWt", "TPSA"})
_SIZE = 10_000  # molecules on each side, as in GuacaMol
_SMOOTHING = 1e-10


@dataclass(frozen=True)
class Profile:
    """Descriptors (n, 9) and similarity to the nearest neighbour in the same set (n,)."""

    descriptors: np.ndarray
    similarity: np.ndarray


def profile(features: Features, n_jobs: int) -> Profile:
    """Profile of the first 10,000 distinct molecules."""
    assert features.descriptors is not None
    assert features.fingerprints is not None
    first = list({text: row for row, text in reversed(list(enumerate(features.canonical)))}.values())
    rows = np.sort(np.array(first, dtype=np.int64))[:_SIZE]
    rows = rows[np.isfinite(features.descriptors[rows]).all(axis=1)]
    return Profile(features.descriptors[rows], nearest_in_set(features.fingerprints[rows], n_jobs=n_jobs))


def reference_profile(
    key: str,
    smiles: Callable[[], Sequence[str]],
    *,
    pool: Pool,
    progress: Callable[[int, int], None] | None = None,
) -> Profile:
    """Profile of 10,000 reference molecules, drawn once (seed 0) and cached under ``key``."""

    def build() -> Profile:
        distinct = list(dict.fromkeys(smiles()))
        order = np.random.default_rng(0).permutation(len(distinct))[:_SIZE]
        chosen = [distinct[index] for index in order]
        found = chemistry_pass(chosen, {"descriptors", "fingerprint"}, pool=pool, progress=progress)
        if found.n_valid < 2:
            raise ValueError(f"GuacaMol needs at least 2 valid reference molecules, got {found.n_valid}")
        return profile(found, pool.n_jobs)

    def save(value: Profile, path: Path) -> None:
        with open(path, "wb") as file:
            np.savez(file, descriptors=value.descriptors, similarity=value.similarity)

    def load(path: Path) -> Profile:
        with np.load(path, allow_pickle=False) as stored:
            return Profile(stored["descriptors"], stored["similarity"])

    return _cache.cached(f"{key}-guacamol-v1.npz", build=build, save=save, load=load)


def kl_score(reference: Profile, sampled: Profile) -> float | None:
    """Mean of ``exp(-KL(reference | sampled))``, None when the sampled set is too small for a density."""
    if len(sampled.similarity) < 2:
        return None
    scores = []
    for column, name in enumerate(DESCRIPTORS):
        divergence = _continuous if name in _CONTINUOUS else _discrete
        scores.append(divergence(reference.descriptors[:, column], sampled.descriptors[:, column]))
    scores.append(_continuous(reference.similarity, sampled.similarity))
    return float(np.exp(-np.array(scores)).mean())


def _continuous(reference: np.ndarray, sampled: np.ndarray) -> float:
    """Divergence of kernel density estimates at 1,000 points over the range of both."""
    from scipy.stats import entropy, gaussian_kde

    if np.ptp(reference) == 0 or np.ptp(sampled) == 0:  # no density: compare as counts
        return _discrete(reference, sampled)
    everything = np.concatenate([reference, sampled])
    points = np.linspace(everything.min(), everything.max(), 1000)
    p, q = (gaussian_kde(values)(points) + _SMOOTHING for values in (reference, sampled))
    return float(entropy(p, q))


def _discrete(reference: np.ndarray, sampled: np.ndarray) -> float:
    """Divergence of histograms over the reference's ten bins."""
    from scipy.stats import entropy

    p, edges = np.histogram(reference, bins=10)
    q, _ = np.histogram(sampled, bins=edges)
    return float(entropy(p / len(reference) + _SMOOTHING, q / len(sampled) + _SMOOTHING))
