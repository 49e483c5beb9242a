"""Pictures of a generator's latent space, and how it orders molecules.

    python tests/benchmarks/generator_latents.py runs/moses/model --out docs/assets/generator

Held-out molecules' latents on the Poincaré disk: the radius is the latent's own distance from the origin, the
angle that of its first two principal directions. Coloured by heavy atoms, rings and depth of the motif tree;
then beside latents of the prior. Printed: rank correlation of latent distance with fingerprint distance, of
radius with size, rings and depth, and how real and generated latents differ.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from generator_priors import smiles_of
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rich.console import Console
from scipy.stats import spearmanr

from hyperkit_mol.generator.autoencoder import Latent
from hyperkit_mol.generator.explore import distance
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.generator.pipeline import load_data
from hyperkit_mol.generator.sampling import Sampler
from hyperkit_mol.generator.stream import batches_of, split

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("-n", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/assets/generator"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    torch.manual_seed(args.seed)
    model = MoleculeGenerator.load(args.model)
    data = load_data(model.config, console)
    _, held = split(data, model.config.data.validation, None, model.config.seed)
    sampler, latents = Sampler(model), model.autoencoder.latents
    chosen = held[: args.n]
    real = model.autoencoder.encode_all(data, chosen)
    smiles = smiles_of(sampler, data, chosen)
    depths = np.zeros(len(chosen), np.int64)
    for rows, batch in batches_of(data, chosen, 1024):
        depths[rows] = batch["depth"].max(1).values.numpy()
    made = model.sample_latents(len(smiles), torch.Generator().manual_seed(args.seed))
    with torch.no_grad():
        blurred = model.autoencoder.blur(
            real, fade=model.config.fade
        )  # what the prior learns: latents with the training noise
    mols = [Chem.MolFromSmiles(s) for s in smiles]
    features = {
        "heavy atoms": np.array([m.GetNumHeavyAtoms() for m in mols]),
        "rings": np.array([m.GetRingInfo().NumRings() for m in mols]),
        "depth of the motif tree": depths,
    }

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    prints = [generator.GetFingerprint(m) for m in mols]
    rng = np.random.default_rng(args.seed)
    a, b = rng.integers(len(mols), size=(2, 20_000))
    similar = np.array(
        [DataStructs.TanimotoSimilarity(prints[i], prints[j]) for i, j in zip(a, b, strict=True)]
    )
    apart = distance(model, Latent(*(x[a] for x in real)), Latent(*(x[b] for x in real))).numpy()
    console.print(f"rank correlation of latent and Tanimoto distance: {spearmanr(apart, 1 - similar)[0]:.3f}")

    figure, axes = plt.subplots(2, 4, figsize=(17, 8.6))
    for row, name in enumerate(("tree", "graph")):
        vectors = latents.log0(getattr(real, name))
        generated = latents.log0(getattr(made, name))
        noisy = latents.log0(getattr(blurred, name))
        radius = vectors.norm(dim=-1)
        spread = ", ".join(
            f"{label} {v.norm(dim=-1).mean():.3f} ± {v.norm(dim=-1).std():.3f}"
            for label, v in (("means", vectors), ("with noise", noisy), ("generated", generated))
        )
        console.print(f"{name} latent: radius of {spread}", highlight=False)
        for label, values in features.items():
            console.print(f"  rank correlation of radius and {label}: {spearmanr(radius, values)[0]:.3f}")
        centre = vectors.mean(0)
        _, _, axis = torch.linalg.svd(vectors - centre, full_matrices=False)

        def place(v: torch.Tensor, axis: torch.Tensor = axis, centre: torch.Tensor = centre) -> np.ndarray:
            flat = (v - centre) @ axis[:2].T
            angle = torch.atan2(flat[:, 1], flat[:, 0])
            # Poincaré radius of a point at distance r from the origin.
            r = torch.tanh(v.norm(dim=-1) * latents.c**0.5 / 2) if latents.curved else v.norm(dim=-1)
            return torch.stack([r * angle.cos(), r * angle.sin()], 1).numpy()

        where = place(vectors)
        limit = 1.0 if latents.curved else float(np.abs(where).max()) * 1.05
        for ax, (label, values) in zip(axes[row], features.items(), strict=False):
            low, high = np.quantile(values, [0.01, 0.99])
            dots = ax.scatter(*where.T, c=values, s=4, cmap="viridis", vmin=low, vmax=high, linewidths=0)
            figure.colorbar(dots, ax=ax, shrink=0.8)
            ax.set_title(f"{name} latent: {label}", fontsize=10)
        ax = axes[row, 3]
        ax.scatter(*place(noisy).T, s=4, c="tab:blue", alpha=0.5, linewidths=0, label="held-out, with noise")
        ax.scatter(*place(generated).T, s=4, c="tab:orange", alpha=0.5, linewidths=0, label="prior")
        ax.legend(loc="upper right", fontsize=8, markerscale=3)
        ax.set_title(f"{name} latent: real and generated", fontsize=10)
        for ax in axes[row]:
            ax.add_patch(plt.Circle((0, 0), limit, fill=False, color="0.4", lw=0.8))
            ax.set_aspect("equal")
            ax.axis("off")
            ax.set_xlim(-1.05 * limit, 1.05 * limit)
            ax.set_ylim(-1.05 * limit, 1.05 * limit)
    figure.tight_layout()
    figure.savefig(args.out / "latents.png", dpi=80)


if __name__ == "__main__":
    main()
