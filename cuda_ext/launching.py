"""How a kernel is started on a GPU: its arguments as C sees them, its spread over the card, the launchers.

A launcher is the library's own (:class:`Prebuilt`, built with ``--cuda``) or NVRTC's
(:class:`hyperkit._ext.nvrtc.Launcher`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

WARPS = 4
"""Warps in a block, ``HK_WARPS`` in ``kernels.cuh``."""
LANES = 8
"""Lanes that take a row, or a node where shared memory allows."""
RESIDENT = 16
"""Blocks for each multiprocessor at most; nodes and rows beyond are taken in turn by the same lanes."""


class LaunchError(RuntimeError):
    """The driver refused a kernel; the message has its number."""


class Launch(Protocol):
    """Starts kernel `name` on a stream (0: the legacy default stream)."""

    def __call__(
        self, name: str, arguments: Sequence[Any], *, grid: int, warps: int, shared: int, stream: int
    ) -> None: ...


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
        (name, ctypes.c_void_p)
        for name in "grad x product centre matrix first bias scale kernels weight".split()
    ]


class TailArgs(ctypes.Structure):
    """``hk_tail_args``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in "z log_scale grad out kept by_scale".split()),
        *((name, ctypes.c_longlong) for name in ("n", "period")),
        ("d", ctypes.c_int),
        ("c", ctypes.c_float),
    ]  # fmt: skip


class BallArgs(ctypes.Structure):
    """``hk_ball_args``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in "z space time gain tilt power grad".split()),
        *((name, ctypes.c_void_p) for name in "out by_space by_time by_power".split()),
        ("n", ctypes.c_longlong),
        ("d", ctypes.c_int),
        ("c", ctypes.c_float),
    ]  # fmt: skip


class AdamArgs(ctypes.Structure):
    """``hk_adam_args``."""

    _fields_ = [
        *((name, ctypes.c_float) for name in "rate beta1 beta2 correction2 eps weight_decay c low".split()),
        *((name, ctypes.c_int) for name in ("amsgrad", "ball", "columns")),
    ]  # fmt: skip


def pack(arguments: Sequence[Any]) -> Any:
    """Arguments as both drivers take them: an array of the addresses of their values."""
    return (ctypes.c_void_p * len(arguments))(
        *(ctypes.cast(ctypes.byref(a), ctypes.c_void_p) for a in arguments)
    )


class Prebuilt:
    """Launches what nvcc compiled into the library.

    Raises
    ------
    LaunchError
        If the library was built without ``--cuda``.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._launch = ctypes.CDLL(str(path)).hk_cuda_launch
        except (OSError, AttributeError) as error:
            raise LaunchError(f"{path.name} has no GPU code: {error}") from error

    def launch(
        self, name: str, arguments: Sequence[Any], *, grid: int, warps: int, shared: int, stream: int
    ) -> None:
        """See :class:`Launch`."""
        code = self._launch(name.encode(), grid, 32 * warps, shared, pack(arguments), ctypes.c_void_p(stream))
        if code:
            raise LaunchError(f"CUDA error {code} at the launch of {name}")


def conv_floats(d: int, o: int, k: int, passes: int) -> int:
    """Floats of shared memory that a node needs in a convolution: ``conv_floats`` of ``hk_conv.h``.

    `passes` is 0 forward, 1 backward, 2 backward with gradients of the kernel points.
    """
    row = k * (o + 1)
    floats = 2 * (d + k) + d + row + 7 * k + 2 * (o + 1)
    if passes > 0:
        floats += row + 6 * k + 2 * (o + 1) + row + k
    if passes > 1:
        floats += k * (d + 1)
    return (floats + 15) // 16 * 16


class Shape(NamedTuple):
    """How a kernel is spread over a GPU.

    Attributes
    ----------
    lanes : int
        That take a row or a node.
    warps, shared : int
        Of a block, and its bytes of shared memory.
    resident : int
        Blocks that a multiprocessor holds at once.
    """

    lanes: int
    warps: int
    shared: int
    resident: int


def conv_shape(floats: int, limit: int) -> Shape | None:
    """The best shape for nodes of `floats` numbers where a block may have `limit` bytes; None if none fits.

    Eight lanes a node waste least, if eight warps have room at a time; else a whole warp takes a node.
    """
    for lanes, least in ((LANES, 8), (32, 1)):
        node_bytes = 4 * floats * (32 // lanes)
        shapes = [
            Shape(lanes, w, node_bytes * w, min(RESIDENT, limit // (node_bytes * w)))
            for w in (WARPS, 2, 1)
            if node_bytes * w <= limit
        ]
        best = max(shapes, key=lambda s: s.warps * s.resident, default=None)
        if best is not None and best.warps * best.resident >= least:
            return best
    return None


def pointer(t: Tensor | None) -> ctypes.c_void_p:
    """The address of a tensor's numbers, or null."""
    return ctypes.c_void_p(None if t is None else t.data_ptr())


def curvature(c: float) -> tuple[ctypes.c_float, ctypes.c_float]:
    """As two floats: some kernels need more digits of it than one has."""
    head = ctypes.c_float(c)
    return head, ctypes.c_float(c - head.value)
