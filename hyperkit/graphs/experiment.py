"""Tuning and testing of one cell of the table, a data set, a task and a model; a CSV of runs, to resume."""

from __future__ import annotations

import csv
import json
import math
import os
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hyperkit.graphs.datasets import Graph, GraphSet, Triples
from hyperkit.graphs.models import MODELS, TASKS, ModelSettings, Task
from hyperkit.graphs.training import GraphTask, LinkTask, NodeTask, Result, TrainSettings, fit

COLUMNS: tuple[str, ...] = (
    "dataset",
    "task",
    "model",
    "stage",
    "run",
    "val",
    "test",
    "epochs",
    "best_epoch",
    "seconds",
    "settings",
)
Row = dict[str, str]

# Classes over bags of words: drop much, decay much. Their links: drop much, decay little; one trial with all
# links among the messages, which GCN does better with (and trees do far worse). Measured features: little of
# either.
_Trials = tuple[dict[str, Any], ...]
_WORDS: _Trials = (
    {"dropout": 0.5, "weight_decay": 5e-4},
    {"dropout": 0.8, "weight_decay": 5e-4},
    {"dropout": 0.5, "weight_decay": 5e-3},
    {"dropout": 0.8, "weight_decay": 5e-3},
)
_WORD_LINKS: _Trials = (
    {"dropout": 0.5, "weight_decay": 0.0},
    {"dropout": 0.5, "weight_decay": 0.0, "lr": 0.03},
    {"dropout": 0.5, "weight_decay": 5e-4, "hide": 0.0},
    {"dropout": 0.2, "weight_decay": 5e-4, "lr": 0.03},
)
_MEASURED: _Trials = (
    {"dropout": 0.0, "weight_decay": 0.0},
    {"dropout": 0.0, "weight_decay": 0.0, "layers": 3},
    {"dropout": 0.2, "weight_decay": 5e-4},
    {"dropout": 0.0, "weight_decay": 5e-4, "lr": 0.03},
)
# What a model has besides, one for each trial, so that options cost no more trials than others have.
_COMMON: dict[str, _Trials] = {
    "gat": ({"heads": 8}, {"heads": 8}, {"heads": 4}, {"heads": 4}),
    "hknet-paper": ({"kernels": 4}, {"kernels": 2}, {"kernels": 6}, {"kernels": 4}),
}
_OURS: dict[str, _Trials] = {
    "words": (
        {"smooth": 1, "keep": 4.0},
        {"spread": 10, "keep": 8.0},
        {"keep": 4.0},
        {"layers": 1, "spread": 10, "hidden": 64},
    ),
    "word links": (
        {"smooth": 1, "keep": 8.0},
        {"layers": 1, "spread": 10, "restart": 0.2},
        {"layers": 1, "spread": 4},
        {"layers": 1, "spread": 4},
    ),
    "measured": (
        {"smooth": 1, "before": 1, "keep": 8.0},
        {"layers": 1, "before": 2},
        {"layers": 1, "smooth": 2, "before": 1},
        {"layers": 1, "smooth": 1, "before": 2},
    ),
    "links": (
        {"layers": 1, "smooth": 2, "before": 1},
        {"layers": 2, "smooth": 1, "before": 1, "keep": 8.0},
        {"layers": 1, "spread": 2},
        {"layers": 1, "smooth": 1, "before": 2},
    ),
    "graphs": (
        {"layers": 1, "smooth": 1},
        {"layers": 2, "keep": 2.0},
        {"layers": 1, "before": 2},
        {"layers": 1, "smooth": 1},
    ),
}
_WORD_SETS = ("cora", "citeseer", "pubmed", "texas", "cornell", "wisconsin", "actor")
MAX_TRIALS = 4


