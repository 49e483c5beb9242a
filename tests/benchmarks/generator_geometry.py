"""What the geometry buys: autoencoders on both geometries at several latent dimensions, else all equal.

    python tests/benchmarks/generator_geometry.py train --latent 8 16 32 64 --seeds 0 1 2 --out runs/geometry
    python tests/benchmarks/generator_geometry.py measure runs/geometry
    python tests/benchmarks/generator_geometry.py take runs/a/model runs/b/model --out runs/longer

``train`` trains each combination for the same steps from the start (no tuning for either geometry), encodes
held-out molecules, fits a wrapped normal (Euclidean: a normal) to the faded latents of training molecules and
samples from it; one file for each. What is there already is not made again. ``take`` does the same with
models that `hyperkit-mol train` has trained on the preset's data with seed 0, one of each kind.
``measure`` (RDKit, minutes) prints the table, mean and standard deviation over seeds: exact reconstruction of
held-out molecules, FCD, SNN and Scaf of the samples against *other held-out training* molecules (not MOSES's
test sets), and rank correlations of latent distance with Tanimoto distance and with the edit distance of
motif trees.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from hyperkit_mol.chem.prepare import TreeDataset
from hyperkit_mol.generator import pipeline
from hyperkit_mol.generator.autoencoder import Autoencoder, Latent
from hyperkit_mol.generator.config import RunConfig, load_config
from hyperkit_mol.generator.latent import WrappedNormalPrior
from hyperkit_mol.generator.lightning_modules import AutoencoderTraining
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.generator.sampling import Sampler
from hyperkit_mol.generator.stream import BatchStream, batches_of, split

SETTINGS: dict[str, Any] = {
    "model.width": 96,
    "model.feed_forward": 192,
    "model.site_width": 24,
    "model.decoder_layers": 2,
    "model.kl_weight": 0.02,
    "autoencoder.warmup": 40,
    "autoencoder.kl_warmup": 100,
}
FIELDS = ("label", "parent", "site", "length")


def configuration(
    geometry: str, latent: int, seed: int, steps: int, batch: int, lr: float = 4e-3
) -> RunConfig:
    """The preset with small sizes, and what is varied."""
    varied = {"model.geometry": geometry, "model.latent": latent, "seed": seed}
    length = {"autoencoder.steps": steps, "autoencoder.batch_size": batch, "autoencoder.lr": lr}
    return load_config("moses-cpu", SETTINGS | varied | length)


def fit(
    model: Autoencoder, config: RunConfig, data: TreeDataset, device: str, workers: int, tag: str
) -> float:
    """Train by the pipeline's own module, in a plain loop; seconds."""
    cfg = config.autoencoder
    train, held = split(data, config.data.validation, None, 0)
    stage = AutoencoderTraining(model, config, data, train, held)
    chosen = stage.configure_optimizers()
    optimizer, schedule = chosen["optimizer"], chosen["lr_scheduler"]["scheduler"]
    stream = BatchStream(data, train, batch_size=cfg.batch_size, seed=config.seed, by_size=cfg.by_size)
    begin = last = time.monotonic()
    for batch in stream.section(0, cfg.steps, workers):
        stage.seed_step()
        loss = model({k: v.to(device, non_blocking=True) for k, v in batch.items()}).total(stage.kl_weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
        optimizer.step()
        schedule.step()
        stage.step += 1
        if stage.step == 5 or time.monotonic() - last > 20:
            last = time.monotonic()
            left = (last - begin) / stage.step * (cfg.steps - stage.step)
            print(
                f"{tag}: step {stage.step}/{cfg.steps}, loss {float(loss.detach()):.2f}, {left:.0f} s left",
                flush=True,
            )
    if device != "cpu":
        torch.cuda.synchronize()
    return time.monotonic() - begin


@torch.no_grad()
def validate(model: Autoencoder, data: TreeDataset, index: np.ndarray, device: str) -> dict[str, float]:
    """Losses and the part decoded exactly, of held-out molecules by their posterior means."""
    total = np.zeros(4)
    for _, batch in batches_of(data, index, 2048):
        found = model({k: v.to(device) for k, v in batch.items()})
        r = found.reconstruction
        total += [float(x.sum()) for x in (r.label, r.site, r.exact, found.kl)]
    return dict(zip(("label", "site", "exact", "kl"), (total / len(index)).tolist(), strict=True))


@torch.no_grad()
def encode(model: Autoencoder, data: TreeDataset, index: np.ndarray, device: str) -> Latent:
    """Posterior means of molecules, in their order, on the device."""
    rows, found = [], []
    for part, batch in batches_of(data, index, 2048):
        rows.append(part)
        found.append(model.encode({k: v.to(device) for k, v in batch.items()}))
    order = torch.from_numpy(np.argsort(np.concatenate(rows))).to(device)
    return Latent(*(torch.cat([z[i] for z in found])[order] for i in range(2)))


@torch.no_grad()
def sample(
    path: Path, model: MoleculeGenerator, prior: WrappedNormalPrior, held: Latent, count: int, result: dict
) -> None:
    """Sample on the CPU and write everything; in a process of its own, so that training can go on."""
    torch.set_num_threads(1)
    sampler, latents, out = Sampler(model.eval()), model.autoencoder.latents, []
    for number, begin in enumerate(range(0, count, 1000)):
        rng = torch.Generator().manual_seed(1000 + number)
        tree, graph = prior.sample(min(1000, count - begin), rng).chunk(2, -1)
        z = Latent(latents.exp0(tree), latents.exp0(graph))
        out.append(sampler.decode(z, rng, fade=model.config.fade))
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(t, name) for t in out]).astype(np.int32) for name in FIELDS
    }
    tree, graph = (z.numpy() for z in held)
    part = path.with_suffix(".part")
    with part.open("wb") as stream:
        np.savez_compressed(stream, tree=tree, graph=graph, result=json.dumps(result), **arrays)
    part.rename(path)


