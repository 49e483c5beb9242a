"""Isometries of the Lorentz model given as matrices."""

from __future__ import annotations

from torch import Tensor

from hyperkit._checks import Curvature, curvature, floats, full_precision, lorentz_points
from hyperkit.ops._lorentz_metric import from_space


def rotation(x: Tensor, matrix: Tensor, c: Curvature = 1.0) -> Tensor:
    """Turn points about the origin: ``(x_0, Q x_s)``.

    Parameters
    ----------
    x : Tensor
        Points ``(*, d + 1)``.
    matrix : Tensor
        Orthogonal matrices Q ``(d, d)`` or ``(*, d, d)``; a reflection where the determinant is -1.
    c : float or Tensor
        Curvature, > 0.

    Raises
    ------
    ValueError
        If the matrix does not fit the points.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.ops import lorentz
    >>> lorentz.rotation(torch.tensor([1.25, 0.75, 0.0]), torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    tensor([1.2500, 0.0000, 0.7500])
    """
    c = curvature(c)
    (x,) = lorentz_points(c, x=x)
    x, matrix = floats(x=x, matrix=matrix)
    _square(matrix, x.shape[-1] - 1, "d")
    with full_precision(x):
        return from_space((matrix @ x[..., 1:].unsqueeze(-1)).squeeze(-1), c)


def isometry(x: Tensor, matrix: Tensor, c: Curvature = 1.0) -> Tensor:
    """Move points by a Lorentz matrix, such as that of :meth:`hyperkit.Lorentz.random_isometry`: ``G x``.

    The time is taken from the space coordinates, so that the rounding of the product leaves no point off the
    hyperboloid.

    Parameters
    ----------
    x : Tensor
        Points ``(*, d + 1)``.
    matrix : Tensor
        Lorentz matrices that keep the direction of time, ``(d + 1, d + 1)`` or ``(*, d + 1, d + 1)``.
    c : float or Tensor
        Curvature, > 0.

    Raises
    ------
    ValueError
        If the matrix does not fit the points.
    """
    c = curvature(c)
    (x,) = lorentz_points(c, x=x)
    x, matrix = floats(x=x, matrix=matrix)
    _square(matrix, x.shape[-1], "d + 1")
    with full_precision(x):
        return from_space((matrix[..., 1:, :] @ x.unsqueeze(-1)).squeeze(-1), c)


def _square(matrix: Tensor, n: int, what: str) -> None:
    if matrix.shape[-2:] != (n, n):
        raise ValueError(f"matrix must end in {(n, n)} ({what}), got shape {tuple(matrix.shape)}")
