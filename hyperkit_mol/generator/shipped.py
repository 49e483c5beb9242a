"""The model that comes with the package."""

from __future__ import annotations

from pathlib import Path

__all__ = ["shipped_model"]


def shipped_model() -> Path:
    """Folder of the trained generator that comes with the package; ``docs/model-card.md`` describes it.

    Examples
    --------
    >>> from hyperkit_mol.generator.shipped import shipped_model
    >>> (shipped_model() / "model.json").is_file()
    True
    """
    return Path(__file__).parent / "shipped"