@dataclass(frozen=True)
class Cell:
    """One cell: what to train, with which settings as a start."""

    dataset: str
    task: Task
    model: str
    train: TrainSettings = field(default_factory=TrainSettings)
    hidden: int = 16

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task must be one of {list(TASKS)}, got {self.task!r}")
        if self.model not in MODELS:
            raise ValueError(f"model must be one of {list(MODELS)}, got {self.model!r}")

    def trials(self, count: int) -> list[tuple[ModelSettings, TrainSettings]]:
        """The first `count` settings that are tried, as many for every model.

        Raises
        ------
        ValueError
            If `count` is not 1 to 4.
        """
        if not 1 <= count <= MAX_TRIALS:
            raise ValueError(f"trials must be 1 to {MAX_TRIALS}, got {count}")
        words = self.dataset.removesuffix("-geom-gcn") in _WORD_SETS or self.dataset.endswith("-filtered")
        if self.task == "lp":
            kind, base = ("word links", _WORD_LINKS) if words else ("links", _MEASURED)
        elif self.task == "nc":
            kind, base = ("words", _WORDS) if words else ("measured", _MEASURED)
        else:
            kind, base = "graphs", _MEASURED
        none: _Trials = ({},) * MAX_TRIALS
        own = _OURS[kind] if self.model == "hknet" else _COMMON.get(self.model, none)
        out: list[tuple[ModelSettings, TrainSettings]] = []
        for values, options in zip(base[:count], own, strict=False):
            values, options = dict(values), dict(options)
            dropout, layers = values.pop("dropout"), values.pop("layers", 2)
            layers = options.pop("layers", layers)
            # GAT's published width on citations is 8 heads of 8; embeddings of links are 16 wide for all.
            hidden = 64 if self.model == "gat" and self.task != "lp" else self.hidden
            hidden = options.pop("hidden", hidden)
            out.append(
                (ModelSettings(self.model, hidden, layers, dropout, options), replace(self.train, **values))
            )
        return out


def settings_text(model: ModelSettings, train: TrainSettings) -> str:
    """Settings as one line of JSON, the same for the same settings."""
    values = asdict(train)
    for later in ("hide", "sample"):  # as it was written before there were these, so that older tables resume
        if not values[later]:
            del values[later]
    return json.dumps({"model": asdict(model), "train": values}, sort_keys=True)


def settings_of(text: str) -> tuple[ModelSettings, TrainSettings]:
    """Inverse of :func:`settings_text`."""
    both = json.loads(text)
    both["train"]["sample"] = tuple(both["train"].get("sample", ()))
    return ModelSettings(**both["model"]), TrainSettings(**both["train"])


