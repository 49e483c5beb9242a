"""``hyperkit-mol relax``, which is also ``hyperkit-mol potential relax``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hyperkit_mol.terminal import answer, console, say

_SDF = Path("relaxed.sdf")
_ON_PAGE = 500  # molecules: a page of 2 MB at most


def relax(
    smiles: Annotated[Path, typer.Argument(help="File of SMILES: plain, CSV or TSV, gzipped or not.")],
    model: Annotated[Path, typer.Option(help="Model folder (runs/.../model).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="SDF file to write.")] = _SDF,
    report: Annotated[
        Path | None, typer.Option(help="Also an HTML page with a table and a 3D view, to read offline.")
    ] = None,
    conformers: Annotated[
        int, typer.Option(min=1, help="Relax so many of each molecule; 2 or more give strain energies.")
    ] = 1,
    keep: Annotated[str, typer.Option(help="Which of them to write: first, best or all.")] = "first",
    method: Annotated[str, typer.Option(help="bfgs or fire.")] = "bfgs",
    fmax: Annotated[float, typer.Option(help="Largest force at the end, eV/Å.")] = 0.05,
    max_steps: Annotated[int, typer.Option(min=1, help="Optimiser steps at most.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the starting conformers.")] = 0,
) -> None:
    """Relax molecules to 3D structures, from RDKit conformers, into one SDF file.

    The strain of a relaxed conformer is its energy above the lowest of the molecule's relaxed conformers.

    Example: [bold]hyperkit-mol relax new.smi --model runs/acac/model --conformers 5 --report relaxed.html[/]
    """
    with answer():
        from hyperkit_mol.generator.callbacks import progress_bar
        from hyperkit_mol.potentials.model_files import load_potential
        from hyperkit_mol.potentials.relax import Report, relax_file

        potential, found = load_potential(model), Report(failed=[])
        options: dict[str, Any] = {"method": method, "fmax": fmax, "max_steps": max_steps, "seed": seed}
        options |= {"conformers": conformers, "keep": keep, "remember": _ON_PAGE if report else 0}
        with progress_bar(console) as bar:
            task = bar.add_task("Relaxing", total=None, note="")
            for done, count, found in relax_file(potential, smiles, output, **options):
                bar.update(task, completed=done, total=count, note=f"{len(found.failed or [])} failed")
        failed = found.failed or []
        for line in failed[:20]:
            say(console, f"  left out, {line}")
        if len(failed) > 20:
            say(console, f"  ... and {len(failed) - 20} more")
        if not found.written:
            raise ValueError(f"{smiles}: no molecule could be relaxed, so {output} was not written")
        remarks = [f"{found.unconverged} of them not converged"] if found.unconverged else []
        if found.broken:
            remarks.append(f"{found.broken} with other bonds than their SMILES")
        say(console, ", ".join([f"{found.written} relaxed structures written to {output}", *remarks]))
        if report is not None:
            from hyperkit_mol.potentials.relax_report import write_report

            details = [
                f"ETKDG conformers (seed {seed}, {conformers} a molecule, {keep} written), {method} to "
                f"{fmax:g} eV/Å or {max_steps} steps.",
                f"Model: {potential.config.kind}, {potential.config.attention} attention, {model}; trained "
                f"on {potential.info.get('train', 'data that it does not name')}.",
            ]
            name = f"{potential.config.kind}, {model}"
            page = write_report(found, report, title=smiles.name, model=name, details=details)
            say(console, f"Page: {page.resolve()}")
