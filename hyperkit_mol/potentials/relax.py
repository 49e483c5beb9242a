"""SMILES to relaxed 3D structures: an RDKit conformer to begin with, a potential and ASE to relax it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rdkit import Chem

from hyperkit_mol.chem.reading import read_smiles_file
from hyperkit_mol.potentials.conformers import embed
from hyperkit_mol.potentials.errors import ModelError, StructureError
from hyperkit_mol.potentials.potential import Potential

__all__ = ["Relaxed", "Report", "embed", "relax_file", "relax_molecule"]

Method = Literal["bfgs", "fire"]


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A molecule at (or on its way to) a minimum of the potential.

    Parameters
    ----------
    molecule : Mol
        With hydrogens and one conformer.
    smiles : str
        As given.
    energy : float
        eV.
    drop : float
        Energy of the starting conformer above the relaxed one, eV.
    max_force : float
        eV/Å.
    steps : int
    converged : bool
    """

    molecule: Any
    smiles: str
    energy: float
    drop: float
    max_force: float
    steps: int
    converged: bool


@dataclass
class Report:
    """What became of a file."""

    written: int = 0
    unconverged: int = 0
    failed: list[str] | None = None


def relax_molecule(
    potential: Potential,
    smiles: str,
    *,
    method: Method = "bfgs",
    fmax: float = 0.05,
    max_steps: int = 500,
    seed: int = 0,
) -> Relaxed:
    """Relax one molecule.

    Parameters
    ----------
    potential : Potential
    smiles : str
        The formal charge of the molecule is given to the potential; its spin is 0.
    method : {"bfgs", "fire"}
        ASE's optimiser.
    fmax : float
        Largest force at the end, eV/Å.
    max_steps : int
    seed : int
        Of the starting conformer.

    Raises
    ------
    StructureError
        If there is no conformer to begin with, or atoms run into each other.
    ModelError
        For elements and charges that the model does not know.
    """
    from ase import Atoms
    from ase.optimize import BFGS, FIRE

    from hyperkit_mol.potentials.calculator import HyperkitCalculator

    if method not in ("bfgs", "fire"):
        raise ValueError(f"method must be bfgs or fire, got {method!r}")
    if not fmax > 0:
        raise ValueError(f"fmax must be > 0, got {fmax}")
    molecule = embed(smiles, seed)
    conformer = molecule.GetConformer()
    atoms = Atoms([a.GetAtomicNum() for a in molecule.GetAtoms()], conformer.GetPositions())
    atoms.info["charge"] = Chem.GetFormalCharge(molecule)
    atoms.calc = HyperkitCalculator(potential)
    begin = float(atoms.get_potential_energy())
    optimizer = {"bfgs": BFGS, "fire": FIRE}[method](atoms, logfile=None)
    converged = bool(optimizer.run(fmax=fmax, steps=max_steps))
    energy = float(atoms.get_potential_energy())
    if not np.isfinite(energy):
        raise StructureError(f"{smiles}: the energy became {energy}")
    conformer.SetPositions(np.ascontiguousarray(atoms.get_positions()))
    worst = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    return Relaxed(
        molecule, smiles, energy, begin - energy, worst, optimizer.get_number_of_steps(), converged
    )


def relax_file(
    potential: Potential, source: str | Path, target: str | Path, **options: Any
) -> Iterator[tuple[int, int, Report]]:
    """Relax every molecule of a SMILES file into one SDF file, yielding (done, all, report) after each.

    A molecule that cannot be relaxed is noted and left out. The SDF file appears when all are done. Its
    properties: SMILES, energy_eV, energy_drop_eV, max_force_eV_per_A, steps, converged.

    Parameters
    ----------
    potential : Potential
    source : str or Path
        SMILES, CSV or TSV file, gzipped or not.
    target : str or Path
        SDF file to write.
    **options
        See :func:`relax_molecule`.

    Raises
    ------
    BadInputError
        If `source` cannot be read.
    """
    file, target, report = read_smiles_file(source), Path(target), Report(failed=[])
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        # Not by RDKit's own writer, which says nothing when the disk is full.
        with temporary.open("w", encoding="utf-8") as stream:
            for done, (line, smiles) in enumerate(zip(file.lines, file.smiles, strict=True), 1):
                try:
                    found = relax_molecule(potential, smiles, **options)
                except (ModelError, StructureError) as err:
                    assert report.failed is not None
                    report.failed.append(f"line {line}: {err}")
                else:
                    stream.write(Chem.SDWriter.GetText(_labelled(found)))
                    report.written += 1
                    report.unconverged += not found.converged
                yield done, len(file), report
        if report.written:
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _labelled(found: Relaxed) -> Any:
    molecule = found.molecule
    molecule.SetProp("_Name", found.smiles)
    molecule.SetProp("SMILES", found.smiles)
    molecule.SetProp("energy_eV", f"{found.energy:.6f}")
    molecule.SetProp("energy_drop_eV", f"{found.drop:.6f}")
    molecule.SetProp("max_force_eV_per_A", f"{found.max_force:.5f}")
    molecule.SetIntProp("steps", found.steps)
    molecule.SetProp("converged", "yes" if found.converged else "no")
    return molecule
