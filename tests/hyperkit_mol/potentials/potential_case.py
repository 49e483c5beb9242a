"""A small molecule, models with random weights, and Morse bonds: physics enough for the tests."""

from __future__ import annotations

import numpy as np
import torch

from hyperkit_mol.potentials import ModelConfig, Normalization, Potential, Structure

UNITS = Normalization({1: -13.6, 6: -1027.0, 8: -2043.0}, -2.0, 1.3, charges=(0, 1), spins=(0, 2))

# Acetic acid, roughly; 8 atoms of three elements without symmetry.
POSITIONS = np.array(
    [
        [0.00, 0.00, 0.00],
        [1.50, 0.05, 0.10],
        [2.10, 1.10, 0.00],
        [2.15, -1.10, 0.25],
        [3.10, -0.95, 0.20],
        [-0.35, 0.98, 0.25],
        [-0.38, -0.70, 0.77],
        [-0.36, -0.32, -0.98],
    ]
)
NUMBERS = np.array([6, 6, 8, 8, 1, 1, 1, 1])


def acid(shake: float = 0.0, seed: int = 0, **fields: object) -> Structure:
    """The molecule, its atoms displaced by normal noise of `shake` Å."""
    noise = np.random.default_rng(seed).normal(size=POSITIONS.shape) * shake
    return Structure(POSITIONS + noise, NUMBERS, **fields)  # type: ignore[arg-type]


def build(seed: int = 0, dtype: torch.dtype = torch.float64, **settings: object) -> Potential:
    """A small model with random weights, none of them zero."""
    torch.manual_seed(seed)
    base: dict[str, object] = {"width": 16, "layers": 2, "heads": 2, "degrees": 4, "radial": 6, "cutoff": 3.5}
    if settings.get("kind") == "transformer":
        base = {"width": 16, "layers": 2, "heads": 2}
    model = Potential(ModelConfig.model_validate(base | settings), UNITS, 5.0).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def morse(positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy and forces of ``sum_pairs ((1 - exp(-(r - 1.2)))^2 - 1) exp(-r/2)``."""
    vector = positions[:, None] - positions[None]
    r = np.linalg.norm(vector, axis=-1) + np.eye(len(positions))
    well, fade = np.exp(-(r - 1.2)), np.exp(-0.5 * r)
    value = ((1 - well) ** 2 - 1) * fade
    slope = 2 * (1 - well) * well * fade - 0.5 * value
    off = ~np.eye(len(positions), dtype=bool)
    forces = -((slope / r * off)[..., None] * vector).sum(1)
    return float(value[off].sum() / 2), forces
