"""A lot of everything: does memory stay flat?

::

    OMP_NUM_THREADS=1 python tests/benchmarks/load.py generate --model runs/demo/model --count 1000000
    OMP_NUM_THREADS=1 python tests/benchmarks/load.py evaluate --count 300000 --file million.smi
    OMP_NUM_THREADS=1 python tests/benchmarks/load.py train --set autoencoder.steps=1500
    OMP_NUM_THREADS=1 python tests/benchmarks/load.py label --count 10000

`label` kills the labelling once (SIGKILL), goes on with `--resume` and counts the frames.

Memory is that of all processes together: proportional set size, so that pages that processes share, and
files that are mapped, count once. Its slope is a least-squares line over the second half of the work, where
caches of torch and of the allocator have filled. Written out: MiB at the start of that half, at the end,
the peak, and MiB for every 100,000 molecules (for `evaluate` and `train`: for every 100,000 seconds).
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def family(pid: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue
    found, front = [pid], {pid}
    while front:
        front = {child for child, parent in parents.items() if parent in front} - set(found)
        found += sorted(front)
    return found


def memory(pid: int) -> float:
    """MiB of a process and its children (PSS)."""
    total = 0
    for member in family(pid):
        try:
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024


def watch(
    command: list[str], log: Path, progress: Callable[[], int], every: float, kill_at: float = float("inf")
) -> dict[str, float]:
    """Run a command and measure; `progress` says how much is done, and the command is killed at `kill_at`."""
    begin = time.monotonic()
    rows: list[tuple[int, float]] = []
    killed = False
    with log.open("ab") as stream:  # not a pipe, which would fill up
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    while process.poll() is None:
        done = progress()
        rows.append((done, memory(process.pid)))
        if done >= kill_at and not killed:
            process.kill()
            killed = True
        time.sleep(every)
    if process.returncode and not killed:
        raise SystemExit(log.read_text()[-2000:])
    seconds = time.monotonic() - begin
    work = np.array([r[0] for r in rows], float)
    size = np.array([r[1] for r in rows])
    peak = float(size.max())
    # The last sample may fall into the end, when workers are gone already.
    half = (work >= (work.min() + work.max()) / 2) & (size > 0.5 * np.median(size))
    out = {"seconds": seconds, "peak_MiB": peak, "samples": float(half.sum())}
    if half.sum() >= 8 and np.ptp(work[half]) > 0:
        slope = np.polyfit(work[half], size[half], 1)[0]
        out |= {
            "start_MiB": float(size[half][:3].mean()),
            "end_MiB": float(size[half][-3:].mean()),
            "MiB_per_100k": float(slope * 1e5),
        }
    return out


def verb(*words: object) -> list[str]:
    """The command line of a verb."""
    return [sys.executable, "-m", "hyperkit_mol", *map(str, words)]


def generate(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Sample `count` molecules; progress is read off the growing temporary file."""
    out = options.out or folder / "new.smi"

    def done() -> int:
        sizes = [p.stat().st_size for p in out.parent.iterdir() if p.name.startswith(f".{out.name}")]
        return int(max(sizes, default=out.stat().st_size if out.exists() else 0))

    command = verb("generate", "-m", options.model, "-o", out, "-n", options.count, "--jobs", options.jobs)
    found = watch(command, folder / "log", done, options.every)
    text = out.read_bytes()
    lines = text.count(b"\n")
    if "MiB_per_100k" in found:  # from bytes to molecules
        found["MiB_per_100k"] *= len(text) / lines
    return found | {"molecules": lines, "per_second": lines / found["seconds"]}