class Table:
    """Rows of runs in a CSV file; each is written when it is done.

    Parameters
    ----------
    path : str or Path
        The file; made when the first row comes.

    Raises
    ------
    ValueError
        If the file has other columns.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows: list[Row] = []
        if self.path.exists():
            text = self.path.read_text()
            # A line cut off by a crash is no run.
            whole = text if text.endswith("\n") else text[: text.rfind("\n") + 1]
            reader = csv.DictReader(whole.splitlines())
            if reader.fieldnames is not None and tuple(reader.fieldnames) != COLUMNS:
                raise ValueError(
                    f"{self.path} must have the columns {list(COLUMNS)}, got {reader.fieldnames}"
                )
            self.rows = list(reader)
            if whole != text:
                self._write(whole)

    def _write(self, text: str) -> None:
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(text)
        os.replace(part, self.path)

    def find(self, cell: Cell, stage: str, run: int, settings: str) -> Row | None:
        """The row of a run that was done, or None."""
        key = (cell.dataset, cell.task, cell.model, stage, str(run), settings)
        names = ("dataset", "task", "model", "stage", "run", "settings")
        return next((r for r in self.rows if tuple(r[n] for n in names) == key), None)

    def add(self, cell: Cell, stage: str, run: int, settings: str, result: Result) -> Row:
        """Append a run."""
        row = {
            "dataset": cell.dataset,
            "task": cell.task,
            "model": cell.model,
            "stage": stage,
            "run": str(run),
            "val": f"{result.val:.3f}",
            "test": "" if math.isnan(result.test) else f"{result.test:.3f}",
            "epochs": str(result.epochs),
            "best_epoch": str(result.best_epoch),
            "seconds": f"{result.seconds:.1f}",
            "settings": settings,
        }
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as f:
            writer = csv.DictWriter(f, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.rows.append(row)
        return row


def make_task(cell: Cell, data: Graph | GraphSet | Triples, run: int) -> NodeTask | LinkTask | GraphTask:
    """The data of run number `run`: the split of that number (or the only one), or the split of that seed.

    Raises
    ------
    ValueError
        If the data set does not fit the task.
    """
    if cell.task == "gc":
        if not isinstance(data, GraphSet):
            raise ValueError(f"task gc needs a set of graphs, {cell.dataset} is none")
        return GraphTask(data, run % len(data.tests), run, batch=cell.train.batch)
    if not isinstance(data, Graph):
        raise ValueError(f"task {cell.task} needs one graph, {cell.dataset} is none")
    if cell.task == "lp":
        return LinkTask(data, run)
    if not data.splits:
        raise ValueError(f"task nc needs classes and splits, {cell.dataset} has none")
    return NodeTask(data, data.splits[run % len(data.splits)])


def run_cell(
    cell: Cell,
    data: Graph | GraphSet | Triples,
    table: Table,
    *,
    trials: int = 4,
    runs: int = 10,
    first: int = 0,
    done: Callable[[str, int, Row], None] | None = None,
    progress: Callable[[int, float, float], None] | None = None,
) -> list[Row]:
    """Try settings on the first split's validation set, then train and test on each split or seed.

    Runs that the table has are not done again. While trying, no test set is read.

    Parameters
    ----------
    cell : Cell
        What to train.
    data : Graph or GraphSet
        Its data set.
    table : Table
        Where runs are kept.
    trials, runs : int
        Number of settings tried (1 to 4), and of tested runs: splits where there are several, else seeds.
    first : int
        Number of the first tested run, so that several processes can share a cell.
    done, progress : callable, optional
        Called after each run with stage, number and row; and after each validation (:func:`fit`).

    Returns
    -------
    list of dict
        Rows of the tested runs.

    Raises
    ------
    FloatingPointError
        If every trial diverges, or a tested run does.
    """
    tried: list[tuple[float, int, str]] = []
    for i, (model, train) in enumerate(cell.trials(trials)):
        text = settings_text(model, train)
        row = table.find(cell, "tune", i, text)
        if row is None:
            try:
                result = fit(make_task(cell, data, 0), model, train, 0, test=False, progress=progress)
            except FloatingPointError:  # a setting that diverges is a trial that lost, and is kept as such
                result = Result(-math.inf, math.nan, 0, 0, 0.0, None)
            row = table.add(cell, "tune", i, text, result)
        if done is not None:
            done("tune", i, row)
        tried.append((float(row["val"]), -i, text))
    best, _, chosen = max(tried)
    if best == -math.inf:
        raise FloatingPointError(f"{cell.dataset} {cell.task} {cell.model}: every trial diverged")
    out = []
    for run in range(first, first + runs):
        row = table.find(cell, "test", run, chosen)
        if row is None:
            result = fit(make_task(cell, data, run), *settings_of(chosen), run, progress=progress)
            row = table.add(cell, "test", run, chosen, result)
        if done is not None:
            done("test", run, row)
        out.append(row)
    return out


def mean_and_deviation(rows: Iterable[Row], column: str = "test") -> tuple[float, float]:
    """Mean and standard deviation over runs (0 for a single one)."""
    values = [float(r[column]) for r in rows]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def markdown(rows: Iterable[Row]) -> str:
    """A table of all tested cells: one line a model, one column a data set and task.

    A cell has the mean and deviation of the test figure, the number of runs, and the seconds that all its
    runs took, tuning included.
    """
    rows = list(rows)
    tested = [r for r in rows if r["stage"] == "test"]
    columns = list(dict.fromkeys((r["dataset"], r["task"]) for r in tested))
    lines = [
        "| model | " + " | ".join(f"{d} {t}" for d, t in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for model in MODELS:
        cells = []
        for d, t in columns:
            own = [r for r in tested if (r["dataset"], r["task"], r["model"]) == (d, t, model)]
            if not own:
                cells.append("")
                continue
            last = [r for r in own if r["settings"] == own[-1]["settings"]]
            mean, deviation = mean_and_deviation(last)
            spent = [r for r in rows if (r["dataset"], r["task"], r["model"]) == (d, t, model)]
            seconds = sum(float(r["seconds"]) for r in spent)
            cells.append(f"{mean:.1f} ± {deviation:.1f} ({len(last)}; {seconds:.0f} s)")
        if any(cells):
            lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
