"""The ASE calculator around pyscf. Importing this loads pyscf, which then asks for its number of threads."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any, ClassVar

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.units import Bohr, Hartree
from pyscf import dft, gto

from hyperkit_mol.potentials.dft import DFTSettings
from hyperkit_mol.potentials.errors import StructureError

__all__ = ["DFTCalculator"]

_CYCLES = 100


@cache
def _has_core(basis: str, symbol: str) -> bool:
    """Whether a basis set is made for an effective core potential of an element."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return bool(gto.basis.load_ecp(basis, symbol))
    except Exception:  # it has none for this element, or none at all: many types
        return False


class DFTCalculator(Calculator):
    """See :func:`~hyperkit_mol.potentials.dft.dft_calculator`."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, settings: DFTSettings, charge: int, unpaired: int) -> None:
        super().__init__()
        self.settings = settings
        self.charge = charge
        self.unpaired = unpaired

    def mean_field(self, atoms: Any) -> Any:
        """pyscf's object for a geometry, not yet run."""
        if atoms.pbc.any():
            raise StructureError("method dft is for molecules; this structure is periodic")
        symbols = atoms.get_chemical_symbols()
        found = gto.M(
            atom=list(zip(symbols, atoms.get_positions(), strict=True)),
            unit="Angstrom",
            charge=self.charge,
            spin=self.unpaired,
            basis=self.settings.basis,
            ecp={s: self.settings.basis for s in set(symbols) if _has_core(self.settings.basis, s)},
            verbose=0,
        )
        kind = dft.UKS if self.unpaired else dft.RKS
        mf: Any = kind(found, xc=self.settings.functional).density_fit()
        mf.max_cycle = _CYCLES
        mf.disp = None if self.settings.dispersion == "none" else self.settings.dispersion
        if mf.do_nlc():
            mf.nlcgrids.level = 0  # the default grid takes many times as long for small changes
        return mf

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        """Energy and forces, both always: a label has both."""
        super().calculate(atoms, properties, system_changes)
        mf: Any = self.mean_field(self.atoms)
        mf.kernel()
        if not mf.converged:  # open shells of nearly equal energy, as in many atoms: a second-order method
            first, mf = mf, mf.newton()
            mf.max_cycle = _CYCLES
            mf.kernel(first.mo_coeff, first.mo_occ)
        if not mf.converged:
            raise StructureError(f"the SCF did not converge in {_CYCLES} cycles, nor by second order")
        gradient = mf.nuc_grad_method().kernel()
        self.results = {"energy": float(mf.e_tot) * Hartree, "forces": -np.asarray(gradient) * Hartree / Bohr}
