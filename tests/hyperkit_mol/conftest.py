"""For the tests: molecules, few that cover chemistry and MOSES where it is installed; who still runs."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable

import pytest

# Chosen to be awkward: tautomers, charges, zwitterions, spiro, bridged and fused rings, cumulated and
# exocyclic double bonds, hypervalent S and P, isotopes, radicals, single atoms, high symmetry.
AWKWARD = [
    "C",
    "O",
    "[Na+]",
    "N#N",
    "CC",
    "c1ccccc1",
    "Cn1cccc1",
    "O=c1cccc[nH]1",
    "CN1C(=O)N(C)C(=O)c2nc[nH]c21",
    "c1c[nH]cn1",
    "Cc1c[nH]cn1",
    "C1CC12CCC2",
    "C1C2CC3CC1CC(C2)C3",
    "O=C1C=CC(=O)c2ccccc21",
    "CC(=O)Nc1ccc(O)cc1",
    "C[N+](C)(C)CC(=O)[O-]",
    "[O-][n+]1ccccc1",
    "O=[N+]([O-])c1ccccc1",
    "CC=C=CC",
    "CS(=O)(=O)N=C=O",
    "CP(=O)(O)OC",
    "O=S1(=O)CCCC1",
    "[13CH3]CO",
    "C[CH2]",
    "[NH3+]CC([O-])=O",
    "FC(F)(F)c1cc(C(F)(F)F)cc(C(F)(F)F)c1",
    "Brc1c(Br)c(Br)c(Br)c(Br)c1Br",
    "C1=CC2=CC=CC2=C1",
    "c1ccc2c(c1)[nH]c1ccccc12",
    "N=C(N)NCCC",
    "CC(C)(C)C(C)(C)C",
    "O=C(/C=C/c1ccccc1)N1CCOCC1",
    "C[C@H](N)C(=O)O",
    "C1CCCCCCCCCCCCC1",
    "OC(=O)C1=CN(C2CC2)c2cc(N3CCNCC3)c(F)cc2C1=O",
    "CN(C)N=Nc1ccccc1",
    "[O-]Cl(=O)(=O)=O",
    "C#CC#CC#C",
    "c1ccc(cc1)-c1ccccc1",
    "S=c1[nH]cnc2nc[nH]c12",
]


@pytest.fixture(scope="session")
def awkward() -> list[str]:
    return AWKWARD


@pytest.fixture(scope="session")
def moses_train() -> list[str]:
    """The whole MOSES training set; the test is skipped, with the reason, where it is not installed."""
    data = pytest.importorskip("hyperkit_mol.moses.data")
    try:
        return data.load_split("train")
    except data.MosesNotInstalledError as err:
        pytest.skip(str(err))


@pytest.fixture(scope="session")
def moses_sample(moses_train: list[str]) -> list[str]:
    """2,000 random training molecules."""
    return random.Random(1).sample(moses_train, 2000)


@pytest.fixture
def running() -> Callable[[int], bool]:
    """Whether a process runs; one that ended and that nobody has waited for yet (a zombie) does not."""

    def running(pid: int) -> bool:
        told = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
        return told.stdout.strip()[:1] not in ("", "Z")

    return running
