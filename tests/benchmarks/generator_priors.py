"""Where a generator's distance comes from, against a validation part of its own training data.

    python tests/benchmarks/generator_priors.py runs/moses/model -n 10000

For each model folder: molecules decoded from latents of held-out molecules (as points, and with the training
noise), from a wrapped normal fitted to them, and from the model's own prior; FCD, SNN, Frag and Scaf against
the other half of the held-out molecules, and the floor: as many training molecules. Settings are chosen by this table, never by MOSES's
test sets.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hyperkit_mol.generator.autoencoder import Latent
from hyperkit_mol.generator.latent import WrappedNormalPrior
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.generator.pipeline import default_cache, load_data
from hyperkit_mol.generator.sampling import SampledTrees, Sampler
from hyperkit_mol.generator.stream import batches_of, split
from hyperkit_mol.moses import evaluate

METRICS = ("FCD", "SNN", "Frag", "Scaf", "Filters", "unique@1000")


def smiles_of(sampler: Sampler, data, index: np.ndarray) -> list[str]:
    """SMILES of molecules of the data set, from their trees."""
    out: list[str] = [""] * len(index)
    for rows, batch in batches_of(data, index, 1024):
        length = batch["node_mask"].sum(1).numpy()
        parent = batch["parent"].numpy().copy()
        parent[:, 0] = -1
        trees = SampledTrees(batch["label"].numpy(), parent, batch["site"].numpy(), length)
        for row, text in zip(rows, sampler.smiles(trees), strict=True):
            out[row] = text
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("-n", type=int, default=10_000, help="molecules of each kind")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="kinds to sample: points noised normal prior floor")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.jobs)
    console = Console()
    found: dict[str, dict[str, float]] = {}
    for folder in args.models:
        model = MoleculeGenerator.load(folder)
        data = load_data(model.config, console)
        train, held = split(data, model.config.data.validation, None, model.config.seed)
        sampler = Sampler(model)
        # Half of the held-out molecules are the reference, the other half is encoded.
        reference = default_cache() / f"validation-{data.vocabulary.digest[:12]}-{len(held)}-{args.seed}.smi"
        half = len(held) // 2
        if not reference.exists():
            reference.write_text("\n".join(smiles_of(sampler, data, held[:half])) + "\n")
        latents = model.autoencoder.latents
        parts = []
        with torch.no_grad():
            for _, batch in batches_of(data, held[half:], 1024):
                parts.append(model.autoencoder.encode(batch))
        points = Latent(torch.cat([p.tree for p in parts]), torch.cat([p.graph for p in parts]))
        normal = WrappedNormalPrior(latents.features)
        normal.fit(torch.cat([latents.log0(points.tree), latents.log0(points.graph)], -1))

        def draw(kind: str) -> list[str]:
            rng = torch.Generator().manual_seed(args.seed)
            if kind == "floor":
                return smiles_of(sampler, data, train[: args.n])
            if kind == "prior":
                return [s for part in sampler.sample(args.n, args.seed) for s in part]
            out: list[str] = []
            while len(out) < args.n:
                size = min(1024, args.n - len(out))
                if kind == "normal":
                    tree, graph = normal.sample(size, rng).chunk(2, -1)
                    z = Latent(latents.exp0(tree), latents.exp0(graph))
                else:
                    rows = torch.randint(len(points.tree), (size,), generator=rng)
                    z = Latent(points.tree[rows], points.graph[rows])
                    if kind == "noised":
                        std = torch.tensor(model.config.model.latent_noise)
                        z = Latent(*(latents.wrapped_normal(x, std)[0] for x in z))
                out += sampler.smiles(sampler.decode(z, rng))
            return out

        for kind in args.only or ("floor", "points", "noised", "normal", "prior"):
            torch.manual_seed(args.seed)
            report = evaluate(draw(kind), metrics=METRICS, reference=reference, n_jobs=args.jobs)
            found[f"{folder} {kind}"] = report.metrics
            row = ", ".join(f"{k} {v:.4f}" for k, v in report.metrics.items() if v is not None)
            console.print(f"{folder} {kind}: {row}", highlight=False, soft_wrap=True)
    names = sorted({k for row in found.values() for k in row})
    table = Table("latents", *names)
    for label, row in found.items():
        table.add_row(label, *(f"{row[k]:.4f}" if row.get(k) is not None else "" for k in names))
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
