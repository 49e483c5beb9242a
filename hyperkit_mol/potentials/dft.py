"""Density functional theory as a method of labelling: what it is asked for, and whether it can be had.

The calculations are pyscf's (``pip install 'hyperkit[dft]'``), with density fitting. This module imports it
only when asked: a labelling process must set its number of threads first.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from hyperkit_mol.potentials.errors import DataError

__all__ = ["DISPERSIONS", "DFTSettings", "check_dft", "dft_calculator"]

DISPERSIONS = ("d3bj", "d3zero", "d4", "none")
_SHOWN = {"d3bj": "-D3(BJ)", "d3zero": "-D3(0)", "d4": "-D4", "none": ""}


@dataclass(frozen=True)
class DFTSettings:
    """A level of theory.

    Parameters
    ----------
    functional : str
        A name that pyscf knows (``pbe``, ``b3lyp``, ``wb97x``, ``wb97m-v``), any case.
    basis : str
        A basis set that pyscf knows, any case. Heavy elements have the core potentials that belong to it.
    dispersion : {"d3bj", "d3zero", "d4", "none"}
        Grimme's corrections. ``none`` leaves a functional as it is named: ``wb97m-v`` has its own.

    Raises
    ------
    DataError
        Naming the value and what is accepted.
    """

    functional: str = "pbe"
    basis: str = "def2-svp"
    dispersion: str = "d3bj"

    def __post_init__(self) -> None:
        if self.dispersion not in DISPERSIONS:
            raise DataError(f"dispersion must be {', '.join(DISPERSIONS)}; got {self.dispersion!r}")
        for name in ("functional", "basis"):
            if not getattr(self, name).strip():
                raise DataError(f"{name} must not be empty")
            object.__setattr__(self, name, getattr(self, name).strip().lower())

    @property
    def name(self) -> str:
        """The level as people write it, such as ``PBE-D3(BJ)/def2-svp``."""
        return f"{self.functional.upper()}{_SHOWN[self.dispersion]}/{self.basis}"


def check_dft(settings: DFTSettings) -> None:
    """Refuse a level that no process could compute.

    Raises
    ------
    ImportError
        With the command that installs pyscf or its dispersion corrections.
    DataError
        If the functional or the basis is unknown, or there is no such correction for it.
    """
    if find_spec("pyscf") is None:
        raise ImportError("method dft needs pyscf: pip install pyscf pyscf-dispersion")
    if settings.dispersion != "none" and find_spec("pyscf.dispersion") is None:
        raise ImportError(
            f"dispersion {settings.dispersion} needs pyscf-dispersion: pip install pyscf-dispersion, "
            "or use --dispersion none"
        )
    from pyscf import dft, gto
    from pyscf.scf.dispersion import parse_dft

    functional, basis = settings.functional, settings.basis
    try:
        with warnings.catch_warnings(action="ignore"):
            plain, nonlocal_part, own = parse_dft(functional)
            dft.libxc.parse_xc(plain)
        nonlocal_part = nonlocal_part is not False and dft.libxc.is_nlc(plain)
    except (KeyError, ValueError, NotImplementedError, AttributeError) as err:
        raise DataError(
            f"functional must be one that pyscf knows, such as pbe or b3lyp; got {functional!r} ({err})"
        ) from None
    try:
        with warnings.catch_warnings(action="ignore"):
            gto.basis.load(basis, "H")
    except Exception:  # a file that is not there, a name that cannot be parsed: many types
        raise DataError(
            f"basis must be one that pyscf knows, such as def2-svp or def2-tzvp; got {basis!r}"
        ) from None
    if settings.dispersion == "none":
        return
    if own or nonlocal_part:
        raise DataError(
            f"functional {functional} has a dispersion correction of its own; use --dispersion none"
        )
    from ase import Atoms

    molecule = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    try:
        dft_calculator(settings, 0, 0).mean_field(molecule).get_dispersion()
    except Exception as err:  # errors of the library that has the parameters
        raise DataError(
            f"there is no dispersion {settings.dispersion} for functional {functional} ({err}); "
            "use --dispersion none, or another functional"
        ) from None


def dft_calculator(settings: DFTSettings, charge: int = 0, unpaired: int = 0) -> Any:
    """ASE calculator of energies (eV) and forces (eV/Å) of molecules.

    Parameters
    ----------
    settings : DFTSettings
    charge : int
        Total charge.
    unpaired : int
        Number of unpaired electrons: 0 is computed spin-restricted, anything else unrestricted.

    Notes
    -----
    Each geometry begins from the same guess, so that a label does not depend on what was computed before.
    An SCF that does not converge raises a ``StructureError``; so does a periodic structure.
    """
    from hyperkit_mol.potentials._pyscf import DFTCalculator

    return DFTCalculator(settings, charge, unpaired)
