"""What the README says can be typed."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_python_examples_run(capsys) -> None:  # type: ignore[no-untyped-def]
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "59.30" in printed
    assert "True" in printed


def test_links_lead_somewhere() -> None:
    root = Path(__file__).parent.parent
    for page in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)  # f[0](x) is no link
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_version_stands_in_one_place() -> None:
    from hyperkit import __version__

    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    root = Path(__file__).parent.parent
    assert f'"{__version__}"' not in (root / "pyproject.toml").read_text()


def test_changelog_has_a_section_for_this_version() -> None:
    from hyperkit import __version__

    text = (Path(__file__).parent.parent / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(__version__)}\]", text, re.M)
