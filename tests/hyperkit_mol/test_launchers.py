"""Training in processes that somebody else started: torchrun and, by its environment variables, Slurm."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hyperkit_mol import runs

SMALL = """
prior=vae model.width=16 model.latent=4 model.site_width=4 model.encoder_layers=1 model.decoder_layers=1
model.heads=1 model.feed_forward=16 model.head_size=16 autoencoder.steps=6 autoencoder.batch_size=16
autoencoder.save_every=2 autoencoder.validate_every=6 data.validation=10
"""


def clean() -> dict[str, str]:
    """The environment without what another launcher may have left in it."""
    left = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TORCHELASTIC_"))}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        left.pop(name, None)
    return {**left, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def command(tmp_path: Path) -> list[str]:
    """Arguments of a small training run."""
    smiles = ["CCO", "CCN", "c1ccccc1", "CC(=O)N", "CCC", "C1CC1C", "OCC#N", "CC(C)O"] * 12
    (tmp_path / "few.smi").write_text("\n".join(smiles) + "\n")
    words = [w for pair in SMALL.split() for w in ("--set", pair)]
    return [
        "train",
        "--data",
        str(tmp_path / "few.smi"),
        "-c",
        "demo",
        "-o",
        str(tmp_path / "run"),
        "--jobs",
        "1",
        *words,
    ]


def check(tmp_path: Path) -> None:
    from hyperkit_mol.generator.model import MoleculeGenerator

    assert MoleculeGenerator.load(tmp_path / "run" / "model").info["autoencoder_steps"] == 6
    lines = (tmp_path / "run" / "autoencoder" / "metrics.csv").read_text().splitlines()
    steps = [line.split(",")[0] for line in lines[1:]]
    assert len(steps) == len(set(steps)), "two processes wrote the same log"


def test_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)
    assert runs.placement(3) == (3, 1)
    assert runs.placement("auto") == ("auto", 1)
    slurm = {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert runs.placement(1) == (4, 2)
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    assert runs.placement(1) == (2, 3)


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    """Two machines, which are the same one here, of one process each."""
    machines = 2
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(machines)]
    launch += ["--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    environment = {**clean(), "HYPERKIT_CACHE": str(tmp_path / "cache")}
    running = [
        subprocess.Popen(
            [*launch, "--node-rank", str(k), "-m", "hyperkit_mol", *command(tmp_path)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for k in range(machines)
    ]  # fmt: skip
    said = [process.communicate(timeout=280)[0] for process in running]
    assert [process.returncode for process in running] == [0] * machines, "\n".join(said)[-3000:]
    check(tmp_path)


@pytest.mark.slow
def test_slurm(tmp_path: Path) -> None:
    """What `srun --ntasks-per-node 2` starts: every process alone, told by variables which one it is."""
    words = [sys.executable, "-m", "hyperkit_mol", *command(tmp_path)]
    shared = {
        **clean(), "HYPERKIT_CACHE": str(tmp_path / "cache"), "SLURM_JOB_ID": "4242", "SLURM_JOB_NAME":
        "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0",
        "SLURM_NODELIST": "127.0.0.1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    running = [
        subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**shared, "SLURM_PROCID": str(k), "SLURM_LOCALID": str(k)},
        )
        for k in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=280)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)[-3000:]
    check(tmp_path)


@pytest.mark.slow
def test_potential_in_two_processes(tmp_path: Path) -> None:
    """`--devices 2`: one model is written, by the first process."""
    pytest.importorskip("ase", reason="needs the extra `potentials`")
    pytest.importorskip("vesin", reason="needs the extra `potentials`")
    import ase.io
    import numpy as np
    from ase.calculators.emt import EMT
    from ase.cluster import Octahedron

    rng, frames = np.random.default_rng(0), []
    for _ in range(20):
        atoms = Octahedron("Cu", 2)
        atoms.positions += rng.normal(size=atoms.positions.shape) * 0.1
        atoms.calc = EMT()
        atoms.get_potential_energy(), atoms.get_forces()
        frames.append(atoms)
    ase.io.write(tmp_path / "train.xyz", frames, format="extxyz")
    words: list[object] = ["potential", "train", "--data", tmp_path / "train.xyz", "-o", tmp_path / "run"]
    words += ["--devices", 2, "--steps", 4]
    words += ["--set", "model.width=16", "--set", "model.layers=1", "--set", "training.batch_size=4"]
    done = subprocess.run(
        [sys.executable, "-m", "hyperkit_mol", *map(str, words)],
        capture_output=True, text=True, timeout=280, env=clean(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]

    from hyperkit_mol.potentials.model_files import load_potential

    assert load_potential(tmp_path / "run" / "model").info["steps"] == 4
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.startswith(".model")]
