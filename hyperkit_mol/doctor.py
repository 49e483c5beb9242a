"""What is installed, what is missing, and the command that brings it: ``hyperkit-mol doctor``.

Nothing heavy is imported and nothing is downloaded: packages are looked up by their metadata, data sets by
their files.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import runpy
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["Finding", "State", "examine", "main"]

State = Literal["ok", "missing", "problem", "note"]
"""``ok``; ``missing``: an optional part; ``problem``: something will fail; ``note``: to know."""

_MOSES_FIX = "pip install --no-deps molsets==0.3.1 fcd_torch==1.0.7"
# What each extra is for, in the order in which a person meets them.
_EXTRAS = {
    "mol": "molecules: train, generate, evaluate",
    "potentials": "potentials: structures, relaxation, dynamics",
    "notebooks": "the notebooks",
    "docs": "the documentation site",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    topic : str
        What was looked at.
    state : {"ok", "missing", "problem", "note"}
    detail : str
        What was found.
    fix : str
        The command or setting that mends it; empty where there is nothing to mend.
    """

    topic: str
    state: State
    detail: str
    fix: str = ""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requirements() -> dict[str, list[Requirement]]:
    """Requirements of hyperkit by extra ("" for none), as its own metadata has them."""
    from packaging.requirements import Requirement

    found: dict[str, list[Requirement]] = {}
    for text in importlib.metadata.requires("hyperkit") or []:
        requirement = Requirement(text)
        extras = [
            e
            for e in ("", *_EXTRAS)
            if requirement.marker is None or requirement.marker.evaluate({"extra": e})
        ]
        # A requirement without a marker holds for every extra; it is listed once.
        for extra in extras[:1] if requirement.marker is None else extras:
            found.setdefault(extra, []).append(requirement)
    return found


def _packages() -> Iterator[Finding]:
    try:
        requirements = _requirements()
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "hyperkit", "problem", "running from a folder, not installed", "pip install -e '.[mol]'"
        )
        return
    except ImportError:  # `packaging` comes with the extra itself
        yield Finding(_EXTRAS["mol"], "missing", "not installed", "pip install 'hyperkit[mol]'")
        return
    for extra, topic in {"": "geometry and layers", **_EXTRAS}.items():
        wanted = requirements.get(extra, [])
        if not wanted:
            continue
        versions = {r.name: _version(r.name) for r in wanted}
        absent = [name for name, version in versions.items() if version is None]
        wrong = [
            f"{r.name} {versions[r.name]} (needs {r.specifier})"
            for r in wanted
            if versions[r.name] and not r.specifier.contains(versions[r.name] or "", prereleases=True)
        ]
        fix = f"pip install 'hyperkit[{extra}]'" if extra else "pip install hyperkit"
        if absent:
            state: State = "missing" if extra else "problem"
            yield Finding(topic, state, f"not installed: {', '.join(absent)}", fix)
        elif wrong:
            yield Finding(
                topic, "problem", f"another version than tested: {', '.join(wrong)}", f"{fix} --upgrade"
            )
        else:
            first = ", ".join(f"{name} {version}" for name, version in list(versions.items())[:3])
            more = f" and {len(versions) - 3} more" if len(versions) > 3 else ""
            yield Finding(topic, "ok", first + more)


def _moses() -> Iterator[Finding]:
    for name, part, use in (
        ("molsets", "moses/dataset/data/train.csv.gz", "MOSES data"),
        ("fcd_torch", "fcd_torch", "ChemNet's weights (FCD)"),
    ):
        version = _version(name)
        if version is None:
            yield Finding(use, "missing", f"{name} is not installed", _MOSES_FIX)
        elif not any(Path(folder, part).exists() for folder in sys.path if folder):
            yield Finding(use, "problem", f"{name} {version} lacks {part}", f"{_MOSES_FIX} --force-reinstall")
        else:
            yield Finding(use, "ok", f"{name} {version}")


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    fix = "" if good else "install Python 3.11 or newer and make a new environment"
    yield Finding(
        "Python", "ok" if good else "problem", f"{version} on {platform.system()} {platform.machine()}", fix
    )


def _processors() -> Iterator[Finding]:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is not None and threads.isdigit() and int(threads) < count:
        detail = f"{count}, of which OMP_NUM_THREADS={threads} lets torch use {threads}"
        yield Finding("processors", "note", detail, "unset OMP_NUM_THREADS")
    else:
        yield Finding("processors", "ok", str(count))


