"""A small data set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from generator_case import run, small_config

from hyperkit_mol.chem.prepare import TreeDataset, prepare


@pytest.fixture(scope="session")
def data(awkward: list[str], moses_sample: list[str]) -> TreeDataset:
    """2,000 MOSES molecules and the awkward ones."""
    return prepare(moses_sample + awkward, jobs=1)


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def smiles_file(tmp_path_factory: pytest.TempPathFactory, moses_sample: list[str]) -> Path:
    path = tmp_path_factory.mktemp("data") / "molecules.smi"
    path.write_text("\n".join(moses_sample[:800]) + "\n")
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, smiles_file: Path) -> Path:
    """A whole run that was never stopped."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    run(small_config(data__source=str(smiles_file)), output)
    return output
