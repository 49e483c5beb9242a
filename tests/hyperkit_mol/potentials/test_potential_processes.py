"""Training a potential in two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hyperkit_mol.potentials import load_potential

pytest.importorskip("ase", reason="training needs ASE (the extra `potentials`)")
pytest.importorskip("vesin", reason="training needs vesin (the extra `potentials`)")


def run(data: Path, output: Path, processes: int, batch: int) -> str:
    """Six steps by the command line; what it printed."""
    settings = {
        "model.width": 16,
        "model.layers": 1,
        "model.heads": 2,
        "training.batch_size": batch,
        "training.warmup": 2,
        "training.save_every": 3,
        "training.validate_every": 6,
        "training.dtype": "float64",
        "training.clip": 1e9,
        "data.validation": 8,
    }
    words = [w for k, v in settings.items() for w in ("--set", f"{k}={v}")]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone", "--module"]
    start = launch if processes > 1 else ["-m"]
    command = [*start, "hyperkit_mol", "potential", "train", "--data", str(data), "--steps", "6"]
    left = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TORCHELASTIC_"))}
    done = subprocess.run(
        [sys.executable, *command, "-o", str(output), *words],
        capture_output=True,
        text=True,
        timeout=300,
        env=left | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(extxyz: Path, tmp_path: Path) -> None:
    run(extxyz, tmp_path / "one", 1, 4)
    said = run(extxyz, tmp_path / "two", 2, 2)
    assert said.count("Model written") == 1
    a, b = (load_potential(tmp_path / k / "model").state_dict() for k in ("one", "two"))
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=1e-6, atol=1e-8)
    steps = [r.split(",")[0] for r in (tmp_path / "two" / "metrics.csv").read_text().splitlines()[1:]]
    assert len(steps) == len(set(steps)), "two processes wrote the same log"
