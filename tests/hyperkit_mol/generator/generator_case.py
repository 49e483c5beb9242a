"""The small generator of the tests."""

from __future__ import annotations

from hyperkit_mol.generator.config import RunConfig

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
