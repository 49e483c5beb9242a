"""The small generator of the tests, and its runs."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from rich.console import Console

from hyperkit_mol.generator.config import RunConfig
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.generator.pipeline import train

QUIET = Console(quiet=True)

SMALL = {
    "model": {
        "width": 32,
        "latent": 8,
        "site_width": 8,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "heads": 2,
        "feed_forward": 64,
        "head_size": 64,
    },
    "autoencoder": {"batch_size": 64, "steps": 12, "warmup": 4, "validate_every": 4, "save_every": 4},
    "gan": {"noise": 8, "hidden": 32, "batch_size": 64, "steps": 6, "critic_steps": 2, "save_every": 2},
    "data": {"validation": 100},
}


def small_config(**changes: object) -> RunConfig:
    """The small configuration with some settings changed by dotted key (``model__width=16``)."""
    data: dict = {k: dict(v) for k, v in SMALL.items()}
    for key, value in changes.items():
        *groups, name = key.split("__")
        target = data
        for group in groups:
            target = target.setdefault(group, {})
        target[name] = value
    return RunConfig.model_validate(data)


def run(config: RunConfig, output: Path, **options: object) -> Path:
    options.setdefault("cache", output.parent / "cache")
    return train(config, output, jobs=1, console=QUIET, **options).model  # type: ignore[arg-type]


def losses(output: Path, stage: str) -> list[dict[str, str]]:
    with (output / stage / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def weights(model: Path) -> dict[str, torch.Tensor]:
    return MoleculeGenerator.load(model).state_dict()
