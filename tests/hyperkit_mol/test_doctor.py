"""`hyperkit-mol doctor`: what is missing is named, with the command that brings it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hyperkit_mol import doctor


def by_topic() -> dict[str, doctor.Finding]:
    return {f.topic: f for f in doctor.examine()}


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_this_machine() -> None:
    found = by_topic()
    assert found["Python"].state == "ok"
    assert found["geometry and layers"].state == "ok"
    assert "torch" in found["geometry and layers"].detail
    assert found["molecules: train, generate, evaluate"].state == "ok"
    assert all(f.detail for f in found.values())


@pytest.mark.parametrize(
    ("package", "topic", "state", "fix"),
    [
        ("rdkit", "molecules: train, generate, evaluate", "missing", "pip install 'hyperkit[mol]'"),
        ("ase", "potentials: structures, relaxation, dynamics", "missing", "'hyperkit[potentials]'"),
        ("geoopt", "geometry and layers", "problem", "pip install hyperkit"),
        ("molsets", "MOSES data", "missing", "pip install --no-deps molsets==0.3.1"),
        ("fcd_torch", "ChemNet's weights (FCD)", "missing", "fcd_torch==1.0.7"),
    ],
)
def test_a_missing_package_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, package: str, topic: str, state: str, fix: str
) -> None:
    without(monkeypatch, package)
    found = by_topic()[topic]
    assert found.state == state
    assert package in found.detail
    assert fix in found.fix


def test_another_version_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "1.0" if n == "torch" else real(n))
    found = by_topic()["geometry and layers"]
    assert found.state == "problem"
    assert "torch 1.0 (needs <3,>=2.10)" in found.detail
    assert "--upgrade" in found.fix


def test_not_installed_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert by_topic()["hyperkit"].fix == "pip install -e '.[mol]'"


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "not" / "there" / "yet"))
    assert by_topic()["cache folder"].state == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "file" / "cache"))
    found = by_topic()["cache folder"]
    assert found.state == "problem"
    assert "HYPERKIT_CACHE" in found.fix


def test_a_cache_without_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path))
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**30, 2**30, 2**28))
    assert "only 0.25 GiB free" in by_topic()["cache folder"].detail


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    found = by_topic()["C++ compiler"]
    assert found.state == "missing"
    assert "apt-get install" in found.fix


def test_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A library that was built for these sources, none, and the switch."""
    source = "from pathlib import Path\nwhere = Path(__file__).with_name('libx.so')\n"
    source += "def find_library():\n    return where if where.exists() else None\n"
    (tmp_path / "hyperkit" / "_ext").mkdir(parents=True)
    (tmp_path / "hyperkit" / "__init__.py").write_text("")
    (tmp_path / "hyperkit" / "_ext" / "build.py").write_text(source)
    spec = importlib.util.spec_from_file_location("hyperkit", tmp_path / "hyperkit" / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    monkeypatch.delenv("HYPERKIT_BACKEND", raising=False)
    assert by_topic()["compiled kernels"].fix == "python -m hyperkit._ext build"
    (tmp_path / "hyperkit" / "_ext" / "libx.so").write_text("")
    assert by_topic()["compiled kernels"].detail == "libx.so"
    monkeypatch.setenv("HYPERKIT_BACKEND", "eager")
    assert by_topic()["compiled kernels"].state == "note"


def test_fewer_threads_than_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert by_topic()["processors"].state == "note"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert by_topic()["processors"].detail == "8"


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def _broken():  # type: ignore[no-untyped-def]
        raise RuntimeError("no proc")
        yield

    monkeypatch.setattr(doctor, "_CHECKS", (_broken,))
    (found,) = doctor.examine()
    assert found.state == "problem"
    assert "no proc" in found.detail


def test_the_last_line_says_how_it_stands() -> None:
    ok = doctor.Finding("a", "ok", "b")
    missing = doctor.Finding("long topic", "missing", "d", "pip install d")
    problem = doctor.Finding("e", "problem", "f", "mend f")
    assert list(doctor.lines([ok]))[-1] == "Everything is there"
    assert "1 optional part not installed" in list(doctor.lines([ok, missing]))[-1]
    text = list(doctor.lines([ok, missing, problem]))
    assert text[-1].startswith("1 problem (!!)")
    assert "-> pip install d" in "\n".join(text)


def test_runs_without_anything_but_the_standard_library() -> None:
    """As in an environment where the extras are not installed: no typer, no rich, no torch is imported."""
    code = (
        "import sys\n"
        "class Nothing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in 'typer rich torch rdkit platformdirs packaging numpy'.split():\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Nothing())\n"
        "sys.argv[1:] = ARGUMENTS\n"
        "from hyperkit_mol.__main__ import main\n"
        "main()\n"
    )

    def run(arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code.replace("ARGUMENTS", arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    found = run("['doctor']")
    assert "Python" in found.stdout
    assert "pip install 'hyperkit[mol]'" in found.stdout
    assert found.stderr == ""
    other = run("['train']")
    assert other.returncode == 1
    assert "typer is not installed" in other.stderr
    assert "hyperkit[mol]" in other.stderr
    assert "Traceback" not in other.stderr
