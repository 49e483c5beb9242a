"""The real __global__ functions on the CPU: agreement, broken copies, the fake driver."""

from __future__ import annotations

import ctypes
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from ext_case import (
    KINDS,
    ROOT,
    SCALAR,
    ball_case,
    compile_shared,
    conv_case,
    conv_gradients,
    emulated,
    emulator,
    linear_case,
    needs_compiler,
    operators,
    relative,
    row_arguments,
    row_gradients,
    rows,
    tail_case,
)
from hyperkit._ext import gpu, launching, nvrtc, reference
from torch import Tensor

pytestmark = needs_compiler
SEEDS = range(4)  # odd ones starve


def row(ops: gpu.Operators, kind: int, ts: list[Tensor]) -> Tensor:
    return ops.row(kind, *row_arguments(ts), 1.3)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_agree(kind):
    ts = rows(kind, n=7, d=37)
    us = [t.double().requires_grad_() for t in ts]
    want = reference.row(kind, *us, c=1.3)
    g = torch.randn_like(ts[0][:, :1] if kind in SCALAR else ts[0])
    expected = torch.autograd.grad(want, us, g.double())
    for seed in SEEDS:
        ops = emulated(seed)
        assert relative(row(ops, kind, ts), want) < 2e-6
        for a, b in zip(row_gradients(ops, kind, ts, g), expected, strict=True):
            assert relative(a, b) < 1e-5


def test_ball_tail_agrees():
    given = ball_case(n=9, d=37)
    us = [t.double().requires_grad_() for t in given]
    want = reference.ball_tail(*us, 1.3)
    inner = torch.ones(9, 1)
    inner[2] = 0.0  # next to the edge of the ball, where float32 loses digits
    g = torch.randn_like(given[0]) * inner
    expected = torch.autograd.grad(want, us, g.double())
    for seed in SEEDS:
        ops = emulated(seed)
        assert relative(ops.ball_tail(*given, 1.3) * inner, want * inner) < 4e-6
        for a, b in zip(ops.ball_tail_backward(*given, g, 1.3), expected, strict=True):
            assert relative(a, b) < 2e-5


@pytest.mark.parametrize("scales", [1, 3])
def test_tail_and_linear_agree(scales):
    torch.manual_seed(0)
    z, scale = tail_case(n=9, d=37, scales=scales)
    us = [t.double().requires_grad_() for t in (z, scale)]
    want = reference.tail(*us, 1.3)
    g = torch.randn_like(z)
    expected = torch.autograd.grad(want, us, g.double())
    given = linear_case(9, 5, 37)
    doubles = [t.double().requires_grad_() for t in given if t is not None]
    points = reference.linear(*doubles, 1.3)
    by_linear = torch.autograd.grad(points, doubles, g.double())
    for seed in SEEDS:
        ops = emulated(seed)
        assert relative(ops.tail(z, scale, 1.3), want) < 2e-6
        for a, b in zip(ops.tail_backward(z, scale, g, 1.3), expected, strict=True):
            assert relative(a, b) < 1e-5
        out, kept = ops.linear(*given, 1.3)
        assert relative(out, points) < 2e-6
        for a, b in zip(ops.linear_backward(*given, 1.3, out, kept, g, True, True), by_linear, strict=True):
            assert relative(a, b) < 1e-5


@pytest.mark.parametrize("correlation", ["distance", "linear", "gaussian"])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("limit", [1 << 20, 40 * 1024, 12 * 1024])  # eight lanes a node; a warp; one a block
def test_conv_agrees(seed, limit, correlation):
    sizes = {"k": 4, "d": 7, "o": 6} if seed % 2 else {"k": 11, "d": 35, "o": 33}
    tensors, graph, rule = conv_case(correlation, n=9, m=3, **sizes)
    ops = emulated(seed, shared_limit=limit)
    got = ops.conv(*tensors[:6], *graph, tensors[6], *rule)
    doubles = [t.double().requires_grad_() for t in tensors]
    want = reference.conv(*doubles[:6], *graph, doubles[6], *rule)
    for a, b in zip(got, want, strict=True):
        assert relative(a, b) < 2e-5
    g = torch.randn_like(got[0])
    g[want[1].squeeze(-1) == 0] = 0
    expected = torch.autograd.grad(want[0], doubles, g.double(), allow_unused=True)
    for a, b in zip(conv_gradients(ops, tensors, graph, rule, g), expected, strict=True):
        if b is not None:
            assert float((a - b).abs().max()) < 2e-4 * max(1.0, float(b.abs().max()))


