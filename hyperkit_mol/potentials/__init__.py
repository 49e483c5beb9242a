"""Attention potentials: energies, forces and stress of molecules and crystals, in eV and Å."""

from hyperkit_mol.potentials.batch import AtomicBatch, Structure, collate
from hyperkit_mol.potentials.config import ModelConfig, PotentialConfig, load_config
from hyperkit_mol.potentials.data import DataKeys, from_ase, read_structures, split_structures
from hyperkit_mol.potentials.errors import DataError, ModelError, StructureError
from hyperkit_mol.potentials.escaip import EScAIP
from hyperkit_mol.potentials.model_files import load_potential, save_potential
from hyperkit_mol.potentials.neighbors import NeighborTable, neighbor_table
from hyperkit_mol.potentials.potential import Potential, Prediction
from hyperkit_mol.potentials.statistics import Normalization, normalization
from hyperkit_mol.potentials.transformer import Transformer

__all__ = [
    "AtomicBatch",
    "DataError",
    "DataKeys",
    "EScAIP",
    "ModelConfig",
    "ModelError",
    "NeighborTable",
    "Normalization",
    "Potential",
    "PotentialConfig",
    "Prediction",
    "Structure",
    "StructureError",
    "Transformer",
    "collate",
    "from_ase",
    "load_config",
    "load_potential",
    "neighbor_table",
    "normalization",
    "read_structures",
    "save_potential",
    "split_structures",
]