def evaluate(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Judge the first `count` molecules of a file, or as many training molecules."""
    from hyperkit_mol.moses.data import load_split

    if options.file:
        smiles = options.file.read_text().splitlines()[: options.count]
    else:
        smiles = random.Random(0).sample(load_split("train"), options.count)
    file = folder / "many.smi"
    file.write_text("\n".join(smiles) + "\n")
    command = verb("evaluate", file, "--jobs", options.jobs)
    if options.metrics:
        command += ["--metrics", options.metrics]
    begin = time.monotonic()
    found = watch(command, folder / "log", lambda: int(time.monotonic() - begin), options.every)
    print((folder / "log").read_text())
    return found | {"molecules": len(smiles)}


def train(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Train over the whole MOSES training set: memory over time, preparation included."""
    command = verb("train", "-c", "moses-cpu", "-o", folder / "run", "--jobs", options.jobs)
    if options.max_time:
        command += ["--max-time", options.max_time]
    for pair in options.set or []:
        command += ["--set", pair]
    begin = time.monotonic()
    found = watch(command, folder / "log", lambda: int(time.monotonic() - begin), options.every)
    print((folder / "log").read_text())
    return found


def label(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Label `count` conformers of MOSES's test molecules, five of each, killed once on the way."""
    import ase.io
    from ase import Atoms
    from rdkit.Chem import GetFormalCharge

    from hyperkit_mol.moses.data import load_split
    from hyperkit_mol.potentials.conformers import embed

    each, images = 5, []
    # The smaller ones: GFN2-xTB takes 54 ms of a core for an average one.
    chosen = [s for s in load_split("test") if len(s) <= options.longest]
    for smiles in random.Random(0).sample(chosen, len(chosen)):
        molecule = embed(smiles, conformers=each)
        for conformer in molecule.GetConformers():
            images.append(Atoms([a.GetAtomicNum() for a in molecule.GetAtoms()], conformer.GetPositions()))
            images[-1].info["charge"] = GetFormalCharge(molecule)
        if len(images) >= options.count:
            break
    given, out = folder / "conformers.xyz", folder / "labelled.extxyz"
    ase.io.write(given, images[: options.count], format="extxyz")
    parts = folder / "labelled.extxyz.parts"

    def done() -> int:
        return sum(p.stat().st_size for p in parts.glob("*.shard")) if parts.exists() else 0

    command = verb("potential", "label", "--structures", given, "-o", out, "--jobs", options.jobs)
    log = folder / "log"
    # Half of what the output will take: some 90 bytes for each atom.
    half = 45 * sum(len(atoms) for atoms in images[: options.count])
    first = watch(command, log, done, options.every, kill_at=half)
    print(f"killed after {first['seconds']:.0f} s, peak {first['peak_MiB']:.0f} MiB: {out.exists()=}")
    stored = done()
    second = watch([*command, "--resume"], log, done, options.every)
    print(log.read_text())
    frames = sum(1 for _ in ase.io.iread(out))
    size = out.stat().st_size
    if "MiB_per_100k" in second:  # from bytes to frames
        second["MiB_per_100k"] *= size / frames
    more = {"stored_when_killed": stored / size * frames, "first_seconds": first["seconds"]}
    return second | more | {"frames": frames}


KINDS = {"generate": generate, "evaluate": evaluate, "train": train, "label": label}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=tuple(KINDS))
    parser.add_argument("--model", type=Path, default=Path("runs/demo/model"))
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--metrics")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--max-time")
    parser.add_argument("--set", action="append", help="train: KEY=VALUE of the configuration")
    parser.add_argument("--file", type=Path, help="evaluate: these molecules")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between measurements")
    parser.add_argument("--longest", type=int, default=28, help="label: characters of a SMILES at most")
    parser.add_argument("--out", type=Path, help="generate: keep the molecules here")
    parser.add_argument("--tmp", help="folder for temporary files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hyperkit-load-", dir=options.tmp) as name:
        found = KINDS[options.what](options, Path(name))
    found["cores"] = len(os.sched_getaffinity(0))
    words = (f"{k} {v:,.4g}" if v < 1e4 else f"{k} {v:,.0f}" for k, v in found.items())
    print(", ".join(words))


if __name__ == "__main__":
    main()
