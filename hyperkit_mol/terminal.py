"""What the verbs of the command line share: consoles, errors for people, times and settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

__all__ = ["answer", "console", "errors", "fail", "overrides", "parse_seconds", "say"]

# Without emoji: ":o:" may be a part of a SMILES, ":end:" of a message.
console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)


def say(to: Console, text: str) -> None:
    """A line for a person, as it is."""
    to.print(text, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def answer() -> Iterator[None]:
    """Turn errors that a person can mend into one clear line and exit code 1; Ctrl-C is 130."""
    from hyperkit_mol.chem.reading import BadInputError
    from hyperkit_mol.generator.checkpoint import CheckpointError
    from hyperkit_mol.generator.config import ConfigError
    from hyperkit_mol.runs import RunError

    try:
        yield
    except (BadInputError, CheckpointError, ConfigError, RunError) as err:
        fail(str(err))
    except KeyboardInterrupt:
        fail("stopped; what was complete before is still there", 130)
    except OSError as err:
        fail(f"{err.filename or 'file'}: {err.strerror or err}")
    except ValueError as err:
        fail(str(err))
    except ImportError as err:
        fail(str(err))


def fail(message: str, code: int = 1) -> None:
    # Escaped: a SMILES in the message may hold what looks like markup.
    errors.print(f"[bold red]hyperkit-mol:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def parse_seconds(text: str | None) -> float | None:
    """``90``, ``15m``, ``2h30m``, ``1:30:00`` -> seconds."""
    if text is None:
        return None
    try:
        if ":" in text:
            total = 0.0
            for part in text.split(":"):
                total = total * 60 + float(part)
        else:
            total, number = 0.0, ""
            for ch in text.strip().lower():
                if ch in "hms":
                    total += float(number) * {"h": 3600, "m": 60, "s": 1}[ch]
                    number = ""
                else:
                    number += ch
            total += float(number) if number else 0.0
    except ValueError:
        total = -1.0
    if not total > 0:
        raise ValueError(f"--max-time must be a duration such as 90, 15m, 2h30m or 01:30:00, got {text!r}")
    return total


def overrides(pairs: list[str]) -> dict[str, Any]:
    import yaml

    out: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise ValueError(f"--set takes key=value (as in --set model.width=64), got {pair!r}")
        out[key.strip()] = yaml.safe_load(value)
    return out
