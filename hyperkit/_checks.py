"""What every operation asks of its arguments, and the debug mode that looks at the values.

The plain checks read only dtypes and shapes, so that they cost microseconds and trace under
``torch.compile``. Looking at values needs a synchronisation on a GPU; it happens inside
``with hyperkit.check():`` only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

Curvature = float | Tensor
"""A positive number or tensor ``c``; the sectional curvature is ``-c``."""

_HALF = (torch.float16, torch.bfloat16)
_values = False


@contextlib.contextmanager
def check(enabled: bool = True) -> Iterator[None]:
    """Check values as well as shapes inside the block: NaN, infinity, points off the manifold, c <= 0.

    Parameters
    ----------
    enabled : bool
        False switches the checks off again inside an outer block.

    Raises
    ------
    ValueError
        From any operation of hyperkit that is given a bad value; names the argument, the row and the amount.

    Examples
    --------
    >>> import torch, hyperkit
    >>> from hyperkit.ops import lorentz
    >>> with hyperkit.check():
    ...     lorentz.dist0(torch.tensor([[1.0, 0.0], [1.0, 0.5]]))
    Traceback (most recent call last):
    ...
    ValueError: x is off the hyperboloid of c=1.0: row (1,) has time 1, its space coordinates need 1.11803
    """
    global _values
    before, _values = _values, enabled
    try:
        yield
    finally:
        _values = before


def checking() -> bool:
    """Whether the value checks are on (never while compiling, where values do not exist)."""
    return _values and not torch.compiler.is_compiling()


def curvature(c: Curvature) -> Curvature:
    """Return `c` after refusing what cannot be a curvature.

    Raises
    ------
    TypeError
        If `c` is neither a number nor a floating-point tensor.
    ValueError
        If `c` is a number <= 0 (a tensor's values are looked at in :func:`check` mode only).
    """
    if isinstance(c, Tensor):
        if not c.is_floating_point():
            raise TypeError(f"c must be a floating-point tensor or a number > 0, got dtype {c.dtype}")
        if checking() and not bool((c > 0).all()):
            raise ValueError(f"c must be > 0, got {float(c.min())}")
        return c
    if not isinstance(c, int | float):
        raise TypeError(f"c must be a number > 0 or a tensor, got {type(c).__name__}")
    if not c > 0 or c == float("inf"):
        raise ValueError(f"c must be > 0 and finite, got {c}")
    return c


def floats(**tensors: Tensor) -> tuple[Tensor, ...]:
    """Check that all arguments are floating point of one dtype and device; autocast raises half to float32.

    Raises
    ------
    TypeError
        For integers, for half precision outside autocast and for mixed dtypes.
    ValueError
        For mixed devices, and in :func:`check` mode for NaN or infinity.
    """
    first_name, first = next(iter(tensors.items()))
    out = []
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {x.dtype}")
        if x.dtype in _HALF:
            if x.device.type == "meta" or not torch.is_autocast_enabled(x.device.type):
                raise TypeError(
                    f"{name} is {x.dtype}: manifold operations need float32 or float64. "
                    "Cast it, or run under torch.autocast, which does it for you"
                )
            x = x.float()
        if out and x.dtype != out[0].dtype:
            raise TypeError(
                f"{name} is {x.dtype} but {first_name} is {out[0].dtype}: give both the same dtype"
            )
        if x.device != first.device:
            raise ValueError(f"{name} is on {x.device} but {first_name} is on {first.device}")
        if checking():
            bad = ~torch.isfinite(x)
            if bool(bad.any()):
                raise ValueError(f"{name} has {int(bad.sum())} values that are NaN or infinite")
        out.append(x)
    return tuple(out)


def full_precision(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """A block without autocast: matrix products of points in half precision would leave the manifold.

    The meta device has no autocast to switch off.
    """
    if x.device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def lorentz_points(c: Curvature, **tensors: Tensor) -> tuple[Tensor, ...]:
    """:func:`floats`, then the shape ``(*, d + 1)``; in :func:`check` mode also that rows are points.

    Raises
    ------
    ValueError
        If a last dimension is smaller than 2 or differs, or (in check mode) a row is off the hyperboloid.
    """
    out = floats(**tensors)
    width = out[0].shape[-1] if out[0].ndim else 0
    for name, x in zip(tensors, out, strict=True):
        if x.ndim == 0 or x.shape[-1] < 2:
            raise ValueError(f"{name} must have shape (*, d + 1) with d >= 1, got {tuple(x.shape)}")
        if x.shape[-1] != width:
            first = next(iter(tensors))
            raise ValueError(f"{name} has last dimension {x.shape[-1]} but {first} has {width}")
        if checking():
            _on_hyperboloid(name, x, c)
    return out


def _on_hyperboloid(name: str, x: Tensor, c: Curvature) -> None:
    with torch.no_grad():
        need = torch.sqrt(1.0 / c + x[..., 1:].double().square().sum(-1))
        off = (x[..., 0] - need).abs() / need
        # A stored time is right to a few units in its last place; 1e-4 leaves room for long float32 sums.
        bad = (off > (1e-4 if x.dtype == torch.float32 else 1e-9)).nonzero()
        if len(bad):
            row = tuple(bad[0].tolist())
            value = c if isinstance(c, Tensor) and c.numel() > 1 else float(c)
            raise ValueError(
                f"{name} is off the hyperboloid of c={value}: row {row} has time {float(x[row][0]):.6g}, "
                f"its space coordinates need {float(need[row]):.6g}"
            )


def width(x: Tensor, expected: int, name: str, what: str) -> None:
    """Refuse a last dimension other than `expected`; `what` says what it stands for."""
    if x.ndim == 0 or x.shape[-1] != expected:
        raise ValueError(f"{name} must have last dimension {expected} ({what}), got shape {tuple(x.shape)}")
