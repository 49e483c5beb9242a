"""``hyperkit-mol potential uncertainty``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperkit_mol.terminal import answer, console, say


def uncertainty(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run (it holds config.yaml and model/).")],
) -> None:
    """Make a trained model tell how sure it is of energies and forces, from its last layer.

    Reads the run's training and validation structures again and writes one small file into its model folder;
    then HyperkitCalculator(model, uncertainty="last-layer") gives energy_std, and with
    force_heads=16 forces_std.

    Example: [bold]hyperkit-mol potential uncertainty runs/mine[/]
    """
    with answer():
        from hyperkit_mol.potentials.config import load_config
        from hyperkit_mol.potentials.errors import ModelError, telling
        from hyperkit_mol.potentials.model_files import load_potential
        from hyperkit_mol.potentials.pipeline import load_data
        from hyperkit_mol.potentials.uncertainty import LastLayer

        if not (run / "config.yaml").is_file():
            raise ModelError(
                f"{run}: config.yaml is missing; give the folder of a run, which says what it was trained on"
            )
        config = load_config(run / "config.yaml")
        potential = load_potential(run / "model")
        with telling(lambda text: say(console, text)):
            train, held, _ = load_data(config.data, config.seed)
        found = LastLayer.fit(potential, train, held)
        path = found.save(run / "model")
        i = found.info
        say(
            console,
            f"{i['train']:,} training structures, {i['validation']:,} for calibration: energy RMSE "
            f"{1e3 * i['rmse_eV']:.2f} meV, mean standard deviation {1e3 * i['mean_std_eV']:.2f} meV; "
            f"{100 * i['within_1']:.0f} % of the errors within one, {100 * i['within_2']:.0f} % within two",
        )
        if found.alpha_forces is not None:
            say(
                console,
                f"forces: RMSE {1e3 * i['force_rmse_eV_per_A']:.2f} meV/Å, mean standard deviation "
                f"{1e3 * i['force_mean_std_eV_per_A']:.2f} meV/Å; {100 * i['force_within_1']:.0f} % "
                f"of errors within one, {100 * i['force_within_2']:.0f} % within two",
            )
        say(console, f"written to {path}")
