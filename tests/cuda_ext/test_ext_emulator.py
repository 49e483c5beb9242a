"""The real __global__ functions on the CPU: agreement, broken copies, the fake driver."""

from __future__ import annotations

import ctypes
import functools
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from ext_case import (
    ROOT,
    SCALAR,
    ConvGrad,
    compile_shared,
    conv_case,
    conv_structs,
    emulator,
    needs_compiler,
    pointer,
    relative,
    rows,
)
from hyperkit._ext import nvrtc, reference
from torch import Tensor

pytestmark = needs_compiler
SEEDS = range(4)  # odd ones starve


@functools.cache
def library() -> ctypes.CDLL:
    lib = ctypes.CDLL(str(emulator()))
    lib.emu_message.restype = ctypes.c_char_p
    lib.emu_conv_shared.restype = ctypes.c_longlong
    return lib


def curvature(c: float) -> tuple[ctypes.c_float, ctypes.c_float]:
    """As two floats: the kernels need more digits of it than one has."""
    head = ctypes.c_float(c)
    return head, ctypes.c_float(c - head.value)


def run_row(lib: ctypes.CDLL, kind: int, ts: list[Tensor], seed: int, c: float = 1.3) -> tuple[int, Tensor]:
    x, y = ts[0], ts[1] if len(ts) > 1 else None
    out = x.new_full((len(x), 1) if kind in SCALAR else x.shape, torch.nan)
    d = x.shape[1] - (kind <= 4)
    code = lib.emu_row(
        kind, pointer(x), pointer(y), pointer(out), ctypes.c_longlong(len(x)), d, *curvature(c), seed
    )
    return code, out


@pytest.mark.parametrize("kind", range(10))
def test_rows_agree(kind):
    ts = rows(kind, n=7, d=37)
    us = [t.double().requires_grad_() for t in ts]
    want = reference.row(kind, *us, c=1.3)
    g = torch.randn_like(ts[0][:, :1] if kind in SCALAR else ts[0])
    expected = torch.autograd.grad(want, us, g.double())
    for seed in SEEDS:
        code, out = run_row(library(), kind, ts, seed)
        assert code == 0, library().emu_message()
        assert relative(out, want) < 2e-6
        got = [torch.full_like(t, torch.nan) for t in ts]
        y, gy = (ts[1], got[1]) if len(ts) > 1 else (None, None)
        code = library().emu_row_backward(
            kind, pointer(ts[0]), pointer(y), pointer(g), pointer(got[0]), pointer(gy),
            ctypes.c_longlong(7), ts[0].shape[1] - (kind <= 4), *curvature(1.3), seed,
        )  # fmt: skip
        assert code == 0
        for a, b in zip(got, expected, strict=True):
            assert relative(a, b) < 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_conv_agrees(seed):
    tensors, graph, rule = conv_case(n=9, m=3)
    args, held = conv_structs(tensors, graph, rule)
    lib = library()
    shared = lib.emu_conv_shared(args.d, args.o, args.k, 0)
    assert lib.emu_conv(ctypes.byref(args), ctypes.c_longlong(shared), seed) == 0, lib.emu_message()
    doubles = [t.double().requires_grad_() for t in tensors]
    want = reference.conv(*doubles[:6], *graph, doubles[6], *rule)
    for a, b in zip(held[-3:], want, strict=True):
        assert relative(a, b) < 1e-5
    g = torch.randn_like(held[-3])
    g[want[1].squeeze(-1) == 0] = 0
    expected = torch.autograd.grad(want[0], doubles, g.double())
    x, product, matrix, first, bias, scale, kernels = (torch.zeros_like(t) for t in held[:7])
    weight = torch.zeros_like(tensors[6])
    into = [x, product, matrix, first, bias, scale, kernels, weight]
    grad = ConvGrad(*(pointer(t) for t in (g, *into)))
    shared = lib.emu_conv_shared(args.d, args.o, args.k, 1)
    code = lib.emu_conv_backward(ctypes.byref(args), ctypes.byref(grad), ctypes.c_longlong(shared), seed)
    assert code == 0, lib.emu_message()
    x[:, 1:] += product @ tensors[1]
    matrix += product.T @ tensors[0][:, 1:]
    for a, b in zip((x, matrix, first, bias, scale, kernels, weight), expected, strict=True):
        assert float((a - b).abs().max()) < 2e-4 * max(1.0, float(b.abs().max()))


