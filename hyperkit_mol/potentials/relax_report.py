"""One HTML page of relaxed molecules: a table, and a 3D view that needs no network."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

from hyperkit_mol.files import replacing
from hyperkit_mol.potentials.relax import Relaxed, Report

__all__ = ["render_report", "write_report"]

_KCAL = 23.060548  # kcal/mol in an eV


@lru_cache(maxsize=1)
def viewer_library() -> dict[str, str]:
    """3Dmol.js as it comes in its npm package (gzip, base64), with version, checksum and license."""
    text = files("hyperkit_mol.potentials").joinpath("viewer/3dmol.json").read_text(encoding="utf-8")
    return json.loads(text)


def write_report(
    report: Report,
    path: str | Path,
    *,
    title: str = "molecules",
    model: str = "",
    details: Sequence[str] = (),
) -> Path:
    """Write the page; arguments as in :func:`render_report`."""
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_text(
            render_report(report, title=title, model=model, details=details), encoding="utf-8"
        )
    return path


def render_report(
    report: Report, *, title: str = "molecules", model: str = "", details: Sequence[str] = ()
) -> str:
    """The page as a string: every molecule of ``report.relaxed``, and the lines of those left out.

    A molecule takes about 3 kB, the page without molecules 230 kB, nearly all of it 3Dmol.js.

    Parameters
    ----------
    report : Report
        From :func:`~hyperkit_mol.potentials.relax.relax_file` with ``remember``.
    title : str
        Where the molecules come from.
    model : str
        What relaxed them.
    details : sequence of str
        Lines on how it was done.
    """
    import jinja2

    source = files("hyperkit_mol.potentials").joinpath("viewer/relaxed.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    shown, strained = report.relaxed, any(r.strain is not None for r in report.relaxed)
    columns = ["molecule", "energy (eV)", "drop (eV)", "max force (eV/Å)", "steps", "converged", "intact"]
    if strained:
        columns.insert(3, "strain (eV)")
    # "<" must not end the script element that the structures stand in.
    structures = json.dumps([_structure(r) for r in shown], separators=(",", ":")).replace("<", "\\u003c")
    return environment.from_string(source).render(
        title=title,
        model=model,
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        tiles=_tiles(report),
        note=_note(report, strained),
        columns=columns,
        rows=[{"smiles": r.smiles, "svg": _drawing(r.molecule), "cells": _cells(r, strained)} for r in shown],
        failed=report.failed or [],
        details=details,
        structures=structures,
        library=viewer_library(),
    )


def _tiles(report: Report) -> list[dict[str, str]]:
    values = [(f"{report.written:,}", "structures"), (f"{len(report.failed or []):,}", "left out")]
    values += [(f"{report.unconverged:,}", "not converged"), (f"{report.broken:,}", "with other bonds")]
    if report.relaxed:
        drop = statistics.median(r.drop for r in report.relaxed)
        values.append((f"{drop:.3f}", "median energy drop (eV)"))
    strains = [r.strain for r in report.relaxed if r.strain is not None]
    if strains:
        values.append((f"{_KCAL * statistics.median(strains):.1f}", "median strain (kcal/mol)"))
    return [{"value": v, "label": label} for v, label in values]


def _note(report: Report, strained: bool) -> str:
    parts = []
    if len(report.relaxed) < report.written:
        parts.append(f"The first {len(report.relaxed):,} of {report.written:,}; the SDF file has all.")
    parts.append("Drop: the energy of the starting conformer above the relaxed one.")
    if strained:
        parts.append("Strain: above the lowest of all relaxed conformers of the molecule, in kcal/mol below.")
    parts.append("Intact: the bonds are those of the SMILES.")
    return " ".join(parts)


def _cells(r: Relaxed, strained: bool) -> list[dict[str, Any]]:
    def cell(value: float, text: str, bad: bool = False, small: str = "") -> dict[str, Any]:
        return {"value": f"{value:.6g}", "text": text, "bad": bad, "small": small}

    cells = [
        {"value": repr(r.energy), "text": f"{r.energy:,.3f}", "bad": False, "small": ""},
        cell(r.drop, f"{r.drop:.3f}"),
    ]
    if strained:
        text = "" if r.strain is None else f"{r.strain:.3f}"
        small = "" if r.strain is None else f"{_KCAL * r.strain:.1f}"
        cells.append(cell(r.strain or 0.0, text, small=small))
    cells.append(cell(r.max_force, f"{r.max_force:.3f}"))
    cells.append(cell(r.steps, f"{r.steps}"))
    cells += [cell(flag, "yes" if flag else "no", not flag) for flag in (r.converged, r.intact)]
    return cells


def _structure(r: Relaxed) -> dict[str, Any]:
    """Symbols, coordinates in 0.001 Å and bonds; aromatic bonds as alternating single and double ones."""
    molecule = Chem.Mol(r.molecule)
    Chem.Kekulize(molecule)
    positions = molecule.GetConformer().GetPositions()
    return {
        "smiles": r.smiles,
        "symbols": [a.GetSymbol() for a in molecule.GetAtoms()],
        "milli": [round(1000 * x) for x in (positions - positions.mean(0)).ravel().tolist()],
        "bonds": [
            [b.GetBeginAtomIdx(), b.GetEndAtomIdx(), round(b.GetBondTypeAsDouble())]
            for b in molecule.GetBonds()
        ],
    }


def _drawing(molecule: Any) -> str:
    """A small SVG of the molecule without its hydrogens."""
    flat = Chem.RemoveHs(Chem.Mol(molecule))
    flat.RemoveAllConformers()
    drawer = rdMolDraw2D.MolDraw2DSVG(180, 120, -1, -1, True)
    drawer.drawOptions().clearBackground = False
    drawer.drawOptions().padding = 0.06
    try:
        rdMolDraw2D.PrepareAndDrawMolecule(drawer, flat)
    except (ValueError, RuntimeError):  # nothing in a report is worth losing the report
        return "<svg viewBox='0 0 180 120' aria-hidden='true'></svg>"
    drawer.FinishDrawing()
    return _compact(drawer.GetDrawingText())


def _compact(svg: str) -> str:
    """The same picture in a fifth of the bytes: lines of one kind become one path, styles become classes."""
    lines: dict[str, list[str]] = {}
    rest: list[str] = []
    for element in ElementTree.fromstring(svg):
        style = dict(re.findall(r"([\w-]+):\s*([^;]+)", element.get("style", "")))
        kind = element.tag.rpartition("}")[2]
        fill, stroke = style.get("fill", element.get("fill", "none")), style.get("stroke", "none")
        if kind == "path" and fill == "none":
            dash = style.get("stroke-dasharray", "")
            look = "" if stroke == "#000000" else f' style="stroke:{stroke}"'
            look += f' stroke-dasharray="{dash}"' if dash else ""
            lines.setdefault(look, []).append(_short(element.get("d", "")))
        elif kind == "path":
            rest.append(f'<path d="{_short(element.get("d", ""))}" fill="{fill}"/>')
        elif kind == "text":
            place = f'x="{element.get("x")}" y="{element.get("y")}"'
            size, anchor = style.get("font-size", "10px"), style.get("text-anchor", "start")
            color = "" if fill in ("#000000", "none") else f' fill="{fill}"'
            anchor = "" if anchor == "start" else f' text-anchor="{anchor}"'
            text = "".join(element.itertext()).replace("&", "&amp;").replace("<", "&lt;")
            rest.append(f'<text {place} font-size="{size}"{anchor}{color}>{text}</text>')
    paths = [f'<path class="k"{look} d="{"".join(parts)}"/>' for look, parts in lines.items()]
    return f'<svg viewBox="0 0 180 120" aria-hidden="true">{"".join(paths + rest)}</svg>'


def _short(d: str) -> str:
    return re.sub(r"\s*([MLQCZ])\s*", r"\1", re.sub(r"\.0\b", "", d)).replace(", ", ",").strip()
