"""Tanimoto similarity to the nearest neighbour in a reference set, exact, in bit-sliced arithmetic.

The reference is stored by *columns*: one row of bits for each fingerprint bit, one bit for each reference
molecule. A query with 45 set bits adds up its 45 columns in a carry-save adder, 64 molecules to a machine
word, which costs a tenth of the work of a dense product or of a popcount a pair. Molecules are sorted by
their number of set bits; inside a group of equal numbers the largest intersection is the largest Tanimoto
coefficient, and the largest intersection is read off the adder's planes from the top.

Runs inside worker processes: numpy only.
`nearest_similarity` is the one function for a compiled kernel to replace.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class BitColumns(NamedTuple):
    """A reference set by columns.

    ``columns`` is (bits, words) uint64; ``starts`` and ``popcounts`` (groups,) say where each group of
    molecules with the same number of set bits begins, in words, and what that number is.
    """

    columns: np.ndarray
    starts: np.ndarray
    popcounts: np.ndarray


def popcounts(packed: np.ndarray) -> np.ndarray:
    """Number of set bits in each row of a packed bit matrix (n, bytes)."""
    table = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.uint8)
    return table[packed].sum(axis=1, dtype=np.int64)


def bit_columns(packed: np.ndarray) -> BitColumns:
    """Turn packed fingerprints (n, bytes) into columns grouped by popcount.

    Groups are padded with empty molecules to whole words; an empty molecule never exceeds the largest
    intersection of its group, so it needs no mask.
    """
    counts = popcounts(packed)
    order = np.argsort(counts, kind="stable")
    values, first = np.unique(counts[order], return_index=True)
    sizes = np.diff(np.append(first, len(order)))
    words = -(-sizes // 64)
    starts = np.concatenate([[0], np.cumsum(words)[:-1]])
    bits = packed.shape[1] * 8
    # Where each molecule lands, in bits.
    target = np.repeat(starts * 64 - first, sizes) + np.arange(len(order))
    columns = np.zeros((bits, int(words.sum()) * 8), dtype=np.uint8)
    for byte in range(packed.shape[1]):  # eight columns at a time keep the memory flat
        unpacked = np.unpackbits(packed[order, byte][:, None], axis=1)
        lanes = np.zeros((8, columns.shape[1] * 8), dtype=np.uint8)
        lanes[:, target] = unpacked.T
        columns[byte * 8 : byte * 8 + 8] = np.packbits(lanes, axis=1)
    return BitColumns(columns.view(np.uint64), starts.astype(np.int64), values.astype(np.int64))


def _count_planes(rows: list[np.ndarray]) -> list[np.ndarray]:
    """Binary digits, lowest first, of the number of ones at each bit position of ``rows``."""
    planes: list[np.ndarray] = []
    while rows:
        carries: list[np.ndarray] = []
        while len(rows) >= 3:
            a, b, c = rows.pop(), rows.pop(), rows.pop()
            half = a ^ b
            total = half ^ c
            half &= c
            half |= a & b
            rows.insert(0, total)
            carries.append(half)
        if len(rows) == 2:
            a, b = rows
            carries.append(a & b)
            planes.append(a ^ b)
        else:
            planes.append(rows[0])
        rows = carries
    return planes


def nearest_similarity(packed: np.ndarray, reference: BitColumns) -> np.ndarray:
    """Largest Tanimoto similarity of each query to any molecule of the reference.

    Parameters
    ----------
    packed : ndarray of uint8, shape (n, bytes)
        Packed query fingerprints.
    reference : BitColumns
        The reference set, not empty.

    Returns
    -------
    ndarray of float32, shape (n,)
        Two empty fingerprints have similarity 1, as in MOSES.
    """
    columns, starts, sizes = reference
    columns = np.asarray(columns)  # arithmetic on numpy's memory-map class costs twice as much
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, columns.shape[1])))
    everything = ~np.zeros(columns.shape[1], dtype=np.uint64)
    result = np.empty(len(packed), dtype=np.float32)
    bits = np.unpackbits(packed, axis=1)
    for row in range(len(packed)):
        on = np.flatnonzero(bits[row])
        best = np.zeros(len(starts), dtype=np.int64)
        candidates: np.ndarray | None = None
        planes = _count_planes([columns[index] for index in on])
        for digit in range(len(planes) - 1, -1, -1):
            larger = planes[digit] if candidates is None else planes[digit] & candidates
            found = np.bitwise_or.reduceat(larger, starts) != 0
            best[found] += 1 << digit
            kept = found[group]
            candidates = np.where(kept, larger, everything if candidates is None else candidates)
        union = (len(on) + sizes - best).astype(np.float32)
        similarity = np.ones(len(starts), dtype=np.float32)
        np.divide(best.astype(np.float32), union, out=similarity, where=union != 0)
        result[row] = similarity.max()
    return result


class Search:
    """`nearest_similarity` against reference sets stored on disk, memory-mapped so that workers share them.

    Parameters
    ----------
    references : sequence of (path of the columns, starts, popcounts)
    """

    def __init__(self, references: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
        self._references = [
            BitColumns(np.load(Path(path), mmap_mode="r"), starts, counts)
            for path, starts, counts in references
        ]

    def __call__(self, index: int, packed: np.ndarray) -> np.ndarray:
        return nearest_similarity(packed, self._references[index])
