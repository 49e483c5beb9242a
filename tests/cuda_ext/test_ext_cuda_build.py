"""nvcc and NVRTC compile the kernels without a GPU; what the machine code may not hold; the ABI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ext_case import needs_library
from hyperkit._ext import build, nvrtc

REGISTERS = 168
"""Cap for a thread; blocks of 128 threads then fit three to a multiprocessor."""


def tool(name: str) -> str:
    """A CUDA binary tool, from the toolkit or from its Python package."""
    found = shutil.which(name)
    if found is None:
        places = [p for s in sys.path for p in Path(s).glob(f"nvidia/*/bin/{name}")]
        if not places:
            pytest.skip(f"{name} not found: pip install nvidia-cuda-{name}")
        found = str(places[0])
    return found


def output(name: str, *arguments: str) -> str:
    """What a tool prints; it finds nvdisasm beside itself."""
    program = Path(tool(name))
    path = os.pathsep.join([os.environ.get("PATH", ""), str(program.parent)])
    done = subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc not found")
@pytest.mark.slow
def test_nvcc_code_is_free_of_spills_local_memory_and_double_precision(tmp_path):
    made = build.compile_cuda(tmp_path)
    usage = output("cuobjdump", "-res-usage", str(made))
    kernels = re.findall(r"Function (hk_\w+):\s*\n?\s*REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert {name for name, *_ in kernels} == {
        "hk_conv_kernel",
        "hk_graph_kernel",
        "hk_conv_wide_kernel",
        "hk_conv_backward_kernel",
        "hk_conv_backward_wide_kernel",
        "hk_row_kernel",
        "hk_row_backward_kernel",
        "hk_tail_kernel",
        "hk_tail_backward_kernel",
        "hk_ball_tail_kernel",
        "hk_ball_tail_backward_kernel",
        "hk_adam_kernel",
        "hk_tanimoto_kernel",
    }
    assert len(kernels) == 13 * len(build.ARCHITECTURES)
    for name, registers, stack, local in kernels:
        assert int(registers) <= REGISTERS, name
        assert (stack, local) == ("0", "0"), name
    for architecture in build.ARCHITECTURES:
        assert f"arch = sm_{architecture}" in usage
    assert "ptx" in output("cuobjdump", "-lptx", str(made)).lower()
    sass = output("cuobjdump", "-sass", "-arch", "sm_90", str(made))
    assert sass.count("FFMA") > 100
    assert not re.search(r"\b(DADD|DMUL|DFMA|LDL|STL)\b", sass)


@pytest.mark.slow
def test_nvrtc_compiles_the_same_headers():
    pytest.importorskip("nvidia.cu13", reason="nvidia-cuda-nvrtc is not installed")
    made = nvrtc.compile_cubin(90)
    assert made[:4] == b"\x7fELF"
    for name in (b"hk_conv_kernel", b"hk_conv_backward_kernel", b"hk_row_kernel", b"hk_adam_kernel"):
        assert b".text." + name + b"\0" in made


@needs_library
def test_library_is_of_the_stable_abi_for_torch_2_10():
    program = Path(sys.executable).parent / "torch-abi-audit"
    if not program.exists():
        pytest.skip("torch-abi-audit is not installed")
    path = build.find_library()
    done = subprocess.run([str(program), str(path)], capture_output=True, text=True)
    assert "2.10" in done.stdout + done.stderr
    assert re.search("stable", done.stdout + done.stderr, re.IGNORECASE)


def test_headers_include_nothing_but_each_other():
    own = {p.name for p in build.SOURCES.iterdir()}
    for path in build.SOURCES.glob("hk_*.h"):
        for name in re.findall(r'#include\s+[<"]([^>"]+)', path.read_text()):
            assert name in own, f"{path.name} includes {name}"


def test_no_compiler_is_a_clear_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.BuildError, match="no C\\+\\+ compiler"):
        build.compiler()
    from hyperkit._ext.__main__ import main

    monkeypatch.setattr(build, "find_library", lambda: None)
    monkeypatch.setattr(build, "folders", lambda: (tmp_path / "lib",))
    assert main(["build", "--optional"]) == 0
    assert main(["build"]) == 1
    assert "works without them" in capsys.readouterr().err
