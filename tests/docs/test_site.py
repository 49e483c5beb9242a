"""The documentation site builds without a warning, holds every public name and fits a phone."""

from __future__ import annotations

import ast
import html.parser
import importlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("mkdocs", reason="the site needs the extra `docs`")
pytest.importorskip("material", reason="the site needs the extra `docs`")
pytest.importorskip("mkdocstrings", reason="the site needs the extra `docs`")

pytestmark = pytest.mark.slow

PAGES = ["index.html", "guides/geometry.html", "hkconv.html", "geometry/accuracy.html", "api/nn.html"]
PHONE = 390


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A warning of any kind fails the build."""
    folder = tmp_path_factory.mktemp("site")
    # No registry, no proxy, no host that resolves: the build has to do without.
    offline = {
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "NO_MKDOCS_2_WARNING": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False, env={**os.environ, **offline},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return folder


class _Links(html.parser.HTMLParser):
    """What a page loads, what it links to and the anchors that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.anchors.add(str(found["id"]))
        if tag in ("script", "img", "iframe", "source") and found.get("src"):
            self.loads.append(str(found["src"]))
        if tag == "link" and found.get("href") and "canonical" not in str(found.get("rel")):
            self.loads.append(str(found["href"]))
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, _Links]:
    out = {}
    for path in sorted(site.rglob("*.html")):
        reader = _Links()
        reader.feed(path.read_text(encoding="utf-8"))
        out[path] = reader
    return out


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, _Links], site: Path) -> None:
    for page, found in pages.items():
        outside = [x for x in found.loads if re.match(r"(https?:)?//", x)]
        assert outside == [], page
    for sheet in site.rglob("*.css"):
        imports = re.findall(
            r"(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"')]+)", sheet.read_text(encoding="utf-8")
        )
        assert imports == [], sheet


def test_no_link_is_broken(pages: dict[Path, _Links], site: Path) -> None:
    """Files and anchors, in the finished pages: what --strict does not see in generated ones included."""
    for page, found in pages.items():
        if page.name == "404.html":
            continue  # its links are absolute, for a server
        for link in found.links + found.loads:
            if re.match(r"[a-z]+:|//", link):
                continue
            target, _, anchor = link.partition("#")
            path = (page.parent / target.split("?")[0]).resolve() if target else page
            if path.is_dir():
                path = path / "index.html"
            assert path.exists(), f"{page.relative_to(site)} links to {link}"
            if anchor and path in pages:
                assert anchor in pages[path].anchors, f"{page.relative_to(site)} links to {link}"


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w./-]+\.md", text[text.index("\nnav:") :]))
    there = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert there <= listed
    hook = (ROOT / "docs/_site/nav.py").read_text(encoding="utf-8")
    assert listed - there <= set(re.findall(r'"([\w/-]+\.md)"', hook))


# -- API ----------------------------------------------------------------------------------------------------


def public_modules() -> list[str]:
    """Modules of both packages whose path has no underscore, without importing any."""
    out = []
    for package in ("hyperkit", "hyperkit_mol"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if not any(part.startswith("_") for part in parts):
                out.append(".".join(parts))
    return out


def exported(module: str) -> list[str]:
    """What a module's ``__all__`` names, read from its source."""
    path = ROOT.joinpath(*module.split("."))
    file = path.with_suffix(".py")
    path = file if file.exists() else path / "__init__.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
        ):
            return [x for x in ast.literal_eval(node.value) if not x.startswith("__")]
    return []


def inventory(site: Path) -> set[str]:
    """Names of the Python objects in the built pages (the Sphinx inventory that mkdocstrings writes)."""
    raw = (site / "objects.inv").read_bytes()
    body = zlib.decompress(raw.split(b"\n", 4)[4]).decode()
    return {line.split(" ", 1)[0] for line in body.splitlines() if " py:" in line}


def _home(module: str, name: str) -> str:
    found: Any = getattr(importlib.import_module(module), name)
    return f"{getattr(found, '__module__', module)}.{getattr(found, '__qualname__', name)}"


