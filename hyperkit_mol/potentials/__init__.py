"""Attention potentials: energies, forces and stress of molecules and crystals, in eV and Å."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperkit_mol.potentials.batch import AtomicBatch, Structure, collate
    from hyperkit_mol.potentials.calculator import HyperkitCalculator
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
    "HyperkitCalculator",
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

_HOMES = {
    "batch": ("AtomicBatch", "Structure", "collate"),
    "calculator": ("HyperkitCalculator",),
    "config": ("ModelConfig", "PotentialConfig", "load_config"),
    "data": ("DataKeys", "from_ase", "read_structures", "split_structures"),
    "errors": ("DataError", "ModelError", "StructureError"),
    "escaip": ("EScAIP",),
    "model_files": ("load_potential", "save_potential"),
    "neighbors": ("NeighborTable", "neighbor_table"),
    "potential": ("Potential", "Prediction"),
    "statistics": ("Normalization", "normalization"),
    "transformer": ("Transformer",),
}


def __getattr__(name: str) -> Any:
    # Looked up when asked for: the command line mounts this package's verbs, and its help needs no torch.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
