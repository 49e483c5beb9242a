"""What can go wrong, as errors whose message a person can act on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["DataError", "DataWarning", "ModelError", "StructureError", "TrainingError", "telling"]


class DataError(ValueError):
    """A data file that cannot be used; the message says what was found and what is accepted."""


class DataWarning(UserWarning):
    """Something about a data file that a person should know before it costs them a training."""


class StructureError(ValueError):
    """A structure that no potential can be asked about; the message names it and the atom."""


class ModelError(ValueError):
    """A model folder that cannot be used, or a model asked for what it was not trained on."""


class TrainingError(ValueError):
    """A training that cannot go on; what was saved before is whole."""


@contextmanager
def telling(tell: Callable[[str], None]) -> Iterator[None]:
    """A block whose :class:`DataWarning` messages are handed to `tell`, one line each, once it ends."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DataWarning)
            yield
    finally:
        for warning in caught:
            if issubclass(warning.category, DataWarning):
                tell(f"warning: {warning.message}")
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
