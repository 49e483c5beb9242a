"""Strain over conformers, broken molecules, and the HTML page of relaxed ones."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from potential_case import UNITS, acid, build
from typer.testing import CliRunner

from hyperkit_mol.potentials import Potential, save_potential

pytest.importorskip("ase", reason="relaxation needs ASE (the extra `potentials`)")
pytest.importorskip("vesin", reason="relaxation needs vesin (the extra `potentials`)")

from rdkit import Chem
from rdkit.Chem import rdDistGeom

from hyperkit_mol.potentials import relax as relaxation
from hyperkit_mol.potentials.batch import AtomicBatch
from hyperkit_mol.potentials.relax import (
    Relaxed,
    Report,
    embed,
    relax_conformers,
    relax_file,
    relax_molecule,
)
from hyperkit_mol.potentials.relax_report import render_report, viewer_library, write_report

RADII = torch.zeros(9, dtype=torch.float64)
RADII[[1, 6, 8]] = torch.tensor([0.31, 0.76, 0.66], dtype=torch.float64)


class Springs(Potential):
    """Springs for bonds, a soft repulsion otherwise: molecules hold, conformers differ in energy."""

    def forward(self, batch: AtomicBatch, *, forces: bool = True, stress: bool = False) -> Any:
        found = super().forward(batch, forces=False)
        x = batch.positions.detach().double().requires_grad_()
        with torch.enable_grad():
            d, off = (x[:, None] - x + 1e-9).norm(dim=-1), ~torch.eye(len(x), dtype=torch.bool)
            radius = RADII[batch.numbers]
            rest = radius[:, None] + radius
            near = (d.detach() < 1.3 * rest) & off
            # Bonds pull towards their length; all other pairs repel softly.
            energy = 5.0 * (d - rest)[near].square().sum() + torch.exp(-d[~near & off]).sum()
            (slope,) = torch.autograd.grad(energy, x)
        return replace(found, energy=found.energy.detach() + energy.detach(), forces=-slope)


def springs() -> Potential:
    model = build()
    model.__class__ = Springs
    return model


def rigid(smiles: str = "CCO", seed: int = 0, **fields: object) -> Relaxed:
    return replace(Relaxed(embed(smiles, seed), smiles, -100.0, 0.5, 0.04, 12, True), **fields)  # type: ignore[arg-type]


# ---- conformers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 3])
def test_the_first_conformer_does_not_depend_on_their_number(seed: int) -> None:
    one, five = embed("CCCCO", seed), embed("CCCCO", seed, conformers=5)
    assert five.GetNumConformers() == 5
    places = [five.GetConformer(k).GetPositions() for k in range(5)]
    for k in range(5):
        assert all(np.abs(places[k] - places[j]).max() > 0.01 for j in range(k))
    np.testing.assert_array_equal(one.GetConformer().GetPositions(), five.GetConformer(0).GetPositions())
    plain, settings = Chem.AddHs(Chem.MolFromSmiles("CCCCO")), rdDistGeom.ETKDGv3()
    settings.randomSeed = seed
    rdDistGeom.EmbedMolecule(plain, settings)
    np.testing.assert_array_equal(plain.GetConformer().GetPositions(), one.GetConformer().GetPositions())


def test_strain_is_counted_from_the_lowest() -> None:
    options: Any = {"conformers": 4, "max_steps": 60, "fmax": 0.2}
    found = relax_conformers(springs(), "OCCCCO", **options)
    energies = np.array([r.energy for r in found])
    assert [r.conformer for r in found] == [0, 1, 2, 3]
    assert all(r.converged and r.intact for r in found)
    assert energies.std() > 1e-3
    np.testing.assert_allclose([r.strain for r in found], energies - energies.min(), atol=1e-9)
    assert all(r.drop > 0 for r in found)
    first, best = (relax_molecule(springs(), "OCCCCO", keep=k, **options) for k in ("first", "best"))  # type: ignore[arg-type]
    assert (first.energy, first.strain) == (energies[0], energies[0] - energies.min())
    assert (best.energy, best.strain) == (energies.min(), 0.0)
    assert all(r.molecule.GetNumConformers() == 1 for r in found)


def test_one_conformer_has_no_strain() -> None:
    assert relax_molecule(springs(), "CCO", max_steps=2).strain is None


def test_broken_conformers_are_no_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter(
        [
            rigid(energy=-100.0),
            rigid(energy=-150.0, intact=False),
            rigid(energy=-140.0, converged=False),
            rigid(energy=-101.0, conformer=3),
        ]
    )
    monkeypatch.setattr(relaxation, "_relax", lambda *_: next(made))
    found = relax_conformers(build(), "CCO", conformers=4)
    assert [r.strain for r in found] == [1.0, -49.0, -39.0, 0.0]
    assert relaxation._choose(found, "best")[0].conformer == 3
    assert len(relaxation._choose(found, "all")) == 4


def test_intact() -> None:
    for smiles in (
        "CC(=O)O",
        "C1CC1",
        "C12CC(C1)C2",
        "[O-][N+](=O)c1ccc(Cl)cc1Br",
        "C#N",
        "O",
        "[H][H]",
        "[Na+]",
    ):
        assert relaxation._intact(embed(smiles)), smiles
    molecule = embed("CC(=O)O")
    conformer = molecule.GetConformer()
    x = conformer.GetPositions()
    for atom, place in ((0, x[0] + 5.0), (7, x[2] + [0.9, 0, 0])):
        moved = x.copy()
        moved[atom] = place
        conformer.SetPositions(moved)
        assert not relaxation._intact(molecule)


def test_arguments() -> None:
    with pytest.raises(ValueError, match="conformers must be >= 1, got 0"):
        relax_molecule(build(), "CC", conformers=0)
    with pytest.raises(ValueError, match="keep must be first, best or all, got 'worst'"):
        next(relax_file(build(), "x.smi", "x.sdf", keep="worst"))  # type: ignore[arg-type]


def test_files_with_strain(tmp_path: Path) -> None:
    source, target = tmp_path / "in.smi", tmp_path / "out.sdf"
    source.write_text("OCCO\nCCBr\nCCO\n")
    options: Any = {"conformers": 2, "max_steps": 3, "keep": "all", "remember": 3}
    *_, (_, _, report) = relax_file(springs(), source, target, **options)
    read = list(Chem.SDMolSupplier(str(target), removeHs=False))
    assert [m.GetProp("conformer") for m in read] == ["0", "1", "0", "1"]
    assert min(float(m.GetProp("strain_eV")) for m in read[:2]) == 0.0
    assert {m.GetProp("intact") for m in read} == {"yes"}
    assert report.written == 4
    assert len(report.relaxed) == 3
    assert len(report.failed or []) == 1
    # Nothing written leaves an earlier file alone.
    before = target.read_bytes()
    source.write_text("CCBr\n")
    *_, (_, _, report) = relax_file(springs(), source, target)
    assert report.written == 0
    assert target.read_bytes() == before


# ---- the page -----------------------------------------------------------------------------------

SMILES = [
    "Cc1ccc(cc1Nc1nccc(n1)-c1cccnc1)NC(=O)c1ccc(CN2CCN(C)CC2)cc1",
    "CC(=O)Oc1ccccc1C(=O)O",
    "N[C@@H](C)C(=O)O",
    "[O-][N+](=O)c1ccc(Cl)cc1Br",
]


def report_of(count: int = 4) -> Report:
    made = [rigid(s, strain=0.01 * k) for k, s in enumerate(SMILES)]
    made[1] = replace(made[1], converged=False, intact=False)
    rows = [made[k % len(made)] for k in range(count)]
    return Report(count, count // 4, ["line 3: CCBr: the model does not know <Br>"], count // 4, rows)


def test_page_has_everything_and_loads_nothing(tmp_path: Path) -> None:
    path = write_report(report_of(), tmp_path / "deep" / "a.html", title="a <b>.smi", model="escaip, runs/m")
    page = path.read_text()
    assert "a &lt;b&gt;.smi" in page
    assert "line 3: CCBr: the model does not know &lt;Br&gt;" in page
    for smiles in SMILES:
        assert f"<code>{html.escape(smiles)}</code>" in page
    body = re.sub(r'<script type="text/plain".*?</script>', "", page, flags=re.S)
    assert re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:|#)[^"')\s>]+""", body) == []
    assert "@import" not in body
    assert "fetch(" not in body
    structures = json.loads(re.search(r'id="structures">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    assert [s["smiles"] for s in structures] == SMILES
    molecule = embed(SMILES[1])
    x = molecule.GetConformer().GetPositions()
    np.testing.assert_allclose(np.reshape(structures[1]["milli"], (-1, 3)) / 1000, x - x.mean(0), atol=6e-4)
    assert len(structures[1]["bonds"]) == molecule.GetNumBonds()
    assert {order for _, _, order in structures[1]["bonds"]} == {1, 2}
    assert page.count('class="no"') == 2
    assert "strain (eV)" in page
    bare = render_report(Report(1, 0, [], 0, [rigid()]))
    assert "strain (eV)" not in bare
    assert "Left out" not in bare


def test_page_of_100_molecules_is_below_a_megabyte() -> None:
    assert len(render_report(report_of(100)).encode()) < 800_000


def test_the_library_is_the_published_one() -> None:
    library = viewer_library()
    code = gzip.decompress(base64.b64decode(library["gzip_base64"]))
    assert hashlib.sha256(code).hexdigest() == library["sha256"]
    assert b"createViewer" in code
    assert "BSD-3-Clause" in library["license"]


def test_drawings_survive_what_rdkit_draws() -> None:
    from hyperkit_mol.potentials.relax_report import _drawing

    for smiles in (*SMILES, "[13CH3][C@H](O)/C=C/C", "[Na+].[Cl-]", "O", "[Fe]"):
        molecule = Chem.MolFromSmiles(smiles)
        svg = _drawing(molecule)
        assert svg.startswith("<svg")
        assert svg.count("<") >= 4
        assert len(svg) < 5000
    assert 'fill="#FF0000"' in _drawing(Chem.MolFromSmiles("CCO"))


FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe src="PAGE" style="border:0;width:WIDTHpx;height:1000px"></iframe><script>
const frame = document.querySelector('iframe');
const probe = {};
function look() {
  const page = frame.contentDocument, inner = frame.contentWindow.innerWidth;
  const canvas = page.querySelector('#stage canvas');
  Object.assign(probe, {
    width: inner, scroll: page.documentElement.scrollWidth, shown: page.body.dataset.shown,
    problem: page.body.dataset.problem || '', canvas: canvas ? [canvas.width, canvas.height] : null,
    loaded: frame.contentWindow.performance.getEntriesByType('resource').map(e => e.name),
    on: [...page.querySelectorAll('tr.on')].map(e => e.dataset.k),
    order: [...page.querySelectorAll('tbody tr')].map(e => e.dataset.k),
  });
}
frame.onload = () => setTimeout(() => {
  look();
  probe.first = probe.shown;
  frame.contentDocument.querySelector('tr[data-k="2"] button').click();
  const strain = frame.contentDocument.querySelectorAll('thead button')[3];
  strain.click(); strain.click();
  setTimeout(() => { look(); document.documentElement.dataset.probe = JSON.stringify(probe); }, 1000);
}, 3000);
</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_page_in_chromium(tmp_path: Path, width: int) -> None:
    """The molecule stands in the 3D view, a click shows another, nothing is loaded, nothing overflows."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((b for n in names if (b := shutil.which(n))), None)
    if browser is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    page = write_report(report_of(), tmp_path / "a.html")
    framed = tmp_path / "framed.html"
    framed.write_text(FRAME.replace("WIDTH", str(width)).replace("PAGE", page.as_uri()), encoding="utf-8")
    base = [
        browser, "--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-dev-shm-usage",
        "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={max(width, 500)},1000",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]  # fmt: skip
    done = subprocess.run(
        [*base, "--dump-dom", "--virtual-time-budget=12000", framed.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    match = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert match, done.stderr[-2000:]
    probe = json.loads(html.unescape(match[1]))
    assert probe["problem"] == ""
    assert probe["scroll"] <= probe["width"] == width
    assert probe["first"] == f"0:{embed(SMILES[0]).GetNumAtoms()}"
    assert probe["shown"] == "2:13"
    assert probe["on"] == ["2"]
    assert probe["order"] == ["3", "2", "1", "0"]
    assert probe["canvas"][0] > 250
    assert all(x.startswith(("file:", "data:", "blob:")) for x in probe["loaded"])
    shot = tmp_path / "shot.png"
    subprocess.run(
        [*base, f"--screenshot={shot}", "--virtual-time-budget=8000", page.as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    from matplotlib.image import imread

    # Carbon grey, oxygen red, nitrogen blue: the canvas is not empty.
    picture = imread(shot)[..., :3]
    red = (picture[..., 0] > 0.5) & (picture[..., 1] < 0.2) & (picture[..., 2] < 0.2)
    assert red.sum() > 20
    if folder := os.environ.get("HYPERKIT_SCREENSHOTS"):
        os.makedirs(folder, exist_ok=True)
        shutil.copy(shot, os.path.join(folder, f"relaxed-{width}.png"))


# ---- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [["relax"], ["potential", "relax"]])
def test_the_command(tmp_path: Path, verb: list[str]) -> None:
    from hyperkit_mol.cli import app

    save_potential(tmp_path / "m", build(dtype=torch.float32), {"train": "acid.xyz"})
    (tmp_path / "in.smi").write_text("CCO\nCCBr\n")
    command = [*verb, str(tmp_path / "in.smi"), "--model", str(tmp_path / "m"), "-o", str(tmp_path / "o.sdf")]
    more = ["--report", str(tmp_path / "o.html"), "--conformers", "2", "--max-steps", "2"]
    done = CliRunner().invoke(app, [*command, *more])
    assert done.exit_code == 0, done.output
    assert "left out, line 2: CCBr: C2H5Br: the model does not know Br" in done.output
    assert "1 relaxed structures written to" in done.output
    page = (tmp_path / "o.html").read_text()
    assert "acid.xyz" in page
    assert "ETKDG conformers (seed 0, 2 a molecule, first written)" in page
    (molecule,) = Chem.SDMolSupplier(str(tmp_path / "o.sdf"), removeHs=False)
    assert molecule.HasProp("strain_eV")
    done = CliRunner().invoke(app, [*command, "--keep", "worst"])
    assert done.exit_code == 1
    assert "keep must be first, best or all, got 'worst'" in done.stderr


def test_the_shape_of_the_test_model() -> None:
    """The springs' forces are the gradient of their energy."""
    model, h = springs(), 1e-5
    batch = model.prepare([acid()])
    forces = model(batch).forces
    for i, k in ((0, 0), (5, 2)):
        values = []
        for sign in (1, -1):
            moved = batch.positions.clone()
            moved[i, k] += sign * h
            spring = (
                model(replace(batch, positions=moved)).energy
                - Potential.forward(model, replace(batch, positions=moved), forces=False).energy
            )
            values.append(float(spring.detach()))
        assert float(forces[i, k]) == pytest.approx(-(values[0] - values[1]) / (2 * h), abs=1e-4)
    assert set(model.elements) == set(UNITS.references)
