"""Helpers of this folder are plain modules beside the tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def small_report():
    """A report of 250 training molecules, a bad one among them, shared by the tests that only look."""
    from moses_molecules import drawn

    from hyperkit_mol.moses import evaluate

    return evaluate([*drawn("train", 250), "not a molecule"], source="<small> & co.smi")
