"""JSON, HTML and the terminal table of a report."""

import json
import os
import re
import shutil
import struct
import subprocess

import pytest
from rich.console import Console

from hyperkit_mol.moses import MosesReport, evaluate
from hyperkit_mol.moses._html import published

pytestmark = pytest.mark.moses

# The page goes into a frame of the wanted width, since a window is never narrower than 500 pixels.
FRAME = """<!doctype html><body style="margin:0">
<iframe style="border:0;width:WIDTHpx;height:2400px"></iframe><script>
const frame = document.querySelector('iframe');
frame.onload = () => {
  const page = frame.contentDocument, inner = frame.contentWindow.innerWidth;
  const wide = [...page.querySelectorAll('body *')].filter(e =>
    !e.closest('.scroll') && !e.closest('svg') && e.getBoundingClientRect().right > inner + 1);
  document.documentElement.dataset.probe = JSON.stringify({
    width: inner, scroll: page.documentElement.scrollWidth,
    wide: wide.map(e => e.tagName + '.' + e.className).slice(0, 5),
    loaded: frame.contentWindow.performance.getEntriesByType('resource').map(e => e.name),
    drawn: [...page.querySelectorAll('figure svg')].filter(e => e.getBoundingClientRect().height > 40).length,
  });
};
frame.srcdoc = PAGE;
</script>"""


def test_json_round_trip(small_report, tmp_path):
    path = small_report.to_json(tmp_path / "sub" / "a.json")
    content = json.loads(path.read_text())
    assert content["schema"] == "hyperkit.moses/1"
    assert set(content["versions"]) >= {"rdkit", "molsets", "hyperkit"}
    assert re.fullmatch("[0-9a-f]{64}", content["data_hashes"]["test.csv.gz"])
    assert MosesReport.from_json(path) == small_report
    path.write_text(json.dumps(content | {"schema": "hyperkit.moses/99"}))
    with pytest.raises(ValueError, match=r"expected a report of schema .*got 'hyperkit\.moses/99'"):
        MosesReport.from_json(path)


def test_table_shows_the_floor(small_report):
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(small_report.table())
    text = console.export_text()
    assert "training set at N = 250" in text
    assert "equal size" in text
    for name in small_report.metrics:
        assert name in text


def test_page_is_self_contained_and_complete(small_report, tmp_path):
    page = small_report.to_html(tmp_path / "a.html").read_text()
    assert "&lt;small&gt; &amp; co.smi" in page
    assert "must not be compared" in page
    for row in published():
        assert f">{row['model']}</th>" in page
    assert len(published()) == 10
    outside = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#)[^"')\s>]+""", page)
    assert outside == []
    assert page.count("<svg") == 4 + len(small_report.samples)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_page_of_nothing_valid(tmp_path):
    page = evaluate(["xx"], n_jobs=1).to_html(tmp_path / "a.html").read_text()
    assert "no valid molecule" in page


def png_size(path) -> tuple[int, int]:
    return struct.unpack(">II", path.read_bytes()[16:24])


@pytest.mark.parametrize("width", [400, 1400])
def test_page_in_chromium(small_report, tmp_path, width):
    """Nothing fails to load, nothing overflows; $HYPERKIT_SCREENSHOTS keeps the screenshots."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    page = small_report.to_html(tmp_path / "a.html")
    framed = tmp_path / "framed.html"
    content = json.dumps(page.read_text()).replace("<", "\\u003c")
    framed.write_text(FRAME.replace("WIDTH", str(width)).replace("PAGE", content), encoding="utf-8")
    base = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2400", "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]  # fmt: skip
    done = subprocess.run(
        [*base, "--dump-dom", "--virtual-time-budget=5000", framed.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    match = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert match, done.stderr[-2000:]
    probe = json.loads(match[1].replace("&quot;", '"'))
    assert probe["width"] == width
    assert probe["scroll"] <= width
    assert probe["wide"] == []
    assert [name for name in probe["loaded"] if not name.startswith("data:")] == []
    assert probe["drawn"] == 4 + len(small_report.samples)
    assert "CONSOLE" not in done.stderr
    shot = tmp_path / f"report-{width}.png"
    subprocess.run(
        [*base, f"--screenshot={shot}", page.as_uri()], capture_output=True, timeout=120, check=True
    )
    assert png_size(shot) == (width, 2400)
    if folder := os.environ.get("HYPERKIT_SCREENSHOTS"):
        os.makedirs(folder, exist_ok=True)
        shutil.copy(shot, folder)
