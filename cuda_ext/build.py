"""Build of the kernels: ``python -m hyperkit._ext build [--cuda] [--arch 80 ...]``.

One shared library, ``libhyperkit-<hash of its sources>.so``: the CPU kernels for three instruction sets,
the operators over torch's stable ABI, and with ``--cuda`` the GPU kernels and their launchers. It is tied
neither to a Python nor to a torch version (2.10 and later). A library of other sources has another name, so
that a stale one is never loaded.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE / "csrc"
ARCHITECTURES = (80, 90, 100, 120)
"""Compute capabilities that ``--cuda`` compiles for; PTX of the last one covers later GPUs."""

_FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall")
# Reductions are vectorised through `omp simd`; none of -ffast-math, which would lose NaN and infinity.
_KERNEL_FLAGS = (
    *("-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
    "-ffp-contract=fast",
)
_ISA = {
    "base": (),
    "avx2": ("-mavx2", "-mfma", "-mpopcnt"),
    "avx512": (
        *("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx512vpopcntdq"),
        *("-mprefer-vector-width=512", "-mfma", "-mpopcnt"),
    ),
}


class BuildError(RuntimeError):
    """No compiler, or it failed; the message says which and how."""


def source_hash(folder: Path = SOURCES) -> str:
    """Twelve hexadecimal digits that stand for the contents of the sources."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".h", ".cpp", ".cu", ".cuh"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def library_name() -> str:
    """File name of the library of the present sources."""
    return f"libhyperkit-{source_hash()}.so"


def cache_folder() -> Path:
    """Where libraries and cubins go when the package's own folder cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hyperkit" / "ext"


def folders() -> tuple[Path, Path]:
    """Where a library is looked for, in this order."""
    return HERE / "lib", cache_folder()


def find_library() -> Path | None:
    """The library of the present sources, if it was built."""
    name = library_name()
    return next((f / name for f in folders() if (f / name).is_file()), None)


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} could not be started: {error}") from error
    if done.returncode:
        raise BuildError(f"{command[0]} failed ({done.returncode}):\n{done.stderr[-4000:]}")


def compiler() -> str:
    """The C++ compiler: ``$CXX``, g++, c++ or clang++.

    Raises
    ------
    BuildError
        If there is none.
    """
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["g++", "c++", "clang++"]:
        if shutil.which(name):
            return name
    raise BuildError("no C++ compiler found: install g++ or set CXX")


def _torch() -> Path:
    try:
        import torch
    except ImportError as error:
        raise BuildError(
            "torch is needed to build: install it first, and use --no-build-isolation"
        ) from error
    return Path(torch.__file__).parent


def compile_objects(
    target: Path, *, extra: Sequence[str] = (), isa: Sequence[str] = tuple(_ISA)
) -> list[Path]:
    """Compile the CPU kernels and the shim into `target`; returns the object files.

    Parameters
    ----------
    target : Path
        A folder.
    extra : sequence of str
        More flags, such as ``-fsanitize=address``.
    isa : sequence of {"base", "avx2", "avx512"}
        Instruction sets; the others answer with the last of these.
    """
    cxx, torch = compiler(), _torch()
    jobs: list[tuple[Path, list[str]]] = []
    for name in _ISA:
        out = target / f"cpu_{name}.o"
        if name not in isa:  # answers with the last of those that are compiled
            alias = target / f"cpu_{name}.cpp"
            alias.write_text(
                f'#include "cpu.h"\nextern "C" const hk_table* hk_table_{name}() '
                f"{{ return hk_table_{isa[-1]}(); }}\n"
            )
            jobs.append((out, [cxx, *_FLAGS, *extra, f"-I{SOURCES}", "-c", str(alias)]))
            continue
        defines = [f"-DHK_NS=hk_{name}", f'-DHK_NAME="{name}"', f"-DHK_TABLE=hk_table_{name}"]
        flags = [*_FLAGS, *_KERNEL_FLAGS, *_ISA[name], *defines, *extra]
        jobs.append((out, [cxx, *flags, "-c", str(SOURCES / "cpu.cpp")]))
    shim = [cxx, *_FLAGS, "-O2", "-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{torch / 'include'}"]
    jobs.append((target / "shim.o", [*shim, *extra, "-c", str(SOURCES / "shim.cpp")]))
    with ThreadPoolExecutor(max(1, min(len(jobs), len(os.sched_getaffinity(0))))) as pool:
        list(pool.map(lambda job: _run([*job[1], "-o", str(job[0])]), jobs))
    return [out for out, _ in jobs]


def compile_cuda(target: Path, architectures: Sequence[int] = ARCHITECTURES) -> Path:
    """Compile ``launch.cu`` with nvcc; returns the object file. It knows no torch and needs no GPU.

    Raises
    ------
    BuildError
        If nvcc is not found or fails.
    """
    if not shutil.which("nvcc"):
        raise BuildError(
            "nvcc not found: install the CUDA toolkit, or leave --cuda out and use NVRTC at run time"
        )
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    codes.append(f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}")
    out = target / "launch.o"
    flags = ["-std=c++17", "-O3", "--extended-lambda", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC"]
    _run(["nvcc", "--threads", "0", *flags, *codes, "-c", str(SOURCES / "launch.cu"), "-o", str(out)])
    return out


def build(
    destination: Path | None = None,
    *,
    cuda: bool = False,
    architectures: Sequence[int] = ARCHITECTURES,
    extra: Sequence[str] = (),
    isa: Sequence[str] = tuple(_ISA),
) -> Path:
    """Build the library and move it into place at once (a process that looks for it sees all or nothing).

    Parameters
    ----------
    destination : Path, optional
        Folder; by default the package's own ``lib``, or the user's cache where that cannot be written.
    cuda : bool
        With the GPU kernels (nvcc).
    architectures : sequence of int
        Compute capabilities for them.
    extra, isa
        As for :func:`compile_objects`.

    Returns
    -------
    Path
        The library.

    Raises
    ------
    BuildError
        If a tool is missing or fails.
    """
    candidates = folders() if destination is None else (destination,)
    folder = None
    for candidate in candidates:
        try:
            candidate.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(candidate, os.W_OK):
            folder = candidate
            break
    if folder is None:
        raise BuildError(f"none of {[str(c) for c in candidates]} can be written")
    with tempfile.TemporaryDirectory(prefix="hyperkit-build-") as scratch:
        target = Path(scratch)
        objects = compile_objects(target, extra=extra, isa=isa)
        link = ["-shared", "-Wl,--no-as-needed", f"-L{_torch() / 'lib'}", "-ltorch", "-ltorch_cpu"]
        if cuda:
            objects.append(compile_cuda(target, architectures))
            home = Path(shutil.which("nvcc") or "").resolve().parent.parent
            link += [f"-L{home / 'lib64'}", "-lcudart_static", "-lpthread", "-ldl", "-lrt"]
        made = target / "library.so"
        _run([compiler(), *extra, *map(str, objects), *link, "-o", str(made)])
        final = folder / library_name()
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".part")
        os.close(handle)
        shutil.copyfile(made, temporary)
        os.replace(temporary, final)
    return final
