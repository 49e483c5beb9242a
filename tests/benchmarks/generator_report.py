"""The figures of a trained generator for its page: metrics over sampling seeds, reconstruction, overlap.

    python tests/benchmarks/generator_report.py MODEL -n 30000 --seeds 0 1 2 --out runs/report

Samples and evaluates for each seed with MOSES's metrics (mean ± std over seeds), decodes held-out molecules
greedily from their latents, and counts how many distinct samples are in equal-sized random parts of MOSES's
training, test and scaffold-test sets: a model that has only seen the training set should find no more of the
test set than chance gives. Run it once for a model that has been chosen, not to choose one.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console

from hyperkit_mol.generator.autoencoder import Latent
from hyperkit_mol.generator.generate import generate
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.generator.pipeline import load_data
from hyperkit_mol.generator.sampling import Sampler
from hyperkit_mol.generator.stream import batches_of, split
from hyperkit_mol.moses import evaluate
from hyperkit_mol.moses.data import load_split


def reconstruction(model: MoleculeGenerator, console: Console, count: int) -> float:
    """Share of held-out molecules that greedy decoding of their latent gives back."""
    data = load_data(model.config, console)
    _, held = split(data, model.config.data.validation, None, model.config.seed)
    sampler = Sampler(model, temperature=0.0)
    right = total = 0
    with torch.no_grad():
        for rows, batch in batches_of(data, held[:count], 1024):
            trees = sampler.decode(Latent(*model.autoencoder.encode(batch)))
            for row, number in enumerate(rows):
                label, parent, site = data.tree(int(held[number]))
                size = int(trees.length[row])
                right += (
                    trees.label[row, :size].tolist() == label
                    and trees.parent[row, :size].tolist() == parent
                    and trees.site[row, :size].tolist() == site
                )
                total += 1
    return right / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("-n", type=int, default=30_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--held", type=int, default=20_000, help="held-out molecules to reconstruct; 0 for none"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/report"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    found: dict = {"model": str(args.model), "n": args.n, "seeds": args.seeds, "metrics": {}, "overlap": {}}

    def save() -> None:
        (args.out / "report.json").write_text(json.dumps(found, indent=1))

    parts = {name: load_split(name) for name in ("train", "test", "test_scaffolds")}
    size = min(len(p) for p in parts.values())
    rng = random.Random(0)
    parts = {name: set(rng.sample(list(p), size)) for name, p in parts.items()}
    rows: dict[str, list[float]] = {}
    for seed in args.seeds:
        path = args.out / f"samples-{seed}.smi"
        begin = time.monotonic()
        report = generate(args.model, args.n, path, seed=seed, jobs=args.jobs, console=Console(quiet=True))
        rows.setdefault("samples per second", []).append(args.n / (time.monotonic() - begin))
        rows.setdefault("valid before any filter", []).append(report.valid / args.n)
        smiles = path.read_text().split()
        for name, values in parts.items():
            rows.setdefault(f"in {size:,} of {name}", []).append(len(values & set(smiles)))
        figures = evaluate(smiles, n_jobs=args.jobs)
        for name, value in figures.metrics.items():
            if value is not None:
                rows.setdefault(name, []).append(value)
        found["metrics"] = {
            k: {"mean": statistics.mean(v), "std": statistics.stdev(v) if len(v) > 1 else 0.0, "all": v}
            for k, v in rows.items()
        }
        found["floor"] = figures.floor
        save()
        console.print(f"seed {seed}: FCD/Test {figures.metrics['FCD/Test']:.4f}", highlight=False)
    if args.held:
        torch.set_num_threads(args.jobs)
        found["reconstruction"] = reconstruction(MoleculeGenerator.load(args.model), console, args.held)
        save()
    for name, row in found["metrics"].items():
        console.print(f"{name}: {row['mean']:.5g} ± {row['std']:.2g}", highlight=False)
    console.print(f"reconstruction: {found.get('reconstruction')}", highlight=False)


if __name__ == "__main__":
    main()
