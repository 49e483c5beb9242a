"""Every public name has an example that runs: in its docstring, or on its page of the API."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from test_doctest_numbers import NumbersChecker

API = Path(__file__).resolve().parents[2] / "docs" / "api"
PAGES = sorted(p.name for p in API.glob("*.md") if ">>> " in p.read_text(encoding="utf-8"))
NEEDS = {"potentials.md": ("ase", "vesin", "tblite", "torch_sim"), "plot.md": ("matplotlib",)}


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", (API / page).read_text(encoding="utf-8"), re.S | re.M)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_examples_of_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page, one after the other, print what they say."""
    for package in NEEDS.get(page, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hyperkit-mol"])
    text = "\n\n".join(blocks(page))
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, page, page, 0)
    runner = doctest.DocTestRunner(NumbersChecker(), optionflags=doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
    assert runner.tries >= 5


def own_example(found: Any) -> bool:
    """Whether an object's docstring, or that of a method, has an example."""
    parts = [found, *(vars(found).values() if inspect.isclass(found) else ())]
    return any(">>> " in (inspect.getdoc(part) or "") for part in parts if not isinstance(part, str))


def test_every_public_name_has_an_example() -> None:
    from test_site import exported, public_modules

    shown = "\n".join(text for page in PAGES for text in blocks(page))
    lacking = []
    for module in public_modules():
        for name in exported(module):
            # lorentz.dist and poincare.dist are two names.
            word = f"{module.rpartition('.')[2]}.{name}" if module.startswith("hyperkit.ops.") else name
            if re.search(rf"\b{re.escape(word)}\b", shown) is None:
                try:
                    found = getattr(importlib.import_module(module), name)
                except ImportError as err:
                    pytest.skip(str(err))
                if not own_example(found):
                    lacking.append(f"{module}.{name}")
    assert lacking == []
