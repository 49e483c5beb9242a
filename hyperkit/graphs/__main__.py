"""``python -m hyperkit.graphs``: train and test the models on the data sets of the hyperbolic literature."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from hyperkit.graphs.datasets import DATASETS, load
from hyperkit.graphs.experiment import MAX_TRIALS, Cell, Row, Table, markdown, mean_and_deviation, run_cell
from hyperkit.graphs.models import MODELS, TASKS
from hyperkit.graphs.training import TrainSettings


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m hyperkit.graphs",
        description="Settings are chosen on the validation set of the first split, then each split is "
        "trained and tested once. Runs that the CSV has are not done again.",
    )
    p.add_argument("--dataset", nargs="+", choices=sorted(DATASETS), help="one or several")
    p.add_argument("--model", nargs="+", default=["hknet"], choices=[*MODELS, "all"], help="one or several")
    p.add_argument("--task", choices=TASKS, default="nc", help="classes of nodes, links, classes of graphs")
    p.add_argument("--splits", choices=["default", "geom-gcn"], default="default")
    p.add_argument("--data", type=Path, help="data folder (default: HYPERKIT_DATA, else the cache)")
    p.add_argument("--mirror", help="address of a copy of the data folder, for missing files")
    p.add_argument("--out", type=Path, default=Path("graphs.csv"), help="CSV of all runs")
    p.add_argument("--trials", type=int, default=MAX_TRIALS, help="settings tried for each model")
    p.add_argument("--runs", type=int, default=10, help="splits, or seeds where there is one split")
    p.add_argument("--first", type=int, default=0, help="number of the first split or seed")
    p.add_argument("--epochs", type=int, default=TrainSettings.epochs)
    p.add_argument("--patience", type=int, default=TrainSettings.patience)
    p.add_argument("--every", type=int, default=TrainSettings.every, help="epochs between validations")
    p.add_argument("--lr", type=float, default=TrainSettings.lr)
    p.add_argument("--loss", choices=["ce", "margin"], default="ce")
    p.add_argument(
        "--hide",
        type=float,
        default=0.2,
        help="links: share of the training links that a step asks for and takes out of the graph",
    )
    p.add_argument(
        "--sample",
        type=int,
        nargs="+",
        default=[],
        help="classes of nodes: neighbours drawn in each step (-1: all), in place of the whole graph",
    )
    p.add_argument("--batch", type=int, default=TrainSettings.batch, help="graphs, or nodes with --sample")
    p.add_argument("--hidden", type=int, default=16)
    p.add_argument("--threads", type=int, default=1, help="of torch")
    p.add_argument("--list", action="store_true", help="name the data sets and stop")
    p.add_argument("--table", action="store_true", help="print the CSV's results as a table and stop")
    return p


class _Progress:
    """One line on a terminal that is written over, one line a run elsewhere."""

    def __init__(self, total: int, epochs: int) -> None:
        self.total, self.epochs = total, epochs
        self.finished, self.paid, self.spent = 0, 0, 0.0
        self.name, self.live = "", sys.stderr.isatty()
        self.began = self.shown = time.perf_counter()

    def epoch(self, epoch: int, figure: float, best: float) -> None:
        now = time.perf_counter()
        if self.live and now - self.shown > 0.2:
            self.shown = now
            text = (
                f"{self.name}  epoch {epoch}/{self.epochs}  val {figure:.2f}  best {best:.2f}  {self.left()}"
            )
            print(f"\r{text[:118]:<118}", end="", file=sys.stderr, flush=True)

    def left(self) -> str:
        """Time left by the mean of the runs done here."""
        if self.finished == self.total:
            return "time left: 0:00:00"
        if not self.paid:
            return "time left: unknown"
        seconds = int(self.spent / self.paid * (self.total - self.finished))
        return f"time left: {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def run(self, stage: str, number: int, row: Row) -> None:
        now = time.perf_counter()
        self.finished += 1
        # A run that was only looked up takes no time and says nothing about the next.
        if now - self.began > 0.05:
            self.paid, self.spent = self.paid + 1, self.spent + now - self.began
        self.began = now
        test = f"  test {row['test']}" if row["test"] else ""
        text = (
            f"{self.finished}/{self.total}  {self.name}  {stage} {number}: val {row['val']}{test}  "
            f"{row['epochs']} epochs, {row['seconds']} s  {self.left()}"
        )
        print(("\r" if self.live else "") + f"{text:<118}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    if arguments.list:
        for name, (_, text) in DATASETS.items():
            print(f"{name:<20} {text}")
        return 0
    try:
        table = Table(arguments.out)
        if arguments.table:
            print(markdown(table.rows))
            return 0
        if not arguments.dataset:
            raise ValueError("--dataset must be given; --list names them")
        _train(arguments, table)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; the runs done are in {arguments.out}, the same command goes on", file=sys.stderr)
        return 130
    return 0


def _train(arguments: argparse.Namespace, table: Table) -> None:
    torch.set_num_threads(arguments.threads)
    models = list(MODELS) if "all" in arguments.model else list(dict.fromkeys(arguments.model))
    settings = replace(
        TrainSettings(),
        lr=arguments.lr,
        epochs=arguments.epochs,
        patience=arguments.patience,
        every=arguments.every,
        loss=arguments.loss,
        hide=arguments.hide if arguments.task == "lp" else 0.0,
        sample=tuple(arguments.sample) if arguments.task == "nc" else (),
        batch=arguments.batch,
    )
    total = len(arguments.dataset) * len(models) * (arguments.trials + arguments.runs)
    progress = _Progress(total, arguments.epochs)
    for dataset in arguments.dataset:
        data = load(dataset, arguments.data, splits=arguments.splits, mirror=arguments.mirror)
        for model in models:
            name = dataset if arguments.splits == "default" else f"{dataset}-{arguments.splits}"
            cell = Cell(name, arguments.task, model, settings, arguments.hidden)
            progress.name = f"{name} {arguments.task} {model}"
            rows = run_cell(
                cell,
                data,
                table,
                trials=arguments.trials,
                runs=arguments.runs,
                first=arguments.first,
                done=progress.run,
                progress=progress.epoch,
            )
            mean, deviation = mean_and_deviation(rows)
            print(f"{progress.name}: {mean:.2f} ± {deviation:.2f} over {len(rows)} runs", flush=True)


if __name__ == "__main__":
    sys.exit(main())
