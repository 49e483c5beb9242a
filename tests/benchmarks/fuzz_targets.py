"""What `fuzz.py` feeds: the readers under test, good inputs of each, and what counts as a wrong answer."""

from __future__ import annotations

import atexit
import io
import os
import random
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_SMILES = [
    "CC(=O)Nc1ccc(O)cc1", "C1CC12CCC2", "O=[N+]([O-])c1ccccc1", "C[N+](C)(C)CC(=O)[O-]", "[13CH3]CO",
    "CP(=O)(O)OC", "O=c1cccc[nH]1", "S=c1[nH]cnc2nc[nH]c12", "CN(C)N=Nc1ccccc1", "FC(F)(F)c1ccccc1",
    "C#CC#CC#C", "C", "[Na+]",
    "OC(=O)C1=CN(C2CC2)c2cc(N3CCNCC3)c(F)cc2C1=O", "C1CCCCCCCCCCCCC1", "C[C@H](N)C(=O)O", "CC=C=CC", "N#N",
    "CC.O", "[2H]O[2H]", "*CC", "C~C", "[Fe]", "C1CC1C1CC1", "c1ccc2c(c1)[nH]c1ccccc12", "O=S1(=O)CCCC1",
]  # fmt: skip


class Failure(AssertionError):
    """An answer that the documentation does not promise."""


def work_folder() -> Path:
    """A folder of this process in memory where there is one: files are written for every input."""
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="hyperkit-fuzz-", dir=shm if shm.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@dataclass
class Target:
    """A reader under test.

    Attributes
    ----------
    name : str
    call : callable
        Takes the input's bytes; whether they were accepted. What it raises is a finding.
    seeds : sequence of bytes
        Good inputs.
    tokens : sequence of bytes
        Pieces of the format, for splicing.
    """

    name: str
    call: Callable[[bytes], bool]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes]


def smiles_file() -> Target:
    """A person's file, to motif trees and back."""
    from rdkit import Chem, rdBase

    from hyperkit_mol.chem.assemble import tree_to_mol
    from hyperkit_mol.chem.fragment import Fragmenter, UnsupportedMolecule
    from hyperkit_mol.chem.reading import BadInputError, read_smiles_file

    fragmenter, path = Fragmenter(), work_folder() / "input"
    silence = rdBase.BlockLogs()

    def call(data: bytes) -> bool:
        assert silence is not None
        path.write_bytes(data)
        try:
            found = read_smiles_file(path)
        except BadInputError:
            return False
        good = 0
        for text in found.smiles[:20]:
            try:
                tree = fragmenter.tree(text)
            except UnsupportedMolecule:
                continue
            again = Chem.MolToSmiles(tree_to_mol(tree, fragmenter.motif))
            mol = Chem.MolFromSmiles(text)
            Chem.RemoveStereochemistry(mol)
            for atom in mol.GetAtoms():
                atom.SetAtomMapNum(0)  # numbers for reactions, no part of a molecule
            # Read once more, as written without stereochemistry: that is the form that must come back.
            plain = Chem.MolFromSmiles(Chem.MolToSmiles(mol))
            if plain is not None and again != Chem.MolToSmiles(plain):
                raise Failure(f"{text!r} came back as {again}, expected {Chem.MolToSmiles(plain)}")
            good += 1
        return good > 0

    import gzip

    good = "\n".join(_SMILES).encode()
    seeds = [s.encode() for s in _SMILES]
    seeds += [good, b'smiles,name\nCC,a\n"CCO",b\n', b"name\tsmiles\nx\tCCN\n", gzip.compress(good)]
    seeds += [b"\xef\xbb\xbfSMILES\nCC\n", b"# c\n\nCC \x00 x\n"]
    tokens = [x.encode() for x in re.findall(r"\[[^\]]+\]|Cl|Br|.", "".join(_SMILES))]
    return Target("SMILES reader", call, seeds, [*tokens, b"\n", b",", b"\t", b'"', b"%12", b"->", b"."])


