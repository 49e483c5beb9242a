"""Measure the finite-sample floor: what random subsets of MOSES's training set score.

    python tests/benchmarks/moses_floor.py --size 2000 --runs 3

adds the mean of three subsets to ``hyperkit_mol/moses/floor.json``, in place of what it had for that size.
``--from speed.json`` takes the figures from runs of ``moses_speed.py --kind train`` instead.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

FLOOR = Path(__file__).resolve().parents[2] / "hyperkit_mol" / "moses" / "floor.json"
LEFT_OUT = ("valid", "Novelty", "Filters")  # 1, 0 and 1 by construction


def add(size: int, runs: list[dict[str, float]]) -> None:
    """Write the mean of some runs into the table."""
    table = json.loads(FLOOR.read_text())
    names = [name for name in runs[0] if name not in LEFT_OUT and not name.startswith("unique")]
    for name in names:
        rows = table["metrics"].setdefault(name, [])
        rows[:] = [row for row in rows if row[0] != size]
        rows.append([size, round(sum(run[name] for run in runs) / len(runs), 6), len(runs)])
        rows.sort()
    FLOOR.write_text(_layout(table))


def _layout(table: dict) -> str:
    """JSON with one row a line."""
    lines = ["{", f' "about": {json.dumps(table["about"])},', ' "metrics": {']
    for name, rows in table["metrics"].items():
        lines.append(f"  {json.dumps(name)}: [")
        lines += [f"   {json.dumps(row)}," for row in rows]
        lines[-1] = lines[-1][:-1]
        lines.append("  ],")
    lines[-1] = "  ]"
    return "\n".join([*lines, " }", "}"]) + "\n"


def markdown() -> str:
    """The table of docs/moses.md."""
    table = json.loads(FLOOR.read_text())["metrics"]
    names = [name for name in table if name != "Scaf/TestSF"]  # 0: no training molecule has its scaffolds
    sizes = sorted({row[0] for rows in table.values() for row in rows})
    lines = [f"| molecules | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for size in sizes:
        cells = [next((f"{row[1]:.5g}" for row in table[name] if row[0] == size), "") for name in names]
        lines.append(f"| {size:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs="+", default=[])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--n-jobs", type=int, default=2)
    parser.add_argument("--from", dest="speed", type=Path)
    parser.add_argument("--markdown", action="store_true", help="print the table for the docs")
    arguments = parser.parse_args()
    if arguments.speed is not None:
        for line in arguments.speed.read_text().splitlines():
            found = json.loads(line)
            if found["kind"] == "train":
                add(found["n"], [found["ours"]["metrics"]])
    if arguments.size:
        from hyperkit_mol.moses import evaluate, load_split

        train = load_split("train")
        for size in arguments.size:
            runs = []
            for run in range(arguments.runs):
                smiles = random.Random(1000 * size + run).sample(train, size)
                runs.append(evaluate(smiles, n_jobs=arguments.n_jobs).metrics)
                print(size, run, runs[-1], flush=True)
            add(size, runs)
    if arguments.markdown:
        print(markdown())


if __name__ == "__main__":
    main()
