"""Learning curves from what potentials_accuracy.py left behind: a picture and a table.

    python tests/benchmarks/potentials_curve.py --line "from scratch" FOLDER FOLDER ... \
        --line "pre-trained" FOLDER ... -o curve.png

Each ``--line`` is a name and the output folders of runs that differ in ``--limit``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

from hyperkit_mol.potentials import load_config

mpl.use("Agg")
import matplotlib.pyplot as plt

COLORS = ("#b4541a", "#0b6e75", "#1c2330", "#8a8f99")
TESTS = {"test_MD_300K": "300 K", "test_MD_600K": "600 K"}


def read(folder: Path) -> tuple[int, dict[str, Any]]:
    """Number of configurations, validation included, and the errors of a run."""
    result = json.loads((folder / "accuracy.json").read_text())
    limit = load_config(folder / "config.yaml").data.limit
    return limit or 500, result  # the file has 500


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--line", nargs="+", action="append", required=True, metavar=("NAME", "FOLDER"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharex=True)
    ticks: set[int] = set()
    for (name, *folders), color in zip(args.line, COLORS, strict=False):
        rows = sorted((read(Path(f)) for f in folders), key=lambda row: row[0])
        sizes = [n for n, _ in rows]
        ticks |= set(sizes)
        for n, r in rows:
            cells = " | ".join(f"{r[t]['energy_rmse']:.1f} / {r[t]['force_rmse']:.1f}" for t in TESTS)
            print(f"| {name} | {n} | {cells} | {r['info']['seconds']:.0f} s |")
        for test, marker in zip(TESTS, ("o", "s"), strict=True):
            style: dict[str, Any] = {"marker": marker, "markersize": 4, "color": color}
            style["linestyle"] = "-" if test == "test_MD_300K" else "--"
            for axes, key in zip(panels, ("force_rmse", "energy_rmse"), strict=True):
                axes.plot(sizes, [r[test][key] for _, r in rows], label=f"{name}, {TESTS[test]}", **style)
    for axes, label in zip(panels, ("force RMSE (meV/Å)", "energy RMSE (meV)"), strict=True):
        axes.set(xscale="log", yscale="log", xlabel="DFT configurations", ylabel=label)
        axes.set_xticks(sorted(ticks), [str(k) for k in sorted(ticks)])
        axes.minorticks_off()
        low, high = axes.get_ylim()
        shown = [v for v in (2, 5, 10, 20, 50, 100, 200, 500) if low <= v <= high]
        axes.set_yticks(shown, [str(v) for v in shown])
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right center")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    main()
