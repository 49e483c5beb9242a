"""``hyperkit-mol potential label``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from hyperkit_mol.terminal import answer, console, say

_OUTPUT = Path("labelled.extxyz")


def label(
    smiles: Annotated[
        Path | None, typer.Argument(help="File of SMILES: plain, CSV or TSV, gzipped or not.")
    ] = None,
    structures: Annotated[
        Path | None, typer.Option(help="Label the geometries of this file instead (extxyz, .db, ...).")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Extended XYZ file to write.")] = _OUTPUT,
    method: Annotated[
        str, typer.Option(help="gfn2, gfn1, dft, or module:function for an ASE calculator of your own.")
    ] = "gfn2",
    functional: Annotated[str | None, typer.Option(help="Of method dft; pbe if left out.")] = None,
    basis: Annotated[str | None, typer.Option(help="Of method dft; def2-svp if left out.")] = None,
    dispersion: Annotated[
        str | None, typer.Option(help="Of method dft: d3bj (if left out), d3zero, d4 or none.")
    ] = None,
    sample_with: Annotated[
        str | None,
        typer.Option(help="Method of the geometries; if left out gfn2 for dft, else that of the labels."),
    ] = None,
    sampling: Annotated[str, typer.Option(help="md or normal-modes.")] = "md",
    conformers: Annotated[int, typer.Option(help="Starting conformers of a molecule.")] = 4,
    samples: Annotated[
        int, typer.Option(help="Frames of a molecule, over conformers and temperatures.")
    ] = 100,
    temperature: Annotated[
        list[float] | None,
        typer.Option(help="K; several by repeating it; 300 if left out.", show_default=False),
    ] = None,
    timestep: Annotated[float, typer.Option(help="Of the dynamics, fs.")] = 1.0,
    interval: Annotated[int, typer.Option(help="Steps of the dynamics between frames.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of conformers and sampling.")] = 0,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Processes of one thread; all processors by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted labelling.")] = False,
) -> None:
    """Make labelled structures from SMILES: conformers, short dynamics, GFN2-xTB or DFT energies and forces.

    Example: [bold]hyperkit-mol potential label molecules.smi -o labelled.extxyz --temperature 300[/]
    """
    with answer():
        if (smiles is None) == (structures is None):
            raise ValueError("give a file of SMILES, or geometries by --structures FILE")
        from hyperkit_mol.generator.callbacks import progress_bar
        from hyperkit_mol.potentials.dft import DFTSettings
        from hyperkit_mol.potentials.label import LabelSettings, label_smiles, label_structures

        level = {"functional": functional, "basis": basis, "dispersion": dispersion}
        dft = DFTSettings(**{k: v for k, v in level.items() if v is not None})
        if structures is not None and sample_with is not None:
            raise ValueError("--sample-with is for SMILES; the geometries of --structures are there already")
        if any(":" in name for name in (method, sample_with or "")):
            sys.path.insert(0, os.getcwd())
        settings = LabelSettings(
            method=method,
            sampling=sampling,  # pyright: ignore[reportArgumentType]  (checked there)
            conformers=conformers,
            samples=samples,
            temperatures=tuple(temperature or [300.0]),
            seed=seed,
            timestep=timestep,
            interval=interval,
            sample_with=sample_with,
            dft=dft,
        )
        begin = last = time.monotonic()
        first: int | None = None
        with progress_bar(console) as bar:
            row = bar.add_task("Labelling", total=None, note="")

            def progress(done: int, total: int, frames: int, failed: int) -> None:
                nonlocal last, first
                first = done if first is None else first
                note = f"{frames:,} frames" + (f", {failed:,} failed" if failed else "")
                bar.update(row, completed=done, total=total, note=note)
                now = time.monotonic()
                if not console.is_terminal and now - last > 30 and done > first:
                    last = now
                    left = (total - done) * (now - begin) / (done - first)
                    say(console, f"Labelling: run {done:,}/{total:,}, {note}, about {left / 60:.1f} min left")

            try:
                if structures is not None:
                    report = label_structures(
                        structures, output, method, dft=dft, jobs=jobs, resume=resume, progress=progress
                    )
                else:
                    assert smiles is not None
                    report = label_smiles(
                        smiles, output, settings, jobs=jobs, resume=resume, progress=progress
                    )
            except KeyboardInterrupt:
                say(console, f"What is finished lies in {output}.parts; go on with --resume")
                raise
        if not report.frames:
            say(console, f"{output} is complete already")
            return
        for line in report.failed[:20]:
            say(console, f"  left out, {line}")
        if len(report.failed) > 20:
            say(console, f"  ... and {len(report.failed) - 20:,} more")
        earlier = f", {report.taken_over:,} of {report.tasks:,} runs from before" if report.taken_over else ""
        say(
            console, f"{report.frames:,} labelled frames written to {output}{earlier}, {report.seconds:.0f} s"
        )
