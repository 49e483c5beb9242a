"""Files that people have."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hyperkit_mol.chem.reading import BadInputError, read_smiles_file


@pytest.mark.parametrize(
    ("text", "smiles", "lines"),
    [
        ("CC\nCCO\n", ["CC", "CCO"], [1, 2]),
        ("CC name\nCCO\tother\n", ["CC", "CCO"], [1, 2]),
        ("SMILES,SPLIT\nCC,train\nCCO,train\n", ["CC", "CCO"], [2, 3]),
        ("id,smiles\n1,CC\n2,CCO", ["CC", "CCO"], [2, 3]),
        ("id\tSmiles\n1\tCC\n2\tCCO", ["CC", "CCO"], [2, 3]),
        ('name,smiles\n"a, b",CC\n', ["CC"], [2]),
        ("# note\n\nCC\r\n\r\nCCO\r\n", ["CC", "CCO"], [3, 5]),
        ("\ufeffCC\n", ["CC"], [1]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_formats(tmp_path: Path, text: str, smiles: list[str], lines: list[int], packed: bool) -> None:
    path = tmp_path / ("x.gz" if packed else "x.smi")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    found = read_smiles_file(path)
    assert found.smiles == smiles
    assert found.lines == lines


def test_foreign_bytes_cost_their_line_only(tmp_path: Path) -> None:
    path = tmp_path / "x.smi"
    path.write_bytes(b"CC\nC\xe9\xff\nCCO\n")
    assert read_smiles_file(path).smiles[::2] == ["CC", "CCO"]


def test_missing_row_cells_are_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,smiles\n1,CC\n2\n")
    assert read_smiles_file(path).smiles == ["CC", ""]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"smiles\n", b"# only a note\n"])
def test_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.smi"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match="holds no SMILES"):
        read_smiles_file(path)


def test_unusable_paths(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such file"):
        read_smiles_file(tmp_path / "none.smi")
    with pytest.raises(BadInputError, match="is a folder"):
        read_smiles_file(tmp_path)
    damaged = tmp_path / "x.gz"
    damaged.write_bytes(gzip.compress(b"CC\n" * 1000)[:30])
    with pytest.raises(BadInputError, match="cannot be read"):
        read_smiles_file(damaged)


def test_gzip_whose_data_are_wrong(tmp_path: Path) -> None:
    """Found by tests/benchmarks/fuzz.py: zlib's error is not an OSError."""
    packed = bytearray(gzip.compress(b"CC\n" * 1000 + b"CCO\n" * 50))
    refused = 0
    for at in range(12, len(packed) - 8):
        for bit in range(8):
            changed = bytearray(packed)
            changed[at] ^= 1 << bit
            (tmp_path / "x.gz").write_bytes(changed)
            try:
                read_smiles_file(tmp_path / "x.gz")
            except BadInputError:
                refused += 1
    assert refused > 100
