"""Sampling to a file."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rdkit import Chem, RDLogger
from rich.console import Console

from hyperkit_mol.generator.callbacks import progress_bar
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.generator.sampling import Sampler

__all__ = ["GenerationReport", "generate"]


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
    temperature: float = 1.0,
    batch_size: int = 1024,
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
        The same seed gives the same file (on the same machine and batch size).
    temperature : float
        Of the decoder's choices.
    batch_size : int
        Molecules decoded at once.

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
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}")
    # Opened before the model is loaded: a folder that cannot be written should be known at once.
    try:
        with temporary.open("w") as stream:
            if not isinstance(model, MoleculeGenerator):
                model = MoleculeGenerator.load(model)
            sampler = Sampler(model.eval(), batch_size=batch_size, temperature=temperature)
            begin = time.monotonic()
            seen: Counter[int] = Counter()
            valid = 0
            with progress_bar(console) as bar:
                task = bar.add_task("Sampling", total=count, note="")
                for part in sampler.sample(count, seed):
                    stream.writelines(f"{s}\n" for s in part)
                    valid += _count_valid(part)
                    seen.update(map(hash, part))
                    rate = (bar.tasks[0].completed + len(part)) / max(time.monotonic() - begin, 1e-9)
                    bar.update(task, advance=len(part), note=f"{rate:,.0f}/s")
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    return GenerationReport(count, valid, len(seen), time.monotonic() - begin)


def _count_valid(smiles: list[str]) -> int:
    """Molecules that RDKit reads back: the check, not a filter."""
    RDLogger.DisableLog("rdApp.*")
    try:
        return sum(Chem.MolFromSmiles(s) is not None for s in smiles)
    finally:
        RDLogger.EnableLog("rdApp.error")
