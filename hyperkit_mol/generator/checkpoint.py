"""A trained model as a folder: safetensors for the weights, JSON for everything else. No pickle, ever."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyperkit_mol.chem.vocabulary import Vocabulary, VocabularyError
from hyperkit_mol.files import replacing_folder
from hyperkit_mol.generator.config import RunConfig

__all__ = ["CheckpointError", "ModelFiles", "load_model_files", "save_model_files"]

FORMAT = "hyperkit-mol-model/1"
_WEIGHTS, _CONFIG, _VOCABULARY = "weights.safetensors", "model.json", "vocabulary.json"


class CheckpointError(ValueError):
    """A model folder that cannot be used; the message names the file and what is wrong with it."""


@dataclass
class ModelFiles:
    """What a model folder holds."""

    config: RunConfig
    vocabulary: Vocabulary
    weights: dict[str, Tensor]
    info: dict[str, Any]


def save_model_files(folder: Path, files: ModelFiles) -> None:
    """Write a model folder; an earlier one is replaced only when the new one is complete."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in files.weights.items()}
    document = {
        "format": FORMAT,
        "vocabulary": files.vocabulary.digest,
        "config": files.config.model_dump(mode="json"),
        "info": files.info,
    }
    with replacing_folder(folder) as new:
        save_file(tensors, str(new / _WEIGHTS), metadata={"vocabulary": files.vocabulary.digest})
        (new / _VOCABULARY).write_text(files.vocabulary.to_json())
        (new / _CONFIG).write_text(json.dumps(document, indent=1))


def load_model_files(folder: str | Path, device: torch.device | str = "cpu") -> ModelFiles:
    """Read a model folder.

    Raises
    ------
    CheckpointError
        If the folder or a file is missing, damaged, of another format, or if the weights belong to another
        vocabulary.
    """
    folder = Path(folder)
    if not folder.exists():
        raise CheckpointError(f"{folder}: no such model folder")
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is a file; a model is a folder with {_WEIGHTS}, {_CONFIG}, {_VOCABULARY}"
        )
    for name in (_WEIGHTS, _CONFIG, _VOCABULARY):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is not a model folder: {name} is missing")
    try:
        document = json.loads((folder / _CONFIG).read_text())
        if document["format"] != FORMAT:
            raise CheckpointError(f"{folder / _CONFIG}: format {document['format']!r}, expected {FORMAT!r}")
        config = RunConfig.model_validate(document["config"])
        wanted, info = document["vocabulary"], document.get("info", {})
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, OSError) as err:
        raise CheckpointError(f"{folder / _CONFIG}: damaged ({err})") from err
    try:
        vocabulary = Vocabulary.load(folder / _VOCABULARY)
    except (VocabularyError, OSError, UnicodeDecodeError) as err:
        raise CheckpointError(str(err)) from err
    path = folder / _WEIGHTS
    try:
        with safe_open(str(path), "pt") as stream:
            trained_on = (stream.metadata() or {}).get("vocabulary")
        weights = load_file(str(path), device=str(device))
    except (SafetensorError, OSError, ValueError) as err:
        raise CheckpointError(f"{path}: truncated or damaged ({err})") from err
    if not vocabulary.digest == wanted == trained_on:
        raise CheckpointError(
            f"{folder}: the weights were trained with another vocabulary than {_VOCABULARY} holds; "
            "copy the whole model folder, not single files"
        )
    return ModelFiles(config, vocabulary, weights, info)
