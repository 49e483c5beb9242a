"""``hyperkit-mol``: every verb is a thin layer over a function of the package."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

# Before torch is first imported. By default its threads spin for as long as they wait for each other: a step
# then takes ten times longer as soon as anything else runs. Never to spin costs a fifth on an idle machine.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

from hyperkit_mol.generator.cli_explore import decorate, interpolate, neighbors, optimize
from hyperkit_mol.potentials.cli import app as potential
from hyperkit_mol.potentials.cli_relax import relax
from hyperkit_mol.terminal import answer, console, errors, parse_seconds
from hyperkit_mol.terminal import overrides as overrides_of

app = typer.Typer(
    name="hyperkit-mol",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Train a hyperbolic molecule generator, sample it, judge it by the MOSES metrics.\n\n"
    "Example: [bold]hyperkit-mol demo[/] does all three on MOSES in ten minutes; "
    "[bold]hyperkit-mol doctor[/] says what is missing for it.",
)
app.add_typer(potential, name="potential")
for verb in (interpolate, neighbors, optimize, decorate, relax):
    app.command()(verb)
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")]


@app.command()
def train(
    output: Output = Path("runs/moses"),
    config: Annotated[
        str, typer.Option("--config", "-c", help="A preset (demo, moses-cpu, moses-gpu) or a YAML file.")
    ] = "moses-cpu",
    data: Annotated[
        str | None, typer.Option(help="'moses', or a file of SMILES: plain, CSV or TSV, gzipped or not.")
    ] = None,
    prior: Annotated[str | None, typer.Option(help="gan, wrapped-normal or vae.")] = None,
    geometry: Annotated[str | None, typer.Option(help="lorentz or euclidean.")] = None,
    autoencoder: Annotated[
        str | None,
        typer.Option(help="Take over the trained autoencoder of this run or model; train only the prior."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run.")] = None,
    max_time: Annotated[str | None, typer.Option(help="Stop in time for this, e.g. 90m or 2h30m.")] = None,
    max_bad: Annotated[
        int | None, typer.Option(help="Fail if more SMILES than this cannot be parsed.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoints.")] = False,
    devices: Annotated[str, typer.Option(help="Devices, as Lightning counts them.")] = "1",
    jobs: Annotated[
        int | None, typer.Option(help="Processes for preprocessing; all processors if left out.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting of the configuration, e.g. model.width=64.")
    ] = None,
) -> None:
    """Train the junction-tree autoencoder and its latent prior.

    Example: [bold]hyperkit-mol train --data my.smi --config demo -o runs/mine --max-time 1h[/]
    """
    with answer():
        from hyperkit_mol.generator.config import load_config
        from hyperkit_mol.generator.pipeline import train as run

        chosen: dict[str, Any] = {
            "data.source": data,
            "prior": prior,
            "model.geometry": geometry,
            "autoencoder_from": autoencoder,
            "seed": seed,
            "data.max_bad": max_bad,
        }
        overrides = {k: v for k, v in chosen.items() if v is not None} | overrides_of(settings or [])
        stored = output / "config.yaml"
        # A resumed run is described by its own folder; what is given besides must agree with it.
        source = stored if resume and stored.exists() and config == "moses-cpu" else config
        run(
            load_config(source, overrides),
            output,
            resume=resume,
            max_seconds=parse_seconds(max_time),
            devices=int(devices) if devices.isdigit() else devices,
            jobs=jobs,
            console=console,
        )


@app.command()
def generate(
    count: Annotated[int, typer.Option("-n", "--count", help="Molecules to sample.")] = 1000,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, one SMILES a line.")] = Path(
        "out.smi"
    ),
    model: Annotated[
        Path | None, typer.Option("-m", "--model", help="Model folder; the shipped model if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same molecules.")] = 0,
    temperature: Annotated[
        float | None,
        typer.Option(help="Of the decoder's choices; 0 is greedy; the model's own if left out."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Molecules decoded at once.")] = 1024,
    jobs: Annotated[int | None, typer.Option(help="Processes; all processors if left out.")] = None,
) -> None:
    """Sample molecules; every one is valid by construction.

    Example: [bold]hyperkit-mol generate -n 1000[/] samples the model that comes with the package;
    [bold]hyperkit-mol generate -n 30000 -m runs/mine/model -o out.smi[/] one of your own.
    """
    with answer():
        from hyperkit_mol.generator.generate import generate as run
        from hyperkit_mol.generator.shipped import shipped_model

        report = run(
            model or shipped_model(),
            count,
            output,
            seed=seed,
            temperature=temperature,
            batch_size=batch_size,
            jobs=jobs,
            console=console,
        )
        for line in report.lines():
            console.print(line, highlight=False)
        console.print(f"Written to {output}")


@app.command()
def evaluate(
    file: Annotated[Path, typer.Argument(help="File of SMILES: plain, CSV or TSV, gzipped or not.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for the reports; beside the file if left out."),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Only these, separated by commas, e.g. FCD,SNN/Test,Novelty.")
    ] = None,
    reference: Annotated[
        str, typer.Option(help="'moses', or a file of SMILES to compare with (statistics are cached).")
    ] = "moses",
    training: Annotated[
        Path | None, typer.Option("--train", help="The model's own training molecules, for Novelty.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes; all processors if left out.")] = None,
) -> None:
    """MOSES metrics of a file of SMILES: a table here, JSON and an HTML page beside the file.

    Example: [bold]hyperkit-mol evaluate out.smi[/]
    """
    with answer():
        chosen = None if metrics is None else [m.strip() for m in metrics.split(",") if m.strip()]
        _evaluate(file, output, jobs, metrics=chosen, reference=reference, train=training)


def _evaluate(file: Path, folder: Path | None, jobs: int | None, **options: Any) -> None:
    from hyperkit_mol.chem.prepare import cpu_count
    from hyperkit_mol.moses.report import evaluate_file, rich_progress

    with rich_progress(console) as progress:
        found = evaluate_file(file, folder, n_jobs=jobs or cpu_count(), progress=progress, **options)
    console.print(found.report.table())
    console.print(f"Report: {found.html.resolve()}", soft_wrap=True)


@app.command()
def demo(
    output: Output = Path("runs/demo"),
    count: Annotated[int, typer.Option("-n", "--count", help="Molecules to sample.")] = 2000,
    max_time: Annotated[str, typer.Option(help="Time for training.")] = "9m",
) -> None:
    """The main job, small: train on 50,000 MOSES molecules, sample, evaluate. Goes on where it was stopped.

    Example: [bold]hyperkit-mol demo[/]
    """
    with answer():
        from hyperkit_mol.generator.config import load_config
        from hyperkit_mol.generator.generate import generate as sample
        from hyperkit_mol.generator.pipeline import train as run

        model = output / "model"
        if not model.exists():
            run(
                load_config("demo"),
                output,
                resume=(output / "config.yaml").exists(),
                max_seconds=parse_seconds(max_time),
                console=console,
            )
        else:
            console.print(f"{model}: trained by an earlier call; delete {output} to begin anew")
        smiles = output / "samples.smi"
        for line in sample(model, count, smiles, console=console).lines():
            console.print(line, highlight=False)
        _evaluate(smiles, output, None)


@app.command()
def doctor() -> None:
    """What is installed, what is missing, and the command that brings it; exit code 1 if something will fail.

    Example: [bold]hyperkit-mol doctor[/]
    """
    from hyperkit_mol.doctor import main as examine

    raise typer.Exit(examine())


def main() -> None:
    """Entry point of the console script."""
    run: Callable[[], Any] = app
    try:
        run()
    except KeyboardInterrupt:  # before or after a verb's own handler
        errors.print("[bold red]hyperkit-mol:[/] stopped")
        sys.exit(130)
