"""Calculators for the tests of labelling: springs between all atoms, and some that go wrong."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes


class Springs(Calculator):
    """``k/2 (r - r0)^2`` between all pairs; at rest in the first geometry that it is asked about."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]
    pause = 0.0

    def __init__(self, k: float = 5.0) -> None:
        super().__init__()
        self.k = k
        self.rest: np.ndarray | None = None

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        x = atoms.get_positions()
        vector = x[:, None] - x
        r = np.linalg.norm(vector, axis=-1)
        if self.rest is None:
            self.rest = r
        stretch = r - self.rest
        with np.errstate(invalid="ignore"):
            unit = np.nan_to_num(vector / r[..., None])
        self.results = {
            "energy": float(self.k * np.square(stretch).sum() / 4) - len(x),
            "forces": -self.k * (stretch[..., None] * unit).sum(1),
        }
        time.sleep(self.pause)


def springs(charge: int, unpaired: int) -> Springs:
    """The plain ones; refuses to run where torch is loaded or threads are several."""
    if "torch" in sys.modules and "pytest" not in sys.modules:
        raise RuntimeError("torch is loaded into a labelling process")
    if os.environ.get("OMP_NUM_THREADS") != "1":
        raise RuntimeError("more than one thread")
    return Springs()


def slow(charge: int, unpaired: int) -> Springs:
    """A molecule takes a while."""
    found = Springs()
    found.pause = 0.002
    return found


def weak(charge: int, unpaired: int) -> Springs:
    """Molecules come apart."""
    return Springs(1e-4)


def crash(charge: int, unpaired: int) -> Springs:
    """An anion kills its process, like a crash inside a Fortran library."""
    if charge < 0:
        os._exit(9)
    return Springs()


def crash_once(charge: int, unpaired: int) -> Springs:
    """The first process to come is killed, as one without memory may be."""
    mark = Path(os.environ["LABEL_CASE_MARK"])
    if not mark.exists():
        mark.touch()
        os._exit(9)
    return Springs()


def unconverged(charge: int, unpaired: int) -> Springs:
    """A radical is too much for it."""
    if unpaired:
        raise RuntimeError("SCF not converged\nin 250 cycles")
    return Springs()
