"""Average pooling of sequences, images and volumes by the centroid of each window."""

from __future__ import annotations

from torch import Tensor, nn

from hyperkit._checks import floats
from hyperkit.nn._base import LorentzCurvature, LorentzLayer, positive
from hyperkit.nn.poincare import BallCurvature, BallLayer
from hyperkit.ops import lorentz as ops

_POOL = {1: nn.functional.avg_pool1d, 2: nn.functional.avg_pool2d, 3: nn.functional.avg_pool3d}


def _pool(x: Tensor, ndim: int, kernel_size: int, stride: int | None, c: float | Tensor) -> Tensor:
    """Lorentz centroid of each window; points in the channels ``(B, d + 1, *size)``."""
    if x.ndim != ndim + 2:
        raise ValueError(f"x must have {ndim + 2} dimensions (B, coordinates, *size), got {tuple(x.shape)}")
    mean = _POOL[ndim](x, kernel_size, stride).movedim(1, -1)
    return ops.normalize(mean, c).movedim(-1, 1)


class _LorentzPool(LorentzLayer):
    ndim: int

    def __init__(self, kernel_size: int, stride: int | None = None, *, c: LorentzCurvature = 1.0) -> None:
        super().__init__(c)
        positive(kernel_size=kernel_size, stride=kernel_size if stride is None else stride)
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, d + 1, *size)`` to ``(B, d + 1, *new_size)``."""
        (x,) = floats(x=x)
        return _pool(x, self.ndim, self.kernel_size, self.stride, self.c)


class LorentzAvgPool1d(_LorentzPool):
    """Average pooling by the Lorentz centroid of each window of ``(B, d + 1, L)``.

    Parameters
    ----------
    kernel_size : int
        Side of the window.
    stride : int, optional
        The kernel size by default.
    c : float or Lorentz
        Curvature, > 0, or a manifold.

    Examples
    --------
    >>> from hyperkit.nn import LorentzAvgPool1d, geometry
    >>> x = geometry("lorentz").random_normal(2, 8, features=4).movedim(-1, 1)
    >>> LorentzAvgPool1d(2)(x).shape
    torch.Size([2, 5, 4])
    """

    ndim = 1


class LorentzAvgPool2d(_LorentzPool):
    """The same for images ``(B, d + 1, H, W)``; arguments as in :class:`LorentzAvgPool1d`.

    Examples
    --------
    >>> from hyperkit.nn import LorentzAvgPool2d, geometry
    >>> x = geometry("lorentz").random_normal(2, 6, 6, features=3).movedim(-1, 1)
    >>> LorentzAvgPool2d(2)(x).shape
    torch.Size([2, 4, 3, 3])
    """

    ndim = 2


class LorentzAvgPool3d(_LorentzPool):
    """The same for volumes ``(B, d + 1, D, H, W)``; arguments as in :class:`LorentzAvgPool1d`.

    Examples
    --------
    >>> from hyperkit.nn import LorentzAvgPool3d, geometry
    >>> x = geometry("lorentz").random_normal(2, 4, 4, 4, features=3).movedim(-1, 1)
    >>> LorentzAvgPool3d(2)(x).shape
    torch.Size([2, 4, 2, 2, 2])
    """

    ndim = 3


class _PoincarePool(BallLayer):
    ndim: int

    def __init__(self, kernel_size: int, stride: int | None = None, *, c: BallCurvature = 1.0) -> None:
        super().__init__(c)
        positive(kernel_size=kernel_size, stride=kernel_size if stride is None else stride)
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, d, *size)`` to ``(B, d, *new_size)``."""
        (x,) = floats(x=x)
        points = ops.from_poincare(x.movedim(1, -1), self.c).movedim(-1, 1)
        pooled = _pool(points, self.ndim, self.kernel_size, self.stride, self.c)
        return ops.to_poincare(pooled.movedim(1, -1), self.c).movedim(-1, 1)


class PoincareAvgPool1d(_PoincarePool):
    """Average pooling by the Einstein midpoint of each window of ``(B, d, L)``.

    Parameters
    ----------
    kernel_size : int
        Side of the window.
    stride : int, optional
        The kernel size by default.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareAvgPool1d
    >>> PoincareAvgPool1d(2)(torch.zeros(2, 4, 8)).shape
    torch.Size([2, 4, 4])
    """

    ndim = 1


class PoincareAvgPool2d(_PoincarePool):
    """The same for images ``(B, d, H, W)``; arguments as in :class:`PoincareAvgPool1d`.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareAvgPool2d
    >>> PoincareAvgPool2d(2)(torch.zeros(2, 4, 8, 8)).shape
    torch.Size([2, 4, 4, 4])
    """

    ndim = 2


class PoincareAvgPool3d(_PoincarePool):
    """The same for volumes ``(B, d, D, H, W)``; arguments as in :class:`PoincareAvgPool1d`.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareAvgPool3d
    >>> PoincareAvgPool3d(2)(torch.zeros(1, 4, 4, 4, 4)).shape
    torch.Size([1, 4, 2, 2, 2])
    """

    ndim = 3
