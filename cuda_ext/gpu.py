"""The operators on GPU tensors: arguments are checked, outputs made, kernels launched.

Nothing here knows which launcher of :mod:`hyperkit._ext.launching` it has, or whether there is a GPU: the
tests run it over the emulator, on the CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .launching import (
    LANES,
    RESIDENT,
    WARPS,
    AdamArgs,
    BallArgs,
    ConvArgs,
    ConvGrad,
    Launch,
    Shape,
    TailArgs,
    conv_floats,
    conv_shape,
    curvature,
    pointer,
)

KINDS = 15
"""Row operations, numbered as in ``csrc/hk_args.h``; of them those with one number a row as result."""
SCALAR_ROWS = (0, 1, 5, 14)
_LORENTZ_ROWS, _SINGLE_ROWS, _TRIPLE_ROWS = (0, 1, 2, 3, 4, 10, 11), (3, 4, 6, 7, 14), (11, 13)
_ROWS = Shape(LANES, WARPS, 0, RESIDENT)
_SINGLE = Shape(1, WARPS, 0, RESIDENT)


@contextlib.contextmanager
def full_products() -> Iterator[None]:
    """Matrix products of float32 in float32: HKConv takes differences of them, which TF32 would spoil."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    if before == "ieee":
        yield
        return
    matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@functools.cache
def _popcounts(device: torch.device) -> Tensor:
    return torch.tensor([bin(i).count("1") for i in range(256)], dtype=torch.int32, device=device)


