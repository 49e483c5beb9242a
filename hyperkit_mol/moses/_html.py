"""The HTML page of a report: one file, no network, readable from 400 px on."""

from __future__ import annotations

import csv
import io
import re
from functools import lru_cache
from importlib.resources import files
from typing import Any

from hyperkit_mol.moses.results import Histogram, MosesReport, format_value

_GROUPS = (
    ("Sampling", ("valid", "unique@1000", "unique@10000", "Novelty")),
    ("Diversity", ("IntDiv", "IntDiv2", "Filters")),
    ("Against Test", ("FCD/Test", "SNN/Test", "Frag/Test", "Scaf/Test")),
    ("Against TestSF", ("FCD/TestSF", "SNN/TestSF", "Frag/TestSF", "Scaf/TestSF")),
    ("Properties", ("logP", "SA", "QED", "weight")),
)
_LABELS = {
    "logP": "logP",
    "SA": "synthetic accessibility",
    "QED": "drug-likeness (QED)",
    "weight": "molecular weight",
}


@lru_cache(maxsize=1)
def published() -> list[dict[str, str]]:
    """Rows of MOSES's leaderboard and HAEGAN's paper; an empty cell was not reported."""
    text = files("hyperkit_mol.moses").joinpath("baselines.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def render(report: MosesReport) -> str:
    """The page as a string."""
    import jinja2

    source = files("hyperkit_mol.moses").joinpath("templates/report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    reference = next((name[10:] for name in report.counts if name.startswith("reference ")), "reference")
    return environment.from_string(source).render(
        report=report,
        tiles=_tiles(report),
        groups=_groups(report),
        values=[(name, format_value(value) or "–") for name, value in report.metrics.items()],
        charts=[
            {"svg": _chart(name, histogram), "caption": _caption(name, report)}
            for name, histogram in report.histograms.items()
        ],
        molecules=[{"svg": _drawing(smiles), "smiles": smiles} for smiles in report.samples],
        reference_name=reference,
    )


def _tiles(report: MosesReport) -> list[dict[str, str]]:
    tiles = [{"value": f"{report.counts['total']:,}", "label": "molecules given"}]
    for name in ("valid", "unique@1000", "Novelty", "FCD/Test", "SNN/Test", "Scaf/Test"):
        if report.metrics.get(name) is not None:
            label = name
            if name in report.floor:
                label += f" (training set: {format_value(report.floor[name])})"
            tiles.append({"value": format_value(report.metrics[name]), "label": label})
    return tiles


def _groups(report: MosesReport) -> list[dict[str, Any]]:
    """Tables with our row, the floor and the published rows, for MOSES's own reference."""
    if report.settings["reference"] != "moses":
        return []
    named = {name for _, names in _GROUPS for name in names}
    rest = tuple(name for name in report.metrics if name not in named)
    groups = []
    for title, names in (*_GROUPS, ("More", rest)):
        columns = [name for name in names if name in report.metrics]
        if not columns:
            continue
        rows = [_row("this set", "ours", [format_value(report.metrics[name]) or "–" for name in columns])]
        if report.floor:
            rows.append(
                _row(
                    f"training set at N = {report.counts['valid']:,}",
                    "floor",
                    [format_value(report.floor.get(name)) or "–" for name in columns],
                )
            )
        rows += [
            _row(entry["model"], "", [entry.get(name) or "–" for name in columns])
            for entry in published()
            if any(entry.get(name) for name in columns)
        ]
        # A zero-width space lets the header break where the table is narrow.
        short = [name.partition("/")[0].replace("@", "\u200b@") for name in columns]
        groups.append({"title": title, "columns": short, "rows": rows})
    return groups


def _row(name: str, kind: str, values: list[str]) -> dict[str, Any]:
    cells = []
    for value in values:
        number, _, spread = value.partition("±")
        cells.append({"value": number, "spread": spread})
    return {"name": name, "kind": kind, "cells": cells}


def _caption(name: str, report: MosesReport) -> str:
    value = report.metrics.get(name)
    text = f"{name}: distance {format_value(value)}"
    if name in report.floor:
        text += f", training set at this N {format_value(report.floor[name])}"
    return text


def _chart(name: str, histogram: Histogram) -> str:
    """Inline SVG; text stays text, and ids are made unique since all charts share one page."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(3.6, 2.5), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.stairs(histogram.reference, histogram.edges, fill=True, color="#c9ced6")
        axes.stairs(histogram.generated, histogram.edges, color="#0b6e75", linewidth=1.8)
        axes.set_xlabel(_LABELS.get(name, name))
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.margins(x=0)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return _inline(
        buffer.getvalue(), f"{_LABELS.get(name, name)}: generated and reference", prefix=f"{name}-"
    )


def _drawing(smiles: str) -> str:
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D

    mol = Chem.MolFromSmiles(smiles)
    drawer = rdMolDraw2D.MolDraw2DSVG(220, 170)
    drawer.drawOptions().clearBackground = False
    drawer.drawOptions().padding = 0.08
    try:
        rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol)
    except (ValueError, RuntimeError):  # nothing in a report is worth losing the report
        return "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 220 170' role='img'></svg>"
    drawer.FinishDrawing()
    return _inline(drawer.GetDrawingText(), "", prefix="")


def _inline(svg: str, title: str, prefix: str) -> str:
    """An SVG document as part of a page: no prologue, a width that the page decides, ids of its own."""
    svg = svg[svg.index("<svg") :].strip()
    head, _, body = svg.partition(">")
    head = re.sub(r"\s(width|height)=(['\"])[^'\"]*\2", "", head)
    head = re.sub(r"\s(xmlns:\w+|baseProfile|xml:space|version)=(['\"])[^'\"]*\2", "", head)
    head += f' role="img" aria-label="{title}"' if title else ' role="img" aria-hidden="true"'
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    if prefix:
        body = re.sub(r'id="', f'id="{prefix}', body)
        body = re.sub(r"url\(#", f"url(#{prefix}", body)
        body = re.sub(r'(xlink:)?href="#', f'href="#{prefix}', body)
    return f"{head}>{body}"
