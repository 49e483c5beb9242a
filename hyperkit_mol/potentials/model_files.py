"""A trained potential as a folder: safetensors for the weights, JSON for the rest. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hyperkit_mol.files import replacing_folder
from hyperkit_mol.potentials.config import ModelConfig
from hyperkit_mol.potentials.errors import ModelError
from hyperkit_mol.potentials.potential import Potential
from hyperkit_mol.potentials.statistics import Normalization

__all__ = ["load_potential", "save_potential"]

FORMAT = "hyperkit-potential/1"
_WEIGHTS, _CONFIG = "weights.safetensors", "potential.json"


def save_potential(folder: str | Path, potential: Potential, info: dict[str, Any] | None = None) -> None:
    """Write a model folder; an earlier one is replaced only when the new one is complete."""
    units = potential.normalization
    document = {
        "format": FORMAT,
        "units": {"energy": "eV", "length": "Å"},
        "model": potential.config.model_dump(mode="json"),
        "references": {str(z): e for z, e in units.references.items()},
        "shift": units.shift,
        "scale": units.scale,
        "charges": units.charges,
        "spins": units.spins,
        "neighbors": potential.neighbors,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "info": info or {},
    }
    weights = {k: v.detach().cpu().contiguous() for k, v in potential.state_dict().items()}
    with replacing_folder(folder) as new:
        save_file(weights, str(new / _WEIGHTS))
        (new / _CONFIG).write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")


def load_potential(
    folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Potential:
    """Read a model folder.

    Parameters
    ----------
    folder : str or Path
    device : device
    dtype : torch.dtype, optional
        That of training by default; float64 makes a float32 model's geometry optimisations smoother.

    Returns
    -------
    Potential
        In evaluation mode; what was noted at training time is in its ``info``.

    Raises
    ------
    ModelError
        If the folder or a file is missing, damaged or of another format, or weights and sizes disagree.
    """
    folder = Path(folder)
    if not folder.exists():
        raise ModelError(f"{folder}: no such model folder")
    for name in (_WEIGHTS, _CONFIG):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} is not a potential: {name} is missing (give the folder `model` of a run)"
            )
    try:
        document = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ModelError(f"{folder / _CONFIG}: format {document['format']!r}, expected {FORMAT!r}")
        config = ModelConfig.model_validate(document["model"])
        references = {int(z): float(e) for z, e in document["references"].items()}
        units = Normalization(
            references,
            float(document["shift"]),
            float(document["scale"]),
            tuple(int(q) for q in document["charges"]),
            tuple(int(s) for s in document["spins"]),
        )
        neighbors, stored = float(document["neighbors"]), getattr(torch, document["dtype"])
        info = document.get("info", {})
    except ModelError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, ValidationError) as err:
        raise ModelError(f"{folder / _CONFIG}: damaged ({type(err).__name__}: {err})") from err
    potential = Potential(config, units, neighbors).to(stored)
    try:
        potential.load_state_dict(load_file(str(folder / _WEIGHTS)))
    except (SafetensorError, OSError) as err:
        raise ModelError(f"{folder / _WEIGHTS}: truncated or damaged ({err})") from err
    except RuntimeError as err:
        raise ModelError(
            f"{folder}: the weights belong to another model than {_CONFIG} describes; copy the whole folder"
        ) from err
    potential.info = info
    return potential.to(device=device, dtype=dtype).eval()
