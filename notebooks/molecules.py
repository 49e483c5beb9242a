"""Generate and score molecules: ``marimo edit notebooks/molecules.py``, or run it as a script.

Everything is small, so that it takes seconds: 144 molecules, 60 training steps. ``hyperkit-mol demo`` is the
same on 50,000 MOSES molecules.
"""

import marimo

app = marimo.App(width="medium", app_title="Generate and score molecules")


@app.cell
def _():
    import itertools
    import tempfile
    from pathlib import Path

    import marimo as mo
    from rich.console import Console

    from hyperkit_mol.chem.fragment import Fragmenter
    from hyperkit_mol.generator.config import load_config
    from hyperkit_mol.generator.generate import generate
    from hyperkit_mol.generator.pipeline import train
    from hyperkit_mol.moses import evaluate

    folder = Path(tempfile.mkdtemp(prefix="hyperkit-notebook-"))
    quiet = Console(quiet=True)
    return Fragmenter, evaluate, folder, generate, itertools, load_config, mo, quiet, train


@app.cell
def _(mo):
    mo.md("""
    # Generate and score molecules

    ## 1. A molecule is a tree of motifs

    Ring systems, double bonds and single atoms, joined where a hydrogen is free. The tree holds the whole
    molecule.
    """)
    return


@app.cell
def _(Fragmenter):
    paracetamol = "CC(=O)Nc1ccc(O)cc1"
    tree = Fragmenter().tree(paracetamol)
    for motif, above in zip(tree.motifs, tree.parent, strict=True):
        print(f"{motif:<12} hangs on {'nothing: the root' if above < 0 else tree.motifs[above]}")
    return


@app.cell
def _(mo):
    mo.md("""
    ## 2. Train

    Amides and esters of a few acids, amines and alcohols stand for a data set. `hyperkit-mol train --data
    my.smi` does this from a file, with progress bars, logs and checkpoints.
    """)
    return


@app.cell
def _(folder, itertools):
    acids = "CC CCC CC(C)C C1CC1C c1ccccc1 c1ccncc1 c1ccoc1 ClC COC FC(F)(F)C N#CC CSC".split()
    others = "N NC NCC N1CCOCC1 N1CCCC1 Nc1ccccc1 Nc1ccc(F)cc1 NC1CC1 OC OCC OC(C)C NCc1ccccc1".split()
    molecules = [f"{acid}C(=O){other}" for acid, other in itertools.product(acids, others)]
    data = folder / "amides.smi"
    data.write_text("\n".join(molecules) + "\n")
    print(len(molecules), "molecules, for example", molecules[:3])
    return data, molecules


@app.cell
def _(data, folder, load_config, quiet, train):
    settings = {
        "data.source": str(data),
        "data.validation": 10,
        "model.width": 32,
        "model.latent": 8,
        "model.site_width": 8,
        "model.head_size": 32,
        "model.feed_forward": 64,
        "autoencoder.batch_size": 64,
        "autoencoder.steps": 60,
        "autoencoder.warmup": 10,
        "gan.steps": 20,
        "gan.batch_size": 64,
        "gan.hidden": 32,
        "gan.noise": 8,
    }
    result = train(
        load_config("demo", settings), folder / "run", jobs=1, cache=folder / "cache", console=quiet
    )
    print(f"trained in {result.seconds:.1f} s; the model is {result.model}")
    return (result,)


@app.cell
def _(mo):
    mo.md("""
    ## 3. Sample

    Nothing is filtered: every molecule is valid by construction.
    """)
    return


@app.cell
def _(folder, generate, quiet, result):
    sampled = generate(result.model, 200, folder / "new.smi", seed=1, jobs=1, console=quiet)
    new = (folder / "new.smi").read_text().split()
    for line in sampled.lines():
        print(line)
    print(new[:5])
    return new, sampled


@app.cell
def _(mo):
    mo.md("""
    ## 4. Score

    With MOSES installed, `evaluate(new)` gives all its metrics against its test set. Against your own
    molecules:
    """)
    return


@app.cell
def _(data, evaluate, new, sampled):
    report = evaluate(
        new, metrics=["valid", "unique", "IntDiv", "Novelty"], reference=data, train=data, n_jobs=1
    )
    for name, value in report.metrics.items():
        print(f"{name:<14}{value if value is None else round(value, 3)}")
    assert sampled.valid == sampled.written == len(new)
    return


if __name__ == "__main__":
    app.run()
