"""SMILES to relaxed 3D structures: RDKit conformers to begin with, a potential and ASE to relax them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rdkit import Chem

from hyperkit_mol.chem.reading import read_smiles_file
from hyperkit_mol.potentials.conformers import embed
from hyperkit_mol.potentials.errors import ModelError, StructureError
from hyperkit_mol.potentials.potential import Potential

__all__ = ["Relaxed", "Report", "embed", "relax_conformers", "relax_file", "relax_molecule"]

Method = Literal["bfgs", "fire"]
Keep = Literal["first", "best", "all"]
# In sums of covalent radii: a longer bond is broken, nearer strangers are bonded.
_BROKEN, _BONDED = 1.35, 1.15


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
    intact : bool
        Whether the bonds are those of the SMILES: none longer than 1.35 times the sum of the covalent radii,
        no other pair nearer than 1.15 times.
    conformer : int
        Which of the starting conformers it comes from, counted from 0.
    strain : float or None
        Energy above the lowest of all relaxed conformers of the molecule, eV; None where there was only one.
        Conformers that broke do not count as the lowest, nor do such that are on their way.
    """

    molecule: Any
    smiles: str
    energy: float
    drop: float
    max_force: float
    steps: int
    converged: bool
    intact: bool = True
    conformer: int = 0
    strain: float | None = None


@dataclass
class Report:
    """What became of a file.

    Parameters
    ----------
    written : int
        Structures in the SDF file.
    unconverged, broken : int
        Of these, how many are not at a minimum, and how many lost or gained a bond.
    failed : list of str, optional
        A line for each molecule that was left out.
    relaxed : list of Relaxed
        What was written, as far as it was asked to be kept.
    """

    written: int = 0
    unconverged: int = 0
    failed: list[str] | None = None
    broken: int = 0
    relaxed: list[Relaxed] = field(default_factory=list)


def relax_molecule(
    potential: Potential,
    smiles: str,
    *,
    method: Method = "bfgs",
    fmax: float = 0.05,
    max_steps: int = 500,
    seed: int = 0,
    conformers: int = 1,
    keep: Literal["first", "best"] = "first",
) -> Relaxed:
    """Relax one molecule; with more than one conformer its strain energy is known, too.

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
        Of the starting conformers.
    conformers : int
        Starting conformers to relax.
    keep : {"first", "best"}
        Which one to return: that of the first starting conformer, whose strain says how far above the lowest
        it is, or the lowest.

    Raises
    ------
    StructureError
        If there is no conformer to begin with, or atoms run into each other.
    ModelError
        For elements and charges that the model does not know.
    """
    found = relax_conformers(
        potential, smiles, method=method, fmax=fmax, max_steps=max_steps, seed=seed, conformers=conformers
    )
    return _choose(found, keep)[0]


def relax_conformers(
    potential: Potential,
    smiles: str,
    *,
    method: Method = "bfgs",
    fmax: float = 0.05,
    max_steps: int = 500,
    seed: int = 0,
    conformers: int = 1,
) -> list[Relaxed]:
    """Relax several conformers of one molecule, each with its strain; arguments as in :func:`relax_molecule`.

    A conformer whose atoms run into each other is left out.

    Returns
    -------
    list of Relaxed
        In the order of the starting conformers; at least one.
    """
    from hyperkit_mol.potentials.calculator import HyperkitCalculator

    if method not in ("bfgs", "fire"):
        raise ValueError(f"method must be bfgs or fire, got {method!r}")
    if not fmax > 0:
        raise ValueError(f"fmax must be > 0, got {fmax}")
    if conformers < 1:
        raise ValueError(f"conformers must be >= 1, got {conformers}")
    molecule = embed(smiles, seed, conformers)
    calculator = HyperkitCalculator(potential)
    found, wrong = [], None
    for k in range(molecule.GetNumConformers()):
        try:
            found.append(_relax(molecule, k, smiles, calculator, method, fmax, max_steps))
        except StructureError as err:
            wrong = wrong or err
    if not found:
        raise wrong or StructureError(f"{smiles}: no conformer")
    if conformers == 1:
        return found
    sound = [r for r in found if r.intact and r.converged] or found
    lowest = min(r.energy for r in sound)
    return [replace(r, strain=r.energy - lowest) for r in found]


