"""Kernel points of :class:`~hyperkit.nn.HKConv`: solved once, kept on disk, shipped for common sizes.

An arrangement is stored as tangent vectors at the origin, the outermost of length 1, so that a layer scales
it to its extent and moves it to its curvature. K points, one of them the origin, span K - 1 dimensions at
most. So a problem is solved in ``m = min(d, K - 1)`` dimensions and then set into d by a fixed random frame.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperkit._checks import curvature
from hyperkit.nn._base import positive
from hyperkit.ops import lorentz as ops

_log = logging.getLogger(__name__)

# Part of every file's name: a change of the energy or of the solver must not meet old files.
VERSION = 1
SHIPPED = Path(__file__).with_name("kernel_points.npz")
# Largest partial derivative of the energy left at a solution.
STATIONARY = 1e-6


def energy(tangents: Tensor, c: float = 1.0) -> Tensor:
    """Energy of kernel points, the first at the origin (Qu and Zou, arXiv:2306.08862, equation 3).

    ``sum_k sum_{l != k} 1/d(x_l, x_k) + sum_k d(o, x_k)``: repulsion of every (ordered) pair and attraction
    to the origin. The released code differs from the paper: it counts each pair once and attracts ten times
    as strongly.

    Parameters
    ----------
    tangents : Tensor
        The other points' tangent vectors at the origin, shape ``(K - 1, d)``.
    c : float
        Curvature, > 0.

    Returns
    -------
    Tensor
        A number.
    """
    points = ops.expmap0(torch.nn.functional.pad(tangents, (1, 0)), c)
    to_origin = torch.linalg.vector_norm(tangents, dim=-1)
    first, second = torch.triu_indices(len(points), len(points), 1)
    between = ops.dist(points[first], points[second], c)
    return 2.0 * (1.0 / to_origin).sum() + 2.0 * (1.0 / between).sum() + to_origin.sum()


def solve(num_kernels: int, dim: int, c: float = 1.0) -> np.ndarray:
    """Minimise :func:`energy` in float64 from fixed starts; the best is kept.

    Parameters
    ----------
    num_kernels : int
        K.
    dim : int
        Dimension, at most K - 1: more are never used.
    c : float
        Curvature, > 0.

    Returns
    -------
    ndarray
        Shape ``(K, dim)``: zeros for the origin, then the other points, the outermost of length 1.

    Raises
    ------
    RuntimeError
        If no start has come to a stationary point.
    """
    if num_kernels == 1:
        return np.zeros((1, dim))
    generator = torch.Generator().manual_seed(1000 * num_kernels + dim)
    # With room for a regular simplex there is one minimum; in fewer dimensions there are many.
    starts = 1 if dim == num_kernels - 1 else 6
    best, lowest = None, math.inf
    for _ in range(starts):
        v = torch.randn(num_kernels - 1, dim, generator=generator, dtype=torch.float64)
        value, slope, v = _descend(v, c)
        # Starts that end in mirror images of one minimum differ by rounding; the first one is kept.
        if slope <= STATIONARY and value < lowest * (1.0 - 1e-9):
            best, lowest = v, value
    if best is None:
        raise RuntimeError(f"no kernel points found for num_kernels={num_kernels}, dim={dim}, c={c}")
    best = best / torch.linalg.vector_norm(best, dim=-1).max()
    return torch.nn.functional.pad(best, (0, 0, 1, 0)).numpy()


def _descend(v: Tensor, c: float) -> tuple[float, float, Tensor]:
    v = v.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [v],
        max_iter=2000,
        tolerance_grad=1e-10,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = energy(v, c)
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(closure)
        value = energy(v, c)
        (grad,) = torch.autograd.grad(value, v)
    return float(value.detach()), float(grad.abs().max()), v.detach()


def cache_folder() -> Path:
    """Where solved arrangements are kept: ``$HYPERKIT_CACHE``, else the user's cache folder."""
    root = os.environ.get("HYPERKIT_CACHE")
    if root:
        return Path(root) / "kernel_points"
    if importlib.util.find_spec("platformdirs") is not None:
        import platformdirs

        return Path(platformdirs.user_cache_dir("hyperkit")) / "kernel_points"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "hyperkit" / "kernel_points"


