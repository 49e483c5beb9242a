"""A potential as an ASE calculator."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from hyperkit_mol.potentials.data import from_ase
from hyperkit_mol.potentials.errors import ModelError
from hyperkit_mol.potentials.model_files import load_potential
from hyperkit_mol.potentials.potential import Potential

try:
    from ase.calculators.calculator import Calculator, all_changes
except ImportError as err:
    raise ImportError("HyperkitCalculator needs ASE: pip install 'hyperkit[mol,potentials]'") from err

__all__ = ["HyperkitCalculator"]


class HyperkitCalculator(Calculator):
    """Energy (eV), forces (eV/Å) and stress (eV/Å³, Voigt) of a trained potential.

    Charge and spin are read from ``atoms.info["charge"]`` and ``atoms.info["spin"]`` (0 where missing); set
    them before the first call, because ASE does not notice a change of ``atoms.info``.

    Parameters
    ----------
    model : str, Path or Potential
        A model folder (``runs/.../model``), or a loaded potential. A potential is put into evaluation mode
        and its parameters are frozen.
    device : device
    dtype : torch.dtype, optional
        Of the computation: that of training by default. float64 helps finite differences and tight
        optimisations.

    Raises
    ------
    ModelError
        When a calculation meets an element, a charge or a spin that the model does not know.
    StructureError
        For NaN positions and overlapping atoms.

    Examples
    --------
    >>> from ase.build import molecule
    >>> atoms = molecule("H2O")
    >>> atoms.calc = HyperkitCalculator("runs/water/model")  # doctest: +SKIP
    >>> atoms.get_forces().shape  # doctest: +SKIP
    (3, 3)
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(
        self,
        model: str | Path | Potential,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(model, Potential):
            self.potential = model.to(device=device, dtype=dtype)
        else:
            self.potential = load_potential(model, device, dtype)
        self.potential.eval().requires_grad_(False)

    def calculate(
        self,
        atoms: Any = None,
        properties: list[str] | tuple[str, ...] = ("energy",),
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute everything that the structure and the model have, at the price of the forces."""
        super().calculate(atoms, properties, system_changes)
        current: Any = self.atoms
        structure = from_ase(current, name=current.get_chemical_formula())
        periodic = bool(np.all(structure.pbc))  # pyright: ignore[reportArgumentType, reportCallIssue]
        conservative = self.potential.config.forces == "conservative"
        if "stress" in properties and not (periodic and conservative):
            why = "the structure is not periodic in three directions" if conservative else "forces are direct"
            raise ModelError(f"stress is not to be had: {why}")
        batch = self.potential.prepare([structure])
        found = self.potential(batch, stress=periodic and conservative)
        energy = float(found.energy[0])
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": found.atomic.detach().cpu().numpy(),
            "forces": found.forces.detach().cpu().double().numpy(),
        }
        if found.stress is not None:
            s = found.stress[0].detach().cpu().double().numpy()
            self.results["stress"] = np.array([s[0, 0], s[1, 1], s[2, 2], s[1, 2], s[0, 2], s[0, 1]])
