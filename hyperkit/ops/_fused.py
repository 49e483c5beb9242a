"""The only room that chooses a compiled kernel; every function here answers None where PyTorch has to do it.

A kernel takes contiguous float32 on the CPU or a CUDA device with a fixed curvature, at any size: a call
takes 20 to 30 microseconds, the dozens of small operations that it replaces 90 to 320 (16 rows of 8, CPU).
Under ``vmap`` and forward differentiation, in :func:`hyperkit.check` mode and, for the row operations, under
the compiler (which fuses them itself) the eager form is taken.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from hyperkit import _checks
from hyperkit._checks import Curvature

# Kinds of `row`, as in cuda_ext/csrc/hk_args.h.
L_DIST, L_SQDIST, L_LOGMAP, L_EXPMAP0, L_LOGMAP0 = range(5)
B_DIST, B_EXPMAP0, B_LOGMAP0, B_ADD, B_LOGMAP = range(5, 10)
L_EXPMAP, L_TRANSP, B_EXPMAP, B_TRANSP, B_CONFORMAL = range(10, 15)

_TYPES = (Tensor, torch.nn.Parameter)
_local = threading.local()


def extension() -> ModuleType:
    """``hyperkit._ext``, also where the repository is on the path but not installed.

    Raises
    ------
    ModuleNotFoundError
        If this copy of hyperkit comes without it.
    """
    name = "hyperkit._ext"
    if name in sys.modules:
        return sys.modules[name]
    if importlib.util.find_spec(name) is None:
        folder = Path(__file__).parents[2] / "cuda_ext"
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None or not (folder / "__init__.py").is_file():
            raise ModuleNotFoundError(f"no module named {name!r}", name=name)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module
    return importlib.import_module(name)


def active(device: str = "cpu") -> bool:
    """Whether the compiled operators are there for this type of device; looked for once, at the first use."""
    return _found(device)


def _constant(f: Callable[..., bool]) -> Callable[..., bool]:
    """What the compiler calls once and takes the answer of: ``torch.compiler.assume_constant_result``.

    That function would import the compiler, which takes seconds. Without the mark it traces into the look-up
    of the library, past ``functools.cache`` (met with torch 2.11).
    """
    f._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return f


@_constant
def _found(device: str) -> bool:
    return _look_up(device)


@functools.cache
def _look_up(device: str) -> bool:
    try:
        module = extension()
        return module.load_gpu().active if device == "cuda" else module.load().active
    except ModuleNotFoundError as error:
        logging.getLogger("hyperkit").info("kernels: eager PyTorch (%s)", error)
        return False


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """A block, in this thread, in which everything is eager."""
    before = getattr(_local, "off", False)
    _local.off = True
    try:
        yield
    finally:
        _local.off = before


def _transformed() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _takes(c: Curvature, *tensors: Tensor | None) -> bool:
    """Whether a kernel can take these, if there is one."""
    if isinstance(c, Tensor) or getattr(_local, "off", False) or _transformed() or _checks.checking():
        return False
    device = None
    for t in tensors:  # a plain loop: this is asked at every call, and a generator would double the time
        if t is None:
            continue
        if device is None:
            device = t.device
            if device.type not in ("cpu", "cuda"):
                return False
        if (
            t.dtype is not torch.float32
            or type(t) not in _TYPES
            or t.device != device
            or t.layout is not torch.strided
        ):
            return False
    return device is not None


def row(
    kind: int, c: Curvature, x: Tensor, y: Tensor | None = None, v: Tensor | None = None
) -> Tensor | None:
    """Operation `kind` on rows ``(*, D)`` of equal shape; a scalar result has shape ``(*, 1)``."""
    if (
        torch.compiler.is_compiling()
        or x.numel() == 0
        or x.ndim < 1
        or (y is not None and y.shape != x.shape)
        or (v is not None and v.shape != x.shape)
        or not _takes(c, x, y, v)
        or not active(x.device.type)
    ):
        return None
    flat = (None if t is None else _flat(t) for t in (x, y, v))
    out = torch.ops.hyperkit_ext.row(kind, *flat, float(c))  # type: ignore[arg-type]
    return out.view(*x.shape[:-1], out.shape[-1])


def _direct() -> contextlib.AbstractContextManager[object]:
    """A block that passes over the layer that ``register_autograd`` puts around an operator.

    That layer is written in Python and costs some 10 microseconds a call, as much as a linear layer's tail on
    300 rows. Only for callers that hold the derivative themselves.
    """
    return torch._C._AutoDispatchBelowAutograd()


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).contiguous()


def tail(z: Tensor, log_scale: Tensor, c: float) -> Tensor | None:
    """A linear layer's tail (:func:`hyperkit.nn._base.lorentz_tail`) on rows ``(*, d + 1)``; no autograd.

    `log_scale` is one number, or has as last dimensions those of the rows, as heads have it. Taken at any
    size: the eager form is made of a dozen small operations.
    """
    if not _takes(c, z, log_scale) or not active(z.device.type) or z.numel() == 0 or z.shape[-1] < 2:
        return None
    size = log_scale.shape
    while size and size[0] == 1:
        size = size[1:]
    one = log_scale.numel() == 1 and log_scale.ndim <= z.ndim
    if not one and size != (*z.shape[max(0, z.ndim - len(size)) : -1], 1):
        return None
    with _direct():
        out = torch.ops.hyperkit_ext.tail(_flat(z), log_scale.reshape(-1).contiguous(), c)
    return out.view(z.shape)


def tail_backward(z: Tensor, log_scale: Tensor, grad: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`tail`, after it; no autograd."""
    with _direct():
        gz, gl = torch.ops.hyperkit_ext.tail_backward(
            _flat(z), log_scale.reshape(-1).contiguous(), _flat(grad), c
        )
    return gz.view(z.shape), gl.view(log_scale.shape)


