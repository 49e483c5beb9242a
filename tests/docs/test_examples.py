"""The examples in the docstrings print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch
from test_doctest_numbers import NumbersChecker

import hyperkit
import hyperkit_mol


def modules() -> list[str]:
    """All modules of both packages that have an example."""
    out = []
    for package in (hyperkit, hyperkit_mol):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.endswith("__main__") or "._ext" in found.name:
                continue
            spec = found.module_finder.find_spec(found.name, None)  # type: ignore[call-arg]
            if spec is not None and spec.origin and spec.origin.endswith(".py"):
                with open(spec.origin, encoding="utf-8") as stream:
                    if ">>> " in stream.read():
                        out.append(found.name)
    return out


@pytest.mark.parametrize("name", modules())
def test_examples(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as err:
        pytest.skip(str(err))
    if name.endswith(".shipped") and not (module.shipped_model() / "model.json").exists():
        pytest.skip("this checkout ships no weights")
    torch.manual_seed(0)
    runner = doctest.DocTestRunner(NumbersChecker(), optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(module, module.__name__):
        runner.run(test)
    assert runner.failures == 0


def test_there_are_examples() -> None:
    assert len(modules()) >= 15
