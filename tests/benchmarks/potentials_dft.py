"""Labels by `hyperkit-mol potential label --method dft` beside the labels that a data set has.

    HYPERKIT_DATA=/path/to/data OMP_NUM_THREADS=1 python tests/benchmarks/potentials_dft.py [--frames 4]

Frames spread evenly over the training files of ethanol and acetylacetone (PBE/def2-SVP by ORCA, the latter
with D3) are labelled anew with and without dispersion, in one process. Printed: the forces' difference (RMS),
the energies' mean difference and its spread, and the time of a frame.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from hyperkit_mol.potentials import read_structures
from hyperkit_mol.potentials.dft import DFTSettings
from hyperkit_mol.potentials.label import label_structures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--functional", default="pbe")
    parser.add_argument("--basis", default="def2-svp")
    args = parser.parse_args()
    root = os.environ.get("HYPERKIT_DATA")
    if not root:
        sys.exit("HYPERKIT_DATA is not set; it names the folder that holds potentials/acac")
    import ase.io

    print("| set | level | forces, meV/Å | energy, meV (spread) | s a frame |\n|---|---|---|---|---|")
    for name in ("ethanol/train.xyz", "acac/train_300K.xyz"):
        frames = ase.io.read(Path(root) / "potentials" / name, index=":")
        frames = frames[:: max(1, len(frames) // args.frames)][: args.frames]
        for dispersion in ("none", "d3bj"):
            level = DFTSettings(args.functional, args.basis, dispersion)
            with tempfile.TemporaryDirectory() as folder:
                source, target = Path(folder) / "frames.xyz", Path(folder) / "labelled.xyz"
                ase.io.write(source, frames, format="extxyz")
                report = label_structures(source, target, "dft", dft=level, jobs=1)
                old, new = read_structures(source), read_structures(target)
            if report.failed:
                sys.exit("\n".join(report.failed))
            forces = [np.asarray(b.forces) - a.forces for a, b in zip(old, new, strict=True)]
            energy = 1e3 * np.array(
                [(b.energy or 0) - (a.energy or 0) for a, b in zip(old, new, strict=True)]
            )
            rms = 1e3 * float(np.sqrt(np.mean(np.square(forces))))
            print(
                f"| {name} | {level.name} | {rms:.2f} | {energy.mean():.1f} ({energy.std():.1f}) | "
                f"{report.seconds / len(new):.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
