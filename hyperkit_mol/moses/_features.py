"""The passes over generated molecules: chemistry, ChemNet, nearest neighbours. Each distinct input once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hyperkit_mol.moses import _compat, _reference
from hyperkit_mol.moses._chemistry import PROPERTIES
from hyperkit_mol.moses._chemnet import ChemNet
from hyperkit_mol.moses._nearest import BitColumns, nearest_similarity
from hyperkit_mol.moses._reference import Reference
from hyperkit_mol.moses._workers import Job, Pool, WorkerDiedError

_CHUNK = 200
CRASH = "crash"
_CHEMISTRY = "hyperkit_mol.moses._chemistry"
Tick = Callable[[int, int], None]


@dataclass
class Features:
    """What the chemistry pass found.

    Rows are the distinct *valid* inputs; ``rows`` maps each valid molecule, in the order of the input, to
    its row, and ``weights`` counts how often each row occurs.
    """

    n_total: int
    rows: np.ndarray
    weights: np.ndarray
    canonical: list[str]
    fragments: Counter[str] = field(default_factory=Counter)
    scaffolds: Counter[str] = field(default_factory=Counter)
    fingerprints: np.ndarray | None = None
    passes: np.ndarray | None = None
    descriptors: np.ndarray | None = None
    values: dict[str, np.ndarray] = field(default_factory=dict)
    errors: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def n_valid(self) -> int:
        """Valid molecules, duplicates included."""
        return len(self.rows)

    @property
    def n_distinct(self) -> int:
        """Distinct canonical SMILES."""
        return len(set(self.canonical))

    def expand(self, values: np.ndarray | None) -> np.ndarray:
        """One value for each valid molecule from one for each row."""
        assert values is not None
        return values[self.rows]

    def valid_canonical(self) -> list[str]:
        """Canonical SMILES of all valid molecules in the order of the input."""
        return [self.canonical[row] for row in self.rows]

    def distinct_fingerprints(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct packed fingerprints and how many molecules have each."""
        assert self.fingerprints is not None
        packed, where = np.unique(self.fingerprints, axis=0, return_inverse=True)
        return packed, np.bincount(where.ravel(), weights=self.weights, minlength=len(packed))

    def notes(self) -> list[str]:
        """A sentence for each feature that failed on some molecule."""
        result = []
        for feature, number in Counter(feature for _, feature, _ in self.errors).items():
            smiles, _, reason = next(error for error in self.errors if error[1] == feature)
            what, then = f"{feature} could not be computed for", "left out of it"
            if feature == CRASH:
                what, then = "RDKit crashed on", "counted as invalid"
            elif feature == "filters":
                then = "counted as not passing"
            molecules = "molecule" if number == 1 else "molecules"
            result.append(f"{what} {number} distinct {molecules}, {then} (the first: {smiles}: {reason})")
        return result


def chemistry_pass(
    smiles: Sequence[str | None], features: Collection[str], *, pool: Pool, progress: Tick | None = None
) -> Features:
    """Parse every distinct string once and compute the features.

    Parameters
    ----------
    smiles : sequence of str or None
    features : collection of str
        Of `_chemistry.FEATURES`.
    pool : Pool
    progress : callable, optional
        Called with (finished, total) distinct strings.
    """
    index: dict[str | None, int] = {}
    inverse = np.fromiter((index.setdefault(text, len(index)) for text in smiles), np.int64, len(smiles))
    distinct = list(index)
    counts = np.bincount(inverse, minlength=len(distinct))
    chunks = [
        (distinct[at : at + _CHUNK], counts[at : at + _CHUNK].tolist())
        for at in range(0, len(distinct), _CHUNK)
    ]
    arguments = (_compat.read_filters(), _reference.fragment_score_files(), tuple(sorted(features)))
    finished = 0

    def tick(chunk: int) -> None:
        nonlocal finished
        finished += len(chunks[chunk][0])
        if progress is not None:
            progress(finished, len(distinct))

    results = pool.map(Job(_CHEMISTRY, "Pass", arguments), chunks, done=tick, on_death=_one_by_one)

    canonical = [text for result in results for text in result["canonical"]]
    valid = np.array([text is not None for text in canonical], dtype=bool)
    new_row = np.cumsum(valid) - 1
    found = Features(
        n_total=len(smiles),
        rows=new_row[inverse[valid[inverse]]],
        weights=counts[valid],
        canonical=[text for text in canonical if text is not None],
        errors=[error for result in results for error in result["errors"]],
    )

    def gather(name: str) -> np.ndarray | None:
        if name not in results[0]:
            return None
        return np.concatenate([result[name] for result in results])[valid]

    found.fingerprints, found.passes, found.descriptors = map(
        gather, ("fingerprints", "passes", "descriptors")
    )
    for name in PROPERTIES:
        values = gather(name)
        if values is not None:
            found.values[name] = values
    for result in results:
        found.fragments.update(result.get("fragments", {}))
        found.scaffolds.update(result.get("scaffolds", {}))
    return found


