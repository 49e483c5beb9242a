"""Ours against the patched original on the same molecules: figures, wall and CPU seconds, peak memory.

    python tests/benchmarks/moses_speed.py -n 10000 --kind train test bad --n-jobs 2 --json speed.json

Both run in fresh processes, one after the other, with the same number of processes and threads. Memory is the
largest sum of the proportional set sizes of the whole process tree, sampled every two seconds. With
``--ours`` only ours is run. The reference caches are warm unless ``--cold`` is given.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "hyperkit_mol" / "moses"))

OURS = """
import json, sys
from hyperkit_mol.moses import evaluate
request = json.load(open(sys.argv[1]))
report = evaluate(request["smiles"], n_jobs=request["n_jobs"])
json.dump({"metrics": report.metrics, "timings": report.timings}, open(sys.argv[2], "w"))
"""


def molecules(kind: str, number: int) -> list[str]:
    """The molecules to compare on: random training or test molecules, or a deliberately bad set."""
    from moses_molecules import ODD, drawn, pains_molecules

    if kind in ("train", "test"):
        return list(drawn(kind, number, seed=7))
    parts = [*ODD, *pains_molecules(), *drawn("train", max(number // 10, 1), seed=8)]
    parts += random.Random(9).sample(parts, number // 10)  # duplicates
    parts += ["C1CC", "c1cccc", "[Xx]", ""] * (number // 50)  # invalid
    random.Random(10).shuffle(parts)
    return parts[:number]


def tree_memory(root: int) -> float:
    """Proportional set size of a process and all its descendants, in MB."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        waiting += parents.get(pid, [])
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except OSError:
            continue
    return total / 1024


def measure(command: list[str], environment: dict[str, str] | None = None) -> dict[str, float]:
    """Run a command; wall and CPU seconds of it and all it started, and peak memory of the tree."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, stderr=subprocess.PIPE)
    peak = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(2.0):
            peak = max(peak, tree_memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    done.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(errors.decode(errors="replace")[-3000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall": time.perf_counter() - begin,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mb": peak,
    }


def compare(kind: str, number: int, n_jobs: int, *, only_ours: bool, cold: bool) -> dict:
    """One comparison, printed and returned."""
    import original

    smiles = molecules(kind, number)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = folder / "request.json"
        given.write_text(
            json.dumps(
                {
                    "smiles": smiles,
                    "n_jobs": n_jobs,
                    "train": None,
                    "reference": None,
                    "canonical_train": False,
                    "float_cosine": True,
                }
            )
        )
        environment = {"HYPERKIT_CACHE": str(folder / "cache")} if cold else None
        found = {"kind": kind, "n": len(smiles), "n_jobs": n_jobs, "load_before": load}
        found["ours"] = measure(
            [sys.executable, "-c", OURS, str(given), str(folder / "ours.json")], environment
        )
        found["ours"] |= json.loads((folder / "ours.json").read_text())
        print(f"\n{kind}, {len(smiles):,} molecules, {n_jobs} processes (load before: {load:.1f})")
        print("ours    ", {key: round(found["ours"][key], 1) for key in ("wall", "cpu", "peak_mb")})
        print("        ", found["ours"]["timings"], flush=True)
        if only_ours:
            return found
        found["original"] = measure(
            [sys.executable, original.__file__, str(given), str(folder / "original.json")],
            {"OPENBLAS_NUM_THREADS": "1"},
        )
        found["original"] |= json.loads((folder / "original.json").read_text())
    print("original", {key: round(found["original"][key], 1) for key in ("wall", "cpu", "peak_mb")})
    ratio = {key: found["original"][key] / found["ours"][key] for key in ("wall", "cpu", "peak_mb")}
    found["ratio"] = ratio
    print("ratio   ", {key: round(value, 2) for key, value in ratio.items()})
    for metric, theirs in found["original"]["metrics"].items():
        ours = found["ours"]["metrics"][metric]
        print(f"  {metric:14s}{theirs:16.10f}{ours:16.10f}{abs(ours - theirs):10.1e}", flush=True)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--kind", nargs="+", choices=("train", "test", "bad"), default=["train"])
    parser.add_argument("--n-jobs", type=int, default=2)
    parser.add_argument("--ours", action="store_true", help="only ours")
    parser.add_argument("--cold", action="store_true", help="with an empty cache")
    parser.add_argument("--json", type=Path, help="append the results to this file, one JSON a line")
    arguments = parser.parse_args()
    for kind in arguments.kind:
        found = compare(kind, arguments.n, arguments.n_jobs, only_ours=arguments.ours, cold=arguments.cold)
        if arguments.json is not None:
            with open(arguments.json, "a") as file:
                file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
