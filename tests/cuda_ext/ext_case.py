"""What the tests of the kernels share: cases, comparison, one build of the emulator a session."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperkit.nn import HKConv, geometry
from hyperkit.ops import _fused
from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P

ROOT = Path(__file__).parents[2] / "cuda_ext"
KINDS = range(10)
SCALAR = (0, 1, 5)

needs_library = pytest.mark.skipif(
    not _fused.active(), reason="kernels not built or switched off: python -m hyperkit._ext build"
)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ not found")


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest value of `b`."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


def rows(kind: int, n: int = 50, d: int = 8, seed: int = 0) -> list[Tensor]:
    """Arguments of a row operation, float32."""
    g = torch.Generator().manual_seed(seed)
    v, w = (torch.randn(n, d, generator=g) * 2.0 / d**0.5 for _ in range(2))  # radii near 2 for any d
    pad = torch.nn.functional.pad
    if kind in (0, 1, 2):
        return [L.expmap0(pad(v, (1, 0)), 1.3), L.expmap0(pad(w, (1, 0)), 1.3)]
    if kind == 3:
        return [pad(v, (1, 0))]
    if kind == 4:
        return [L.expmap0(pad(v, (1, 0)), 1.3)]
    if kind == 6:
        return [v]
    a, b = P.expmap0(v, 1.3), P.expmap0(w, 1.3)
    return [a] if kind == 7 else [a, b]


def conv_case(
    correlation: str = "distance",
    *,
    n: int = 30,
    m: int = 5,
    k: int = 4,
    d: int = 7,
    o: int = 6,
    seed: int = 1,
) -> tuple[list[Tensor], tuple[Tensor, Tensor], tuple[int, float, float]]:
    """Tensors, graph and rule of the operator `conv`: equal nodes, padding, a node without neighbours."""
    torch.manual_seed(seed)
    layer = HKConv(d, o, k, trainable_kernels=True, correlation=correlation)  # type: ignore[arg-type]
    w = layer.kernels
    assert w.bias is not None
    assert w.log_scale is not None
    with torch.no_grad():
        w.weight.add_(0.1 * torch.randn_like(w.weight))
        w.bias.normal_()
        x = geometry("lorentz").random_normal(n, features=d, std=0.8)
        if n > 6:
            x[5] = x[6]
        weight = torch.rand(n * m)
        weight[::7] = 0
        if n > 9:
            weight[9 * m : 10 * m] = 0
        source = torch.randint(0, max(n, 1), (n * m,))
        source[: min(3, n * m)] = 0
        space, gate = w.weight[:, 1:], w.weight[:, 0]
        tensors = [
            x,
            torch.cat([space[..., 1:].flatten(0, 1), gate[:, 1:]]),
            torch.cat([space[..., 0].flatten(), gate[:, 0]]),
            torch.cat([w.bias[:, 1:].flatten(), w.bias[:, 0]]),
            w.log_scale.exp(),
            w.points(),
            weight,
        ]
    number = {"distance": 0, "linear": 1, "gaussian": 2}[correlation]
    return [t.detach().clone() for t in tensors], (torch.arange(n + 1) * m, source), (number, w.sigma, 1.3)


def compile_shared(sources: Sequence[Path], *flags: str) -> Path:
    """Compile into a library in a folder of its own.

    Raises
    ------
    AssertionError
        With the compiler's message if it fails.
    """
    out = Path(tempfile.mkdtemp(prefix="hyperkit-test-")) / "lib.so"
    done = subprocess.run(
        ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-mavx2", "-mfma", "-ffp-contract=off", *flags]
        + [str(s) for s in sources]
        + ["-o", str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@functools.cache
def emulator() -> Path:
    """The kernels in the emulator, with the fake driver; compiled once a session."""
    testing = ROOT / "testing"
    return compile_shared([testing / "emulated.cpp", testing / "fake_libcuda.cpp"], f"-I{ROOT / 'csrc'}")


def pointer(t: Tensor | None) -> ctypes.c_void_p:
    """The address of a tensor's numbers, or null."""
    return ctypes.c_void_p(None if t is None else t.data_ptr())


class ConvArgs(ctypes.Structure):
    """``hk_conv_args``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in "x product matrix first bias scale kernels".split()),
        *((name, ctypes.c_void_p) for name in ("begin", "source", "weight")),
        *((name, ctypes.c_void_p) for name in ("out", "total", "sums")),
        ("n", ctypes.c_longlong),
        *((name, ctypes.c_int) for name in ("d", "o", "k", "correlation")),
        *((name, ctypes.c_float) for name in ("sigma", "c", "margin", "eps")),
    ]  # fmt: skip


class ConvGrad(ctypes.Structure):
    """``hk_conv_grad``."""

    _fields_ = [
        (name, ctypes.c_void_p) for name in "grad x product matrix first bias scale kernels weight".split()
    ]


def conv_structs(
    tensors: list[Tensor], graph: tuple[Tensor, Tensor], rule: tuple[int, float, float]
) -> tuple[ConvArgs, list[Tensor]]:
    """The kernel's arguments with outputs full of NaN, and all tensors they point to (to be kept alive)."""
    x, matrix, first, bias, scale, kernels, weight = tensors
    n, k = len(x), len(kernels)
    o = len(matrix) // k - 1
    product = (x[:, 1:] @ matrix.T).contiguous()
    out, total, sums = (x.new_full((n, s), torch.nan) for s in (o + 1, 1, o + 1))
    held = [x, product, matrix, first, bias, scale, kernels, *graph, weight, out, total, sums]
    numbers = (n, x.shape[1] - 1, o, k, rule[0], rule[1], rule[2], 1e-4, 1e-8)
    return ConvArgs(*(pointer(t) for t in held), *numbers), held