def _one_by_one(payload: tuple[Any, ...], run: Callable[[tuple[Any, ...]], Any]) -> dict[str, Any]:
    """Run a chunk that killed its worker molecule by molecule; the one that kills again counts as invalid."""
    parts = []
    for text, weight in zip(*payload, strict=True):
        try:
            parts.append(run(([text], [weight])))
        except WorkerDiedError as error:
            part = run(([None], [weight]))
            part["errors"].append((str(text)[:200], CRASH, str(error).split("\n")[0]))
            parts.append(part)
    merged: dict[str, Any] = {}
    for key, first in parts[0].items():
        values = [part[key] for part in parts]
        if isinstance(first, np.ndarray):
            merged[key] = np.concatenate(values)
        elif isinstance(first, dict):
            total: Counter[str] = Counter()
            for value in values:
                total.update(value)
            merged[key] = dict(total)
        else:
            merged[key] = [entry for value in values for entry in value]
    return merged


def chemnet_moments(
    features: Features, *, device: str, n_jobs: int, batch_size: int, progress: Tick | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of ChemNet's activations over all valid molecules, each distinct one run once."""
    index: dict[str, int] = {}
    inverse = np.fromiter((index.setdefault(text, len(index)) for text in features.canonical), np.int64)
    weights = np.bincount(inverse, weights=features.weights, minlength=len(index))
    network = ChemNet(device=device, n_jobs=n_jobs, batch_size=batch_size)
    done = None if progress is None else (lambda finished: progress(finished, len(index)))
    return network.moments(list(index), weights, done)


def _nearest_compiled(
    packed: np.ndarray, references: Sequence[Reference], n_jobs: int, progress: Tick | None
) -> list[np.ndarray] | None:
    """Similarities by the compiled kernel, in threads; None where it cannot take these. The same bits."""
    from torch import set_num_threads

    from hyperkit.ops._fused import nearest_by_columns, takes_columns

    if not takes_columns(packed):
        return None
    size = 512
    # The files are mapped read-only; torch wants memory that may be written.
    tables = [np.array(reference.columns) for reference in references]
    starts = range(0, len(packed), size)
    blocks = [(number, at) for number in range(len(references)) for at in starts]

    def search(block: tuple[int, int]) -> np.ndarray:
        set_num_threads(1)  # this thread's own setting
        number, at = block
        reference = references[number]
        return nearest_by_columns(
            packed[at : at + size], tables[number], reference.starts, reference.popcounts
        )

    parts = []
    with ThreadPoolExecutor(n_jobs) as executor:
        for part in executor.map(search, blocks):
            parts.append(part)
            if progress is not None:
                progress(len(parts), len(blocks))
    return [
        np.concatenate(parts[number * len(starts) : (number + 1) * len(starts)])
        for number in range(len(references))
    ]


def nearest(
    features: Features, references: Sequence[Reference], *, pool: Pool, progress: Tick | None = None
) -> list[np.ndarray]:
    """Similarity of each row to its nearest neighbour in each reference."""
    assert features.fingerprints is not None
    packed, inverse = np.unique(features.fingerprints, axis=0, return_inverse=True)
    inverse = inverse.ravel()
    fused = _nearest_compiled(packed, references, pool.n_jobs, progress)
    if fused is not None:
        return [values[inverse] for values in fused]
    stored = [
        (str(reference.columns_path), reference.starts, reference.popcounts)
        for reference in references
        if reference.columns_path is not None
    ]
    if len(stored) < len(references):  # the cache could not be written: do without worker processes
        found = [
            nearest_similarity(packed, BitColumns(reference.columns, reference.starts, reference.popcounts))
            for reference in references
        ]
        return [values[inverse] for values in found]
    size = 64
    starts = range(0, len(packed), size)
    payloads = [(number, packed[at : at + size]) for number in range(len(references)) for at in starts]
    finished = 0

    def tick(_: int) -> None:
        nonlocal finished
        finished += 1
        if progress is not None:
            progress(finished, len(payloads))

    results = pool.map(Job("hyperkit_mol.moses._nearest", "Search", (stored,)), payloads, done=tick)
    per_reference = len(starts)
    return [
        np.concatenate(results[number * per_reference : (number + 1) * per_reference])[inverse]
        for number in range(len(references))
    ]