def test_every_public_name_is_in_the_api(site: Path) -> None:
    known = inventory(site)
    missing = []
    count = 0
    for module in public_modules():
        for name in exported(module):
            count += 1
            # A name that is exported in two places stands once, under either.
            if f"{module}.{name}" not in known and _home(module, name) not in known:
                missing.append(f"{module}.{name}")
    assert missing == []
    assert count > 250
    for module in ("hyperkit.optim", "hyperkit.distributions"):  # these have no __all__
        source = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        names = [n.name for n in source.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
        assert {f"{module}.{n}" for n in names if not n.startswith("_")} <= known


def test_docstrings_are_rendered_as_text(site: Path) -> None:
    """No reStructuredText role is left over, no formula is left as LaTeX."""
    for page in site.rglob("*.html"):
        text = re.sub(r"<(script|style).*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.S)
        if page.parts[-2:] != ("guides", "notebooks.html"):
            assert not re.search(r":(class|func|meth|mod|data|attr|math):", text), page
        assert 'class="arithmatex"' not in text, page
    assert "<math" in (site / "hkconv.html").read_text(encoding="utf-8")


# -- the look -----------------------------------------------------------------------------------------------

# A window is never narrower than 500 pixels: the page goes into a frame.
FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe src="PAGE" style="border:0;width:WIDTHpx;height:1600px"></iframe><script>
const frame = document.querySelector('iframe');
frame.onload = () => setTimeout(() => {
  const page = frame.contentDocument, inner = frame.contentWindow.innerWidth;
  const scrolls = e => { for (; e && e !== page.body; e = e.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(e).overflowX)) return true; };
  const wide = [...page.querySelectorAll('.md-content *')].filter(e =>
    e.getBoundingClientRect().right > inner + 1 && !scrolls(e));
  document.documentElement.dataset.probe = JSON.stringify({
    width: inner, scroll: page.documentElement.scrollWidth,
    wide: wide.map(e => e.tagName + '.' + e.className).slice(0, 5),
    text: page.querySelector('.md-content').innerText.length,
    images: [...page.querySelectorAll('.md-content img')].map(e => e.naturalWidth),
    loaded: frame.contentWindow.performance.getEntriesByType('resource').map(e => e.name),
  });
}, 500);
</script>"""


@pytest.mark.parametrize("name", PAGES)
def test_page_on_a_phone(site: Path, tmp_path: Path, name: str) -> None:
    """Nothing is wider than the screen; $HYPERKIT_SCREENSHOTS keeps the pictures."""
    browser = next(
        (b for n in ("chromium", "chromium-browser", "google-chrome") if (b := shutil.which(n))), None
    )
    if browser is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    framed = tmp_path / "framed.html"
    framed.write_text(
        FRAME.replace("WIDTH", str(PHONE)).replace("PAGE", (site / name).as_uri()), encoding="utf-8"
    )
    base = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--disable-dev-shm-usage", "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={PHONE},1600",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]  # fmt: skip
    done = subprocess.run(
        [*base, "--dump-dom", "--virtual-time-budget=8000", framed.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    match = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert match, done.stderr[-2000:]
    probe = json.loads(match[1].replace("&quot;", '"'))
    assert probe["width"] == PHONE
    assert probe["scroll"] <= PHONE, probe
    assert probe["wide"] == []
    assert probe["text"] > 1000
    assert all(probe["images"]), probe["images"]
    assert all(x.startswith("file:") for x in probe["loaded"])
    shot = tmp_path / "shot.png"
    subprocess.run(
        [*base, f"--screenshot={shot}", "--virtual-time-budget=8000", framed.as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    assert struct.unpack(">I", shot.read_bytes()[20:24])[0] == 1600
    if folder := os.environ.get("HYPERKIT_SCREENSHOTS"):
        os.makedirs(folder, exist_ok=True)
        shutil.copy(shot, os.path.join(folder, f"site-{name.replace('/', '-')}.png"))
