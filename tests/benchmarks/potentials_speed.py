"""Energy and forces beside MACE: time, memory, and cost against the number of atoms.

    HYPERKIT_DATA=/path/to/data python tests/benchmarks/potentials_speed.py [--models FOLDER ...]
        [--ours NAME ...] [--mace /path/to/python] [--mace-channels 16 ...] [--peer NAME=/path/to/python ...]
        [--compile] [--bf16] [--only PART ...] [--threads 2] [--rounds 3]
    ... --scaling [--figure scaling.png]      # 10 to 2,000 atoms, exponent fitted

Each model runs in a process of its own; processes take turns and each figure is the median of the rounds'
medians. Structures are 3BPA (27 atoms) in batches of 1, 8 and 32, and one periodic box of 500 atoms made of
such molecules. Weights do not matter to the cost: without ``--models`` ours have random weights, by default
the presets `small`; ``--ours`` names others. ``--mace`` names an interpreter that has `mace-torch`; its
models have random weights, two layers, correlation 3, cutoff 5 Å and scalar messages unless
``--mace-degree`` says otherwise; other packages by ``--peer`` (see `potentials_peers.py`). ``--bf16`` adds
ours with matrix products in bfloat16. Ratios of the others to ours (more is better for ours) follow the
table. Memory is the peak during an evaluation above what the process held before the first one (Linux).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from potentials_peers import PEERS, mace

OURS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "escaip": ("small", "escaip", {}),
    "escaip-48": ("small", "escaip", {"width": 48, "layers": 2, "heads": 2, "degrees": 3}),
    "escaip-32": ("small", "escaip", {"width": 32, "layers": 2, "heads": 2, "degrees": 2}),
    # As many parameters, the same cutoff and number of neighbours as `escaip-public`.
    "escaip-3M": ("medium", "escaip", {"width": 192, "layers": 5, "heads": 6, "max_neighbors": 30}),
    "escaip-medium": ("medium", "escaip", {}),
    "escaip-large": ("large", "escaip", {}),
    "transformer": ("small", "transformer", {}),
    "transformer-medium": ("medium", "transformer", {}),
    "transformer-large": ("large", "transformer", {}),
}
SIZES = (10, 27, 54, 108, 250, 500, 1000, 2000)


def molecules(count: int) -> list[Any]:
    """The first 3BPA configurations, as ASE atoms without labels."""
    import ase.io

    path = Path(os.environ["HYPERKIT_DATA"]) / "potentials" / "3bpa" / "train_300K.xyz"
    found = ase.io.read(path, index=f":{count}")
    for atoms in found:
        atoms.calc = None
        atoms.info.clear()
    return found


def box(atoms: int) -> Any:
    """A periodic box of about so many atoms at a liquid's density: molecules on a grid of 6.5 Å."""
    one = molecules(1)[0]
    one.positions -= one.positions.mean(0)
    count = max(1, round(atoms / len(one)))
    side = int(np.ceil(count ** (1 / 3)))
    # Turned at random, so that neighbours do not repeat; far enough apart not to overlap.
    random, spacing, joined = np.random.default_rng(0), 9.0, None
    for k in range(count):
        copy = one.copy()
        copy.rotate(float(random.uniform(0, 360)), random.normal(size=3))
        copy.positions += spacing * np.array([k % side, k // side % side, k // side**2])
        joined = copy if joined is None else joined + copy
    assert joined is not None
    joined.set_cell([spacing * side] * 3)
    joined.pbc = True
    return joined[:atoms] if len(joined) > atoms else joined


def ours(spec: dict[str, Any]) -> tuple[Callable[[list[Any]], Any], Callable[[Any, bool], Any], int]:
    import torch

    from hyperkit_mol.potentials import Normalization, Potential, load_config, load_potential
    from hyperkit_mol.potentials.data import from_ase

    if spec.get("folder"):
        model = load_potential(spec["folder"])
        # The cost of 3BPA's nitrogen is that of any element.
        config = model.config
    else:
        preset, kind, changes = OURS[spec["config"]]
        config = load_config(preset, kind, {f"model.{k}": v for k, v in changes.items()}).model
    units = Normalization({1: -13.0, 6: -1000.0, 7: -1500.0, 8: -2000.0}, -5.0, 1.0)
    torch.manual_seed(0)
    model = Potential(config, units, 20.0)
    model.mixed = spec["bf16"]
    if spec["compile"]:
        model.compiled()

    def prepare(frames: list[Any]) -> Any:
        return model.prepare([from_ase(a, name="frame") for a in frames])

    def run(batch: Any, train: bool) -> None:
        model.train(train).requires_grad_(train)
        found = model(batch)
        if train:  # the loss stays in float32, as in training
            (found.energy.square().mean() + found.forces.square().mean()).backward()
            model.zero_grad()

    return prepare, run, sum(p.numel() for p in model.parameters())


def median(run: Callable[[], Any], seconds: float) -> float:
    """Median milliseconds of a call, over `seconds` or three calls."""
    run()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        begin = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def held() -> float:
    """MiB that the process holds, after a fresh start of its peak."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    """Largest MiB since :func:`held`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 1024


def worker(spec: dict[str, Any]) -> dict[str, Any]:
    """What one process measures."""
    import torch

    torch.set_num_threads(spec["threads"])
    if spec.get("peer"):
        build, more = PEERS[spec["peer"]]
        prepare, run, parameters = build(spec | more)
    else:
        prepare, run, parameters = (mace if spec["name"].startswith("mace") else ours)(spec)
    out: dict[str, Any] = {"parameters": parameters}
    batch = prepare(molecules(1)[:1])
    run(batch, False)
    start = held()

    def measure(name: str, frames: list[Any], train: bool, seconds: float) -> None:
        if spec["only"] and not any(name.startswith(part) for part in spec["only"]):
            return
        batch = prepare(frames)
        held()
        out[name] = median(lambda: run(batch, train), seconds)
        out[f"{name} MiB"] = peak() - start

    if spec["scaling"]:
        for atoms in SIZES:
            frames = [box(atoms)] if atoms > 27 else [molecules(1)[0][:atoms]]
            for a in frames:
                # The Transformer has no periodic images.
                a.pbc = bool(a.pbc.any()) and "transformer" not in spec["name"]
            measure(f"{len(frames[0])} atoms", frames, False, 1.0)
        return out
    for size in (1, 8, 32):
        measure(f"inference {size}", molecules(size), False, 2.0)
    # Without periodic images: the Transformer, and the public EScAIP as it is built here. AIMNet2's cell list
    # (nvalchemiops 0.4 on a CPU) ends in a segmentation fault.
    if not any(word in spec["name"] for word in ("transformer", "public", "aimnet2")):
        measure("inference box", [box(500)], False, 2.0)
    measure("training 8", molecules(8), True, 3.0)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=[], help="model folders; the presets if left out")
    parser.add_argument("--ours", nargs="*", choices=OURS, default=["escaip", "transformer"])
    parser.add_argument("--peer", nargs="*", default=[], metavar="NAME=PYTHON", help=", ".join(PEERS))
    parser.add_argument("--only", nargs="*", default=[], help="parts to measure, such as 'training 8'")
    parser.add_argument("--bf16", action="store_true", help="ours with matrix products in bfloat16 as well")
    parser.add_argument("--mace", help="an interpreter with mace-torch")
    parser.add_argument("--mace-channels", type=int, nargs="*", default=[16, 64])
    parser.add_argument("--mace-degree", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="ours compiled as well")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path, help="picture of --scaling")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print("RESULT " + json.dumps(worker(json.loads(args.worker))))
        return
    if "HYPERKIT_DATA" not in os.environ:
        sys.exit("HYPERKIT_DATA is not set; it names the folder that holds potentials/3bpa")
    common = {"threads": args.threads, "scaling": args.scaling, "compile": False, "bf16": False}
    common["only"] = args.only
    specs: list[tuple[str, dict[str, Any]]] = []
    for folder in args.models:
        name = f"ours {Path(folder).resolve().parent.name}"
        specs.append((sys.executable, common | {"name": name, "folder": folder}))
    if not args.models:
        for name in args.ours:
            specs.append((sys.executable, common | {"name": f"ours {name}", "config": name}))
    if args.bf16:
        specs += [(p, s | {"name": s["name"] + ", bf16", "bf16": True}) for p, s in specs]
    if args.compile:
        specs += [(p, s | {"name": s["name"] + ", compiled", "compile": True}) for p, s in specs]
    for channels in args.mace_channels if args.mace else []:
        name = f"mace {channels} channels, degree {args.mace_degree}"
        specs.append((args.mace, common | {"name": name, "channels": channels, "degree": args.mace_degree}))
    for word in args.peer:
        name, _, python = word.partition("=")
        if name not in PEERS or not python:
            sys.exit(f"--peer takes NAME=PYTHON with a name of {', '.join(PEERS)}; got {word!r}")
        specs.append((python, common | {"name": name, "peer": name}))
    found: dict[str, list[dict[str, float]]] = {s["name"]: [] for _, s in specs}
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    for _ in range(args.rounds):
        for python, spec in specs:
            command = [python, str(Path(__file__).resolve()), "--worker", json.dumps(spec)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            lines = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")]
            if not lines:
                sys.exit(f"{spec['name']} failed:\n{done.stderr[-3000:]}")
            found[spec["name"]].append(json.loads(lines[-1][7:]))
    table = {
        name: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for name, rows in found.items()
    }
    show(table, args.scaling)
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))
    if args.figure and args.scaling:
        draw(table, args.figure)