class Operators:
    """The operators of ``torch.ops.hyperkit_ext`` over a launcher.

    Parameters
    ----------
    launch : callable
        See :class:`Launch`.
    device : torch.device
        All tensors must be there.
    multiprocessors : int
        Of the device.
    shared_limit : int
        Bytes of shared memory that a block may have.
    stream : callable
        Returns the stream to launch on.
    """

    def __init__(
        self,
        launch: Launch,
        device: torch.device,
        *,
        multiprocessors: int,
        shared_limit: int,
        stream: Callable[[], int] = lambda: 0,
    ) -> None:
        self._launch, self._device, self._stream = launch, device, stream
        self._multiprocessors = multiprocessors
        self._shared_limit = shared_limit

    def _run(
        self,
        name: str,
        items: int,
        arguments: Sequence[Any],
        shape: Shape = _ROWS,
    ) -> None:
        if items:
            groups = 32 * shape.warps // shape.lanes
            grid = min(-(-items // groups), shape.resident * self._multiprocessors)
            self._launch(
                name,
                arguments,
                grid=grid,
                warps=shape.warps,
                shared=shape.shared,
                stream=self._stream(),
            )

    def _check(self, dims: int, dtype: torch.dtype = torch.float32, **tensors: Tensor) -> None:
        for name, t in tensors.items():
            problem = None
            if t.device != self._device:
                problem = f"must be on {self._device}, got {t.device}"
            elif t.dtype is not dtype:
                problem = f"has the wrong dtype: {t.dtype}, not {dtype}"
            elif t.dim() != dims:
                problem = f"must have {dims} dimensions, got {t.dim()}"
            elif not t.is_contiguous():
                problem = "must be contiguous"
            if problem:
                raise RuntimeError(f"{name} {problem}")

    def fits(self, d: int, o: int, k: int) -> bool:
        """Whether a convolution of these sizes and its backward pass have the shared memory they need."""
        return conv_shape(conv_floats(d, o, k, 2), self._shared_limit) is not None

    # ---- rows --------------------------------------------------------------------------------------------

    def _check_rows(self, kind: int, x: Tensor, y: Tensor | None, v: Tensor | None, c: float) -> None:
        _require(0 <= kind < KINDS, f"kind must be 0 to {KINDS - 1}, got {kind}")
        self._check(2, x=x)
        _require(x.shape[1] >= 1 + (kind in _LORENTZ_ROWS), f"x has too few columns: {x.shape[1]}")
        needed = kind not in _SINGLE_ROWS, kind in _TRIPLE_ROWS
        for name, t, wanted in zip("yv", (y, v), needed, strict=True):
            _require((t is not None) == wanted, f"kind {kind} {'needs' if wanted else 'takes no'} {name}")
            if t is not None:
                self._check(2, torch.float32, **{name: t})
                _same(t.shape[0], x.shape[0], f"the number of rows of {name}")
                _same(t.shape[1], x.shape[1], f"the number of columns of {name}")
        _require(c > 0, f"c must be > 0, got {c}")

    def row(self, kind: int, x: Tensor, y: Tensor | None, v: Tensor | None, c: float) -> Tensor:
        """Operation `kind` on rows; see ``csrc/hk_rows.h``."""
        self._check_rows(kind, x, y, v, c)
        out = x.new_empty(x.shape[0], 1) if kind in SCALAR_ROWS else torch.empty_like(x)
        n, d = x.shape[0], x.shape[1] - (kind in _LORENTZ_ROWS)
        rows = (pointer(x), pointer(y), pointer(v), pointer(out))
        self._run(
            "hk_row_kernel",
            n,
            (ctypes.c_int(kind), *rows, ctypes.c_longlong(n), ctypes.c_int(d), *curvature(c)),
        )
        return out

    def row_backward(
        self,
        kind: int,
        x: Tensor,
        y: Tensor | None,
        v: Tensor | None,
        grad: Tensor,
        c: float,
        first: bool,
        second: bool,
        third: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of :meth:`row` for x, y and v; one that is not wanted is empty."""
        self._check_rows(kind, x, y, v, c)
        self._check(2, grad=grad)
        _same(grad.shape[0], x.shape[0], "the number of rows of grad")
        _same(grad.shape[1], 1 if kind in SCALAR_ROWS else x.shape[1], "the number of columns of grad")
        _require(first or kind not in _SINGLE_ROWS, "the gradient of x is the only one there is")
        wanted = first, second and y is not None, third and v is not None
        gx, gy, gv = (torch.empty_like(x) if w else x.new_empty(0) for w in wanted)
        n, d = x.shape[0], x.shape[1] - (kind in _LORENTZ_ROWS)
        into = (pointer(g if w else None) for g, w in zip((gx, gy, gv), wanted, strict=True))
        rows = (pointer(x), pointer(y), pointer(v), pointer(grad), *into)
        self._run(
            "hk_row_backward_kernel",
            n,
            (ctypes.c_int(kind), *rows, ctypes.c_longlong(n), ctypes.c_int(d), *curvature(c)),
        )
        return gx, gy, gv

    # ---- linear layers: the product, and its tail --------------------------------------------------------

    def _tail(self, z: Tensor, log_scale: Tensor, c: float) -> TailArgs:
        self._check(2, z=z)
        self._check(1, log_scale=log_scale)
        _require(z.shape[1] >= 2, f"z must have shape (n, d + 1), got {z.shape[1]} columns")
        n, period = len(z), len(log_scale)
        _require(
            period > 0 and n % max(period, 1) == 0, f"the length of log_scale must divide {n}, got {period}"
        )
        _require(c > 0, f"c must be > 0, got {c}")
        return TailArgs(z=pointer(z), log_scale=pointer(log_scale), n=n, period=period, d=z.shape[1] - 1, c=c)

    def _tail_backward(
        self, args: TailArgs, grad: Tensor, like: Tensor, log_scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        self._check(2, grad=grad)
        _require(grad.shape == like.shape, f"grad has the wrong shape: {tuple(grad.shape)}")
        gz, parts = torch.empty_like(like), like.new_empty(args.n)
        args.grad, args.out, args.by_scale = pointer(grad), pointer(gz), pointer(parts)
        self._run("hk_tail_backward_kernel", args.n, (args,))
        return gz, parts.view(-1, len(log_scale)).sum(0)

    def tail(self, z: Tensor, log_scale: Tensor, c: float) -> Tensor:
        """What follows the product of a linear layer; see ``csrc/hk_tail.h``."""
        args, out = self._tail(z, log_scale, c), torch.empty_like(z)
        args.out = pointer(out)
        self._run("hk_tail_kernel", args.n, (args,))
        return out

    def tail_backward(self, z: Tensor, log_scale: Tensor, grad: Tensor, c: float) -> tuple[Tensor, Tensor]:
        """Gradients of :meth:`tail`; those of the scales are summed in one order, so the same bits twice."""
        return self._tail_backward(self._tail(z, log_scale, c), grad, z, log_scale)

    def _ball_tail(self, z: Tensor, rows: Sequence[Tensor], columns: Sequence[Tensor], c: float) -> BallArgs:
        self._check(2, z=z)
        given = dict(zip("space time gain tilt power".split(), (*rows, *columns), strict=True))
        self._check(1, torch.float32, **given)
        for name, size in zip(given, (*[len(z)] * 2, *[z.shape[1]] * 3), strict=True):
            _same(len(given[name]), size, f"the length of {name}")
        _require(z.shape[1] >= 1, "z must have shape (n, d), got 0 columns")
        _require(c > 0, f"c must be > 0, got {c}")
        at = {name: pointer(t) for name, t in given.items()}
        return BallArgs(z=pointer(z), **at, n=len(z), d=z.shape[1], c=c)

    def ball_tail(
        self, z: Tensor, space: Tensor, time: Tensor, gain: Tensor, tilt: Tensor, power: Tensor, c: float
    ) -> Tensor:
        """What follows the product of a Poincaré linear layer; see ``csrc/hk_ball_tail.h``."""
        args, out = self._ball_tail(z, (space, time), (gain, tilt, power), c), torch.empty_like(z)
        args.out = pointer(out)
        self._run("hk_ball_tail_kernel", args.n, (args,))
        return out

    def ball_tail_backward(
        self,
        z: Tensor,
        space: Tensor,
        time: Tensor,
        gain: Tensor,
        tilt: Tensor,
        power: Tensor,
        grad: Tensor,
        c: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gradients of :meth:`ball_tail`; columns are summed in one order, so the same bits twice."""
        args = self._ball_tail(z, (space, time), (gain, tilt, power), c)
        self._check(2, grad=grad)
        _require(grad.shape == z.shape, f"grad has the wrong shape: {tuple(grad.shape)}")
        gz, by_power, gs, gt = (torch.empty_like(t) for t in (z, z, space, time))
        args.grad, args.out, args.by_power = pointer(grad), pointer(gz), pointer(by_power)
        args.by_space, args.by_time = pointer(gs), pointer(gt)
        self._run("hk_ball_tail_backward_kernel", args.n, (args,))
        # gz is the gradient of what is inside the asinh times gain and space.
        return gz, gs, gt, (gz * z).sum(0) / gain, -((time / space) @ gz) / gain, by_power.sum(0)

    def _check_linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self._check(2, x=x, weight=weight)
        _same(weight.shape[1], x.shape[1], "the number of columns of weight")
        if bias is not None:
            self._check(1, bias=bias)
            _same(len(bias), len(weight), "the length of bias")

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, log_scale: Tensor, c: float
    ) -> tuple[Tensor, Tensor]:
        """A Lorentz linear layer: points, and the two numbers of a row that its backward pass needs."""
        self._check_linear(x, weight, bias)
        out = torch.nn.functional.linear(x, weight, bias)
        args, kept = self._tail(out, log_scale, c), x.new_empty(2, len(x))
        args.out, args.kept = pointer(out), pointer(kept)
        self._run("hk_tail_kernel", args.n, (args,))
        return out, kept

    def linear_backward(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        log_scale: Tensor,
        c: float,
        points: Tensor,
        kept: Tensor,
        grad: Tensor,
        by_x: bool,
        by_weight: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of :meth:`linear` for x, weight, bias and log_scale; one that is not wanted is empty."""
        self._check_linear(x, weight, bias)
        args = self._tail(points, log_scale, c)
        self._check(2, kept=kept)
        _require(points.shape == (len(x), len(weight)), f"points has the wrong shape: {tuple(points.shape)}")
        _same(kept.numel(), 2 * len(x), "the numbers in kept")
        args.kept = pointer(kept)
        gz, gl = self._tail_backward(args, grad, points, log_scale)
        return (
            gz @ weight if by_x else x.new_empty(0),
            gz.T @ x if by_weight else x.new_empty(0),
            gz.sum(0) if bias is not None else x.new_empty(0),
            gl,
        )

    # ---- Adam --------------------------------------------------------------------------------------------

    def adam_(
        self,
        x: Tensor,
        grad: Tensor,
        m: Tensor,
        v: Tensor,
        largest: Tensor | None,
        rate: float,
        beta1: float,
        beta2: float,
        correction2: float,
        eps: float,
        weight_decay: float,
        c: float,
        ball: bool,
    ) -> None:
        """One step of Riemannian Adam on points of the Lorentz model or the ball, in place."""
        self._check(2, x=x, grad=grad, m=m, v=v)
        n = x.shape[0]
        _require(x.shape[1] >= 1 + (not ball), f"x has too few columns: {x.shape[1]}")
        for t in (grad, m):
            _require(t.shape == x.shape, f"grad and m must have the shape of x, got {tuple(t.shape)}")
        fits = v.shape == (n, 1) or (ball and v.shape == x.shape)
        _require(fits, f"v must have shape ({n}, 1), got {tuple(v.shape)}")
        if largest is not None:
            self._check(2, largest=largest)
            _require(largest.shape == v.shape, "largest must have the shape of v")
        _require(c > 0, f"c must be > 0, got {c}")
        head = ctypes.c_float(c).value
        flags = largest is not None, ball, v.shape[1]
        numbers = AdamArgs(rate, beta1, beta2, 1.0 / correction2, eps, weight_decay, head, c - head, *flags)
        rows = (pointer(x), pointer(grad), pointer(m), pointer(v), pointer(largest))
        size = (ctypes.c_longlong(n), ctypes.c_int(x.shape[1] - (not ball)))
        self._run("hk_adam_kernel", n, (numbers, *size, *rows))

    # ---- Tanimoto ----------------------------------------------------------------------------------------

    def tanimoto_max(self, query: Tensor, reference: Tensor) -> Tensor:
        """Largest similarity of each bit vector to a set, uint8 ``(n, bytes)`` and ``(m, bytes)``."""
        self._check(2, torch.uint8, query=query, reference=reference)
        width = query.shape[1]
        _same(reference.shape[1], width, "the number of bytes of reference")
        _require(width > 0 and width % 8 == 0, f"rows must hold whole 64-bit words, got {width} bytes")
        _require(len(reference) > 0, "reference must not be empty")
        sizes = _popcounts(self._device)[reference.int()].sum(1, dtype=torch.int32)
        out = torch.empty(len(query), device=self._device)
        shape = (ctypes.c_longlong(len(reference)), ctypes.c_int(width // 8))
        self._run(
            "hk_tanimoto_kernel", len(query),
            (pointer(query), pointer(reference), pointer(sizes), *shape, pointer(out),
             ctypes.c_longlong(len(query))),
            Shape(32 * WARPS, WARPS, 0, RESIDENT),
        )  # fmt: skip
        return out

    # ---- HKConv ------------------------------------------------------------------------------------------

    def _conv(
        self,
        x: Tensor,
        matrix: Tensor,
        first: Tensor,
        bias: Tensor,
        scale: Tensor,
        kernels: Tensor,
        begin: Tensor,
        source: Tensor,
        weight: Tensor,
        correlation: int,
        sigma: float,
        c: float,
    ) -> tuple[ConvArgs, Tensor]:
        """Checked arguments without outputs, and the product that they point to."""
        self._check(2, x=x, matrix=matrix, kernels=kernels)
        self._check(1, first=first, bias=bias, scale=scale, weight=weight)
        self._check(1, torch.int64, begin=begin, source=source)
        n, d, k, row = x.shape[0], x.shape[1] - 1, len(kernels), len(matrix)
        _require(d >= 1, f"x must have shape (n, d + 1), got {x.shape[1]} columns")
        _require(
            k >= 1 and row % max(k, 1) == 0 and row // max(k, 1) >= 2,
            f"matrix must have K (o + 1) rows for K = {k} kernels, got {row}",
        )
        _same(matrix.shape[1], d, "the number of columns of matrix")
        _same(kernels.shape[1], d + 1, "the number of columns of kernels")
        for t, size, what in ((first, row, "first"), (bias, row, "bias"), (scale, k, "scale")):
            _same(len(t), size, f"the length of {what}")
        _same(len(begin), n + 1, "the length of begin")
        pairs = len(source)
        _same(len(weight), pairs, "the length of weight")
        _require(0 <= correlation <= 2, f"correlation must be 0, 1 or 2, got {correlation}")
        _require(sigma > 0 and c > 0, f"sigma and c must be > 0, got {sigma} and {c}")
        self._check_graph(begin, source, n)
        with full_products():
            product = x[:, 1:] @ matrix.T
        _require(product.dtype is torch.float32, "torch.autocast must be off around this operator")
        held = (x, product, matrix, first, bias, scale, kernels, begin, source, weight, None, None, None)
        numbers = (n, d, row // k - 1, k, correlation, sigma, c, 1e-4, 1e-8)
        return ConvArgs(*(pointer(t) for t in held), *numbers), product

    def _run_conv(self, args: ConvArgs, gradient: ConvGrad | None = None) -> None:
        backward = gradient is not None
        passes = 0 if gradient is None else (1 if gradient.kernels is None else 2)
        floats = conv_floats(args.d, args.o, args.k, passes)
        shape = conv_shape(floats, self._shared_limit)
        if shape is None:
            raise RuntimeError(
                f"a convolution of d = {args.d}, o = {args.o}, K = {args.k} needs {4 * floats} bytes of "
                f"shared memory, a block has {self._shared_limit}"
            )
        name = f"hk_conv{'_backward' if backward else ''}{'_wide' if shape.lanes == 32 else ''}_kernel"
        self._run(name, args.n, (args,) if gradient is None else (args, gradient), shape)

    def _check_graph(self, begin: Tensor, source: Tensor, n: int) -> None:
        """On a GPU the assertions go down the stream: what comes after does not run if one fails."""
        pairs = len(source)
        bad = torch.zeros(2, dtype=torch.int32, device=self._device)
        sizes = ctypes.c_longlong(n), ctypes.c_longlong(pairs)
        self._run(
            "hk_graph_kernel", max(n, pairs, 1),
            (pointer(begin), sizes[0], pointer(source), sizes[1], pointer(bad)), _SINGLE,
        )  # fmt: skip
        good = bad == 0
        message = f"begin must go from 0 to the number of pairs {pairs} without falling"
        torch.ops.aten._assert_async.msg(good[0], message)
        torch.ops.aten._assert_async.msg(good[1], f"source must name nodes 0 to {n - 1}")

    def conv(self, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        """HKConv over pairs sorted by centre; arguments as in ``csrc/hk_args.h``."""
        args, product = self._conv(x, *rest)
        n = args.n
        out, sums, total = x.new_empty(n, args.o + 1), x.new_empty(n, args.o + 1), x.new_empty(n, 1)
        args.out, args.total, args.sums = pointer(out), pointer(total), pointer(sums)
        self._run_conv(args)
        del product  # its memory goes back to this stream's pool, behind the kernel
        return out, total, sums

    def conv_backward(self, *given: Any) -> tuple[Tensor, ...]:
        """Gradients of :meth:`conv` for its tensors; atomic additions, so not the same bits twice."""
        *inputs, total, sums, grad, by_kernels, by_weight = given
        args, product = self._conv(*inputs)
        x, matrix, first, bias, scale, kernels, _, _, weight = inputs[:9]
        self._check(2, total=total, sums=sums, grad=grad)
        _same(total.numel(), args.n, "the number of rows of total")
        for t, what in ((sums, "sums"), (grad, "grad")):
            _require(t.shape == (args.n, args.o + 1), f"{what} has the wrong shape: {tuple(t.shape)}")
        args.total, args.sums = pointer(total), pointer(sums)
        like = (x, product, product, matrix, first, bias, scale)
        gx, gp, centre, gm, gf, gb, gs = (torch.zeros_like(t) for t in like)
        gk = kernels.new_zeros(args.k if by_kernels else 0, args.d + 1)
        gw = weight.new_zeros(len(weight) if by_weight else 0)
        into = (grad, gx, gp, centre, gm, gf, gb, gs, gk if by_kernels else None, gw if by_weight else None)
        self._run_conv(args, ConvGrad(*(pointer(t) for t in into)))
        gb += gp.sum(0)
        gp += centre
        with full_products():  # product = x_s matrix^T
            gx[:, 1:].add_(gp @ matrix)
            gm.add_(gp.T @ x[:, 1:])
        return gx, gm, gf, gb, gs, gk, gw


OPERATORS = (
    "row",
    "row_backward",
    "tail",
    "tail_backward",
    "ball_tail",
    "ball_tail_backward",
    "linear",
    "linear_backward",
    "adam_",
    "tanimoto_max",
    "conv",
    "conv_backward",
)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)


def _same(got: int, wanted: int, what: str) -> None:
    _require(got == wanted, f"{what} must be {wanted}, got {got}")
