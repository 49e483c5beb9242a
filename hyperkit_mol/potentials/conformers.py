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
    settings.randomSeed = seed
    if not rdDistGeom.EmbedMultipleConfs(molecule, conformers, settings):
        settings.useRandomCoords = True
        if not rdDistGeom.EmbedMultipleConfs(molecule, conformers, settings):
            raise StructureError(f"{smiles}: RDKit finds no conformer for it")
    return molecule