def test_shared_memory_is_computed_as_the_kernel_lays_it_out():
    lib = ctypes.CDLL(str(emulator()))
    lib.emu_conv_floats.restype = ctypes.c_longlong
    for d, o, k in ((1, 1, 1), (7, 6, 4), (32, 32, 8), (257, 64, 16)):
        for passes in range(3):
            assert launching.conv_floats(d, o, k, passes) == lib.emu_conv_floats(d, o, k, passes)
    # 100 floats are 400 bytes a node, 1,600 for four nodes a warp.
    assert launching.conv_shape(100, 16 * 6400) == (8, 4, 6400, 16)
    assert launching.conv_shape(100, 8 * 1600) == (8, 4, 6400, 2)
    assert launching.conv_shape(100, 8 * 1600 - 1) == (32, 2, 800, 15)
    assert launching.conv_shape(100, 1599) == (32, 1, 400, 3)
    assert launching.conv_shape(100, 399) is None
    tensors, graph, rule = conv_case(n=5, m=2)
    small = emulated(shared_limit=256)
    assert not small.fits(7, 6, 4)
    with pytest.raises(RuntimeError, match="bytes of shared memory"):
        small.conv(*tensors[:6], *graph, tensors[6], *rule)


def bits(n: int, width: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Bit vectors, packed and as floats."""
    packed = torch.randint(0, 256, (n, width), generator=g, dtype=torch.uint8)
    return packed, torch.from_numpy(np.unpackbits(packed.numpy(), axis=1).astype("float32"))


def test_tanimoto_agrees():
    g = torch.Generator().manual_seed(0)
    (q, a), (r, b) = bits(3, 128, g), bits(300, 128, g)
    common = a @ b.T
    want = (common / (a.sum(1)[:, None] + b.sum(1) - common)).amax(1)
    for seed in SEEDS:
        assert (emulated(seed).tanimoto_max(q, r) == want).all()


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("ball", [False, True])
def test_adam_agrees_with_the_library(amsgrad, ball):
    if not hasattr(torch.ops.hyperkit_ext, "adam_"):
        pytest.skip("kernels not built")
    torch.manual_seed(0)
    x = rows(5 if ball else 0, n=9, d=37)[0]
    grad, m = torch.randn_like(x), 0.1 * torch.randn_like(x)
    for columns in (1, 37) if ball else (1,):
        v = torch.rand(9, 1).expand(9, columns).contiguous()
        largest = torch.rand(9, 1).expand(9, columns).contiguous() if amsgrad else None
        numbers = (0.1, 0.9, 0.99, 0.5, 1e-8, 0.01, 1.3, ball)
        for seed in SEEDS:
            ends = []
            for call in (torch.ops.hyperkit_ext.adam_, emulated(seed).adam_):
                ts = [t.clone() if t is not None else None for t in (x, grad, m, v, largest)]
                call(*ts, *numbers)
                ends.append([t for t in ts if t is not None])
            for a, b in zip(*ends, strict=True):
                assert relative(a, b) < 1e-5
            assert relative(ends[1][0], x) > 1e-3


def test_errors_come_before_a_kernel():
    def never(*_, **__):
        raise AssertionError("a kernel was started")

    ops, graphs = operators(never), emulated()
    x, y = rows(0)
    tensors, (begin, source), rule = conv_case()
    given = [*tensors[:6], begin, source, tensors[6], *rule]
    swap = lambda i, bad: [*given[:i], bad, *given[i + 1 :]]  # noqa: E731
    for call, message in (
        (lambda: ops.row(0, x, y[:3], None, 1.0), "rows of y"),
        (lambda: ops.row(0, x, None, None, 1.0), "needs y"),
        (lambda: ops.row(77, x, y, None, 1.0), "kind must be"),
        (lambda: ops.row(0, x.double(), y.double(), None, 1.0), "dtype"),
        (lambda: ops.row(0, x.T.contiguous().T, y, None, 1.0), "contiguous"),
        (lambda: ops.row(0, x.to("meta"), y, None, 1.0), "must be on cpu"),
        (lambda: ops.row(0, x, y, None, -1.0), "c must be > 0"),
        (lambda: ops.tail(x, x[0, :7].contiguous(), 1.0), "log_scale must divide"),
        (lambda: ops.tail_backward(x, x[0, :1], y[:3], 1.0), "grad has the wrong shape"),
        (lambda: ops.linear(x, y[:5, 1:].contiguous(), None, x[0, :1], 1.0), "columns of weight"),
        (lambda: ops.linear(x, y[:5], x[0, :4], x[0, :1], 1.0), "length of bias"),
        (lambda: graphs.conv(*swap(7, source + 100)), "source must name nodes"),
        (lambda: graphs.conv(*swap(7, source - 1)), "source must name nodes"),
        (lambda: graphs.conv(*swap(6, begin + 1)), "begin must go from 0"),
        (lambda: graphs.conv(*swap(6, begin.flip(0))), "begin must go from 0"),
        (lambda: ops.conv(*swap(1, tensors[1][:, 1:].contiguous())), "columns of matrix"),
        (lambda: ops.conv(*swap(8, tensors[6][1:].contiguous())), "length of weight"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()


MUTANTS = {
    "no __syncwarp at the end of a phase": (
        "hk_group.h",
        "for (int i = lane; i < n; i += L) f(i);\n    sync();",
        "for (int i = lane; i < n; i += L) f(i);",
    ),
    "a shuffle's offset": (
        "hk_group.h",
        "for (int bit = L / 4; bit > 0; bit >>= 1) v = meet(v, bit);",
        "for (int bit = L / 8; bit > 0; bit >>= 1) v = meet(v, bit);",
    ),
    "no __syncthreads": (
        "kernels.cuh",
        "best[threadIdx.x >> 5] = mine;\n    __syncthreads();",
        "best[threadIdx.x >> 5] = mine;",
    ),
    "a collective that not all lanes reach": (
        "kernels.cuh",
        "if (g.lane == 0) best[threadIdx.x >> 5] = mine;",
        "if (g.lane == 0) { best[threadIdx.x >> 5] = mine; __syncwarp(0xffffffffu); }",
    ),
}  # fmt: skip


def differs(lib: ctypes.CDLL, seed: int, with_conv: bool) -> bool:
    """Whether the emulator complains or a result is wrong."""
    ops = emulated(seed, lib)
    g = torch.Generator().manual_seed(0)
    q, r = bits(3, 8, g)[0], bits(100, 8, g)[0]
    r = torch.cat([r, q])  # the nearest is a query itself: 1, found by the fourth warp
    tensors = rows(2, n=5, d=37)
    try:
        if not relative(row(ops, 2, tensors), reference.row(2, *tensors, c=1.3)) < 1e-5:
            return True
        if with_conv:
            # Gaussian weights read what all lanes have just written.
            conv, graph, rule = conv_case("gaussian", n=5, m=2)
            given = (*conv[:6], *graph, conv[6], *rule)
            if not relative(ops.conv(*given)[0], reference.conv(*given)[0]) < 1e-3:
                return True
        return not bool((ops.tanimoto_max(q, r) == 1).all())
    except launching.LaunchError:
        return True


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_copy_is_noticed(name):
    file, old, new = MUTANTS[name]
    folder = Path(tempfile.mkdtemp(prefix="hyperkit-mutant-")) / "csrc"
    shutil.copytree(ROOT / "csrc", folder)
    # Rows share nothing between lanes, HKConv does.
    conv = name == "no __syncwarp at the end of a phase"
    text = (folder / file).read_text()
    assert text.count(old) == 1, name
    (folder / file).write_text(text.replace(old, new))
    flags = ["-O0", f"-I{folder}"] + ([] if conv else ["-DEMU_WITHOUT_CONV"])
    lib = ctypes.CDLL(str(compile_shared([ROOT / "testing" / "emulated.cpp"], *flags)))
    assert any(differs(lib, seed, conv) for seed in SEEDS)
    shutil.rmtree(folder.parent)


def test_the_right_copy_is_not():
    lib = ctypes.CDLL(str(emulator()))
    assert not any(differs(lib, seed, True) for seed in SEEDS)


@pytest.fixture(scope="module")
def cubins(tmp_path_factory):
    pytest.importorskip("nvidia.cu13", reason="nvidia-cuda-nvrtc is not installed")
    return tmp_path_factory.mktemp("cubins")


@pytest.mark.slow
def test_launcher_end_to_end_on_a_fake_driver(cubins):
    launcher = nvrtc.Launcher(driver=str(emulator()), folder=cubins)
    assert len(list(cubins.glob("*-sm90.cubin"))) == 1
    ops = operators(launcher.launch)
    x, y = rows(2, n=6, d=9)
    assert relative(ops.row(2, x, y, None, 1.3), reference.row(2, x, y, c=1.3)) < 1e-5
    # The fake driver has 160 KiB for a block, and gives more than 48 only to who asks.
    tensors, graph, rule = conv_case(n=3, m=2, k=7, d=32, o=32)
    given = (*tensors[:6], *graph, tensors[6], *rule)
    assert relative(ops.conv(*given)[0], reference.conv(*given)[0]) < 1e-4
    shape = launching.conv_shape(launching.conv_floats(32, 32, 7, 2), 160 * 1024)
    assert shape is not None
    assert shape.shared > 48 * 1024
    g = torch.ones(3, 33)
    assert conv_gradients(ops, tensors, graph, rule, g)[0].isfinite().all()
    tensors, graph, rule = conv_case(n=3, m=2, k=20, d=64, o=64)
    with pytest.raises(nvrtc.NvrtcError, match="cuFuncSetAttribute"):
        conv_gradients(
            operators(launcher.launch, shared_limit=1 << 20), tensors, graph, rule, torch.ones(3, 65)
        )
    with pytest.raises(nvrtc.NvrtcError, match="cuModuleGetFunction"):
        launcher.launch("no_such_kernel", (), grid=1, warps=1, shared=0, stream=0)


def test_no_driver_is_a_clear_error():
    with pytest.raises(nvrtc.NvrtcError, match="no CUDA driver"):
        nvrtc.Launcher(driver="libnosuchcuda.so")


def test_stale_lock_of_the_cubin_cache_is_passed_over(cubins, monkeypatch):
    monkeypatch.setattr(nvrtc, "compile_cubin", lambda architecture: b"made")
    name = f"hyperkit-{nvrtc.build.source_hash()}-sm77"
    (cubins / f"{name}.lock").touch()
    assert nvrtc.cubin(77, cubins, wait=0.2) == b"made"
    assert (cubins / f"{name}.cubin").read_bytes() == b"made"
    monkeypatch.setattr(nvrtc, "compile_cubin", lambda architecture: b"again")
    assert nvrtc.cubin(77, cubins) == b"made"
