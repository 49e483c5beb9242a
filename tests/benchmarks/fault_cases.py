"""What `faults.py` disturbs: seven kinds of work, how each is started, checked and compared."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from hyperkit_mol.chem.prepare import TreeDataset
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.moses.results import MosesReport
from hyperkit_mol.potentials._label_worker import scan
from hyperkit_mol.potentials.model_files import load_potential

SMALL = {
    "model": {
        "width": 32, "latent": 8, "site_width": 8, "encoder_layers": 1, "decoder_layers": 1, "heads": 2,
        "feed_forward": 32, "head_size": 64,
    },
    "autoencoder": {"batch_size": 32, "steps": 60, "warmup": 4, "validate_every": 20, "save_every": 5},
    "gan": {"noise": 8, "hidden": 16, "batch_size": 32, "steps": 30, "critic_steps": 1, "save_every": 5},
    "data": {"validation": 50, "max_bad": 0},
}  # fmt: skip


class Broken(AssertionError):
    """Something on the disk is not what it must be."""


@dataclass
class Scenario:
    """One kind of work.

    Attributes
    ----------
    name : str
    start : callable
        Command for a folder; it looks itself whether there is something to go on with.
    check : callable
        Reads everything in a folder after a kill; raises `Broken`. Returns the steps that are safely stored.
    result : callable
        A text that two equal results share.
    """

    name: str
    start: Callable[[Path], list[str]]
    check: Callable[[Path], int]
    result: Callable[[Path], str]


def verb(*words: object) -> list[str]:
    """The command line of a verb."""
    return [sys.executable, "-m", "hyperkit_mol", *map(str, words)]


def environment(folder: Path) -> dict[str, str]:
    """A cache of its own beside the run."""
    return {**os.environ, "HYPERKIT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of tensors by name, bit for bit."""
    out = hashlib.sha256()
    for name in sorted(tensors):
        out.update(name.encode())
        out.update(tensors[name].detach().as_subclass(torch.Tensor).contiguous().numpy().tobytes())
    return out.hexdigest()


def check_caches(folder: Path) -> None:
    """Every file of prepared molecules can be read to its end."""
    for path in (folder / "cache").rglob("trees-*.arrow"):
        data = TreeDataset.load(path)
        data.tree(len(data) - 1)


def saved_steps(folder: Path) -> int:
    """Steps in all checkpoints of a run, each read as `--resume` reads it."""
    total = 0
    for path in folder.rglob("last.ckpt"):
        total += int(torch.load(path, map_location="cpu", weights_only=True)["step"])
    return total


