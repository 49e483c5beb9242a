"""Where a generator's distance comes from, against a validation part of its own training data.

    python tests/benchmarks/generator_priors.py runs/moses/model -n 10000

For each model folder: molecules decoded from latents of held-out molecules (as points, and with the training
noise, faded as the model's prior is), from a wrapped normal fitted to the latter, and from the model's own
prior; FCD, SNN, Frag and Scaf against the other half of the held-out molecules, and the floor: as many
training molecules. Settings are chosen by this table, never by MOSES's test sets. `--fade` tries other
amounts than the model's own, for the kinds `noised` and `normal`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

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


class Sources:
    """Molecules of each kind for one model."""

    def __init__(self, folder: Path, seed: int, console: Console, fade: float | None = None) -> None:
        self.seed = seed
        self.model = MoleculeGenerator.load(folder)
        config = self.model.config
        self.fade = config.fade if fade is None else fade
        self.data = load_data(config, console)
        self.train, held = split(self.data, config.data.validation, None, config.seed)
        self.sampler, self.latents = Sampler(self.model), self.model.autoencoder.latents
        # Half of the held-out molecules are the reference, the other half is encoded.
        half = len(held) // 2
        self.reference = default_cache() / f"validation-{self.data.vocabulary.digest[:12]}-{len(held)}.smi"
        if not self.reference.exists():
            self.reference.write_text("\n".join(smiles_of(self.sampler, self.data, held[:half])) + "\n")
        self.points = self.model.autoencoder.encode_all(self.data, held[half:])
        torch.manual_seed(seed)
        with torch.no_grad():
            noised = self.model.autoencoder.blur(self.points, fade=self.fade)
        self.normal = WrappedNormalPrior(self.latents.features)
        self.normal.fit(torch.cat([self.latents.log0(x) for x in noised], -1))

    def draw(self, kind: str, count: int) -> list[str]:
        """`count` SMILES of a kind."""
        torch.manual_seed(self.seed)
        rng = torch.Generator().manual_seed(self.seed)
        if kind == "floor":
            return smiles_of(self.sampler, self.data, self.train[:count])
        if kind == "prior":
            return [s for part in self.sampler.sample(count, self.seed) for s in part]
        out: list[str] = []
        fade = 0.0 if kind == "points" else self.fade
        while len(out) < count:
            size = min(1024, count - len(out))
            if kind == "normal":
                tree, graph = self.normal.sample(size, rng).chunk(2, -1)
                z = Latent(self.latents.exp0(tree), self.latents.exp0(graph))
            else:
                rows = torch.randint(len(self.points.tree), (size,), generator=rng)
                z = Latent(*(x[rows] for x in self.points))
                if kind == "noised":
                    with torch.no_grad():
                        z = self.model.autoencoder.blur(z, rng, fade)
            out += self.sampler.smiles(self.sampler.decode(z, rng, fade=fade))
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("-n", type=int, default=10_000, help="molecules of each kind")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="kinds: floor points noised normal prior")
    parser.add_argument("--fade", type=float, help="the model's own if left out")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.jobs)
    console = Console()
    found: dict[str, dict[str, float | None]] = {}
    for folder in args.models:
        sources = Sources(folder, args.seed, console, args.fade)
        for kind in args.only or ("floor", "points", "noised", "normal", "prior"):
            report = evaluate(
                sources.draw(kind, args.n), metrics=METRICS, reference=sources.reference, n_jobs=args.jobs
            )
            found[f"{folder} {kind}"] = report.metrics
            row = ", ".join(f"{k} {v:.4f}" for k, v in report.metrics.items() if v is not None)
            console.print(f"{folder} {kind}: {row}", highlight=False, soft_wrap=True)
            if args.json:
                args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
