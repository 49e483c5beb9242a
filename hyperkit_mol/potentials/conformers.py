"""SMILES to a first 3D structure. Imports no torch, so that processes which only label start fast."""

from __future__ import annotations

from typing import Any

from rdkit import Chem, RDLogger
from rdkit.Chem import rdDistGeom

from hyperkit_mol.potentials.errors import StructureError

__all__ = ["embed"]


def embed(smiles: str, seed: int = 0, conformers: int = 1) -> Any:
    """Conformers with hydrogens by ETKDG (Riniker and Landrum, 2015; RDKit's third version).

    The first one does not depend on how many are asked for. RDKit may find fewer than that.

    Raises
    ------
    StructureError
        If the SMILES cannot be parsed or no conformer is found.
    """
    RDLogger.DisableLog("rdApp.*")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        molecule = Chem.MolFromSmiles(smiles)
    finally:
        RDLogger.EnableLog("rdApp.*")  # pyright: ignore[reportAttributeAccessIssue]
    if molecule is None:
        raise StructureError(f"{smiles}: not a SMILES that RDKit can parse")
    if molecule.GetNumAtoms() == 0:
        raise StructureError("an empty SMILES has no structure")
    molecule = Chem.AddHs(molecule)
    settings = rdDistGeom.ETKDGv3()
    settings.clearConfs = False
    for k in range(conformers):
        # Not EmbedMultipleConfs: it multiplies the seed by 1, 2, ...: seed 0 gives the same one each time.
        settings.randomSeed = seed + 100_003 * k
        settings.useRandomCoords = False
        if rdDistGeom.EmbedMolecule(molecule, settings) < 0:
            settings.useRandomCoords = True
            rdDistGeom.EmbedMolecule(molecule, settings)
    if not molecule.GetNumConformers():
        raise StructureError(f"{smiles}: RDKit finds no conformer for it")
    return molecule
