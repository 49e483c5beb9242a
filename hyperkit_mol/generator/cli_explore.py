"""The verbs beside sampling: ``interpolate``, ``neighbors``, ``optimize``, ``decorate``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hyperkit_mol.terminal import answer, console, say

Model = Annotated[
    Path | None, typer.Option("-m", "--model", help="Model folder; the shipped model if left out.")
]
Out = Annotated[Path, typer.Option("-o", "--output", help="File to write, one SMILES a line.")]
Picture = Annotated[Path | None, typer.Option(help="Draw the molecules into this SVG or PNG file.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same molecules.")]
Radius = Annotated[float, typer.Option(help="Root mean square distance in latent space.")]


def interpolate(
    start: Annotated[str, typer.Argument(help="SMILES of the first molecule.")],
    end: Annotated[str, typer.Argument(help="SMILES of the last molecule.")],
    steps: Annotated[int, typer.Option(help="Molecules on the way at most, both ends included.")] = 10,
    model: Model = None,
    output: Out = Path("interpolation.smi"),
    picture: Picture = None,
) -> None:
    """Molecules along the geodesic between two molecules.

    Example: [bold]hyperkit-mol interpolate 'CCN(CC)CC(=O)Nc1c(C)cccc1C' 'O=C(NCCN1CCOCC1)c1ccc(Cl)cc1'[/]
    """
    with answer():
        from hyperkit_mol.generator import explore

        found = explore.interpolate(_load(model), start, end, steps)
        _write([smiles for _, smiles in found], output, picture, [f"{place:.3f}" for place, _ in found])


def neighbors(
    smiles: Annotated[str, typer.Argument(help="SMILES of the molecule in the middle.")],
    count: Annotated[int, typer.Option("-n", "--count", help="Latents to draw.")] = 100,
    radius: Radius = 1.0,
    temperature: Annotated[float, typer.Option(help="Of the decoder's choices; 0 is greedy.")] = 0.0,
    seed: Seed = 0,
    model: Model = None,
    output: Out = Path("neighbors.smi"),
    picture: Picture = None,
) -> None:
    """Molecules around a molecule in latent space.

    Example: [bold]hyperkit-mol neighbors 'CCN(CC)CC(=O)Nc1c(C)cccc1C' -n 200 --radius 1.0[/]
    """
    with answer():
        from hyperkit_mol.generator import explore

        found = explore.neighbors(
            _load(model), smiles, count, radius=radius, temperature=temperature, seed=seed
        )
        if not found:
            say(console, f"every draw is the molecule itself: raise --radius above {radius}")
        _write(found, output, picture)


def optimize(
    objective: Annotated[str, typer.Argument(help="qed, plogp, or module:function on a SMILES.")] = "qed",
    start: Annotated[
        Path | None, typer.Option(help="File of SMILES to begin from; samples of the prior if left out.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 20,
    population: Annotated[int, typer.Option(help="Molecules decoded in each round.")] = 500,
    keep: Annotated[int, typer.Option(help="How many of the best are kept.")] = 50,
    radius: Radius = 1.0,
    seed: Seed = 0,
    model: Model = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Table to write: SMILES, score, round.")
    ] = Path("optimized.csv"),
    picture: Picture = None,
) -> None:
    """Search the latent space for molecules of high score.

    Example: [bold]hyperkit-mol optimize qed --rounds 20 -o best.csv[/], or with a function of your own,
    [bold]hyperkit-mol optimize mine:score[/] for [bold]def score(smiles)[/] in mine.py.
    """
    with answer():
        from hyperkit_mol.chem.reading import read_smiles_file
        from hyperkit_mol.generator import explore

        function = objective_of(objective)
        begin = () if start is None else read_smiles_file(start).smiles

        def told(number: int, best: list[explore.Candidate]) -> None:
            say(console, f"round {number}/{rounds}: best {best[0].score:.4f}, {keep}th {best[-1].score:.4f}")

        found = explore.optimize(
            _load(model),
            function,
            start=begin,
            rounds=rounds,
            population=population,
            keep=keep,
            radius=radius,
            seed=seed,
            progress=told,
        )
        rows = ["smiles,score,round", *(f"{c.smiles},{c.score:.6g},{c.round}" for c in found)]
        _save(output, "\n".join(rows) + "\n")
        if picture is not None:
            draw([c.smiles for c in found], picture, [f"{c.score:.3f}" for c in found])
        say(console, f"{len(found)} molecules written to {output}")


def decorate(
    scaffold: Annotated[str, typer.Argument(help="SMILES that every molecule must contain.")],
    count: Annotated[int, typer.Option("-n", "--count", help="Molecules to sample.")] = 100,
    pull: Annotated[
        float, typer.Option(help="0: stay at the scaffold's latent; 1: go to a sample of the prior.")
    ] = 0.5,
    temperature: Annotated[
        float | None, typer.Option(help="Of the decoder's choices; 0 is greedy; the model's own if left out.")
    ] = None,
    seed: Seed = 0,
    model: Model = None,
    output: Out = Path("decorated.smi"),
    picture: Picture = None,
) -> None:
    """Molecules that contain a scaffold: decoding starts from its motif tree.

    Example: [bold]hyperkit-mol decorate 'c1ccc2\\[nH]ccc2c1' -n 200 --picture indoles.svg[/]
    """
    with answer():
        from hyperkit_mol.generator import explore

        found = explore.decorate(_load(model), scaffold, count, pull=pull, temperature=temperature, seed=seed)
        say(console, f"{len(set(found))} of {len(found)} molecules are distinct")
        _write(found, output, picture)


def _load(folder: Path | None) -> Any:
    from hyperkit_mol.generator.model import MoleculeGenerator
    from hyperkit_mol.generator.shipped import shipped_model

    return MoleculeGenerator.load(folder or shipped_model())


def objective_of(name: str) -> Callable[[str], float]:
    """An objective by name: ``qed``, ``plogp``, or ``module:function``.

    ``plogp`` is logP less the synthetic accessibility and the size of rings beyond six atoms
    (Gomez-Bombarelli et al., ACS Cent. Sci. 4:268, 2018), not normalised.

    Raises
    ------
    ValueError
        If there is no such function.
    """
    if name in ("qed", "plogp"):
        return _Known(name)
    module, _, function = name.partition(":")
    if not function:
        raise ValueError(f"objective must be qed, plogp or module:function, got {name!r}")
    import importlib
    import sys

    sys.path.insert(0, "")  # a module in the working folder, as with python -m
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as err:
        raise ValueError(f"objective {name!r} cannot be imported: {err}") from err
    finally:
        sys.path.remove("")
    if not callable(found):
        raise ValueError(f"objective {name!r} is not a function")
    return found  # pyright: ignore[reportReturnType]


class _Known:
    def __init__(self, name: str) -> None:
        from rdkit import Chem
        from rdkit.Chem import QED, Crippen, RDConfig

        self.name, self.chem, self.qed, self.crippen = name, Chem, QED, Crippen
        if name == "plogp":
            import sys

            sys.path.append(str(Path(RDConfig.RDContribDir) / "SA_Score"))
            import sascorer  # pyright: ignore[reportMissingImports]

            self.sa = sascorer.calculateScore

    def __call__(self, smiles: str) -> float:
        mol = self.chem.MolFromSmiles(smiles)
        if mol is None:
            return math.nan
        if self.name == "qed":
            return float(self.qed.qed(mol))
        largest = max((len(ring) for ring in mol.GetRingInfo().AtomRings()), default=0)
        return float(self.crippen.MolLogP(mol)) - float(self.sa(mol)) - max(0, largest - 6)


def _write(
    smiles: Sequence[str], output: Path, picture: Path | None, legends: Sequence[str] | None = None
) -> None:
    _save(output, "".join(f"{s}\n" for s in smiles))
    if picture is not None and smiles:
        draw(smiles, picture, legends)
    say(console, f"{len(smiles)} molecules written to {output}")


def _save(path: Path, content: str | bytes) -> None:
    from hyperkit_mol.files import replacing

    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def draw(smiles: Sequence[str], path: Path, legends: Sequence[str] | None = None, most: int = 24) -> None:
    """Draw the first `most` molecules on a grid, as SVG or PNG by the name of the file.

    Raises
    ------
    ValueError
        If the name ends in neither.
    """
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D

    kind = path.suffix.lower()
    if kind not in (".svg", ".png"):
        raise ValueError(f"picture must end in .svg or .png, got {path.name!r}")
    shown = list(smiles[:most])
    columns = min(5, len(shown))
    side = 220
    size = (columns * side, math.ceil(len(shown) / columns) * side)
    canvas = rdMolDraw2D.MolDraw2DSVG if kind == ".svg" else rdMolDraw2D.MolDraw2DCairo
    drawer = canvas(*size, side, side)
    mols = [Chem.MolFromSmiles(s) for s in shown]
    drawer.DrawMolecules(mols, legends=list(legends[: len(shown)]) if legends else [""] * len(shown))
    drawer.FinishDrawing()
    _save(path, drawer.GetDrawingText())
