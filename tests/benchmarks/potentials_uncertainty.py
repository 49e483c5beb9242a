"""Does last-layer uncertainty know where a potential is wrong?

    HYPERKIT_DATA=/path/to/data python tests/benchmarks/potentials_uncertainty.py RUN
        [--ensemble MODEL MODEL ...] -o FOLDER

RUN is a folder that potentials_accuracy.py trained. Its last layer is calibrated on its own validation
structures; then, for acetylacetone's test_MD_300K and test_MD_600K, each and together:

- rank: Spearman's rank correlation of the absolute energy error and the standard deviation. It says whether
  the order is right, whatever the widths;
- within 1, within 2: share of the errors within one and two standard deviations (68 and 95 % where errors are
  normal and the widths right);
- ratio: root mean square error over root mean square standard deviation (1 where the widths are right);
- fifths: RMS of the errors and of the standard deviations in fifths of the structures by the latter.

With ``--ensemble`` the same for the spread of several models beside it, as it is: members that were split by
other seeds have no structures in common that none has seen, so nothing to calibrate by. The errors are then
those of the ensemble's mean.

Forces: the same figures of their components, exactly (as many heads as the last layer is wide) and from
``--force-heads`` draws; and of atoms (length of the error against ``force_uncertainty``) the rank.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import matplotlib as mpl
import numpy as np
import torch
from scipy.stats import spearmanr

from hyperkit_mol.potentials import load_config, load_potential
from hyperkit_mol.potentials.calculator import HyperkitCalculator
from hyperkit_mol.potentials.pipeline import load_data
from hyperkit_mol.potentials.uncertainty import LastLayer

mpl.use("Agg")
import matplotlib.pyplot as plt

INK, ACCENT, WARM = "#1c2330", "#0b6e75", "#b4541a"


def rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def figures(error: np.ndarray, std: np.ndarray) -> dict[str, Any]:
    order = np.array_split(np.argsort(std), 5)
    return {
        "structures": len(error),
        "rmse_meV": 1e3 * rms(error),
        "rms_std_meV": 1e3 * rms(std),
        "ratio": rms(error) / rms(std),
        "rank": float(spearmanr(np.abs(error), std)[0]),  # pyright: ignore[reportArgumentType]
        "within_1": float(np.mean(np.abs(error) < std)),
        "within_2": float(np.mean(np.abs(error) < 2 * std)),
        "fifths_rmse_meV": [round(1e3 * rms(error[k]), 2) for k in order],
        "fifths_std_meV": [round(1e3 * rms(std[k]), 2) for k in order],
    }


def measure(
    calculator: HyperkitCalculator, files: dict[str, Any], forces: dict[str, Any] | None = None
) -> dict[str, tuple[Any, Any, float]]:
    """Energy errors, deviations and milliseconds a structure; figures of the forces into `forces`."""
    out = {}
    for name, images in files.items():
        begin = time.process_time()
        found = calculator.predict_many(images)
        seconds = time.process_time() - begin
        if forces is not None:
            off = np.concatenate([r["forces"] - a.get_forces() for r, a in zip(found, images, strict=True)])
            std = np.concatenate([r["forces_std"] for r in found])
            length, wide = np.linalg.norm(off, axis=1), np.linalg.norm(std, axis=1)
            forces[name] = figures(off.ravel(), std.ravel()) | {
                "rank_of_atoms": float(spearmanr(length, wide)[0]),  # pyright: ignore[reportArgumentType]
                "ms": round(1e3 * seconds / len(images), 2),
            }
            forces[name]["components"] = forces[name].pop("structures")
        error = np.array([r["energy"] - a.get_potential_energy() for r, a in zip(found, images, strict=True)])
        out[name] = error, np.array([r["energy_std"] for r in found]), 1e3 * seconds / len(images)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--ensemble", type=Path, nargs="+", default=[], help="model folders")
    parser.add_argument(
        "--force-heads", type=int, nargs="*", default=[16], help="draws, beside the exact ones"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    root = os.environ.get("HYPERKIT_DATA")
    if not root:
        sys.exit("HYPERKIT_DATA is not set; it names the folder that holds potentials/acac")
    torch.set_num_threads(1)
    data = Path(root) / "potentials" / "acac"
    config = load_config(args.run / "config.yaml")
    train, held, _ = load_data(config.data, config.seed)
    potential = load_potential(args.run / "model")
    last_layer = LastLayer.fit(potential, train, held)
    # Read after calibration.
    files = {f"{t} K": ase.io.read(data / f"test_MD_{t}K.xyz", index=":") for t in (300, 600)}
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "calibration": last_layer.info | {"alpha": last_layer.alpha},
    }
    methods = {"last layer": measure(HyperkitCalculator(potential, uncertainty=last_layer), files)}
    for count in (*args.force_heads, len(last_layer.strengths)):
        rows = result[f"forces, {count} heads"] = {}
        measure(HyperkitCalculator(potential, uncertainty=last_layer, force_heads=count), files, rows)
    if args.ensemble:
        rows = result["forces, ensemble"] = {}
        methods["ensemble"] = measure(HyperkitCalculator(args.ensemble), files, rows)
    for method, rows in result.items():
        for name, row in rows.items() if method.startswith("forces") else ():
            print(
                f"{method}, {name}: RMSE {row['rmse_meV']:.1f} meV/Å, deviation {row['rms_std_meV']:.1f}, "
                f"rank {row['rank']:.2f}, of atoms {row['rank_of_atoms']:.2f}, within one "
                f"{100 * row['within_1']:.0f} %, two {100 * row['within_2']:.0f} %; {row['ms']} ms"
            )
    figure, axes = plt.subplots(
        1, len(methods), figsize=(4.2 * len(methods), 3.8), layout="constrained", squeeze=False
    )
    for axis, (method, found) in zip(axes[0], methods.items(), strict=True):
        rows = {name: figures(e, s) | {"ms": round(ms, 2)} for name, (e, s, ms) in found.items()}
        both = [np.concatenate(parts) for parts in zip(*((e, s) for e, s, _ in found.values()), strict=True)]
        rows["both"] = figures(*both)
        result[method] = rows
        for (name, (error, std, _)), color in zip(found.items(), (ACCENT, WARM), strict=True):
            axis.scatter(
                1e3 * std, 1e3 * np.abs(error), s=5, color=color, alpha=0.35, linewidths=0, label=name
            )
        low, high = 1e3 * both[1].min() * 0.8, 1e3 * both[1].max() * 1.25
        axis.plot([low, high], [low, high], color=INK, linewidth=0.8, label="error = one deviation")
        axis.plot([low, high], [2 * low, 2 * high], color=INK, linewidth=0.8, linestyle=":", label="two")
        axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(0.1, 1500), title=method)
        axis.set(xlabel="standard deviation (meV)", ylabel="absolute energy error (meV)")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=7, loc="lower right")
        for name, row in rows.items():
            print(
                f"{method}, {name}: RMSE {row['rmse_meV']:.1f} meV, deviation {row['rms_std_meV']:.1f}, "
                f"rank {row['rank']:.2f}, within one {100 * row['within_1']:.0f} %, "
                f"two {100 * row['within_2']:.0f} %; fifths {row['fifths_rmse_meV']}"
            )
    args.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output / "uncertainty.png", dpi=150)
    (args.output / "uncertainty.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
