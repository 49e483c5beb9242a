"""What can go wrong, as errors whose message a person can act on."""

from __future__ import annotations

__all__ = ["DataError", "ModelError", "StructureError", "TrainingError"]


class DataError(ValueError):
    """A data file that cannot be used; the message says what was found and what is accepted."""


class StructureError(ValueError):
    """A structure that no potential can be asked about; the message names it and the atom."""


class ModelError(ValueError):
    """A model folder that cannot be used, or a model asked for what it was not trained on."""


class TrainingError(ValueError):
    """A training that cannot go on; what was saved before is whole."""
