"""SMILES from a person's file: plain, CSV or TSV, gzipped or not; what is wrong, by line number."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

__all__ = ["BadInputError", "SmilesFile", "read_smiles", "read_smiles_file"]

_COLUMN_NAMES = ("smiles", "canonical_smiles", "smile", "structure")


class BadInputError(ValueError):
    """A file that cannot be used; the message says what was found and what is accepted."""


@dataclass(slots=True)
class SmilesFile:
    """SMILES strings and the line (from 1) on which each stands."""

    path: Path
    smiles: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.smiles)


def _open(path: Path) -> IO[str]:
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    # A stray byte must cost its line, not the run: it becomes U+FFFD, which no SMILES contains.
    if packed:
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return path.open("rt", encoding="utf-8-sig", errors="replace", newline="")


def read_smiles(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield ``(line number, SMILES)`` from a SMILES, CSV or TSV file, gzipped or not.

    A header is recognised by a column called SMILES (any case); without one the first column is taken.
    Blank lines and lines that begin with ``#`` are passed over.

    Raises
    ------
    BadInputError
        If the file does not exist, is a folder, cannot be read or is a damaged gzip.
    """
    path = Path(path)
    if not path.exists():
        raise BadInputError(f"{path}: no such file")
    if path.is_dir():
        raise BadInputError(f"{path} is a folder; give a file of SMILES (.smi, .txt, .csv, or gzip of these)")
    try:
        with _open(path) as stream:
            yield from _rows(stream)
    except (EOFError, zlib.error, csv.Error, OSError) as err:
        raise BadInputError(f"{path}: cannot be read ({err})") from err


def _rows(stream: IO[str]) -> Iterator[tuple[int, str]]:
    column: int | None = None
    separator: str | None = None
    for number, raw in enumerate(stream, start=1):
        line = raw.strip("\r\n")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if column is None:
            separator = "," if "," in line else "\t" if "\t" in line else None
            cells = _split(line, separator)
            named = [i for i, cell in enumerate(cells) if cell.strip().strip('"').lower() in _COLUMN_NAMES]
            column = named[0] if named else 0
            if named:
                continue
        cells = _split(line, separator)
        yield number, cells[column].strip() if column < len(cells) else ""


def _split(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split() or [""]
    if '"' in line:
        return next(csv.reader([line], delimiter=separator))
    return line.split(separator)


def read_smiles_file(path: str | Path) -> SmilesFile:
    """Read a whole file; see :func:`read_smiles`.

    Raises
    ------
    BadInputError
        Also if the file holds no molecule at all.
    """
    found = SmilesFile(Path(path))
    for line, smiles in read_smiles(path):
        found.smiles.append(smiles)
        found.lines.append(line)
    if not found.smiles:
        raise BadInputError(f"{path} holds no SMILES (empty, or only a header and comments)")
    return found
