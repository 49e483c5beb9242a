"""Molecules for the tests: drawn from MOSES, and a deliberately bad set."""

from __future__ import annotations

import csv
import random
from functools import lru_cache
from pathlib import Path

from hyperkit_mol.moses import load_split
from hyperkit_mol.moses.data import Split

ODD = [
    "",
    "not a molecule",
    "C1CC",
    "C(C)(C)(C)(C)C",
    "CCO",
    "CCO",
    "OCC",  # the same molecule, written differently
    "[CH3][CH2][OH]",
    "C(C)O",
    "[Na+].[Cl-]",
    "CC(=O)[O-].[Na+]",
    "c1ccccc1.CCN",
    "C",
    "[H][H]",
    "[Fe]",
    "[2H]C([2H])C",
    "[13CH4]",
    "[CH2]C",
    "F/C=C/F",
    "F/C=C\\F",
    "C[C@H](N)C(=O)O",
    "C[C@@H](N)C(=O)O",
    "[O-][n+]1ccccc1",
    "OB(O)c1ccccc1",
    "C[Si](C)(C)C",
    "C1CCCCCCCC1",
    "C" * 360,  # longer than ChemNet reads
    "O=C1C=CC(=O)C=C1",
    "CN(C)c1ccc(N=Nc2ccccc2)cc1",
    "S=C1NC(=O)C(=Cc2ccccc2)S1",
    "Oc1ccccc1O",
    "C%10CCCCC%10",
    "N#[N+][O-]",
    "[CH3:1][OH:2]",
]


@lru_cache(maxsize=8)
def drawn(split: Split, number: int, seed: int = 0) -> tuple[str, ...]:
    """A random subset of a MOSES split."""
    return tuple(random.Random(seed).sample(load_split(split), number))


@lru_cache(maxsize=1)
def pains_molecules() -> tuple[str, ...]:
    """RDKit's own test molecules for the PAINS patterns (10,000, most of them with a match)."""
    from rdkit import RDConfig

    path = Path(RDConfig.RDDataDir) / "Pains" / "test_data" / "wehi_mols.csv"
    with open(path, newline="") as file:
        return tuple(row[0] for row in csv.reader(file))


def bad_set(number: int = 150, seed: int = 0) -> list[str]:
    """Invalid strings, duplicates, salts, isotopes, charges, PAINS, macrocycles."""
    return [*ODD, *random.Random(seed).sample(pains_molecules(), number), *ODD[4:12]]
