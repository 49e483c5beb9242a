"""Train and run a potential: ``marimo edit notebooks/potential.py``, or run it as a script.

The labels come from ASE's EMT, a cheap potential for metals, so that nothing has to be downloaded and the
truth is known everywhere. With labels of your own the steps are the same.
"""

import marimo

app = marimo.App(width="medium", app_title="Train and run a potential")


@app.cell
def _():
    import tempfile
    from pathlib import Path

    import ase.io
    import marimo as mo
    import numpy as np
    from ase import Atoms, units
    from ase.calculators.emt import EMT
    from ase.cluster import Octahedron
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
    from ase.md.verlet import VelocityVerlet
    from rich.console import Console

    from hyperkit_mol.potentials.calculator import HyperkitCalculator
    from hyperkit_mol.potentials.config import load_config
    from hyperkit_mol.potentials.pipeline import evaluate, train

    folder = Path(tempfile.mkdtemp(prefix="hyperkit-notebook-"))
    quiet = Console(quiet=True)
    return (
        Atoms, EMT, HyperkitCalculator, MaxwellBoltzmannDistribution, Octahedron, Stationary, VelocityVerlet,
        ase, evaluate, folder, load_config, mo, np, quiet, train, units,
    )  # fmt: skip


@app.cell
def _(mo):
    mo.md("""
    # Train and run a potential

    ## 1. Labelled structures

    A cluster of six copper atoms, shaken. Energies in eV, forces in eV/Å, in an extended XYZ file; single
    atoms give the reference energy.
    """)
    return


@app.cell
def _(Atoms, EMT, Octahedron, ase, folder, np):
    cluster = Octahedron("Cu", 2)
    rng = np.random.default_rng(0)

    def labelled(count, shake):
        frames = []
        for _ in range(count):
            atoms = cluster.copy()
            atoms.positions += rng.normal(size=atoms.positions.shape) * shake
            atoms.calc = EMT()
            atoms.get_potential_energy(), atoms.get_forces()
            frames.append(atoms)
        return frames

    alone = Atoms("Cu", [[0.0, 0.0, 0.0]])
    alone.calc = EMT()
    alone.get_potential_energy(), alone.get_forces()
    ase.io.write(folder / "train.xyz", [alone, *labelled(80, 0.12)], format="extxyz")
    ase.io.write(folder / "test.xyz", labelled(40, 0.12), format="extxyz")
    print(f"{len(cluster)} atoms; energies from EMT")
    return (cluster,)


@app.cell
def _(mo):
    mo.md("""
    ## 2. Train

    `hyperkit-mol potential train --data train.xyz` from the command line.
    """)
    return


@app.cell
def _(folder, load_config, quiet, train):
    settings = {
        "data.train": str(folder / "train.xyz"),
        "model.width": 16,
        "model.layers": 2,
        "model.heads": 2,
        "training.steps": 200,
        "training.warmup": 20,
    }
    trained = train(load_config("small", "escaip", settings), folder / "run", console=quiet)
    print(f"trained in {trained.seconds:.1f} s")
    return (trained,)


@app.cell
def _(mo):
    mo.md("""
    ## 3. Test on structures that it has not seen
    """)
    return


@app.cell
def _(ase, evaluate, folder, np, trained):
    errors = evaluate(trained.model, folder / "test.xyz")
    size = 1e3 * float(np.sqrt(np.mean([f.get_forces() ** 2 for f in ase.io.read(folder / "test.xyz", ":")])))
    print(
        f"force RMSE {errors.force_rmse:.0f} meV/Å (the forces: {size:.0f}); "
        f"energy RMSE {errors.energy_rmse:.0f} meV"
    )
    assert errors.force_rmse < 0.6 * size
    return


@app.cell
def _(mo):
    mo.md("""
    ## 4. Dynamics

    `HyperkitCalculator` is an ASE calculator. Forces are the gradient of the energy, so that the total energy
    stays where it is when there is no thermostat.
    """)
    return


@app.cell
def _(
    HyperkitCalculator, MaxwellBoltzmannDistribution, Stationary, VelocityVerlet, cluster, np, trained, units
):
    atoms = cluster.copy()
    atoms.calc = HyperkitCalculator(trained.model)
    MaxwellBoltzmannDistribution(atoms, temperature_K=100, rng=np.random.default_rng(1))
    Stationary(atoms)
    dynamics = VelocityVerlet(atoms, 2.0 * units.fs)
    total = []
    for _ in range(25):
        dynamics.run(4)
        total.append(atoms.get_total_energy())
    drift = 1e3 * (max(total) - min(total)) / len(atoms)
    print(f"200 fs of dynamics: total energy stays within {drift:.2f} meV per atom")
    assert drift < 5.0
    return


if __name__ == "__main__":
    app.run()
