"""Molecules per second of preprocessing, training and sampling, and where the time of a training step goes.

    python tests/benchmarks/generator_speed.py [--preset moses-cpu] [--profile] [--model runs/moses/model]

Prints medians over rounds. Absolute figures are of this machine at this hour; compare presets, geometries and
versions within one call (``--geometries lorentz euclidean`` runs them in turn).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command line does

import numpy as np
import torch
from rich.console import Console

from hyperkit.optim import RiemannianAdam
from hyperkit_mol.chem.prepare import TreeDataset, cpu_count, prepare
from hyperkit_mol.generator.config import load_config
from hyperkit_mol.generator.generate import generate
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.generator.stream import BatchStream
from hyperkit_mol.moses.data import load_split


def preprocessing(smiles: list[str], rounds: int) -> tuple[TreeDataset, float]:
    """Molecules per second through RDKit into arrays, all processors."""
    rates = []
    for _ in range(rounds):
        begin = time.perf_counter()
        data = prepare(smiles, jobs=cpu_count())
        rates.append(len(smiles) / (time.perf_counter() - begin))
    return data, statistics.median(rates)


class Training:
    """A training step of a preset, as the pipeline runs it."""

    def __init__(self, data: TreeDataset, preset: str, geometry: str, prior: str) -> None:
        torch.manual_seed(0)
        config = load_config(preset, {"model.geometry": geometry, "prior": prior})
        self.size = config.autoencoder.batch_size
        self.model = MoleculeGenerator(data.vocabulary, config).autoencoder.train()
        self.optimizer = RiemannianAdam(self.model.parameters(), lr=1e-4)
        self.stream = BatchStream(data, np.arange(len(data)), batch_size=self.size, seed=0)
        self.number = 0

    def step(self) -> float:
        """Seconds of one step, its batch included."""
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        self.model(self.stream.batch(self.number)).total(0.0).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.number += 1
        return time.perf_counter() - begin


def main() -> None:
    """Run it all and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="moses-cpu")
    parser.add_argument("--geometries", nargs="+", default=["lorentz"])
    parser.add_argument("--molecules", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--model", type=Path, help="trained model to sample; an untrained one is no measure")
    parser.add_argument("--profile", action="store_true", help="print where a training step's time goes")
    args = parser.parse_args()

    smiles = random.Random(0).sample(load_split("train"), args.molecules)
    data, rate = preprocessing(smiles, args.rounds)
    print(f"preprocessing          {rate:9,.0f} molecules/s  ({cpu_count()} processes)")

    runs = {g: Training(data, args.preset, g, "gan") for g in args.geometries}
    times: dict[str, list[float]] = {g: [] for g in runs}
    for run in runs.values():
        run.step()  # first calls allocate
    for _ in range(args.steps):
        for name, run in runs.items():
            times[name].append(run.step())
    for name, run in runs.items():
        rate = run.size / statistics.median(times[name])
        threads = torch.get_num_threads()
        print(f"training, {name:12s} {rate:9,.0f} molecules/s  ({args.preset}, {threads} threads)")

    if args.profile:
        run = next(iter(runs.values()))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            for _ in range(5):
                run.step()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))

    if args.model is not None:
        with tempfile.TemporaryDirectory() as folder:
            report = generate(args.model, args.samples, Path(folder) / "out.smi", console=Console(quiet=True))
        rate = report.written / report.seconds
        print(
            f"sampling               {rate:9,.0f} valid molecules/s  ({report.valid}/{report.written} valid)"
        )


if __name__ == "__main__":
    main()