def _relax(
    molecule: Any, k: int, smiles: str, calculator: Any, method: Method, fmax: float, max_steps: int
) -> Relaxed:
    from ase import Atoms
    from ase.optimize import BFGS, FIRE

    molecule = Chem.Mol(molecule, False, k)  # a copy with conformer k alone
    conformer = molecule.GetConformer()
    atoms = Atoms([a.GetAtomicNum() for a in molecule.GetAtoms()], conformer.GetPositions())
    atoms.info["charge"] = Chem.GetFormalCharge(molecule)
    atoms.calc = calculator
    begin = float(atoms.get_potential_energy())
    optimizer = {"bfgs": BFGS, "fire": FIRE}[method](atoms, logfile=None)
    converged = bool(optimizer.run(fmax=fmax, steps=max_steps))
    energy = float(atoms.get_potential_energy())
    if not np.isfinite(energy):
        raise StructureError(f"{smiles}: the energy became {energy}")
    conformer.SetPositions(np.ascontiguousarray(atoms.get_positions()))
    conformer.SetId(0)
    worst = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    steps = optimizer.get_number_of_steps()
    return Relaxed(
        molecule, smiles, energy, begin - energy, worst, steps, converged, _intact(molecule), conformer=k
    )


def _intact(molecule: Any) -> bool:
    positions = molecule.GetConformer().GetPositions()
    table = Chem.GetPeriodicTable()
    radius = np.array([table.GetRcovalent(a.GetAtomicNum()) for a in molecule.GetAtoms()])
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1) / (radius[:, None] + radius)
    bonded = Chem.GetAdjacencyMatrix(molecule).astype(bool)
    strangers = ~bonded & ~np.eye(len(radius), dtype=bool)
    return not ((distance[bonded] > _BROKEN).any() or (distance[strangers] < _BONDED).any())


def _choose(found: list[Relaxed], keep: Keep) -> list[Relaxed]:
    if keep == "all":
        return found
    if keep == "first":
        return found[:1]
    if keep == "best":
        return [min(found, key=lambda r: (not (r.intact and r.converged), r.energy))]
    raise ValueError(f"keep must be first, best or all, got {keep!r}")


def relax_file(
    potential: Potential,
    source: str | Path,
    target: str | Path,
    *,
    keep: Keep = "first",
    remember: int = 0,
    **options: Any,
) -> Iterator[tuple[int, int, Report]]:
    """Relax every molecule of a SMILES file into one SDF file, yielding (done, all, report) after each.

    A molecule that cannot be relaxed is noted and left out. The SDF file appears when all are done. Its
    properties: SMILES, energy_eV, energy_drop_eV, max_force_eV_per_A, steps, converged, intact; with several
    conformers also conformer and strain_eV. :class:`Relaxed` says what each means.

    Parameters
    ----------
    potential : Potential
    source : str or Path
        SMILES, CSV or TSV file, gzipped or not.
    target : str or Path
        SDF file to write.
    keep : {"first", "best", "all"}
        Which of a molecule's conformers to write.
    remember : int
        Leave so many of the structures in the report, for a page.
    **options
        See :func:`relax_molecule`.

    Raises
    ------
    BadInputError
        If `source` cannot be read.
    """
    if keep not in ("first", "best", "all"):
        raise ValueError(f"keep must be first, best or all, got {keep!r}")
    failed: list[str] = []
    file, target, report = read_smiles_file(source), Path(target), Report(failed=failed)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        # Not by RDKit's own writer, which says nothing when the disk is full.
        with temporary.open("w", encoding="utf-8") as stream:
            for done, (line, smiles) in enumerate(zip(file.lines, file.smiles, strict=True), 1):
                try:
                    found = _choose(relax_conformers(potential, smiles, **options), keep)
                except (ModelError, StructureError) as err:
                    failed.append(
                        f"line {line}: {err}" if smiles in str(err) else f"line {line}: {smiles}: {err}"
                    )
                    found = []
                for one in found:
                    stream.write(Chem.SDWriter.GetText(_labelled(one)))
                    report.written += 1
                    report.unconverged += not one.converged
                    report.broken += not one.intact
                    if len(report.relaxed) < remember:
                        report.relaxed.append(one)
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
    if found.strain is not None:
        molecule.SetIntProp("conformer", found.conformer)
        molecule.SetProp("strain_eV", f"{found.strain:.6f}")
    molecule.SetProp("max_force_eV_per_A", f"{found.max_force:.5f}")
    molecule.SetIntProp("steps", found.steps)
    molecule.SetProp("converged", "yes" if found.converged else "no")
    molecule.SetProp("intact", "yes" if found.intact else "no")
    return molecule