def keep(
    path: Path, model: MoleculeGenerator, data: TreeDataset, args: argparse.Namespace, result: dict
) -> BaseProcess:
    """Validate a trained model, encode, fit the normal and begin to sample: the process that does."""
    auto, device = model.autoencoder.eval(), result["device"]
    seed = result["seed"]
    # The same molecules are held out for every seed: figures are compared over them.
    index, held = split(data, model.config.data.validation, None, 0)
    found = validate(auto, data, held[: args.held], device) | result
    found["parameters"] = sum(p.numel() for p in auto.parameters())
    print(found, flush=True)
    prior = WrappedNormalPrior(auto.latents.features).to(device)
    torch.manual_seed(seed)
    with torch.no_grad():
        faded = auto.blur(encode(auto, data, index[:20_000], device), fade=model.config.fade)
        prior.fit(torch.cat([auto.latents.log0(x) for x in faded], -1))
    points = Latent(*(x.cpu() for x in encode(auto, data, held[: args.pairs], device)))
    work = (path, model.cpu(), prior.cpu(), points, args.samples, found)
    writer = multiprocessing.get_context("fork").Process(target=sample, args=work)
    writer.start()
    return writer


def train(args: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    writers = []
    for seed in args.seeds:
        for latent in args.latent:
            for geometry in args.geometries:
                path = args.out / f"{geometry}-{latent}-{seed}.npz"
                if path.exists():
                    continue
                config = configuration(geometry, latent, seed, args.steps, args.batch, args.lr)
                data = pipeline.load_data(config, Console())
                torch.manual_seed(seed)
                model = MoleculeGenerator(data.vocabulary, config)
                auto = model.autoencoder.to(device).train()
                seconds = fit(auto, config, data, device, args.workers, path.stem)
                result = {"geometry": geometry, "latent": latent, "seed": seed, "seconds": seconds}
                result |= {"steps": args.steps, "batch": args.batch, "lr": args.lr, "device": device}
                writers.append(keep(path, model, data, args, result))
    for writer in writers:
        writer.join()


def take(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    for folder in args.models:
        model = MoleculeGenerator.load(folder)
        config = model.config
        sizes = {"geometry": config.model.geometry, "latent": config.model.latent, "seed": config.seed}
        path = args.out / f"{sizes['geometry']}-{sizes['latent']}-{sizes['seed']}.npz"
        if config.seed != 0 or config.data != load_config("moses-cpu").data:
            # Which molecules are held out hangs on both: some of these would have been trained on.
            raise SystemExit(f"{folder}: seed and data must be those of the preset moses-cpu")
        if path.exists():
            raise SystemExit(f"{path} is there already")
        data = pipeline.load_data(config, Console())
        keep(path, model, data, args, sizes | {"device": "cpu", "model": str(folder)}).join()


def edit_distance(a: tuple, b: tuple) -> int:
    """Edit distance of ordered labelled trees ``(label, children)``; insert, delete, rename cost 1 each."""

    @functools.cache
    def size(forest: tuple) -> int:
        return sum(1 + size(children) for _, children in forest)

    @functools.cache
    def forests(left: tuple, right: tuple) -> int:
        if not left or not right:
            return size(left) + size(right)
        (x, below_x), (y, below_y) = left[-1], right[-1]
        return min(
            forests(left[:-1] + below_x, right) + 1,
            forests(left, right[:-1] + below_y) + 1,
            forests(left[:-1], right[:-1]) + forests(below_x, below_y) + (x != y),
        )

    return forests((a,), (b,))


def trees_of(data: TreeDataset, index: np.ndarray) -> list[tuple]:
    """Motif trees as nested tuples, labelled by motif."""
    out: list[tuple] = [()] * len(index)
    motif = data.vocabulary.label_motif
    for rows, batch in batches_of(data, index, 1024):
        for row, label, parent, mask in zip(
            rows, *(batch[k].numpy() for k in ("label", "parent", "node_mask")), strict=True
        ):
            count = int(mask.sum())
            below: list[list[tuple]] = [[] for _ in range(count)]
            for n in range(count - 1, -1, -1):  # children come after their parent
                tree = (int(motif[label[n]]), tuple(reversed(below[n])))
                if n:
                    below[parent[n]].append(tree)
                else:
                    out[row] = tree
    return out


def measure(args: argparse.Namespace) -> None:
    from generator_priors import smiles_of
    from rdkit import Chem, DataStructs
    from rdkit.Chem import rdFingerprintGenerator
    from scipy.stats import spearmanr

    from hyperkit_mol.generator.explore import distance
    from hyperkit_mol.generator.sampling import SampledTrees
    from hyperkit_mol.moses import evaluate

    torch.set_num_threads(args.threads)
    files = sorted(args.folder.glob("*.npz"))
    if not files:
        raise SystemExit(f"{args.folder}: no files of a training")
    config = configuration("lorentz", 8, 0, 1, 2)
    data = pipeline.load_data(config, Console())
    _, held = split(data, config.data.validation, None, 0)
    sampler = Sampler(MoleculeGenerator(data.vocabulary, config))
    reference = args.folder / "reference.smi"
    if not reference.exists():
        reference.write_text("\n".join(smiles_of(sampler, data, held[len(held) // 2 :])) + "\n")
    pairs = len(np.load(files[0])["tree"])
    smiles = smiles_of(sampler, data, held[:pairs])
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    prints = [generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in smiles]
    rng = np.random.default_rng(0)
    a, b = rng.integers(pairs, size=(2, args.distances))
    tanimoto = [1 - DataStructs.TanimotoSimilarity(prints[i], prints[j]) for i, j in zip(a, b, strict=True)]
    trees = trees_of(data, held[:pairs])
    edits = [edit_distance(trees[i], trees[j]) for i, j in zip(a, b, strict=True)]
    cache = args.folder / "measured.json"
    found: dict[str, dict[str, Any]] = json.loads(cache.read_text()) if cache.exists() else {}
    for path in files:
        if path.stem in found:
            continue
        with np.load(path) as file:
            result = json.loads(str(file["result"]))
            made = SampledTrees(*(file[name] for name in FIELDS))
            points = [torch.from_numpy(file[name]) for name in ("tree", "graph")]
        own = configuration(result["geometry"], result["latent"], 0, 1, 2)
        first, second = (Latent(points[0][k], points[1][k]) for k in (a, b))
        apart = distance(MoleculeGenerator(data.vocabulary, own), first, second).numpy()
        report = evaluate(
            sampler.smiles(made),
            metrics=("FCD", "SNN", "Scaf", "Filters"),
            reference=reference,
            n_jobs=args.threads,
        )
        result |= {k.removesuffix("/Test"): v for k, v in report.metrics.items()}  # of the reference
        result |= {
            "tanimoto": float(np.asarray(spearmanr(apart, tanimoto))[0]),
            "edit": float(np.asarray(spearmanr(apart, edits))[0]),
        }
        found[path.stem] = result
        print(path.stem, {k: round(v, 4) for k, v in result.items() if isinstance(v, float)}, flush=True)
        cache.write_text(json.dumps(found, indent=1))
    head = (
        "latent, geometry, parameters, reconstructed, KL in nats, FCD, SNN, Scaf, Tanimoto, tree edit, seeds"
    )
    print("\n| " + head.replace(", ", " | ") + " |\n" + "|---" * 11 + "|")
    for latent in sorted({r["latent"] for r in found.values()}):
        for geometry in ("lorentz", "euclidean"):
            group = [r for r in found.values() if (r["latent"], r["geometry"]) == (latent, geometry)]
            if not group:
                continue

            def cell(key: str, digits: int, group: list = group) -> str:
                values = [r[key] * (100 if key == "exact" else 1) for r in group]
                return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"

            columns = [
                ("exact", 1),
                ("kl", 1),
                ("FCD", 3),
                ("SNN", 3),
                ("Scaf", 3),
                ("tanimoto", 3),
                ("edit", 3),
            ]
            row = [
                str(latent),
                geometry,
                f"{group[0]['parameters']:,}",
                *(cell(*c) for c in columns),
                str(len(group)),
            ]
            print("| " + " | ".join(row) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    fitting = verbs.add_parser("train")
    fitting.add_argument("--geometries", nargs="+", default=["lorentz", "euclidean"])
    fitting.add_argument("--latent", nargs="+", type=int, default=[8, 16, 32, 64])
    fitting.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    fitting.add_argument("--steps", type=int, default=300)
    fitting.add_argument("--batch", type=int, default=2560)
    fitting.add_argument("--lr", type=float, default=4e-3)
    fitting.add_argument("--workers", type=int, default=0, help="processes that make batches, for a GPU")
    fitting.set_defaults(run=train)
    taking = verbs.add_parser("take")
    taking.add_argument("models", nargs="+", type=Path)
    taking.set_defaults(run=take)
    for verb in (fitting, taking):
        verb.add_argument("--samples", type=int, default=10_000)
        verb.add_argument("--held", type=int, default=4000, help="held-out molecules to reconstruct")
        verb.add_argument("--pairs", type=int, default=1500, help="held-out molecules whose latents are kept")
        verb.add_argument("--threads", type=int, default=1)
        verb.add_argument("--out", type=Path, required=True)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("--distances", type=int, default=10_000, help="pairs of held-out molecules")
    measuring.add_argument("--threads", type=int, default=1)
    measuring.set_defaults(run=measure)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
