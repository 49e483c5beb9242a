"""A small data set."""

from __future__ import annotations

import pytest
import torch

from hyperkit_mol.chem.prepare import TreeDataset, prepare


@pytest.fixture(scope="session")
def data(awkward: list[str], moses_sample: list[str]) -> TreeDataset:
    """2,000 MOSES molecules and the awkward ones."""
    return prepare(moses_sample + awkward, jobs=1)


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)
