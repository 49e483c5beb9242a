"""A lot of everything: does memory stay flat?

::

    OMP_NUM_THREADS=1 python tests/benchmarks/load.py generate --model runs/demo/model --count 1000000
    OMP_NUM_THREADS=1 python tests/benchmarks/load.py evaluate --count 300000
    OMP_NUM_THREADS=1 python tests/benchmarks/load.py train --max-time 5m

Memory is that of all processes together: proportional set size, so that pages that processes share, and
files that are mapped, count once. Its slope is a least-squares line over the second half of the work, where
caches of torch and of the allocator have filled. Written out: MiB at the start of that half, at the end,
the peak, and MiB for every 100,000 molecules.
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


def watch(command: list[str], progress: Callable[[], int], every: float) -> dict[str, float]:
    """Run a command and measure; `progress` says how much is done."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    rows: list[tuple[int, float]] = []
    while process.poll() is None:
        done = progress()
        rows.append((done, memory(process.pid)))
        time.sleep(every)
    if process.returncode:
        raise SystemExit((process.stderr.read() if process.stderr else b"").decode()[-2000:])
    seconds = time.monotonic() - begin
    work = np.array([r[0] for r in rows], float)
    size = np.array([r[1] for r in rows])
    peak = float(size.max())
    # The last sample may fall into the end, when workers are gone already.
    half = (work >= 0.5 * work.max()) & (size > 0.5 * np.median(size))
    out = {"seconds": seconds, "peak_MiB": peak, "samples": float(half.sum())}
    if half.sum() >= 8 and np.ptp(work[half]) > 0:
        slope = np.polyfit(work[half], size[half], 1)[0]
        out |= {
            "start_MiB": float(size[half][:3].mean()),
            "end_MiB": float(size[half][-3:].mean()),
            "MiB_per_100k": float(slope * 1e5),
        }
    return out


def generate(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Sample `count` molecules; progress is read off the growing temporary file."""
    out = folder / "new.smi"

    def done() -> int:
        sizes = [p.stat().st_size for p in folder.iterdir() if p.name.startswith(".new.smi")]
        return int(max(sizes, default=out.stat().st_size if out.exists() else 0))

    command = [sys.executable, "-m", "hyperkit_mol", "generate", "-m", str(options.model), "-o", str(out)]
    command += ["-n", str(options.count), "--jobs", str(options.jobs)]
    found = watch(command, done, options.every)
    text = out.read_bytes()
    lines = text.count(b"\n")
    if "MiB_per_100k" in found:  # from bytes to molecules
        found["MiB_per_100k"] *= len(text) / lines
    return found | {"molecules": lines, "per_second": lines / found["seconds"]}


def evaluate(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Judge `count` training molecules."""
    from hyperkit_mol.moses.data import load_split

    file = folder / "many.smi"
    file.write_text("\n".join(random.Random(0).sample(load_split("train"), options.count)) + "\n")
    command = [sys.executable, "-m", "hyperkit_mol", "evaluate", str(file), "--jobs", str(options.jobs)]
    if options.metrics:
        command += ["--metrics", options.metrics]
    begin = time.monotonic()
    return watch(command, lambda: int(time.monotonic() - begin), options.every) | {"molecules": options.count}


def train(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Train over the whole MOSES training set for a while: peak memory, preparation included."""
    command = [sys.executable, "-m", "hyperkit_mol", "train", "-c", "moses-cpu", "-o", str(folder / "run")]
    command += ["--max-time", options.max_time, "--jobs", str(options.jobs)]
    begin = time.monotonic()
    return watch(command, lambda: int(time.monotonic() - begin), options.every)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("generate", "evaluate", "train"))
    parser.add_argument("--model", type=Path, default=Path("runs/demo/model"))
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--metrics")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--max-time", default="5m")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between measurements")
    parser.add_argument("--tmp", help="folder for temporary files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hyperkit-load-", dir=options.tmp) as name:
        found = {"generate": generate, "evaluate": evaluate, "train": train}[options.what](
            options, Path(name)
        )
    found["cores"] = len(os.sched_getaffinity(0))
    words = (f"{k} {v:,.4g}" if v < 1e4 else f"{k} {v:,.0f}" for k, v in found.items())
    print(", ".join(words))


if __name__ == "__main__":
    main()
