"""What the command line calls: a file of SMILES in, a JSON and an HTML report out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hyperkit_mol.moses._evaluate import evaluate
from hyperkit_mol.moses._smiles_file import read_smiles
from hyperkit_mol.moses.results import MosesReport

__all__ = ["EvaluatedFile", "evaluate_file", "read_smiles", "rich_progress"]


class EvaluatedFile(NamedTuple):
    """A report and where it was written."""

    report: MosesReport
    json: Path
    html: Path


def evaluate_file(
    path: str | Path,
    out_dir: str | Path | None = None,
    *,
    metrics: Iterable[str] | None = None,
    reference: str | Path = "moses",
    train: str | Path | None = None,
    unique_k: Sequence[int] = (1000, 10000),
    n_jobs: int = 2,
    batch_size: int = 256,
    device: str = "cpu",
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> EvaluatedFile:
    """Evaluate a file of SMILES and write ``<stem>.json`` and ``<stem>.html``.

    Parameters
    ----------
    path : path
        SMILES in the first column (``.smi``, ``.csv``, ``.txt``, gzipped or not), with or without a header.
        Lines that are not text count as invalid molecules.
    out_dir : path, optional
        Where the reports go (made if absent); by default beside the file. Both are written under a temporary
        name and renamed, so that earlier reports stay intact when something fails.
    metrics, reference, train, unique_k, n_jobs, batch_size, device, limit, seed, progress
        As in `evaluate`.

    Returns
    -------
    EvaluatedFile
        ``(report, json, html)``.

    Raises
    ------
    ValueError
        If the file has no SMILES in it.
    """
    path = Path(path)
    smiles = read_smiles(path)
    report = evaluate(
        smiles,
        metrics=metrics,
        reference=reference,
        train=train,
        unique_k=unique_k,
        n_jobs=n_jobs,
        batch_size=batch_size,
        device=device,
        limit=limit,
        seed=seed,
        progress=progress,
        source=path.name,
    )
    folder = path.parent if out_dir is None else Path(out_dir)
    stem = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    return EvaluatedFile(
        report,
        report.to_json(folder / f"{stem}.json"),
        report.to_html(folder / f"{stem}.html"),
    )


@contextmanager
def rich_progress(console: object | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each stage: ``with rich_progress() as bar: evaluate(smiles, progress=bar)``.

    Parameters
    ----------
    console : rich.console.Console, optional
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:14s}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:  # type: ignore[arg-type]
        tasks: dict[str, int] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)  # type: ignore[arg-type]

        yield update
