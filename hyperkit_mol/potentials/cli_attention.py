"""``hyperkit-mol potential attention``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperkit_mol.terminal import answer, console, say


def attention(
    model: Annotated[Path, typer.Argument(help="Model folder (runs/.../model).")],
    structures: Annotated[Path, typer.Argument(help="File of structures (extxyz, or what ASE reads).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture: .png, .svg or .pdf.")] = Path(
        "attention.png"
    ),
    index: Annotated[
        str, typer.Option(help="Which structure, from 0; several as begin:end or begin:end:step.")
    ] = "0",
    bins: Annotated[int, typer.Option(min=1, help="Bins of distance.")] = 24,
    longest: Annotated[float | None, typer.Option(help="End of the last bin, Å.")] = None,
) -> None:
    """Plot attention against the distance between atoms, for each layer and head.

    Several structures are averaged. Beside the picture, its numbers as CSV and JSON.

    Example: [bold]hyperkit-mol potential attention runs/acac/model test.xyz --index 0:50 -o a.png[/]
    """
    with answer():
        from hyperkit_mol.potentials.attention_maps import attention_profile
        from hyperkit_mol.potentials.attention_plots import write_attention
        from hyperkit_mol.potentials.data import read_structures
        from hyperkit_mol.potentials.model_files import load_potential

        potential = load_potential(model)
        chosen = choose(read_structures(structures, labels=False), index, structures)
        profile = attention_profile(potential, chosen, bins=bins, longest=longest)
        for k in range(len(profile.mean)):
            shares = [("itself", profile.to_self[k])]
            if profile.kind == "transformer":
                shares += [("charge", profile.to_charge[k]), ("spin", profile.to_spin[k])]
            else:
                shares += [("rest", profile.to_rest[k])]
            parts = ", ".join(f"{name} {100 * value.mean():.1f} %" for name, value in shares)
            say(
                console,
                f"layer {k + 1}: weight ~ distance^{-profile.exponent[k]:.2f}, radius of 90 % "
                f"{profile.radius[k]:.2f} Å (even attention {profile.radius_even:.2f} Å); {parts}",
            )
        written = write_attention(profile, output)
        say(console, f"{len(chosen)} structures; written to {', '.join(map(str, written))}")


def choose(structures: Sequence[Any], index: str, source: Path) -> list[Any]:
    """Structures by a number or a slice, as ASE writes them."""
    try:
        parts = [int(p) if p.strip() else None for p in index.split(":")]
        if len(parts) > 3 or parts == [None] or (len(parts) == 3 and parts[2] == 0):
            raise ValueError
    except ValueError:
        raise ValueError(f"--index must be a number or begin:end:step, got {index!r}") from None
    if len(parts) == 1:
        (k,) = parts
        assert k is not None
        if not -len(structures) <= k < len(structures):
            raise ValueError(f"--index {k}: {source} has {len(structures)} structures, counted from 0")
        return [structures[k]]
    chosen = list(structures[slice(*parts)])
    if not chosen:
        raise ValueError(f"--index {index}: none of the {len(structures)} structures of {source}")
    return chosen