def ball_tail(
    z: Tensor, space: Tensor, time: Tensor, gain: Tensor, tilt: Tensor, power: Tensor, c: Curvature
) -> Tensor | None:
    """What follows the product of a Poincaré linear layer (:func:`hyperkit.nn.poincare.ball_tail`).

    Rows of z ``(*, d)``, a number for each in `space` and `time` ``(*, 1)``, ``(d)`` for the others. Taken at
    any size: the eager form is made of two dozen small operations.
    """
    if (
        torch.compiler.is_compiling()
        or not _takes(c, z, space, time, gain, tilt, power)
        or z.numel() == 0
        or not space.shape == time.shape == (*z.shape[:-1], 1)
        or not active(z.device.type)
    ):
        return None
    rows = (t.reshape(-1).contiguous() for t in (space, time))
    columns = (t.contiguous() for t in (gain, tilt, power))
    return torch.ops.hyperkit_ext.ball_tail(_flat(z), *rows, *columns, float(c)).view(z.shape)  # type: ignore[arg-type]


def takes_linear(x: Tensor, weight: Tensor, bias: Tensor | None, log_scale: Tensor, c: Curvature) -> bool:
    """Whether :func:`linear` can be called with these: one scale, and a product in float32."""
    return (
        not torch.compiler.is_compiling()
        and _takes(c, x, weight, bias, log_scale)
        and x.numel() > 0
        and log_scale.shape == (1,)
        and not torch.is_autocast_enabled(x.device.type)
        and active(x.device.type)
    )


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, log_scale: Tensor, c: float
) -> tuple[Tensor, Tensor]:
    """A Lorentz linear layer on rows ``(*, D)``: the product, and its tail in place; no autograd.

    Also returns what :func:`linear_backward` needs, two numbers a row.
    """
    b = None if bias is None else bias.contiguous()
    with _direct():
        out, kept = torch.ops.hyperkit_ext.linear(_flat(x), weight.contiguous(), b, log_scale, c)
    return out.view(*x.shape[:-1], out.shape[-1]), kept


