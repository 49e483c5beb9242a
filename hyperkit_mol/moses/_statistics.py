"""The metrics that are plain statistics: cosine of counts, Wasserstein distance, internal diversity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
    n = len(packed)
    weight = torch.from_numpy(weights.astype(np.float32))
    size = torch.from_numpy(popcounts(packed).astype(np.float32))
    # The intersection of bit vectors is exact in every type: int8 where the processor multiplies it fast.
    small = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_vnni_supported()
    kind, multiply = (torch.int8, torch._int_mm) if small else (torch.float32, torch.mm)  # type: ignore[attr-defined]

    def unpack(at: int) -> torch.Tensor:
        return torch.from_numpy(np.unpackbits(packed[at : at + block], axis=1)).to(kind)

    def strip(i: int) -> tuple[np.ndarray, np.ndarray]:
        """Sums that the blocks (i, j >= i) of the symmetric matrix give to every molecule."""
        torch.set_num_threads(1)  # this thread's own setting
        linear, square = np.zeros(n), np.zeros(n)
        with torch.inference_mode():
            left = unpack(i)
            for j in range(i, n, block):
                right = (left if j == i else unpack(j)).T
                common = multiply(left, right).float()
                union = (size[i : i + block, None] + size[None, j : j + block]).sub_(common)
                similarity = common.div_(union)
                if not union.all():  # two empty fingerprints: 0/0 counts as 1
                    similarity[union == 0] = 1.0
                for total, matrix in ((linear, similarity), (square, similarity.square())):
                    total[i : i + block] += (matrix @ weight[j : j + block]).double().numpy()
                    if j != i:
                        total[j : j + block] += (weight[i : i + block] @ matrix).double().numpy()
        return linear, square

    starts = range(0, n, block)
    linear, square = np.zeros(n), np.zeros(n)
    with ThreadPoolExecutor(n_jobs) as executor:
        for finished, (first, second) in enumerate(executor.map(strip, starts), start=1):
            linear += first
            square += second
            if done is not None:
                done(finished, len(starts))
    total = float(weights.sum())
    return Diversity(
        1.0 - float((linear / total) @ weights) / total,
        1.0 - float(np.sqrt(square / total) @ weights) / total,
    )
