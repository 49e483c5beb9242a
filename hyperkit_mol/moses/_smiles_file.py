"""Reading a file of SMILES, whatever it looks like."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

_HEADERS = {"smiles", "smi", "canonical_smiles", "smiles_string", "molecule", "mol"}


def read_smiles(path: str | Path) -> list[str]:
    """First column of a SMILES or CSV file, gzipped or not.

    Columns end at a comma, a tab, a semicolon or a space; a header (``SMILES`` or the like) and blank lines
    are skipped. Bytes that are not UTF-8 become U+FFFD, which no SMILES contains, so that such a line counts
    as an invalid molecule and not as a crash.

    Raises
    ------
    ValueError
        If the file holds no line, or is a damaged gzip file.
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    """
    path = Path(path)
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file ({error})") from None
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    lines = raw.decode(encoding, errors="replace").splitlines()
    first = [_first_column(line) for line in lines]
    smiles = [text for text in first if text]
    if smiles and smiles[0].strip("\"'").lower() in _HEADERS:
        smiles = smiles[1:]
    if not smiles:
        raise ValueError(f"{path}: no SMILES in it (the file is empty or has only a header)")
    return smiles


def _first_column(line: str) -> str:
    text = line.strip()
    for separator in ("\t", ",", ";", " "):
        text = text.partition(separator)[0]
    return text.strip().strip("\"'")
