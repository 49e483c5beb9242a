"""Convolution and pooling on the Poincaré ball, without unfolding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperkit._checks import floats, full_precision
from hyperkit.nn._base import positive
from hyperkit.nn.conv import _CONV
from hyperkit.nn.poincare import BallCurvature, BallLayer, ball_tail, hyperplanes
from hyperkit.nn.poincare_points import beta_ratio
from hyperkit.ops import poincare as ops
from hyperkit.ops._scalar import cosh, sinhc


class _PoincareConv(BallLayer):
    """Beta-concatenation of the points under the kernel, then the Poincaré linear layer of HNN++.

    The concatenation is ``exp_0`` of the scaled tangent vectors side by side, so with ``v = log_0 x`` and q
    the box sum of ``|v|^2``, what the linear layer reads is ``sinh(2n)/n`` times a plain convolution of v and
    ``cosh(2n)``, ``n = sqrt(c q)``: nothing is unfolded. Points outside (padding) are the origin.

    Layout: coordinates are in the channel dimension, ``(B, d, *size)``, as torch has it.
    """

    ndim: int

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        c: BallCurvature = 1.0,
        bias: bool = True,
    ) -> None:
        super().__init__(c)
        positive(in_features=in_features, out_features=out_features, kernel_size=kernel_size, stride=stride)
        positive(dilation=dilation)
        if padding < 0:
            raise ValueError(f"padding must be >= 0, got {padding}")
        self.in_features, self.out_features = in_features, out_features
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        places = kernel_size**self.ndim
        self._beta = beta_ratio(in_features * places, in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features, *[kernel_size] * self.ndim))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        # As in PoincareLinear: a point near the origin keeps its size.
        nn.init.normal_(self.weight, std=0.5 * (in_features * places) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map points ``(B, in_features, *size)`` to points ``(B, out_features, *new_size)``."""
        (x,) = floats(x=x)
        if x.ndim != self.ndim + 2 or x.shape[1] != self.in_features:
            raise ValueError(
                f"x must have shape (B, {self.in_features}, {', '.join(['n'] * self.ndim)}), "
                f"got {tuple(x.shape)}"
            )
        c, conv = self.c, _CONV[self.ndim]
        window = self.stride, self.padding, self.dilation
        v = self._beta * ops.logmap0(x.movedim(1, -1), c).movedim(-1, 1)
        with full_precision(x):
            along = conv(v, self.weight, None, *window)
            q = conv(v.square().sum(1, keepdim=True), torch.ones_like(self.weight[:1, :1]), None, *window)
        n2 = (4.0 * c * q).movedim(1, -1)
        planes = hyperplanes(self.weight, self.bias, c)
        return ball_tail(along.movedim(1, -1), 2.0 * sinhc(n2), cosh(n2), *planes, c).movedim(-1, 1)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        )


class PoincareConv1d(_PoincareConv):
    """Poincaré convolution of sequences ``(B, d, L)`` (Shimizu et al., HNN++, ICLR 2021).

    Parameters
    ----------
    in_features, out_features : int
        Dimensions of the balls.
    kernel_size, stride, padding, dilation : int
        As in :class:`torch.nn.Conv1d`; padding adds origins.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.
    bias : bool
        Learn offsets.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareConv1d
    >>> PoincareConv1d(4, 6, 3, padding=1)(torch.zeros(2, 4, 10)).shape
    torch.Size([2, 6, 10])
    """

    ndim = 1


class PoincareConv2d(_PoincareConv):
    """Poincaré convolution of images ``(B, d, H, W)``; arguments as in :class:`PoincareConv1d`.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareConv2d
    >>> PoincareConv2d(4, 6, 3, stride=2)(torch.zeros(2, 4, 9, 9)).shape
    torch.Size([2, 6, 4, 4])
    """

    ndim = 2


class PoincareConv3d(_PoincareConv):
    """Poincaré convolution of volumes ``(B, d, D, H, W)``; arguments as in :class:`PoincareConv1d`.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareConv3d
    >>> PoincareConv3d(4, 6, 3)(torch.zeros(1, 4, 5, 5, 5)).shape
    torch.Size([1, 6, 3, 3, 3])
    """

    ndim = 3
