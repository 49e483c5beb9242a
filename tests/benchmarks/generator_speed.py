"""Molecules per second of preprocessing, training and sampling, and where the time of a training step goes.

    python tests/benchmarks/generator_speed.py [--preset moses-cpu] [--profile] [--model runs/moses/model]

With ``--reference`` the training step of MOSES's VAE (model and settings from the installed molsets) runs
in turn with ours. Prints medians over rounds. Absolute figures are of this machine at this hour; compare
presets, geometries and versions within one call (``--geometries lorentz euclidean`` runs them in turn).
"""

from __future__ import annotations

import argparse
import os
import random
import runpy
import statistics
import tempfile
import time
from dataclasses import dataclass
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
from hyperkit_mol.moses._compat import moses_file
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
        by_size = config.autoencoder.by_size
        self.stream = BatchStream(data, np.arange(len(data)), batch_size=self.size, seed=0, by_size=by_size)
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


class Reference:
    """A training step of MOSES's VAE, its model read from the installed package, which is not imported."""

    size = 512  # its own batch

    def __init__(self, smiles: list[str]) -> None:
        parts = {name: runpy.run_path(str(moses_file(f"vae/{name}.py"))) for name in ("model", "config")}
        config = parts["config"]["get_parser"]().parse_args([])
        self.ids = {c: i for i, c in enumerate(sorted(set("".join(smiles))))}
        count = len(self.ids)
        vocabulary = Vocabulary(count, count + 1, count + 2, count + 3, torch.eye(count + 4))
        torch.manual_seed(0)
        self.model = parts["model"]["VAE"](vocabulary, config).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.lr_start)
        self.config, self.smiles, self.number = config, smiles, 0

    def step(self) -> float:
        """Seconds of one step, its batch included."""
        begin = time.perf_counter()
        first = self.number * self.size % (len(self.smiles) - self.size)
        chosen = sorted(self.smiles[first : first + self.size], key=len, reverse=True)
        bos, eos = self.model.bos, self.model.eos
        batch = [torch.tensor([bos, *(self.ids[c] for c in s), eos]) for s in chosen]
        kl, reconstruction = self.model(batch)
        self.optimizer.zero_grad()
        (self.config.kl_w_end * kl + reconstruction).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.number += 1
        return time.perf_counter() - begin


@dataclass
class Vocabulary:
    """What MOSES's model reads of a vocabulary."""

    bos: int
    eos: int
    unk: int
    pad: int
    vectors: torch.Tensor

    def __len__(self) -> int:
        return len(self.vectors)


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
    parser.add_argument("--reference", action="store_true", help="MOSES's VAE beside ours")
    parser.add_argument("--profile", action="store_true", help="print where a training step's time goes")
    args = parser.parse_args()

    smiles = random.Random(0).sample(load_split("train"), args.molecules)
    data, rate = preprocessing(smiles, args.rounds)
    print(f"preprocessing          {rate:9,.0f} molecules/s  ({cpu_count()} processes)")

    runs: dict[str, Training | Reference] = {
        g: Training(data, args.preset, g, "gan") for g in args.geometries
    }
    if args.reference:
        runs["MOSES's VAE"] = Reference(smiles)
    times: dict[str, list[float]] = {g: [] for g in runs}
    for run in runs.values():
        run.step()  # first calls allocate
    for _ in range(args.steps):
        for name, run in runs.items():
            times[name].append(run.step())
    for name, run in runs.items():
        rate = run.size / statistics.median(times[name])
        threads = torch.get_num_threads()
        kind = args.preset if isinstance(run, Training) else f"its settings, batch {run.size}"
        print(f"training, {name:12s} {rate:9,.0f} molecules/s  ({kind}, {threads} threads)")

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
