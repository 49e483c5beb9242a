"""Accuracy on acetylacetone: train on train_300K, test once on test_MD_300K and test_MD_600K.

Validation comes out of the training file; the tests are read after training has ended. Run

    HYPERKIT_DATA=/path/to/data python tests/benchmarks/potentials_accuracy.py [--model escaip|transformer]
        [--attention euclidean|lorentz] [--steps N] [--max-time SECONDS] [--limit N] [--seed S] [--compile]
        [--start MODEL] [--set KEY=VALUE ...] -o FOLDER

Published root mean square errors on the same files (Batatia et al., MACE, NeurIPS 2022, table 3), meV and
meV/Å at 300 K and 600 K: MACE 0.9/5.1 and 4.6/22.4, NequIP 0.81/5.90 and 6.04/27.8, BOTNet 0.89/6.3 and
6.2/29.8. Those models trained for hours to days on a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import sys
from pathlib import Path

import numpy as np
import torch

from hyperkit_mol.potentials import Potential, load_config, load_potential, read_structures
from hyperkit_mol.potentials.pipeline import evaluate, predict, train
from hyperkit_mol.potentials.training import random_rotations
from hyperkit_mol.terminal import overrides


def rotation_error(potential: Potential, path: Path, count: int = 50, turns: int = 8) -> tuple[float, float]:
    """RMS change of energies (meV) and of forces turned back (meV/Å) under random rotations."""
    structures = read_structures(path)[:count]
    energy, forces = predict(potential, structures)
    e, f = [], []
    for rotation in random_rotations(turns, torch.Generator().manual_seed(0)).numpy():
        turned = [dataclasses.replace(s, positions=s.positions @ rotation.T, forces=None) for s in structures]
        energy2, forces2 = predict(potential, turned)
        e.append(energy2 - energy)
        f += [(b @ rotation - a).ravel() for a, b in zip(forces, forces2, strict=True)]
    return (
        1e3 * float(np.sqrt(np.mean(np.square(e)))),
        1e3 * float(np.sqrt(np.mean(np.square(np.concatenate(f))))),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="escaip", choices=("escaip", "transformer"))
    parser.add_argument("--attention", default="euclidean", choices=("euclidean", "lorentz"))
    parser.add_argument("--steps", type=int, help="the preset's number if left out")
    parser.add_argument("--max-time", type=float, default=900.0, help="seconds of training")
    parser.add_argument("--limit", type=int, help="train and validate on this many of the 500 structures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="compile energy and forces into one graph")
    parser.add_argument("--start", type=Path, help="begin from the weights of this model folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    root = os.environ.get("HYPERKIT_DATA")
    if not root:
        sys.exit("HYPERKIT_DATA is not set; it names the folder that holds potentials/acac")
    torch.set_num_threads(args.threads)
    data = Path(root) / "potentials" / "acac"
    settings = {
        "seed": args.seed,
        "model.attention": args.attention,
        "data.train": str(data / "train_300K.xyz"),
        "data.isolated_atoms": str(data / "isolated_atoms.xyz"),
        "data.limit": args.limit,
        "training.compile": args.compile,
        "training.start": None if args.start is None else str(args.start),
    }
    if args.steps is not None:
        settings["training.steps"] = args.steps
    settings |= overrides(args.set)
    found = train(load_config("small", args.model, settings), args.output, max_seconds=args.max_time)
    potential = load_potential(found.model)
    potential.requires_grad_(False)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, load "
        f"{os.getloadavg()[0]:.1f}, {args.threads} thread, torch {torch.__version__}",
        "parameters": sum(p.numel() for p in potential.parameters()),
        "info": potential.info,
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }
    for name in ("test_MD_300K", "test_MD_600K"):
        errors = evaluate(potential, data / f"{name}.xyz")
        result[name] = {k: round(v, 3) for k, v in dataclasses.asdict(errors).items()}
        print(f"{name}: energy {errors.energy_rmse:.2f} meV, forces {errors.force_rmse:.2f} meV/Å (RMSE)")
    result["rotation_rms"] = rotation_error(potential, data / "test_MD_300K.xyz")
    print(
        "rotation changes energies by {:.2g} meV and forces by {:.2g} meV/Å".format(*result["rotation_rms"])
    )
    (args.output / "accuracy.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
