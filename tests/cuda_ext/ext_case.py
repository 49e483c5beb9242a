"""What the tests of the kernels share: cases, comparison, one build of the emulator a session."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hyperkit._ext import gpu, launching
from torch import Tensor

from hyperkit.nn import HKConv, geometry
from hyperkit.ops import _fused
from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P

ROOT = Path(__file__).parents[2] / "cuda_ext"
KINDS = range(15)
SCALAR = (0, 1, 5, 14)

needs_library = pytest.mark.skipif(
    not _fused.active(), reason="kernels not built or switched off: python -m hyperkit._ext build"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ("cpu", pytest.param("cuda", marks=[needs_gpu, pytest.mark.gpu]))
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ not found")
on_devices = pytest.mark.parametrize("device", DEVICES)


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest value of `b`."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


def rows(kind: int, n: int = 50, d: int = 8, seed: int = 0, device: str = "cpu") -> list[Tensor]:
    """Arguments of a row operation, float32."""
    g = torch.Generator().manual_seed(seed)
    v, w, u = ((torch.randn(n, d, generator=g) * 2.0 / d**0.5).to(device) for _ in range(3))
    pad = torch.nn.functional.pad
    if kind in (0, 1, 2):
        return [L.expmap0(pad(v, (1, 0)), 1.3), L.expmap0(pad(w, (1, 0)), 1.3)]
    if kind == 3:
        return [pad(v, (1, 0))]
    if kind == 4:
        return [L.expmap0(pad(v, (1, 0)), 1.3)]
    if kind in (10, 11):
        x, y = (L.expmap0(pad(t, (1, 0)), 1.3) for t in (v, w))
        tangent = L.transp0(x, pad(u, (1, 0)), 1.3)
        return [x, tangent] if kind == 10 else [x, y, tangent]
    if kind == 6:
        return [v]
    a, b = P.expmap0(v, 1.3), P.expmap0(w, 1.3)
    if kind in (12, 13):
        return [a, u] if kind == 12 else [a, b, u]
    return [a] if kind in (7, 14) else [a, b]


def linear_case(
    n: int = 24, i: int = 9, o: int = 7, *, bias: bool = True, device: str = "cpu"
) -> list[Tensor | None]:
    """Arguments of the operator `linear`; among the rows points far out and a product that vanishes."""
    g = torch.Generator().manual_seed(0)
    x = L.expmap0(torch.nn.functional.pad(torch.randn(n, i, generator=g) * 2.0 / i**0.5, (1, 0)), 1.3)
    x[n // 2] *= 1e3
    weight = torch.randn(o + 1, i + 1, generator=g) * 0.5
    b = torch.randn(o + 1, generator=g)
    if not bias:
        x[0] = 0.0
    given = [x, weight, b if bias else None, torch.tensor([0.7])]
    return [None if t is None else t.to(device) for t in given]


def tail_case(n: int = 24, d: int = 7, scales: int = 3, device: str = "cpu") -> list[Tensor]:
    """Arguments of the operator `tail`, hard rows among them: no direction, a shut gate, an open one."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n, d + 1, generator=g)
    z[0, 1:] = 0.0
    z[1, 1:] *= 1e-20
    z[2, 1:] *= 1e4
    z[3, 0], z[4, 0], z[5, 0] = -80.0, 80.0, -1e4
    return [z.to(device), torch.randn(scales, generator=g).to(device)]


def ball_case(n: int = 24, d: int = 7, device: str = "cpu") -> list[Tensor]:
    """Arguments of the operator `ball_tail`, hard rows among them: the origin, its surroundings, the edge."""
    g = torch.Generator().manual_seed(0)
    gap = torch.rand(n, generator=g)
    gap[:3] = torch.tensor([1.0, 1.0, 2.4e-7])[:n]
    space = 2.0 / gap
    z = torch.randn(n, d, generator=g) * torch.sqrt(1.0 - gap).unsqueeze(-1) * 0.3
    z[1] = 1e-20
    gain, tilt = 0.5 + torch.rand(d, generator=g), torch.randn(d, generator=g)
    tilt[0] = 0.0
    power = 0.2 + torch.rand(d, generator=g)
    return [t.to(device) for t in (z, space, space - 1.0, gain, tilt, power)]


def conv_case(
    correlation: str = "distance",
    *,
    n: int = 30,
    m: int = 5,
    k: int = 4,
    d: int = 7,
    o: int = 6,
    seed: int = 1,
    device: str = "cpu",
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
        x = geometry("lorentz").random_normal(n, features=d, std=min(0.8, 2.1 / d**0.5))
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
    graph = ((torch.arange(n + 1) * m).to(device), source.to(device))
    return [t.detach().clone().to(device) for t in tensors], graph, (number, w.sigma, 1.3)


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


class Emulated:
    """Launches kernels in the emulator; few blocks, so that items beyond the grid are taken in strides.

    Parameters
    ----------
    lib : ctypes.CDLL
        The compiled emulator.
    seed : int
        Order of the lanes; odd ones starve.
    """

    def __init__(self, lib: ctypes.CDLL, seed: int) -> None:
        self._lib, self._seed = lib, seed
        lib.emu_message.restype = ctypes.c_char_p

    def __call__(
        self, name: str, arguments: Sequence[Any], *, grid: int, warps: int, shared: int, stream: int
    ) -> None:
        code = self._lib.emu_launch(
            name.encode(), min(grid, 3), 32 * warps, shared, launching.pack(arguments), self._seed
        )
        if code:
            raise launching.LaunchError(self._lib.emu_message().decode())


def operators(launch: launching.Launch, shared_limit: int = 160 * 1024) -> gpu.Operators:
    """The GPU's operators over another launcher, for tensors on the CPU."""
    return gpu.Operators(launch, torch.device("cpu"), multiprocessors=4, shared_limit=shared_limit)


def emulated(seed: int = 0, lib: ctypes.CDLL | None = None, **options: Any) -> gpu.Operators:
    """The GPU's operators in the emulator."""
    return operators(Emulated(ctypes.CDLL(str(emulator())) if lib is None else lib, seed), **options)


def row_arguments(ts: list[Tensor]) -> list[Tensor | None]:
    """x, y and v of a row operation, None for those that it has not."""
    return [*ts, *[None] * (3 - len(ts))]


def row_gradients(ops: gpu.Operators, kind: int, ts: list[Tensor], g: Tensor) -> list[Tensor]:
    """What ``row_backward`` gives for each of `ts`."""
    return list(ops.row_backward(kind, *row_arguments(ts), g, 1.3, True, True, True))[: len(ts)]


def conv_gradients(
    ops: gpu.Operators,
    tensors: list[Tensor],
    graph: tuple[Tensor, Tensor],
    rule: tuple[int, float, float],
    g: Tensor,
) -> list[Tensor]:
    """What ``conv_backward`` gives, after ``conv``, in the order of `tensors`."""
    given = (*tensors[:6], *graph, tensors[6], *rule)
    _, total, sums = ops.conv(*given)
    return list(ops.conv_backward(*given, total, sums, g, True, True))


def op(name: str):
    # A test may be the first of its process, and the operators of a GPU are registered when they are needed.
    if torch.cuda.is_available():
        from hyperkit.ops import _fused

        _fused.active("cuda")
    return getattr(torch.ops.hyperkit_ext, name)


def reference():
    from hyperkit._ext import reference

    return reference


def row_errors(a: Tensor, b: Tensor) -> float:
    """Largest error of a row over the largest value of that row: rows here differ by many orders."""
    return float(((a - b).abs().amax(-1) / b.abs().amax(-1).clamp_min(1e-30)).max())
