"""Is it physics? Dynamics, rotations, a breaking bond, relaxations and vibrations of a trained potential.

    python tests/benchmarks/potentials_physics.py MODEL --data FILE.xyz -o FOLDER [--parts nve,rotation,...]

writes ``physics.json`` and a picture for each part into FOLDER. Parts:

- nve: velocity Verlet without thermostat from frame ``--frame``, ``--ps`` long, in float32 and float64. Total
  energy per atom: slope of a linear fit (meV/ps), standard deviation about it, largest excursion.
- symmetry: root mean square change of energies and of forces (turned back) under random rotations, about
  their mean, plain and averaged over the sets of 12, 24 and 60 rotations; largest change under exchange of
  atoms and under translation.
- dissociation: a bond pulled rigidly from 0.9 to 7 Å. Largest step and second difference of the energy on two
  grids (halving the step divides the second difference of a smooth curve by 4 and that of a jump by 1), and
  forces along the bond against the slope of the energy.
- relaxation: ASE's BFGS from ``--frames`` frames spread over the file.
- vibrations: normal modes at the relaxed frame, by central differences of forces.

Everything but the first and the float32 half of the dynamics is computed in float64.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import matplotlib as mpl
import numpy as np
import torch
from ase import Atoms, units
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import build_neighbor_list, natural_cutoffs
from ase.optimize import BFGS
from ase.vibrations import Vibrations
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from hyperkit_mol.potentials.calculator import HyperkitCalculator

mpl.use("Agg")
import matplotlib.pyplot as plt

Figures = dict[str, Any]
INK, ACCENT, WARM = "#1c2330", "#0b6e75", "#b4541a"


def rms(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def save(figure: plt.Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


# ---- dynamics -----------------------------------------------------------------------------------


def nve(args: argparse.Namespace, frames: list[Atoms]) -> Figures:
    """Energy conservation, by dtype."""
    out: Figures = {}
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    for name, color in zip(args.dtypes.split(","), (WARM, ACCENT), strict=False):
        atoms = frames[args.frame].copy()
        atoms.calc = HyperkitCalculator(args.model, dtype=getattr(torch, name))
        if args.compile:
            atoms.calc.potential.compiled()
        rng = np.random.default_rng(args.seed)
        spread = np.sqrt(atoms.get_masses() * units.kB * args.temperature)
        atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * spread[:, None])
        Stationary(atoms)
        ZeroRotation(atoms)
        steps, every = round(1000 * args.ps / args.timestep), args.every
        bonds, begin = _bond_lengths(atoms), time.monotonic()
        dynamics, rows, worst = VelocityVerlet(atoms, args.timestep * units.fs), [], 1.0

        def note(atoms: Atoms = atoms, dynamics: Any = dynamics, rows: list[Any] = rows) -> None:
            temperature = 2 * atoms.get_kinetic_energy() / (3 * len(atoms) * units.kB)
            ps = dynamics.get_number_of_steps() * args.timestep / 1000
            rows.append((ps, atoms.get_total_energy() / len(atoms), temperature))

        dynamics.attach(note, interval=every)
        dynamics.run(steps)
        seconds = time.monotonic() - begin
        ps, energy, temperature = np.array(rows).T
        milli = 1e3 * (energy - energy[0])
        slope, offset = np.polyfit(ps, milli, 1) if len(ps) > 1 else (0.0, 0.0)
        worst = max((_length(atoms, i, j) / d for (i, j), d in bonds.items()), default=1.0)
        out[name] = {
            "drift_meV_per_atom_per_ps": slope,
            "fluctuation_meV_per_atom": rms(milli - slope * ps - offset),
            "largest_excursion_meV_per_atom": float(np.abs(milli).max()),
            "mean_temperature_K": float(temperature.mean()),
            "longest_bond_at_the_end_over_begin": worst,
            "ps": float(ps[-1]),
            "ms_per_step": 1e3 * seconds / steps,
        }
        axes.plot(ps, milli, color=color, linewidth=0.8, label=f"{name}: {slope:+.3g} meV/atom/ps")
        print(f"nve {name}: drift {slope:+.3g} meV/atom/ps over {ps[-1]:g} ps")
    axes.set(xlabel="time (ps)", ylabel="total energy (meV/atom)", title=f"NVE, {args.timestep:g} fs")
    axes.legend(frameon=False, fontsize=8)
    save(figure, args.output / "nve.png")
    return out


def _length(atoms: Atoms, i: int, j: int) -> float:
    return float(np.linalg.norm(atoms.positions[i] - atoms.positions[j]))


def _bond_lengths(atoms: Atoms) -> dict[tuple[int, int], float]:
    return {(i, j): _length(atoms, i, j) for i, j in _bonds(atoms)}


def _bonds(atoms: Atoms) -> list[tuple[int, int]]:
    radii = natural_cutoffs(atoms, mult=1.2)
    graph = build_neighbor_list(atoms, radii, skin=0.0, self_interaction=False)
    return sorted((int(i), int(j)) for i, j in zip(*graph.get_connectivity_matrix().nonzero(), strict=True))


# ---- symmetries ---------------------------------------------------------------------------------


def symmetry(args: argparse.Namespace, frames: list[Atoms]) -> Figures:
    """Rotation, with and without averaging; exchange; translation."""
    some = _spread(frames, args.rotation_frames)
    turns = Rotation.random(args.turns, random_state=args.seed).as_matrix()
    out: Figures = {"frames": len(some), "random_rotations": len(turns)}
    for count in (1, *args.sets):
        calculator = HyperkitCalculator(args.model, dtype=torch.float64, rotations=count)
        energies, forces = [], []
        for turn in turns:
            turned = [_moved(a, a.positions @ turn.T) for a in some]
            found = calculator.predict_many(turned)
            energies.append([r["energy"] for r in found])
            forces.append(np.concatenate([r["forces"] for r in found]) @ turn)
        e, f = np.array(energies), np.array(forces)
        name = "plain" if count == 1 else f"averaged_{count}"
        out[name] = {"energy_meV": 1e3 * rms(e - e.mean(0)), "forces_meV_per_A": 1e3 * rms(f - f.mean(0))}
        print("rotation, {}: {energy_meV:.3g} meV, {forces_meV_per_A:.3g} meV/Å".format(name, **out[name]))
    calculator = HyperkitCalculator(args.model, dtype=torch.float64)
    before = calculator.predict_many(some)
    rng = np.random.default_rng(args.seed)
    orders = [rng.permutation(len(a)) for a in some]
    changes: dict[str, Callable[[Atoms, Any], Atoms]] = {
        "exchange": lambda a, order: a[order],
        "translation": lambda a, order: _moved(a, a.positions + rng.uniform(-100, 100, 3)),
    }
    for name, change in changes.items():
        after = calculator.predict_many([change(a, o) for a, o in zip(some, orders, strict=True)])
        rows = orders if name == "exchange" else [np.arange(len(a)) for a in some]
        out[name] = {
            "energy_meV": 1e3
            * max(abs(a["energy"] - b["energy"]) for a, b in zip(before, after, strict=True)),
            "forces_meV_per_A": 1e3
            * max(
                float(np.abs(a["forces"][o] - b["forces"]).max())
                for a, b, o in zip(before, after, rows, strict=True)
            ),
        }
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    labels = ["plain", *(f"averaged_{k}" for k in args.sets)]
    values = [max(out[k]["forces_meV_per_A"], 1e-12) for k in labels]
    axes.bar([k.replace("averaged_", "over ") for k in labels], values, color=ACCENT)
    axes.set(yscale="log", ylabel="forces (meV/Å)", title="change under rotation, RMS")
    axes.set_ylim(0.1 * min(values), 10 * max(values))
    save(figure, args.output / "rotation.png")
    return out


def _moved(atoms: Atoms, positions: Any) -> Atoms:
    copy = atoms.copy()
    copy.positions = positions
    return copy


def _spread(frames: list[Atoms], count: int) -> list[Atoms]:
    rows = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
    return [frames[k].copy() for k in rows]


# ---- a breaking bond ----------------------------------------------------------------------------


def dissociation(args: argparse.Namespace, frames: list[Atoms]) -> Figures:
    """Energy and force along a bond, on a grid and on one twice as fine."""
    atoms = _relaxed(args, frames[args.frame], 0.05)
    i, j, far = _cut(atoms, args.bond)
    axis = (atoms.positions[j] - atoms.positions[i]) / _length(atoms, i, j)
    calculator = HyperkitCalculator(args.model, dtype=torch.float64)
    curves = []
    for points in (args.points, 2 * args.points - 1):
        grid = np.linspace(0.9, 7.0, points)
        path = []
        for d in grid:
            positions = atoms.positions.copy()
            positions[far] += (d - _length(atoms, i, j)) * axis
            path.append(_moved(atoms, positions))
        found = calculator.predict_many(path)
        force = np.array([(r["forces"][far] @ axis).sum() for r in found])
        curves.append((grid, np.array([r["energy"] for r in found]), force))
    (x, energy, _), (fine_x, fine_energy, fine_force) = curves
    bends = [np.abs(np.diff(e, 2)).max() for _, e, _ in curves]
    slope = -np.gradient(fine_energy, fine_x, edge_order=2)
    # Fourth order, so that what is left is the model's and not the grid's.
    h = fine_x[1] - fine_x[0]
    inner = -(8 * (fine_energy[3:-1] - fine_energy[1:-3]) - (fine_energy[4:] - fine_energy[:-4])) / (12 * h)
    slope[2:-2] = inner
    out: Figures = {
        "bond": [f"{atoms.symbols[k]}{k}" for k in (i, j)],
        "step_A": float(x[1] - x[0]),
        "largest_step_meV": 1e3 * float(np.abs(np.diff(energy)).max()),
        "largest_second_difference_meV": 1e3 * float(bends[0]),
        "second_difference_ratio_when_halved": float(bends[0] / bends[1]) if bends[1] > 0 else None,
        "force_against_slope_meV_per_A": 1e3 * float(np.abs(fine_force - slope)[2:-2].max()),
        "depth_eV": float(fine_energy[-1] - fine_energy.min()),
        "minimum_A": float(fine_x[fine_energy.argmin()]),
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot(fine_x, fine_energy - fine_energy.min(), color=ACCENT)
    left.set(xlabel=f"{'–'.join(out['bond'])} (Å)", ylabel="energy (eV)")
    top = fine_energy[-1] - fine_energy.min()
    left.set_ylim(-0.05 * abs(top) - 0.1, max(2.0 * top, 1.0))
    right.plot(fine_x, fine_force, color=ACCENT, label="force")
    right.plot(fine_x, slope, "--", color=WARM, linewidth=1, label="-dE/dr by differences")
    low, high = np.percentile(fine_force, [0, 90])
    right.set(xlabel="distance (Å)", ylabel="force (eV/Å)", ylim=(1.2 * low - 0.1, 1.5 * abs(high) + 0.5))
    right.legend(frameon=False, fontsize=8)
    save(figure, args.output / "dissociation.png")
    print(
        f"dissociation of {'–'.join(out['bond'])}: depth {out['depth_eV']:.2f} eV, largest step "
        f"{out['largest_step_meV']:.1f} meV, force against slope "
        f"{out['force_against_slope_meV_per_A']:.2g} meV/Å"
    )
    return out


def _cut(atoms: Atoms, bond: list[int] | None) -> tuple[int, int, Any]:
    """Both ends of a bond and the atoms on the side of the second one."""
    pairs = [(bond[0], bond[1])] if bond else _bonds(atoms)
    carbons = [p for p in pairs if atoms.numbers[list(p)].tolist() == [6, 6]]
    for i, j in carbons + [p for p in pairs if p not in carbons]:
        graph = np.zeros((len(atoms), len(atoms)))
        for a, b in _bonds(atoms):
            graph[a, b] = {a, b} != {i, j}
        _, label = connected_components(graph, directed=False)
        if label[i] != label[j]:
            return i, j, np.flatnonzero(label == label[j])
    raise SystemExit(f"--bond: none of {pairs} falls apart when cut (a ring?)")


# ---- minima -------------------------------------------------------------------------------------


def _relaxed(args: argparse.Namespace, atoms: Atoms, fmax: float) -> Atoms:
    copy = atoms.copy()
    copy.calc = HyperkitCalculator(args.model, dtype=torch.float64)
    BFGS(copy, logfile=None).run(fmax=fmax, steps=args.max_steps)
    return copy


def relaxation(args: argparse.Namespace, frames: list[Atoms]) -> Figures:
    """Share of frames that BFGS brings to a minimum, and the steps it takes."""
    calculator = HyperkitCalculator(args.model, dtype=torch.float64)
    steps, reached, drop, kept, wrong = [], [], [], [], []
    for k, atoms in enumerate(_spread(frames, args.frames)):
        bonds = _bonds(atoms)
        atoms.calc = calculator
        optimizer = BFGS(atoms, logfile=None)
        try:
            before = atoms.get_potential_energy()
            reached.append(bool(optimizer.run(fmax=args.fmax, steps=args.max_steps)))
        except ValueError as err:  # atoms ran into each other
            wrong.append(f"frame {k}: {err}")
            reached.append(False)
            continue
        steps.append(optimizer.get_number_of_steps())
        drop.append(before - atoms.get_potential_energy())
        kept.append(_bonds(atoms) == bonds)
    out: Figures = {
        "frames": len(reached),
        "fmax": args.fmax,
        "converged": float(np.mean(reached)),
        "bonds_kept": float(np.mean(kept)) if kept else 0.0,
        "median_steps": float(np.median(steps)) if steps else None,
        "most_steps": max(steps, default=None),
        "median_drop_eV": float(np.median(drop)) if drop else None,
        "errors": wrong,
    }
    figure, axes = plt.subplots(figsize=(4.5, 3), layout="constrained")
    axes.hist(steps, bins=20, color=ACCENT)
    axes.set(xlabel="BFGS steps", ylabel="frames", title=f"{100 * out['converged']:.0f} % converge")
    save(figure, args.output / "relaxation.png")
    print(f"relaxation: {100 * out['converged']:.0f} % of {out['frames']}, {out['median_steps']} steps")
    return out


def vibrations(args: argparse.Namespace, frames: list[Atoms]) -> Figures:
    """Frequencies in 1/cm at the relaxed frame; imaginary ones as negative numbers."""
    atoms = _relaxed(args, frames[args.frame], min(args.fmax, 1e-3))
    worst = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    with tempfile.TemporaryDirectory() as folder:
        modes = Vibrations(atoms, name=str(Path(folder) / "vib"), delta=0.005)
        modes.run()
        found = modes.get_frequencies()
        zero_point = modes.get_zero_point_energy()
    signed = np.sort(np.where(np.abs(found.imag) > np.abs(found.real), -np.abs(found.imag), found.real))
    # Translations and rotations are the modes nearest to zero: 6, or 5 of a linear molecule, 3 of an atom.
    inertia = atoms.get_moments_of_inertia()
    rigid = 3 if len(atoms) == 1 else (5 if inertia[0] < 1e-3 * inertia[-1] else 6)
    order = np.argsort(np.abs(signed))
    inner = np.sort(signed[order[rigid:]])
    out: Figures = {
        "largest_force_eV_per_A": worst,
        "rigid_cm": np.sort(signed[order[:rigid]]).round(2).tolist(),
        "frequencies_cm": inner.round(2).tolist(),
        "imaginary": int((inner < 0).sum()),
        "zero_point_eV": float(np.real(zero_point)),
    }
    figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
    axes.vlines(inner, 0, 1, color=[WARM if v < 0 else ACCENT for v in inner])
    axes.set(xlabel="frequency (1/cm)", yticks=[], title=f"{out['imaginary']} imaginary")
    save(figure, args.output / "vibrations.png")
    print(f"vibrations: {len(inner)} modes, {out['imaginary']} imaginary")
    for begin in range(0, len(inner), 8):
        print("   " + "".join(f"{v:9.1f}" for v in inner[begin : begin + 8]))
    return out


PARTS: dict[str, Callable[[argparse.Namespace, list[Atoms]], Figures]] = {
    "nve": nve,
    "symmetry": symmetry,
    "dissociation": dissociation,
    "relaxation": relaxation,
    "vibrations": vibrations,
}


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("model", type=Path)
    out.add_argument("--data", type=Path, required=True, help="frames, as ASE reads them")
    out.add_argument("-o", "--output", type=Path, required=True)
    out.add_argument("--parts", default=",".join(PARTS))
    out.add_argument("--frame", type=int, default=0, help="where dynamics and minima begin")
    out.add_argument("--seed", type=int, default=0)
    out.add_argument("--threads", type=int, default=1)
    out.add_argument("--ps", type=float, default=5.0)
    out.add_argument("--timestep", type=float, default=0.5, help="fs")
    out.add_argument("--temperature", type=float, default=300.0, help="of the first velocities, K")
    out.add_argument("--every", type=int, default=10, help="steps between two notes of the energy")
    out.add_argument("--dtypes", default="float32,float64")
    out.add_argument("--compile", action="store_true", help="dynamics by one compiled graph")
    out.add_argument("--turns", type=int, default=16, help="random rotations")
    out.add_argument("--rotation-frames", type=int, default=10)
    out.add_argument("--sets", type=int, nargs="*", default=[12, 24, 60], help="rotations to average over")
    out.add_argument("--bond", type=int, nargs=2, help="atoms; the first C–C bond outside rings if left out")
    out.add_argument("--points", type=int, default=611, help="0.01 Å apart")
    out.add_argument("--frames", type=int, default=20, help="to relax")
    out.add_argument("--fmax", type=float, default=0.01)
    out.add_argument("--max-steps", type=int, default=500)
    return out


def main(argv: list[str] | None = None) -> Figures:
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    parts = args.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        sys.exit(f"--parts: no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    frames = [a for a in ase.io.read(args.data, index=":") if len(a) > 1]
    if not frames:
        sys.exit(f"{args.data}: no frame of more than one atom")
    args.output.mkdir(parents=True, exist_ok=True)
    potential = HyperkitCalculator(args.model).potential
    result: Figures = {
        "command": " ".join(["python", *sys.argv]) if argv is None else " ".join(argv),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors, load "
        f"{os.getloadavg()[0]:.1f}, {args.threads} thread, torch {torch.__version__}",
        "model": {"kind": potential.config.kind, "forces": potential.config.forces, **potential.info},
        "frame": f"{args.data.name}, frame {args.frame}: {frames[args.frame].get_chemical_formula()}",
    }
    path = args.output / "physics.json"
    if path.exists():  # parts of earlier calls stay
        result = json.loads(path.read_text()) | result
    for part in parts:
        begin = time.monotonic()
        result[part] = PARTS[part](args, frames) | {"seconds": round(time.monotonic() - begin, 1)}
        path.write_text(json.dumps(result, indent=1, default=float))
    return result


if __name__ == "__main__":
    main()