def motif_tree() -> Target:
    """Any sequence of numbers, as a tree: a valid molecule or a ValueError."""
    from rdkit import Chem, rdBase

    from hyperkit_mol.chem.assemble import assemble_smiles
    from hyperkit_mol.chem.fragment import Fragmenter, UnsupportedMolecule

    fragmenter = Fragmenter()
    silence = rdBase.BlockLogs()
    names: dict[str, None] = {}
    for text in _SMILES:
        try:
            names.update(dict.fromkeys(fragmenter.tree(text).motifs))
        except UnsupportedMolecule:
            continue
    motifs = [fragmenter.motif(s) for s in names]

    def call(data: bytes) -> bool:
        assert silence is not None
        rows = [data[i : i + 4] for i in range(0, min(len(data), 160) - 3, 4)]
        if not rows:
            return False
        # Most numbers are brought into range, so that many trees are good ones; the rest stays as it is.
        chosen = [motifs[row[0] % len(motifs)] for row in rows]
        parent, site, attach = [-1], [-1], [-1]
        for k, row in enumerate(rows[1:], start=1):
            wild = row[0] > 250
            parent.append(row[1] - 128 if wild else row[1] % k)
            above = chosen[parent[k]] if 0 <= parent[k] < k else chosen[0]
            site.append(row[2] - 128 if wild else row[2] % len(above))
            attach.append(row[3] - 128 if wild else row[3] % len(chosen[k]))
        try:
            smiles = assemble_smiles(chosen, attach, parent, site)
        except ValueError as err:
            if isinstance(err, Chem.MolSanitizeException):
                raise Failure(f"a tree that uses free hydrogens only is no molecule: {err}") from err
            return False
        if Chem.MolFromSmiles(smiles) is None:
            raise Failure(f"decoded {smiles!r}, which does not parse")
        return True

    rng = random.Random(1)
    return Target("motif-tree decoder", call, [rng.randbytes(n) for n in (4, 8, 12, 16, 24, 40, 80, 160)], [])


def _small_model(folder: Path) -> Path:
    from rich.console import Console

    from hyperkit_mol.generator.config import RunConfig
    from hyperkit_mol.generator.pipeline import train

    small = {
        "model": {"width": 8, "latent": 2, "site_width": 4, "encoder_layers": 1, "decoder_layers": 1,
                  "heads": 1, "feed_forward": 8, "head_size": 8},
        "autoencoder": {"batch_size": 4, "steps": 2, "save_every": 1, "validate_every": 2},
        "prior": "vae", "data": {"validation": 2, "source": str(folder / "few.smi")},
    }  # fmt: skip
    (folder / "few.smi").write_text("CC\nCCO\nc1ccccc1\nCC(=O)N\nCCN\nCCC\nC1CC1C\nOCC#N\n")
    quiet = Console(quiet=True)
    train(RunConfig.model_validate(small), folder / "run", jobs=1, cache=folder / "cache", console=quiet)
    return folder / "run"


def model_folder() -> Target:
    """A model folder of which one file was changed."""
    from rdkit import rdBase

    from hyperkit_mol.generator.checkpoint import CheckpointError
    from hyperkit_mol.generator.model import MoleculeGenerator

    silence = rdBase.BlockLogs()
    folder = work_folder()
    run = _small_model(folder)
    copy = folder / "copy"
    shutil.copytree(run / "model", copy)
    names = ["weights.safetensors", "model.json", "vocabulary.json"]
    good = {name: (copy / name).read_bytes() for name in names}

    def call(data: bytes) -> bool:
        assert silence is not None
        name = names[data[0] % 3] if data else names[0]
        (copy / name).write_bytes(data[1:])
        try:
            MoleculeGenerator.load(copy)
        except CheckpointError:
            return False
        finally:
            (copy / name).write_bytes(good[name])
        return True

    seeds = [bytes([k]) + good[name] for k, name in enumerate(names)]
    tokens = [b"null", b"-1", b"1e999", b'"', b"{}", b"[]", b"NaN", b"\xff" * 8, b"true", b'"C"', b"0"]
    return Target("model folder", call, seeds, tokens)


_MARK = "HYPERKIT_FUZZ_EXECUTED"


