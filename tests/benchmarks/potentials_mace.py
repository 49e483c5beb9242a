"""MACE trained on acetylacetone by its own trainer, on the split that ours are trained on.

    HYPERKIT_DATA=/path/to/data python tests/benchmarks/potentials_mace.py --mace /path/to/python
        [--channels 16] [--epochs 100] [--seed 0] -o FOLDER

`--mace` names an interpreter that has `mace-torch`. The training and validation structures are those of
potentials_accuracy.py with the same seed. Settings are MACE's for small sets (Adam with amsgrad, rate 0.01,
averaged weights, batches of 5), the model that of potentials_speed.py: two layers, correlation 3, 5 Å, scalar
messages. The rate falls to a hundredth over the epochs. `mace_run_train` keeps the epoch that is best on
validation; the two test files are read once, after it has ended. float32, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write(path: Path, structures: Sequence[Any]) -> None:
    """As MACE reads it: its own names for the labels, which no reader takes for a calculator's."""
    import ase.io
    from ase import Atoms

    frames = []
    for s in structures:
        atoms = Atoms(s.numbers, s.positions, info={"REF_energy": s.energy})
        atoms.arrays["REF_forces"] = s.forces
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")


def train(args: argparse.Namespace, data: Path) -> Path:
    """Run `mace_run_train`; the model it leaves."""
    from hyperkit_mol.potentials.config import DataConfig
    from hyperkit_mol.potentials.pipeline import load_data

    config = DataConfig(train=str(data / "train_300K.xyz"), isolated_atoms=str(data / "isolated_atoms.xyz"))  # pyright: ignore[reportCallIssue]
    part, held, atoms = load_data(config, args.seed)
    assert atoms is not None
    args.output.mkdir(parents=True, exist_ok=True)
    write(args.output / "train.xyz", part)
    write(args.output / "valid.xyz", held)
    settings = {
        "name": "mace",
        "work_dir": ".",
        "model": "ScaleShiftMACE",
        "train_file": "train.xyz",
        "valid_file": "valid.xyz",
        "E0s": str({int(z): float(e) for z, e in atoms.items()}),
        "num_channels": args.channels,
        "max_L": 0,
        "num_interactions": 2,
        "correlation": 3,
        "max_ell": 3,
        "r_max": 5.0,
        "num_radial_basis": 8,
        "num_cutoff_basis": 6,
        "batch_size": 5,
        "valid_batch_size": 10,
        "max_num_epochs": args.epochs,
        "eval_interval": max(1, args.epochs // 50),
        "patience": 10 * args.epochs,
        "lr": 0.01,
        "scheduler": "ExponentialLR",
        "lr_scheduler_gamma": 0.01 ** (1.0 / args.epochs),
        "weight_decay": 5e-7,
        "ema_decay": 0.99,
        "energy_weight": 1.0,
        "forces_weight": 100.0,
        "default_dtype": "float32",
        "device": "cpu",
        "error_table": "TotalRMSE",
        "plot": False,
        "seed": args.seed,
    }
    command = [args.mace, "-W", "ignore", "-m", "mace.cli.run_train", "--amsgrad", "--ema"]
    command += [f"--{k}={v}" for k, v in settings.items()]
    (args.output / "command.json").write_text(json.dumps(command, indent=1))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (args.output / "train.log").open("w") as log:
        subprocess.run(
            command, cwd=args.output, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True
        )
    return args.output / "mace.model"


def errors(spec: dict[str, Any]) -> dict[str, Any]:
    """RMSE of a saved model, in MACE's interpreter."""
    import ase.io
    import torch
    from mace import data, tools
    from mace.tools import torch_geometric

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    model = torch.load(spec["model"], map_location="cpu", weights_only=False).float()
    table = tools.AtomicNumberTable([int(z) for z in model.atomic_numbers])
    out: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters() if p.requires_grad)}
    for name, path in spec["files"].items():
        frames: Any = ase.io.read(path, index=":")
        own = "REF_energy" in frames[0].info
        energies = [a.info["REF_energy"] if own else a.get_potential_energy() for a in frames]
        forces = np.concatenate([a.arrays["REF_forces"] if own else a.get_forces() for a in frames])
        for a in frames:
            a.calc = None
        rows = [
            data.AtomicData.from_config(data.config_from_atoms(a), z_table=table, cutoff=5.0) for a in frames
        ]
        found = [
            model(batch.to_dict(), compute_force=True)
            for batch in torch_geometric.dataloader.DataLoader(rows, batch_size=10, shuffle=False)
        ]
        energy = np.concatenate([f["energy"].detach().double().numpy() for f in found])
        force = np.concatenate([f["forces"].detach().double().numpy() for f in found])
        out[name] = {
            "structures": len(frames),
            "energy_rmse": 1e3 * float(np.sqrt(np.mean(np.square(energy - energies)))),
            "force_rmse": 1e3 * float(np.sqrt(np.mean(np.square(force - forces)))),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mace", help="an interpreter with mace-torch")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print("RESULT " + json.dumps(errors(json.loads(args.worker))))
        return
    if not args.mace or args.output is None:
        parser.error("--mace and -o are needed")
    root = os.environ.get("HYPERKIT_DATA")
    if not root:
        sys.exit("HYPERKIT_DATA is not set; it names the folder that holds potentials/acac")
    data = Path(root).resolve() / "potentials" / "acac"
    args.output = args.output.resolve()
    begin = time.perf_counter()
    model = train(args, data)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "seconds": round(time.perf_counter() - begin),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime),
    }
    files = {"validation": str(args.output / "valid.xyz")}
    files |= {name: str(data / f"{name}.xyz") for name in ("test_MD_300K", "test_MD_600K")}
    spec = json.dumps({"model": str(model), "files": files})
    command = [args.mace, "-W", "ignore", str(Path(__file__).resolve()), "--worker", spec]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")]
    if not lines:
        sys.exit(f"the test failed:\n{done.stderr[-3000:]}")
    result |= json.loads(lines[-1][7:])
    for name in files:
        print(
            f"{name}: energy {result[name]['energy_rmse']:.2f} meV, forces {result[name]['force_rmse']:.2f}"
        )
    (args.output / "accuracy.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
