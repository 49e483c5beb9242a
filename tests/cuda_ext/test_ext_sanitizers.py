"""The CPU kernels under AddressSanitizer and UBSan, in a process of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ext_case import needs_compiler
from hyperkit._ext import build

pytestmark = [needs_compiler, pytest.mark.slow]
# Line numbers alone (-g1): all of -g takes the compiler as long again.
FLAGS = ("-DHK_FEW_SIZES", "-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


def runtime() -> str:
    """What has to be loaded before Python: the sanitizer, and the library whose exceptions it looks up."""
    found = []
    for name in ("libasan.so", "libstdc++.so"):
        done = subprocess.run([build.compiler(), f"-print-file-name={name}"], capture_output=True, text=True)
        found.append(done.stdout.strip())
        if not Path(found[-1]).is_file():
            pytest.skip(f"the compiler has no {name}")
    return " ".join(found)


def built(folder: Path, isa: str = "avx2") -> Path:
    """The present sources with the sanitizers, one instruction set."""
    runtime()
    return build.build(folder, extra=FLAGS, isa=(isa,))


def cases(library: Path) -> subprocess.CompletedProcess:
    """The script of all kernels, in a process that has the sanitizer's library first."""
    env = {
        **os.environ,
        "LD_PRELOAD": runtime(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's and torch's own are many
        "HYPERKIT_BACKEND": "eager",
        "OMP_NUM_THREADS": "2",
    }
    script = str(Path(__file__).with_name("sanitize.py"))
    return subprocess.run([sys.executable, script, str(library)], env=env, capture_output=True, text=True)


@pytest.mark.timeout(900)
def test_kernels_are_clean_under_address_and_undefined_behaviour_sanitizers(tmp_path):
    done = cases(built(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "every kernel ran" in done.stdout


@pytest.mark.timeout(900)
def test_a_kernel_that_writes_beyond_its_scratch_is_noticed(tmp_path, monkeypatch):
    sources = tmp_path / "csrc"
    shutil.copytree(build.SOURCES, sources)
    header = sources / "hk_conv.h"
    text = header.read_text()
    whole = "+ b * (d + row + 7 * k)"
    assert text.count(whole) == 1
    header.write_text(text.replace(whole, "+ b * (d + 7 * k)"))
    monkeypatch.setattr(build, "SOURCES", sources)
    done = cases(built(tmp_path / "lib", isa="base"))  # quicker to compile
    assert done.returncode != 0
    assert "ERROR: AddressSanitizer: heap-" in done.stderr