def _name(num_kernels: int, dim: int, c: float) -> str:
    return f"v{VERSION}_K{num_kernels}_d{dim}_c{c!r}"


@functools.cache
def _shipped() -> dict[str, np.ndarray]:
    if not SHIPPED.exists():
        return {}
    with np.load(SHIPPED) as file:
        return {name: file[name] for name in file.files}


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        _log.warning("solving kernel points again: %s cannot be read (%s)", path, error)
        return None
    longest = np.linalg.norm(found, axis=-1).max() if found.shape == shape else math.nan
    if found.dtype != np.float64 or not abs(longest - 1.0) < 1e-9:
        _log.warning("solving kernel points again: %s does not hold an arrangement of shape %s", path, shape)
        return None
    return found


def _write(path: Path, found: np.ndarray) -> None:
    """Write whole or not at all: readers in other processes see the old file or the new one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, found)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        _log.warning("kernel points are not kept for the next time: %s cannot be written (%s)", path, error)


@functools.lru_cache(maxsize=256)
def _arrangement(num_kernels: int, dim: int, c: float) -> np.ndarray:
    name = _name(num_kernels, dim, c)
    shipped = _shipped().get(name)
    if shipped is not None:
        return shipped
    path = cache_folder() / f"{name}.npy"
    found = _read(path, (num_kernels, dim))
    if found is None:
        found = solve(num_kernels, dim, c)
        _write(path, found)
    return found


@functools.lru_cache(maxsize=256)
def _frame(rows: int, dim: int) -> np.ndarray:
    """Orthonormal rows ``(rows, dim)`` in fixed random directions: Gram-Schmidt, twice for full accuracy."""
    out = np.random.RandomState(1000 * rows + dim).standard_normal((rows, dim))
    for i in range(rows):
        for _ in range(2):
            out[i] -= (out[:i] @ out[i]) @ out[:i]
        out[i] /= np.linalg.norm(out[i])
    return out


def kernel_points(num_kernels: int, features: int, c: float = 1.0, extent: float = 0.66) -> Tensor:
    """Kernel points as tangent vectors at the origin, the same ones at every call and on every machine.

    They minimise :func:`energy` for the curvature `c` in float64, and are then scaled so that the outermost
    is at the distance `extent` from the origin. Common sizes are shipped; others are solved at the first
    call (about a second) and kept in ``$HYPERKIT_CACHE`` or the user's cache folder.

    Parameters
    ----------
    num_kernels : int
        K, >= 1. The first point is the origin.
    features : int
        Dimension d of the manifold.
    c : float
        Curvature, > 0.
    extent : float
        Distance of the outermost point, > 0.

    Returns
    -------
    Tensor
        Shape ``(K, d)``, float64. ``lorentz.expmap0(pad(v, (1, 0)), c)`` are the points.

    Raises
    ------
    ValueError
        If a size is below 1, or `c` or `extent` is not positive.

    Examples
    --------
    >>> from hyperkit.nn import kernel_points
    >>> v = kernel_points(4, 16)
    >>> [round(float(r), 2) for r in v.norm(dim=-1)]
    [0.0, 0.66, 0.66, 0.66]
    """
    positive(num_kernels=num_kernels, features=features)
    c = float(curvature(float(c)))
    if not 0.0 < extent < math.inf:
        raise ValueError(f"extent must be > 0 and finite, got {extent}")
    if num_kernels == 1:
        return torch.zeros(1, features, dtype=torch.float64)
    dim = min(features, num_kernels - 1)
    found = _arrangement(num_kernels, dim, c)
    if dim < features:
        found = found @ _frame(dim, features)
    return torch.from_numpy(extent * found)


def _ship(most: int = 12) -> None:
    """Make the file of shipped arrangements: ``python -m hyperkit.nn._kernel_points``."""
    sizes = [(k, m) for k in range(2, most + 1) for m in range(1, k)]
    found: dict[str, Any] = {_name(k, m, 1.0): solve(k, m) for k, m in sizes}
    np.savez_compressed(SHIPPED, **found)


if __name__ == "__main__":
    _ship()
