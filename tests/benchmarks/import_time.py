"""Import times beside torch's own: ``python tests/benchmarks/import_time.py``.

CPU seconds of fresh processes (user and system, so that other work on the machine matters less), the least of
several rounds, all modules in turn in each round.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys

MODULES = (
    "torch", "hyperkit", "hyperkit_mol", "hyperkit_mol.cli", "hyperkit.nn", "geoopt", "hyperkit_mol.moses",
    "hyperkit_mol.generator.model", "hyperkit_mol.generator.pipeline",
)  # fmt: skip
LIMITS = {"hyperkit": 1.2, "hyperkit_mol": 1.5}


def cpu_seconds(module: str) -> float:
    """CPU seconds of ``import module`` in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    best = dict.fromkeys(MODULES, float("inf"))
    for _ in range(rounds):
        for module in MODULES:
            best[module] = min(best[module], cpu_seconds(module))
    bad = False
    print("| import | CPU s | / torch | goal |\n|---|---|---|---|")
    for module, seconds in best.items():
        ratio = seconds / best["torch"]
        goal = LIMITS.get(module)
        bad |= goal is not None and ratio > goal
        print(f"| `{module}` | {seconds:.2f} | {ratio:.2f} | {'' if goal is None else goal} |")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