def make_scenarios(base: Path, smiles: list[str]) -> list[Scenario]:
    """All scenarios on data that is written into `base`."""
    molecules = base / "molecules.smi"
    molecules.write_text("\n".join(smiles[:400]) + "\n")
    many = base / "many.smi"
    many.write_text("\n".join(smiles[:8_000]) + "\n")
    reference = base / "reference.smi"
    reference.write_text("\n".join(smiles[400:2400]) + "\n")
    config = base / "small.yaml"
    config.write_text(yaml.safe_dump({**SMALL, "data": {**SMALL["data"], "source": str(molecules)}}))
    frames = base / "frames.xyz"
    write_frames(frames)

    def train(folder: Path) -> list[str]:
        again = (folder / "run" / "config.yaml").exists()
        words = ["--resume"] if again else ["-c", config]
        return verb("train", "-o", folder / "run", "--jobs", 1, *words)

    def check_train(folder: Path) -> int:
        check_caches(folder)
        if (folder / "run" / "model").exists():
            MoleculeGenerator.load(folder / "run" / "model")
        return saved_steps(folder / "run")

    def potential(folder: Path) -> list[str]:
        again = (folder / "run" / "config.yaml").exists()
        small = [
            x
            for pair in ("model.width=16", "model.layers=1", "training.save_every=5")
            for x in ("--set", pair)
        ]
        first = ["--data", frames, "--steps", 60, "--validation", 0.2, *small]
        return verb("potential", "train", "-o", folder / "run", *(["--resume"] if again else first))

    def check_potential(folder: Path) -> int:
        if (folder / "run" / "model").exists():
            load_potential(folder / "run" / "model")
        return saved_steps(folder / "run")

    def label(folder: Path) -> list[str]:
        few = base / "few.smi"
        few.write_text("CO\nC=O\nCC\nN\nC#N\n")
        out = folder / "labelled.extxyz"
        again = ["--resume"] if out.with_name(f"{out.name}.parts").exists() or out.exists() else []
        words = ["--conformers", 2, "--samples", 4, "--interval", 2, "--jobs", 2, "-o", out]
        return verb("potential", "label", few, *words, *again)

    def check_label(folder: Path) -> int:
        """Finished runs that `--resume` will take over; all of them where the output is there."""
        path = folder / "labelled.extxyz"
        if path.exists():
            if (n := path.read_text().count("energy=")) != 20:
                raise Broken(f"{path.name} has {n} frames of 20")
            return 10
        parts = path.with_name(f"{path.name}.parts")
        return len(scan(parts)) if parts.exists() else 0

    model = base / "whole-training" / "run" / "model"

    def generate(folder: Path) -> list[str]:
        return verb(
            "generate", "-m", model, "-n", 2000, "--batch-size", 200, "--jobs", 2, "-o", folder / "new.smi"
        )

    def lines(path: Path, count: int) -> int:
        if path.exists() and (n := len(path.read_text().splitlines())) != count:
            raise Broken(f"{path.name} has {n} lines of {count}")
        return 0

    def prepare(folder: Path) -> list[str]:
        code = (
            "import sys; from pathlib import Path; from hyperkit_mol.chem.prepare import prepare\n"
            "if __name__ == '__main__':\n"
            "    text = Path(sys.argv[1]).read_text().split()\n"
            "    prepare(text, jobs=2, cache=Path(sys.argv[2]))\n"
        )
        script = folder / "prepare_it.py"
        script.write_text(code)
        return [sys.executable, str(script), str(many), str(folder / "cache")]

    def check_prepare(folder: Path) -> int:
        check_caches(folder)
        return 0

    def prepared(folder: Path) -> str:
        (path,) = (folder / "cache").glob("trees-*.arrow")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def evaluate(folder: Path) -> list[str]:
        chosen = "valid,unique,SNN,Frag,Scaf,IntDiv,Novelty"
        words = ["--metrics", chosen, "--reference", reference, "--train", reference]
        words += ["--jobs", 2, "-o", folder]
        return verb("evaluate", molecules, *words)

    def check_evaluate(folder: Path) -> int:
        if (folder / "molecules.json").exists():
            MosesReport.from_json(folder / "molecules.json")
        page = folder / "molecules.html"
        if page.exists() and not page.read_text().rstrip().endswith("</html>"):
            raise Broken("molecules.html is cut off")
        return 0

    def relax(folder: Path) -> list[str]:
        few = folder / "few.smi"
        few.write_text("CC(=O)O\nCO\nCCO\nC=O\nCC\nCOC\nCC=O\nOCC=O\n")
        potential_model = base / "whole-potential training" / "run" / "model"
        return verb(
            "potential", "relax", few, "--model", potential_model, "-o", folder / "out.sdf", "--max-steps", 30
        )

    def check_relax(folder: Path) -> int:
        path = folder / "out.sdf"
        if path.exists() and path.read_text().count("$$$$") == 0:
            raise Broken("out.sdf is cut off")
        return 0

    def sdf(folder: Path) -> str:
        return (folder / "out.sdf").read_text()

    return [
        Scenario("preprocessing", prepare, check_prepare, prepared),
        Scenario(
            "training", train, check_train,
            lambda folder: digest(MoleculeGenerator.load(folder / "run" / "model").state_dict()),
        ),
        Scenario(
            "sampling", generate, lambda f: lines(f / "new.smi", 2000), lambda f: (f / "new.smi").read_text()
        ),
        Scenario(
            "evaluation", evaluate, check_evaluate,
            lambda f: json.dumps(MosesReport.from_json(f / "molecules.json").metrics, sort_keys=True),
        ),
        Scenario(
            "potential training", potential, check_potential,
            lambda folder: digest(load_potential(folder / "run" / "model").state_dict()),
        ),
        Scenario("relaxation", relax, check_relax, sdf),
        Scenario("labelling", label, check_label, lambda f: (f / "labelled.extxyz").read_text()),
    ]  # fmt: skip


def write_frames(path: Path) -> None:
    """60 labelled displacements of acetic acid, by a pair potential that has nothing to do with chemistry."""
    import ase.io
    import numpy as np
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    rest = np.array(
        [[0, 0, 0], [1.5, 0.05, 0.1], [2.1, 1.1, 0], [2.15, -1.1, 0.25], [3.1, -0.95, 0.2],
         [-0.35, 0.98, 0.25], [-0.38, -0.7, 0.77], [-0.36, -0.32, -0.98]]
    )  # fmt: skip
    rng = np.random.default_rng(0)
    images = []
    for _ in range(60):
        x = rest + rng.normal(size=rest.shape) * 0.06
        e = x[:, None] - x[None]
        r = np.linalg.norm(e, axis=-1) + np.eye(len(x))
        off = ~np.eye(len(x), dtype=bool)
        energy = float(((r - 1.4) ** 2 * np.exp(-r))[off].sum() / 2)
        slope = (2 * (r - 1.4) - (r - 1.4) ** 2) * np.exp(-r)
        forces = -((slope / r * off)[..., None] * e).sum(1)
        atoms = Atoms([6, 6, 8, 8, 1, 1, 1, 1], x)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        images.append(atoms)
    ase.io.write(path, images, format="extxyz")