def test_tanimoto_agrees():
    g = torch.Generator().manual_seed(0)
    q, r = (torch.randint(0, 256, (n, 128), generator=g, dtype=torch.uint8) for n in (3, 300))
    bits = [
        torch.from_numpy(__import__("numpy").unpackbits(t.numpy(), axis=1).astype("float32")) for t in (q, r)
    ]
    common = bits[0] @ bits[1].T
    want = (common / (bits[0].sum(1)[:, None] + bits[1].sum(1) - common)).amax(1)
    sizes = bits[1].sum(1).int()
    for seed in SEEDS:
        out = torch.full((3,), torch.nan)
        code = library().emu_tanimoto(
            pointer(q), pointer(r), pointer(sizes), ctypes.c_longlong(300), 16, pointer(out),
            ctypes.c_longlong(3), seed,
        )  # fmt: skip
        assert code == 0
        assert (out == want).all()


MUTANTS = {
    "no __syncwarp after one lane has written": (
        "hk_group.h",
        "if (lane == 0) h(r, s);\n    }\n    sync();",
        "if (lane == 0) h(r, s);\n    }",
    ),
    "a shuffle's offset": (
        "hk_group.h",
        "offset = 16; offset > 0; offset >>= 1) v +=",
        "offset = 8; offset > 0; offset >>= 1) v +=",
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


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_copy_is_noticed(name):
    file, old, new = MUTANTS[name]
    folder = Path(tempfile.mkdtemp(prefix="hyperkit-mutant-")) / "csrc"
    shutil.copytree(ROOT / "csrc", folder)
    # Rows share nothing between lanes, HKConv does.
    only = [] if name == "no __syncwarp after one lane has written" else ["-DEMU_WITHOUT_CONV"]
    text = (folder / file).read_text()
    assert text.count(old) == 1, name
    (folder / file).write_text(text.replace(old, new))
    lib = ctypes.CDLL(str(compile_shared([ROOT / "testing" / "emulated.cpp"], "-O0", *only, f"-I{folder}")))
    noticed = False
    tensors = rows(2, n=5, d=37)
    want = reference.row(2, *tensors, c=1.3)
    g = torch.Generator().manual_seed(0)
    q, r = (torch.randint(0, 256, (n, 8), generator=g, dtype=torch.uint8) for n in (3, 100))
    r = torch.cat([r, q])  # the nearest is a query itself: 1, found by the fourth warp
    sizes = torch.tensor([int(sum(bin(v).count("1") for v in row)) for row in r.tolist()], dtype=torch.int32)
    for seed in SEEDS:
        code, out = run_row(lib, 2, tensors, seed)
        noticed |= code != 0 or not relative(out, want) < 1e-5
        if not only:
            conv, graph, rule = conv_case(n=5, m=2)
            args, held = conv_structs(conv, graph, rule)
            lib.emu_conv_shared.restype = ctypes.c_longlong
            shared = ctypes.c_longlong(lib.emu_conv_shared(args.d, args.o, args.k, 0))
            code = lib.emu_conv(ctypes.byref(args), shared, seed)
            right = reference.conv(*conv[:6], *graph, conv[6], *rule)[0]
            noticed |= code != 0 or not relative(held[-3], right) < 1e-3
        best = torch.full((3,), torch.nan)
        code = lib.emu_tanimoto(
            pointer(q), pointer(r), pointer(sizes), ctypes.c_longlong(103), 1, pointer(best),
            ctypes.c_longlong(3), seed,
        )  # fmt: skip
        noticed |= code != 0 or not bool((best == 1).all())
        if noticed:
            break
    assert noticed


@pytest.fixture(scope="module")
def cubins(tmp_path_factory):
    pytest.importorskip("nvidia.cu13", reason="nvidia-cuda-nvrtc is not installed")
    return tmp_path_factory.mktemp("cubins")


def test_launcher_end_to_end_on_a_fake_driver(cubins):
    launcher = nvrtc.Launcher(driver=str(emulator()), folder=cubins)
    assert len(list(cubins.glob("*-sm90.cubin"))) == 1
    x, y = rows(2, n=6, d=9)
    out = torch.full_like(x, torch.nan)
    number = ctypes.c_int
    arguments = (
        number(2),
        pointer(x),
        pointer(y),
        pointer(out),
        ctypes.c_longlong(6),
        number(9),
        *curvature(1.3),
    )
    launcher.launch("hk_row_kernel", 6, arguments)
    assert relative(out, reference.row(2, x, y, c=1.3)) < 1e-5

    tensors, graph, rule = conv_case(n=5, m=2)
    args, held = conv_structs(tensors, graph, rule)
    shared = 4 * library().emu_conv_shared(args.d, args.o, args.k, 0)
    launcher.launch("hk_conv_kernel", 5, (args,), shared=shared)
    want = reference.conv(*tensors[:6], *graph, tensors[6], *rule)
    assert relative(held[-3], want[0]) < 1e-4
    with pytest.raises(nvrtc.NvrtcError, match="bytes of shared memory"):
        launcher.launch("hk_conv_kernel", 5, (args,), shared=1 << 20)
    with pytest.raises(nvrtc.NvrtcError, match="cuModuleGetFunction"):
        launcher.launch("no_such_kernel", 5, ())


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
