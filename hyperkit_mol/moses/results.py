"""What an evaluation returns, and its JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperkit_mol.moses import _cache

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = "hyperkit.moses/1"


@dataclass(frozen=True)
class Histogram:
    """Share of the molecules in each bin, for the generated set and for the test set."""

    edges: list[float]
    generated: list[float]
    reference: list[float]


@dataclass(frozen=True)
class MosesReport:
    """Result of `hyperkit_mol.moses.evaluate`.

    Attributes
    ----------
    metrics : dict
        Value by MOSES's name, in MOSES's order. A metric that is not defined for this input is None, and
        `undefined` says why; NaN never occurs.
    undefined : dict
        Reason by name for every None in `metrics`.
    floor : dict
        What this many molecules drawn from MOSES's training set score, by name (empty for a reference
        other than MOSES). Figures of sets of different sizes must not be compared.
    counts : dict
        ``total``, ``valid``, ``distinct`` (valid, canonical), ``train`` and the sizes of the references.
    notes : list of str
        What the reader should know about these figures.
    versions, data_hashes : dict
        Packages and SHA-256 of the data files that the figures depend on.
    settings : dict
        Arguments of the evaluation.
    timings : dict
        Wall seconds by stage, and ``total``.
    histograms : dict
        logP, SA, QED and weight against the first reference.
    samples : list of str
        Some generated molecules, for the picture.
    source : str
        Where the molecules came from.
    """

    metrics: dict[str, float | None]
    undefined: dict[str, str]
    floor: dict[str, float]
    counts: dict[str, int]
    notes: list[str]
    versions: dict[str, str | None]
    data_hashes: dict[str, str]
    settings: dict[str, Any]
    timings: dict[str, float]
    created: str
    histograms: dict[str, Histogram] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)
    source: str = ""

    @property
    def wall_time(self) -> float:
        """Wall seconds of the whole evaluation."""
        return self.timings["total"]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary with the schema's version, as written by `to_json`."""
        return {"schema": SCHEMA, **asdict(self)}

    def to_json(self, path: str | Path) -> Path:
        """Write the report as JSON (atomically) and return its path."""
        path = Path(path)
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        _cache.write_atomically(path, _writer(text))
        return path

    @classmethod
    def from_json(cls, path: str | Path) -> MosesReport:
        """Read a report back.

        Raises
        ------
        ValueError
            If the file is no report or of another schema version.
        """
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        schema = content.pop("schema", None) if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise ValueError(f"{path}: expected a report of schema {SCHEMA!r}, got {schema!r}")
        content["histograms"] = {name: Histogram(**value) for name, value in content["histograms"].items()}
        return cls(**content)

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained HTML page (atomically) and return its path."""
        from hyperkit_mol.moses._html import render

        path = Path(path)
        text = render(self)
        _cache.write_atomically(path, _writer(text))
        return path

    def table(self) -> Table:
        """The metrics beside the floor, as a Rich table."""
        from rich.table import Table

        table = Table(
            title=f"MOSES metrics of {self.counts['valid']:,} valid molecules of {self.counts['total']:,}"
        )
        table.add_column("metric")
        table.add_column("value", justify="right")
        if self.floor:
            table.add_column(f"training set at N = {self.counts['valid']:,}", justify="right", style="dim")
        for name, value in self.metrics.items():
            row = [name, format_value(value) if value is not None else f"- ({self.undefined[name]})"]
            if self.floor:
                row.append(format_value(self.floor.get(name)))
            table.add_row(*row)
        if self.floor:
            table.caption = FLOOR_WARNING
        return table


def _writer(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    return write


FLOOR_WARNING = (
    "FCD and Scaf depend on the number of molecules: compare figures of sets of equal size only. "
    "The last column is what that many molecules drawn from the training set score."
)


def format_value(value: float | None) -> str:
    """A figure as tables show it."""
    if value is None:
        return ""
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"
