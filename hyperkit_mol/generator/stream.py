"""Training batches as a pure function of (seed, step), so that a resumed run sees what it would have seen."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hyperkit_mol.chem.batch import Batch, Collator
from hyperkit_mol.chem.prepare import TreeDataset

__all__ = ["BatchStream", "batches_of", "split", "to_tensors"]


def to_tensors(batch: Batch, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Arrays of a batch as tensors."""
    return {k: torch.from_numpy(v).to(device) for k, v in vars(batch).items()}


def split(data: TreeDataset, validation: int, limit: int | None, seed: int) -> tuple[Any, Any]:
    """Training and validation indices, the same for the same seed.

    At most a tenth of the data is set aside, and never all of it.
    """
    order = np.random.default_rng([seed, 1]).permutation(len(data))
    if limit is not None:
        order = order[:limit]
    held = min(validation, len(order) // 10)
    if held == 0:  # fewer than ten molecules: validate on what is trained on
        return order, order
    return order[held:], order[:held]


class BatchStream(Dataset[dict[str, Tensor]]):
    """An endless stream of batches; batch `s` is the same whatever was drawn before.

    Every pass over the data is a new permutation.

    Parameters
    ----------
    data : TreeDataset
    index : numpy.ndarray
        Molecules to draw from.
    batch_size : int
        Molecules per step over all ranks.
    seed : int
    rank, world : int
        This process takes every `world`-th molecule of each batch.
    by_size : bool
        Sort the molecules of 32 batches by size and draw these batches in random order: a batch has molecules
        of one size, and its gradient says little about the others. For runs that were made so.
    """

    _BLOCK = 32

    def __init__(
        self,
        data: TreeDataset,
        index: npt.NDArray[Any],
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        by_size: bool = False,
    ) -> None:
        if len(index) == 0:
            raise ValueError("index must name at least one molecule")
        self.data, self.index = data, np.asarray(index)
        self.batch_size = min(batch_size, len(self.index))
        self.seed, self.by_size = seed, by_size
        self.rank, self.world = rank, world
        self.collate = Collator(data.vocabulary)
        self.per_pass = len(self.index) // self.batch_size
        self._pass: tuple[int, npt.NDArray[Any]] | None = None

    def _permutation(self, number: int) -> npt.NDArray[Any]:
        if self._pass is None or self._pass[0] != number:
            rng = np.random.default_rng([self.seed, 2, number])
            order = rng.permutation(self.index)[: self.per_pass * self.batch_size]
            block = self._BLOCK * self.batch_size
            if self.by_size:
                order = np.concatenate(
                    [self._sorted(order[k : k + block], rng) for k in range(0, len(order), block)]
                )
            self._pass = (number, order.reshape(-1, self.batch_size))
        return self._pass[1]

    def _sorted(self, part: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
        part = part[np.argsort(self.data.sizes[part], kind="stable")].reshape(-1, self.batch_size)
        return part[rng.permutation(len(part))].ravel()

    def members(self, step: int) -> npt.NDArray[Any]:
        """Molecules of batch `step`, over all ranks."""
        number, place = divmod(step, self.per_pass)
        return self._permutation(number)[place]

    def batch(self, step: int) -> dict[str, Tensor]:
        """Batch `step` of this rank."""
        return to_tensors(self.collate(self.data, self.members(step)[self.rank :: self.world], pack=True))

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self.batch(step)

    def section(self, begin: int, end: int, workers: int = 0) -> Iterator[dict[str, Tensor]]:
        """Batches `begin` to ``end - 1``, made ahead of their use.

        Parameters
        ----------
        begin, end : int
        workers : int
            Processes that make them; 0 for a thread. A GPU takes large batches faster than one thread makes
            them, and a thread makes them in the time that Python needs to start kernels.
        """
        if workers > 0 and "fork" in multiprocessing.get_all_start_methods():
            self.members(begin)  # the permutation of the pass once, not in each process
            yield from DataLoader(
                self,
                batch_size=None,
                sampler=range(begin, end),
                num_workers=min(workers, max(1, end - begin)),
                pin_memory=torch.cuda.is_available(),
                multiprocessing_context="fork",  # any other copies the data into each process
                generator=torch.Generator(),  # leaves the training's own random numbers alone
            )
            return
        yield from self._threaded(begin, end)

    def _threaded(self, begin: int, end: int) -> Iterator[dict[str, Tensor]]:
        ready: queue.Queue[dict[str, Tensor] | BaseException | None] = queue.Queue(maxsize=2)
        gone = threading.Event()

        def put(item: dict[str, Tensor] | BaseException | None) -> None:
            while not gone.is_set():
                try:
                    return ready.put(item, timeout=0.2)
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for step in range(begin, end):
                    if gone.is_set():
                        return
                    put(self.batch(step))
                put(None)
            except BaseException as err:
                put(err)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            gone.set()


def batches_of(
    data: TreeDataset, index: npt.NDArray[Any], batch_size: int
) -> Iterator[tuple[npt.NDArray[Any], dict[str, Tensor]]]:
    """All of `index` once, sorted by size: ``(positions in index, batch)``."""
    index = np.asarray(index)
    order = np.argsort(data.sizes[index], kind="stable")
    collate = Collator(data.vocabulary)
    for begin in range(0, len(order), batch_size):
        part = order[begin : begin + batch_size]
        yield part, to_tensors(collate(data, index[part]))
