"""The metrics that are plain statistics: cosine of counts, Wasserstein distance, internal diversity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from hyperkit_mol.moses._nearest import popcounts


def cosine_of_counts(first: Mapping[str, int], second: Mapping[str, int]) -> float | None:
    """Cosine similarity of two count vectors, None when one of them is empty.

    The original multiplies integer vectors, which overflows int64 under SciPy >= 1.12 and turns Frag into
    1.0. Python's integers have no such limit, and only the last division rounds.
    """
    if not first or not second:
        return None
    small, large = (first, second) if len(first) < len(second) else (second, first)
    dot = sum(count * large[key] for key, count in small.items() if key in large)
    norms = sum(count * count for count in first.values()) * sum(count * count for count in second.values())
    return dot / math.sqrt(norms)


class Diversity(NamedTuple):
    """Internal diversity with p = 1 and p = 2."""

    first: float
    second: float


def internal_diversity(
    packed: np.ndarray,
    weights: np.ndarray,
    *,
    n_jobs: int = 1,
    done: Callable[[int, int], None] | None = None,
    block: int = 1024,
) -> Diversity:
    """MOSES's internal diversity.

    ``IntDiv = 1 - mean_i mean_j T_ij`` and ``IntDiv2 = 1 - mean_i (mean_j T_ij²)^½``, over all ordered pairs
    with each molecule's pair with itself, as the original has it (its paper takes the root last).

    Parameters
    ----------
    packed : ndarray of uint8, shape (n, bytes)
        Packed fingerprints of distinct molecules.
    weights : ndarray of int, shape (n,)
        How often each molecule occurs.
    n_jobs : int
        Threads.
    done : callable, optional
        Called with (finished, total) strips of blocks.
    block : int
        Molecules in a block. Fixed, so that the figures do not depend on the machine.
    """
    weight = torch.from_numpy(weights.astype(np.float32))

    def sums(i: int, j: int, similarity: torch.Tensor, result: np.ndarray) -> None:
        for total, matrix in zip(result, (similarity, similarity.square()), strict=True):
            total[i : i + block] += (matrix @ weight[j : j + block]).double().numpy()
            if j != i:
                total[j : j + block] += (weight[i : i + block] @ matrix).double().numpy()

    linear, square = np.zeros((2, len(packed)))
    for part in _similarity_strips(packed, sums, n_jobs=n_jobs, block=block, done=done):
        linear += part[0]
        square += part[1]
    total = float(weights.sum())
    return Diversity(
        1.0 - float((linear / total) @ weights) / total,
        1.0 - float(np.sqrt(square / total) @ weights) / total,
    )


def nearest_in_set(packed: np.ndarray, *, n_jobs: int = 1, block: int = 1024) -> np.ndarray:
    """Largest Tanimoto similarity of each fingerprint to any *other* of its set, (n,)."""

    def largest(i: int, j: int, similarity: torch.Tensor, result: np.ndarray) -> None:
        if i == j:
            similarity.fill_diagonal_(0.0)
        rows, columns = result[0, i : i + block], result[0, j : j + block]
        np.maximum(rows, similarity.amax(dim=1).numpy(), out=rows)
        np.maximum(columns, similarity.amax(dim=0).numpy(), out=columns)

    best = np.zeros(len(packed))
    for part in _similarity_strips(packed, largest, n_jobs=n_jobs, block=block):
        np.maximum(best, part[0], out=best)
    return best


def _similarity_strips(
    packed: np.ndarray,
    reduce: Callable[[int, int, torch.Tensor, np.ndarray], None],
    *,
    n_jobs: int,
    block: int,
    done: Callable[[int, int], None] | None = None,
) -> Iterator[np.ndarray]:
    """Tanimoto similarities of a set with itself, by blocks (i, j >= i) of the symmetric matrix.

    ``reduce(i, j, similarity, result)`` adds a block to ``result`` (2, n) of its strip; one result a strip is
    yielded, in order.
    """
    size = torch.from_numpy(popcounts(packed).astype(np.float32))
    # The intersection of bit vectors is exact in every type: int8 where the processor multiplies it fast.
    small = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_vnni_supported()
    kind, multiply = (torch.int8, torch._int_mm) if small else (torch.float32, torch.mm)  # type: ignore[attr-defined]

    def unpack(at: int) -> torch.Tensor:
        return torch.from_numpy(np.unpackbits(packed[at : at + block], axis=1)).to(kind)

    def strip(i: int) -> np.ndarray:
        torch.set_num_threads(1)  # this thread's own setting
        result = np.zeros((2, len(packed)))
        with torch.inference_mode():
            left = unpack(i)
            for j in range(i, len(packed), block):
                right = (left if j == i else unpack(j)).T
                common = multiply(left, right).float()
                union = (size[i : i + block, None] + size[None, j : j + block]).sub_(common)
                similarity = common.div_(union)
                if not union.all():  # two empty fingerprints: 0/0 counts as 1
                    similarity[union == 0] = 1.0
                reduce(i, j, similarity, result)
        return result

    starts = range(0, len(packed), block)
    with ThreadPoolExecutor(n_jobs) as executor:
        for finished, part in enumerate(executor.map(strip, starts), start=1):
            yield part
            if done is not None:
                done(finished, len(starts))
