"""Sampling to a file."""

from __future__ import annotations

import signal
import time
from array import array
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem, rdBase
from rich.console import Console

from hyperkit_mol.chem.prepare import cpu_count, follow_parent
from hyperkit_mol.files import replacing
from hyperkit_mol.generator.callbacks import progress_bar
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.generator.sampling import Sampler

__all__ = ["GenerationReport", "generate"]


# Fewer batches than this are not worth the seconds that processes take to start.
_PARALLEL_FROM = 6


@dataclass(frozen=True)
class GenerationReport:
    """What was sampled. Nothing is filtered: `written` molecules are the first that were drawn."""

    written: int
    valid: int
    distinct: int
    seconds: float

    def lines(self) -> list[str]:
        """The report for a person."""
        rate = self.written / max(self.seconds, 1e-9)
        return [
            f"{self.written:,} molecules sampled in {self.seconds:.1f} s ({rate:,.0f} per second)",
            f"valid before any filter: {self.valid:,} ({self.valid / max(self.written, 1):.4%})",
            f"distinct: {self.distinct:,}; duplicates: {self.written - self.distinct:,} "
            f"({1 - self.distinct / max(self.written, 1):.3%})",
        ]


def generate(
    model: MoleculeGenerator | str | Path,
    count: int,
    output: str | Path,
    *,
    seed: int = 0,
    temperature: float | None = None,
    batch_size: int = 1024,
    jobs: int | None = None,
    console: Console | None = None,
) -> GenerationReport:
    """Sample `count` molecules into `output`, one canonical SMILES a line.

    The file is written under a temporary name and renamed when it is whole, so an interrupt or a full disk
    leaves an earlier file as it was.

    Parameters
    ----------
    model : MoleculeGenerator, str or Path
        A generator, or the folder of one.
    count : int
    output : str or Path
    seed : int
        The same seed gives the same file for any number of processes (on the same machine, and for the same
        batch size).
    temperature : float, optional
        Of the decoder's choices; the model's own (``config.temperature``) if left out.
    batch_size : int
        Molecules decoded at once.
    jobs : int, optional
        Processes; all processors if left out. A few batches are sampled in this process, which has no
        other to wait for.

    Raises
    ------
    CheckpointError
        If the model cannot be read.
    ValueError
        If `count` is below 1.
    OSError
        If `output` cannot be written.
    """
    if count < 1:
        raise ValueError(f"count must be >= 1, got {count}")
    console = console or Console()
    # Opened before the model is loaded: a folder that cannot be written should be known at once.
    with replacing(output) as temporary, temporary.open("w") as stream:
        begin = time.monotonic()
        # Eight bytes a molecule, where a set of strings would take a hundred.
        seen = array("q")
        valid = done = 0
        batches = _batches(model, count, seed, temperature, batch_size, jobs)
        with closing(batches), progress_bar(console) as bar:
            task = bar.add_task("Sampling", total=count, note="")
            for part, good in batches:
                stream.writelines(f"{s}\n" for s in part)
                valid += good
                done += len(part)
                seen.extend(map(hash, part))
                rate = done / max(time.monotonic() - begin, 1e-9)
                bar.update(task, advance=len(part), note=f"{rate:,.0f}/s")
    return GenerationReport(count, valid, len(np.unique(seen)), time.monotonic() - begin)


def _batches(
    model: MoleculeGenerator | str | Path,
    count: int,
    seed: int,
    temperature: float | None,
    batch_size: int,
    jobs: int | None,
) -> Generator[tuple[list[str], int], None, None]:
    """Batches in order, each with the number of its molecules that RDKit reads back."""
    loaded = model if isinstance(model, MoleculeGenerator) else MoleculeGenerator.load(model)
    sampler = Sampler(loaded.eval(), batch_size=batch_size, temperature=temperature)
    sizes = [min(batch_size, count - begin) for begin in range(0, count, batch_size)]
    jobs = min(jobs or cpu_count(), len(sizes))
    if isinstance(model, MoleculeGenerator) or jobs == 1 or len(sizes) < _PARALLEL_FROM:
        for number, size in enumerate(sizes):
            part = sampler.batch(number, size, seed)
            yield part, _count_valid(part)
        return
    # One thread to a process: a step of the walk is too small to be split further.
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=get_context("spawn"),
        initializer=_start_worker,
        initargs=(str(model), batch_size, temperature),
    )
    try:
        waiting: deque[Future[tuple[list[str], int]]] = deque()
        todo = iter(enumerate(sizes))
        while True:
            for number, size in todo:
                waiting.append(pool.submit(_work, number, size, seed))
                if len(waiting) >= 2 * jobs:  # memory stays flat however many are asked for
                    break
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_sampler: Sampler | None = None


def _start_worker(model: str, batch_size: int, temperature: float | None) -> None:
    global _sampler
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    follow_parent()
    torch.set_num_threads(1)
    _sampler = Sampler(MoleculeGenerator.load(model), batch_size=batch_size, temperature=temperature)


def _work(number: int, size: int, seed: int) -> tuple[list[str], int]:
    assert _sampler is not None
    part = _sampler.batch(number, size, seed)
    return part, _count_valid(part)


def _count_valid(smiles: list[str]) -> int:
    """Molecules that RDKit reads back: the check, not a filter."""
    with rdBase.BlockLogs():
        return sum(Chem.MolFromSmiles(s) is not None for s in smiles)
