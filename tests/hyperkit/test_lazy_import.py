"""Importing costs what is used: `import hyperkit` is torch and little else, `hyperkit_mol` not even that."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hyperkit


def loaded(code: str) -> set[str]:
    """Top-level packages that are loaded after `code`."""
    text = f"{code}\nimport sys; print(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=True
    )
    return set(done.stdout.split())


def test_hyperkit_alone() -> None:
    found = loaded("import hyperkit")
    assert "torch" in found
    assert not found & {
        "geoopt",
        "scipy",
        "rdkit",
        "ase",
        "lightning",
        "matplotlib",
        "pandas",
        "hyperkit_mol",
    }


@pytest.mark.parametrize(
    "code", ["import hyperkit_mol", "import hyperkit_mol.potentials", "import hyperkit_mol.doctor"]
)
def test_hyperkit_mol_alone(code: str) -> None:
    assert not loaded(code) & {"torch", "numpy", "rdkit", "ase", "lightning", "pandas"}


def test_the_command_lines_help_needs_no_torch() -> None:
    assert not loaded("import hyperkit_mol.cli") & {"torch", "rdkit", "ase", "lightning", "pandas"}


def test_layers_need_no_chemistry() -> None:
    found = loaded("import hyperkit.nn, hyperkit.optim, hyperkit.distributions, hyperkit.graphs")
    assert not found & {"rdkit", "ase", "lightning", "pandas", "matplotlib", "hyperkit_mol"}


def test_names_are_found_late() -> None:
    assert set(hyperkit.__all__) <= set(dir(hyperkit))
    for name in hyperkit.__all__:
        assert getattr(hyperkit, name) is not None
    names: dict[str, object] = {}
    exec("from hyperkit import *", names)
    assert set(hyperkit.__all__) <= set(names)
    with pytest.raises(AttributeError, match="has no attribute 'Sphere'"):
        hyperkit.Sphere  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", ["hyperkit.manifolds", "hyperkit.nn", "hyperkit.optim", "hyperkit.graphs"])
def test_geoopts_warnings_are_not_passed_on(module: str) -> None:
    """geoopt compiles scripts as it is imported, which torch warns of; nobody who reads it could help it."""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", f"import {module}, geoopt"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "torch.jit" not in done.stderr
