"""``hyperkit-mol potential``: thin verbs over the functions of the package."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperkit_mol.potentials.cli_attention import attention
from hyperkit_mol.potentials.cli_label import label
from hyperkit_mol.potentials.cli_relax import relax
from hyperkit_mol.potentials.cli_uncertainty import uncertainty
from hyperkit_mol.terminal import answer, console, parse_seconds
from hyperkit_mol.terminal import overrides as overrides_of

_RUN = Path("runs/potential")
_ENERGY_UNIT = "Of the energies: eV, meV, kcal/mol, kJ/mol or Hartree."
_LENGTH_UNIT = "Of positions and cells: Å, bohr or nm."
_FORCE_UNIT = "Of the forces; energy unit/length unit unless given, e.g. Hartree/bohr."

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Train attention potentials on energies and forces, test them, relax molecules with them.\n\n"
    "Example: [bold]hyperkit-mol potential train --data train.xyz -o runs/mine[/]",
)
app.command()(label)
app.command()(attention)
app.command()(relax)
app.command()(uncertainty)


@app.command()
def train(
    data: Annotated[
        str | None, typer.Option(help="File of labelled structures: extxyz, ASE .db, .aselmdb.")
    ] = None,
    model: Annotated[str, typer.Option(help="escaip or transformer.")] = "escaip",
    preset: Annotated[
        str, typer.Option("--preset", "-p", help="small, medium, large, or a YAML file.")
    ] = "small",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")] = Path(
        "runs/potential"
    ),
    validation: Annotated[
        str | None, typer.Option(help="A file, a fraction below 1, or a number of structures.")
    ] = None,
    isolated_atoms: Annotated[
        str | None, typer.Option(help="File of single atoms with energies; least squares if left out.")
    ] = None,
    energy_key: Annotated[str | None, typer.Option(help="Name of the energies in the file.")] = None,
    forces_key: Annotated[str | None, typer.Option(help="Name of the forces in the file.")] = None,
    charge_key: Annotated[str | None, typer.Option(help="Name of the total charges in the file.")] = None,
    spin_key: Annotated[str | None, typer.Option(help="Name of the spins in the file.")] = None,
    energy_unit: Annotated[str | None, typer.Option(help=_ENERGY_UNIT)] = None,
    length_unit: Annotated[str | None, typer.Option(help=_LENGTH_UNIT)] = None,
    force_unit: Annotated[str | None, typer.Option(help=_FORCE_UNIT)] = None,
    attention: Annotated[str | None, typer.Option(help="euclidean or lorentz.")] = None,
    forces: Annotated[str | None, typer.Option(help="conservative (-dE/dx) or direct.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps; the learning rate falls over them.")
    ] = None,
    pretrain_steps: Annotated[
        int | None, typer.Option(help="Steps of the Transformer's first stage, on discretised structures.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Begin from the weights of this model folder (fine-tuning).")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile energy and forces into one graph first (a minute).")
    ] = False,
    max_time: Annotated[str | None, typer.Option(help="Stop in time for this, e.g. 90m or 2h30m.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
    devices: Annotated[str, typer.Option(help="Devices, as Lightning counts them.")] = "1",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, e.g. model.width=96.")
    ] = None,
) -> None:
    """Train a potential on the energies and forces of a file.

    Example: [bold]hyperkit-mol potential train --data train.xyz --isolated-atoms atoms.xyz -o runs/acac[/]
    """
    with answer():
        from hyperkit_mol.potentials.config import load_config
        from hyperkit_mol.potentials.pipeline import train as run

        chosen: dict[str, Any] = {
            "data.train": data,
            "data.validation": validation,
            "data.isolated_atoms": isolated_atoms,
            "data.energy_key": energy_key,
            "data.forces_key": forces_key,
            "data.charge_key": charge_key,
            "data.spin_key": spin_key,
            "data.energy_unit": energy_unit,
            "data.length_unit": length_unit,
            "data.force_unit": force_unit,
            "model.attention": attention,
            "model.forces": forces,
            "seed": seed,
            "training.steps": steps,
            "training.start": None if start is None else str(start),
            "training.compile": compiled or None,
            "pretraining.steps": pretrain_steps,
        }
        overrides = {k: v for k, v in chosen.items() if v is not None} | overrides_of(settings or [])
        stored = output / "config.yaml"
        # A resumed run is described by its own folder; what is given besides must agree with it.
        source = str(stored) if resume and stored.exists() and preset == "small" else preset
        run(
            load_config(source, model, overrides),
            output,
            resume=resume,
            max_seconds=parse_seconds(max_time),
            devices=int(devices) if devices.isdigit() else devices,
            console=console,
        )


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder (runs/.../model).")],
    data: Annotated[list[Path], typer.Argument(help="Files of labelled structures.")],
    energy_key: Annotated[str, typer.Option(help="Name of the energies in the file.")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Name of the forces in the file.")] = "forces",
    charge_key: Annotated[str, typer.Option(help="Name of the total charges in the file.")] = "charge",
    spin_key: Annotated[str, typer.Option(help="Name of the spins in the file.")] = "spin",
    energy_unit: Annotated[str, typer.Option(help=_ENERGY_UNIT)] = "eV",
    length_unit: Annotated[str, typer.Option(help=_LENGTH_UNIT)] = "Å",
    force_unit: Annotated[str | None, typer.Option(help=_FORCE_UNIT)] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Structures at a time.")] = 32,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the figures as JSON.")
    ] = None,
) -> None:
    """Energy and force errors of a potential on labelled structures.

    Example: [bold]hyperkit-mol potential evaluate runs/acac/model test.xyz[/]
    """
    with answer():
        from rich.table import Table

        from hyperkit_mol.potentials.data import DataKeys
        from hyperkit_mol.potentials.model_files import load_potential
        from hyperkit_mol.potentials.pipeline import evaluate as run
        from hyperkit_mol.potentials.units import Units

        units = Units(energy_unit, length_unit, force_unit)
        potential = load_potential(model)
        table = Table("file", "structures", "E RMSE", "E MAE", "E RMSE/atom", "F RMSE", "F MAE", "s")
        table.title = "meV and meV/Å"
        figures = {}
        for path in data:
            keys = DataKeys(energy_key, forces_key, charge_key, spin_key)
            found = run(potential, path, keys, units=units, batch_size=batch_size, console=console)
            figures[str(path)] = dataclasses.asdict(found)
            values = (found.energy_rmse, found.energy_mae, found.energy_rmse_per_atom)
            table.add_row(
                path.name,
                f"{found.structures:,}",
                *(f"{v:.2f}" for v in (*values, found.force_rmse, found.force_mae)),
                f"{found.seconds:.1f}",
            )
        console.print(table)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(figures, indent=1))
            console.print(f"Figures written to {output}")