def points(row: dict[str, float], ending: str = " atoms") -> np.ndarray:
    """Atoms and values ``(n, 2)``."""
    return np.array([(int(k.split()[0]), v) for k, v in row.items() if k.endswith(ending)])


def exponent(values: np.ndarray) -> float:
    """Slope of the logarithms above 100 atoms."""
    large = np.log(values[values[:, 0] > 100])
    return float(np.polyfit(large[:, 0], large[:, 1], 1)[0])


def show(table: dict[str, dict[str, float]], scaling: bool) -> None:
    """Print the table, times in ms and memory in MiB, and ratios."""
    columns = list(dict.fromkeys(k for row in table.values() for k in row))
    print("| model | " + " | ".join(columns) + " |" + (" exponent above 100 atoms |" if scaling else ""))
    print("|---" * (len(columns) + 1 + scaling) + "|")
    for name, row in table.items():
        cells = [
            f"{row[k]:,.0f}" if k in row and row[k] >= 100 else f"{row.get(k, float('nan')):.1f}"
            for k in columns
        ]
        if scaling:
            cells.append(f"{exponent(points(row)):.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |")
    for ours in (n for n in table if n.startswith("ours")):
        for peer in (n for n in table if not n.startswith("ours")):
            both = [k for k in table[ours] if k in table[peer] and k != "parameters"]
            parts = ", ".join(f"{k} {table[peer][k] / table[ours][k]:.2f}" for k in both)
            print(f"{peer} / {ours}: {parts}")


def draw(table: dict[str, dict[str, float]], path: Path) -> None:
    """Time and memory against the number of atoms, with the fitted exponents."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.8), layout="constrained")
    for (name, row), color in zip(table.items(), ("#0b6e75", "#b4541a", "#1c2330", "#7a7f8a"), strict=False):
        for axis, ending in zip(axes, (" atoms", " atoms MiB"), strict=True):
            values = points(row, ending)
            label = name.removeprefix("ours ")
            if ending == " atoms":  # memory has a step where large structures begin to go by parts
                label += f": exponent {exponent(values):.2f}"
            axis.plot(*values.T, marker="o", markersize=3.5, linewidth=1.4, color=color, label=label)
    for axis, title in zip(axes, ("energy and forces (ms)", "peak memory (MiB)"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="atoms", title=title)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=7, loc="upper left")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