def _devices() -> Iterator[Finding]:
    card = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()
    version = _version("torch")
    if version is None:
        return
    # The build is in torch's own small version file: torch itself takes a second to import.
    spec = importlib.util.find_spec("torch")
    text = ""
    if spec is not None and spec.origin is not None:
        file = Path(spec.origin).with_name("version.py")
        text = file.read_text(encoding="utf-8") if file.exists() else ""
    cuda = next(
        (line.split("=", 1)[1].strip(" '\"") for line in text.splitlines() if line.startswith("cuda")), "None"
    )
    has_cuda = cuda not in ("", "None")
    if card and not has_cuda:
        yield Finding(
            "GPU", "problem", f"there is one, but torch {version} is built without CUDA",
            "install a CUDA build of torch (its website names the command for your driver)",
        )  # fmt: skip
    elif card:
        yield Finding("GPU", "ok", f"torch is built for CUDA {cuda}")
    else:
        yield Finding("GPU", "note", "none found: everything runs on the processor")


def _compiler() -> Iterator[Finding]:
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if found:
        yield Finding("C++ compiler", "ok", found)
    else:
        yield Finding(
            "C++ compiler", "missing", "none: no torch.compile, no compiled kernels; the rest works",
            "apt-get install g++ (or your system's package)",
        )  # fmt: skip


def _kernels() -> Iterator[Finding]:
    spec = importlib.util.find_spec("hyperkit")
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent
    # Run by its path: importing it by its name would import hyperkit, and torch with it.
    places = (folder / "_ext" / "build.py", folder.parent / "cuda_ext" / "build.py")
    file = next((place for place in places if place.exists()), None)
    if file is None:
        return
    build = runpy.run_path(str(file))
    library = build["find_library"]()
    chosen = os.environ.get("HYPERKIT_BACKEND")
    if chosen == "eager":
        yield Finding(
            "compiled kernels", "note", "switched off by HYPERKIT_BACKEND=eager", "unset HYPERKIT_BACKEND"
        )
    elif library is None:
        detail = "not built: PyTorch computes the same, more slowly"
        yield Finding("compiled kernels", "missing", detail, "python -m hyperkit._ext build")
    else:
        yield Finding("compiled kernels", "ok", library.name)


def _cache() -> Iterator[Finding]:
    chosen = os.environ.get("HYPERKIT_CACHE")
    if not chosen:
        try:
            import platformdirs
        except ImportError:  # part of what is reported as missing; nothing is cached without it
            return
        chosen_by_system = platformdirs.user_cache_dir("hyperkit")
    folder = Path(chosen or chosen_by_system)
    where = f"{folder}{' ($HYPERKIT_CACHE)' if chosen else ''}"
    fix = "export HYPERKIT_CACHE=/a/folder/that/you/can/write"
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    probe = existing / f".hyperkit-{uuid.uuid4().hex[:8]}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
        free = shutil.disk_usage(existing).free / 2**30
    except OSError as err:
        yield Finding("cache folder", "problem", f"{where}: cannot write there ({err.strerror or err})", fix)
        return
    if free < 1.0:
        yield Finding("cache folder", "problem", f"{where}: only {free:.2f} GiB free", fix)
    else:
        yield Finding("cache folder", "ok", f"{where}, {free:.0f} GiB free")


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python, _processors, _devices, _compiler, _packages, _kernels, _moses, _cache,
)  # fmt: skip


def examine() -> list[Finding]:
    """Look at everything that hyperkit can use.

    Returns
    -------
    list of Finding
        In the order in which they should be read. A check that fails itself becomes a ``problem``.
    """
    found: list[Finding] = []
    for check in _CHECKS:
        try:
            found.extend(check())
        except Exception as err:
            found.append(Finding(check.__name__.strip("_"), "problem", f"could not be examined ({err!r})"))
    return found


_SIGNS = {"ok": "ok", "missing": "--", "problem": "!!", "note": "  "}


def lines(findings: list[Finding]) -> Iterator[str]:
    """The report for a person, as plain text."""
    width = max(len(f.topic) for f in findings)
    for f in findings:
        yield f"{_SIGNS[f.state]} {f.topic:<{width}}  {f.detail}"
        if f.fix:
            yield f"   {'':<{width}}  -> {f.fix}"
    problems = sum(f.state == "problem" for f in findings)
    missing = sum(f.state == "missing" for f in findings)
    yield ""
    if problems:
        yield f"{problems} problem{'s' * (problems > 1)} (!!): what follows an arrow mends it"
    elif missing:
        yield f"No problem; {missing} optional part{'s' * (missing > 1)} not installed (--)"
    else:
        yield "Everything is there"


def main() -> int:
    """Print the report; 1 if there is a problem, else 0. Needs nothing but the standard library."""
    findings = examine()
    for line in lines(findings):
        print(line)
    return int(any(f.state == "problem" for f in findings))


if __name__ == "__main__":
    sys.exit(main())