def linear_backward(
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
    """Gradients of :func:`linear` for x, weight, bias and log_scale; no autograd. One not wanted is empty."""
    b = None if bias is None else bias.contiguous()
    given = (
        _flat(x),
        weight.contiguous(),
        b,
        log_scale,
        c,
        _flat(points),
        kept,
        _flat(grad),
        by_x,
        by_weight,
    )
    autocast = torch.is_autocast_enabled(x.device.type)
    with _direct(), _checks.full_precision(x) if autocast else contextlib.nullcontext():
        gx, gw, gb, gl = torch.ops.hyperkit_ext.linear_backward(*given)
    return gx.view(x.shape) if by_x else gx, gw, gb, gl


def adam(
    x: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    largest: Tensor | None,
    *,
    rate: float,
    betas: tuple[float, float],
    correction2: float,
    eps: float,
    weight_decay: float,
    c: Curvature,
    ball: bool = False,
) -> bool:
    """One step of Riemannian Adam on points, in place; False if PyTorch has to do it.

    Parameters
    ----------
    x, grad, m : Tensor
        Points, gradient, first moment, ``(*, d + 1)``; in the ball ``(*, d)``.
    v, largest : Tensor
        Second moment and its largest value, ``(*, 1)``; in the ball also ``(*, d)``, all columns equal.
    rate : float
        Step length over the first moment's correction.
    betas, correction2, eps, weight_decay, c
        As in :class:`hyperkit.optim.RiemannianAdam`; ``1 - beta2^step``.
    ball : bool
        Points of the Poincaré ball and not of the Lorentz model.
    """
    tensors = [t for t in (x, grad, m, v, largest) if t is not None]
    if not _takes(c, *tensors) or torch.compiler.is_compiling() or not active(x.device.type):
        return False
    if x.numel() == 0 or not all(t.is_contiguous() for t in tensors) or grad.requires_grad:
        return False
    views = [t.view(-1, t.shape[-1]) for t in (x, grad, m, v)]
    top = None if largest is None else largest.view(-1, largest.shape[-1])
    torch.ops.hyperkit_ext.adam_(
        *views,
        top,
        rate,
        *betas,
        correction2,
        eps,
        weight_decay,
        float(c),  # type: ignore[arg-type]
        ball,
    )
    return True


def conv_takes(c: Curvature, x: Tensor, weight: Tensor, *tensors: Tensor | None) -> bool:
    """Whether :func:`conv` can be called with these.

    On a GPU its backward pass adds atomically: not where deterministic algorithms are demanded.
    """
    if not _takes(c, x, weight, *tensors) or not active(x.device.type):
        return False
    if x.device.type == "cpu":
        return True
    k, o, d = weight.shape[0], weight.shape[1] - 1, weight.shape[2] - 1
    return not torch.are_deterministic_algorithms_enabled() and _fits(x.device.index, d, o, k)


@_constant
def _fits(index: int, d: int, o: int, k: int) -> bool:
    operators = importlib.import_module("hyperkit._ext.ops").gpu_operators(torch.device("cuda", index))
    return operators.fits(d, o, k)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    log_scale: Tensor,
    kernels: Tensor,
    source: Tensor,
    target: Tensor,
    pair_weight: Tensor | None,
    width: int | None,
    correlation: int,
    sigma: float,
    c: float,
) -> tuple[Tensor, Tensor]:
    """HKConv without the ``(pairs, K, o)`` tensor, after :func:`conv_takes`.

    Parameters
    ----------
    x : Tensor
        Nodes ``(N, d + 1)``.
    weight, bias, log_scale, kernels : Tensor
        ``(K, o + 1, d + 1)``, ``(K, o + 1)``, ``(K)``, ``(K, d + 1)``.
    source, target, pair_weight : Tensor
        Pairs ``(R)``, their weights ``(R, 1)``; with `width` the rows of a padded table.
    correlation : int
        0 distance, 1 linear, 2 gaussian.
    sigma, c : float
        Width of the correlation, curvature.

    Returns
    -------
    out, total : Tensor
        Points ``(N, o + 1)`` (the origin where the total is 0) and sums of weights ``(N, 1)``.
    """
    n = x.shape[0]
    pairs = source.shape[0]
    flat = x.new_ones(pairs) if pair_weight is None else pair_weight.reshape(-1)
    if width is not None:
        begin = torch.arange(n + 1, device=x.device) * width
    else:
        if torch.compiler.is_compiling() or not bool((target[1:] >= target[:-1]).all()):
            target, order = torch.sort(target, stable=True)
            source, flat = source[order], flat[order]
        begin = torch.searchsorted(target, torch.arange(n + 1, device=x.device))
    space, gate = weight[:, 1:], weight[:, 0]
    matrix = torch.cat([space[..., 1:].flatten(0, 1), gate[:, 1:]])
    first = torch.cat([space[..., 0].flatten(), gate[:, 0]])
    b = torch.cat([bias[:, 1:].flatten(), bias[:, 0]]) if bias is not None else x.new_zeros(first.shape[0])
    with _checks.full_precision(x):  # autocast would make the product inside half as long
        out, total, _ = torch.ops.hyperkit_ext.conv(
            x.contiguous(),
            matrix,
            first,
            b,
            log_scale.exp(),
            kernels.contiguous(),
            begin.contiguous(),
            source.contiguous(),
            flat.contiguous(),
            correlation,
            sigma,
            c,
        )
    return out, total


def takes_columns(packed: np.ndarray) -> bool:
    """Whether :func:`nearest_by_columns` takes these vectors: 1024 bits, of which one is not set."""
    # 1024 set bits do not fit the kernel's counter.
    return packed.shape[1] == 128 and active() and not bool((packed == 255).all(1).any())


def nearest_by_columns(
    packed: np.ndarray, columns: np.ndarray, starts: np.ndarray, popcounts: np.ndarray
) -> np.ndarray:
    """Largest Tanimoto similarity ``(n,)`` float32 of bit vectors to a set, after :func:`takes_columns`.

    The arrays are those of ``hyperkit_mol.moses``: uint8 ``(n, bytes)``, uint64 ``(bits, words)``, int64.
    """
    query, table, first, sizes = (
        torch.from_numpy(np.array(a, copy=not a.flags.writeable))
        for a in (packed, columns.view(np.int64), starts, popcounts)
    )
    return torch.ops.hyperkit_ext.tanimoto_columns(
        query.contiguous(), table.contiguous(), first.contiguous(), sizes.contiguous()
    ).numpy()