def training_checkpoint() -> Target:
    """``last.ckpt``, changed or hostile, read as `--resume` reads it: nothing in it may be executed."""
    import pickle
    import zipfile

    import torch

    from hyperkit_mol.runs import RunError, read_checkpoint

    warnings.simplefilter("ignore")
    folder = work_folder()
    run = _small_model(folder)
    path = folder / "last.ckpt"
    good = (run / "autoencoder" / "last.ckpt").read_bytes()

    class Hostile:
        def __init__(self, how: int) -> None:
            self.how = how

        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            code = f"import os; os.environ[{_MARK!r}] = '1'"
            return ((exec, (code,)), (os.putenv, (_MARK, "1")), (eval, (f"exec({code!r})",)))[self.how]

    hostile = []
    for how in range(3):
        buffer = io.BytesIO()
        torch.save({"step": 1, "state_dict": {}, "x": Hostile(how)}, buffer)
        hostile += [buffer.getvalue(), pickle.dumps({"step": 1, "state_dict": Hostile(how)})]
    parts = zipfile.ZipFile(io.BytesIO(good))
    pickled = next(n for n in parts.namelist() if n.endswith("data.pkl"))

    def repacked(content: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as out:
            for name in parts.namelist():
                out.writestr(name, content if name == pickled else parts.read(name))
        return buffer.getvalue()

    def call(data: bytes) -> bool:
        # Even: the bytes are the file; odd: they are the pickle inside of a sound archive.
        path.write_bytes(repacked(data[1:]) if data and data[0] % 2 else data[1:])
        try:
            read_checkpoint(path)
            accepted = True
        except RunError:
            accepted = False
        if _MARK in os.environ:
            raise Failure("code in the file was executed")
        return accepted

    inner = parts.read(pickled)
    seeds = [b"\0" + good, b"\1" + inner, *(b"\0" + h for h in hostile)]
    tokens = [
        b"cos\nsystem\n",
        b"c__builtin__\nexec\n",
        b"\x80\x02",
        b"R.",
        b"(S'x'\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
    ]
    return Target("training checkpoint", call, seeds, tokens)


def configuration() -> Target:
    """YAML of both kinds of run."""
    from importlib import resources

    from hyperkit_mol.generator.config import ConfigError, RunConfig
    from hyperkit_mol.generator.config import load_config as load_generator
    from hyperkit_mol.potentials.config import PotentialConfig
    from hyperkit_mol.potentials.config import load_config as load_potential

    path = work_folder() / "config.yaml"

    def call(data: bytes) -> bool:
        path.write_bytes(data)
        accepted = 0
        for load, kind in ((load_generator, RunConfig), (load_potential, PotentialConfig)):
            try:
                if not isinstance(load(path), kind):
                    raise Failure("no configuration")
                accepted += 1
            except ConfigError:
                continue
        return accepted > 0

    seeds = []
    for package in ("generator", "potentials"):
        for file in resources.files(f"hyperkit_mol.{package}").joinpath("presets").iterdir():
            seeds.append(file.read_bytes())
    seeds += [
        b"preset: demo\nmodel: {width: 64}\n",
        b"a: &x [1]\nb: *x\n",
        b"seed: 1e3\n",
        b"prior: vae\nseed: 0x10\n",
    ]
    tokens = [
        b": ",
        b"{",
        b"}",
        b"[",
        b"]",
        b"*x",
        b"&x ",
        b"!!python/object:os.system ",
        b"!!set ",
        b"<<: ",
        b"- ",
    ]
    tokens += [
        b".inf",
        b".nan",
        b"~",
        b"2026-11-24",
        b"0o17",
        b"preset",
        b"model",
        b"data",
        b"\n  ",
        b"? ",
        b"--- ",
        b"\t",
    ]
    return Target("configuration reader", call, seeds, tokens)


def extxyz() -> Target:
    """Structures from a person's file."""
    from hyperkit_mol.potentials.data import read_structures
    from hyperkit_mol.potentials.errors import DataError, StructureError

    warnings.simplefilter("ignore")
    path = work_folder() / "input.xyz"

    def call(data: bytes) -> bool:
        path.write_bytes(data)
        try:
            for structure in read_structures(path):
                if structure.energy is None or structure.energy != structure.energy:
                    raise Failure("a structure without an energy")
        except (DataError, StructureError):
            return False
        return True

    one = (
        b'2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc="F F F"\n'
        b"H 0 0 0 0 0 0.1\nH 0 0 0.7 0 0 -0.1\n"
    )
    cell = (
        b'1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 energy=0.1 charge=1 spin=2 '
        b'pbc="T T T"\nCu 0 0 0\n'
    )
    tokens = [
        b"Properties=",
        b"species:S:1:",
        b"pos:R:3",
        b"forces:R:3",
        b":I:1",
        b":L:1",
        b'Lattice="',
        b"nan",
        b"inf",
    ]
    tokens += [
        b"-1",
        b"1e400",
        b"energy=",
        b"charge=0.5",
        b'pbc="T F T"',
        b"H ",
        b"Xx ",
        b"\n",
        b'"',
        b"=",
        b"{",
        b"[[1]]",
    ]
    return Target("extxyz reader", call, [one, cell, one + cell, one * 3], tokens)


TARGETS: dict[str, Callable[[], Target]] = {
    "smiles": smiles_file,
    "tree": motif_tree,
    "model": model_folder,
    "checkpoint": training_checkpoint,
    "config": configuration,
    "extxyz": extxyz,
}
