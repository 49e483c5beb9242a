"""Convolution in 1, 2 and 3 dimensions without unfolding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hyperkit._checks import floats
from hyperkit.nn._base import LorentzCurvature, LorentzLayer, lorentz_tail, positive

_CONV = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}


class _LorentzConv(LorentzLayer):
    """Lorentz direct concatenation of the points under the kernel, then a Lorentz linear layer.

    The concatenation's space part is the window itself and its time a function of the window's sum of squared
    times, so the layer is a plain convolution of the space parts plus a box sum: nothing is unfolded. Points
    outside (padding) are the origin, whose space part is 0.

    Layout: points are in the channel dimension, ``(B, d + 1, *size)``, as torch has it.
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
        c: LorentzCurvature = 1.0,
        bias: bool = True,
        scale: float = 10.0,
    ) -> None:
        super().__init__(c)
        positive(in_features=in_features, out_features=out_features, kernel_size=kernel_size, stride=stride)
        positive(dilation=dilation)
        if padding < 0:
            raise ValueError(f"padding must be >= 0, got {padding}")
        self.in_features, self.out_features = in_features, out_features
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.weight = nn.Parameter(torch.empty(out_features + 1, in_features, *[kernel_size] * self.ndim))
        self.time_weight = nn.Parameter(torch.zeros(out_features + 1))
        self.bias = nn.Parameter(torch.zeros(out_features + 1)) if bias else None
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        bound = (out_features + 1) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_features + 1, *size)`` to ``(B, out_features + 1, *new_size)``."""
        (x,) = floats(x=x)
        if x.ndim != self.ndim + 2 or x.shape[1] != self.in_features + 1:
            raise ValueError(
                f"x must have shape (B, {self.in_features + 1}, {', '.join(['n'] * self.ndim)}), "
                f"got {tuple(x.shape)}"
            )
        conv = _CONV[self.ndim]
        window = self.stride, self.padding, self.dilation
        space = x[:, 1:]
        z = conv(space, self.weight, self.bias, *window)
        # Time of the concatenation: sqrt(1/c + sum of |x_s|^2 over the window). Zeros of the padding are
        # origins and add nothing.
        squares = space.square().sum(1, keepdim=True)
        box = conv(squares, torch.ones_like(self.weight[:1, :1]), None, *window)
        time = torch.sqrt(box + 1.0 / self.c)
        z = z + time * self.time_weight.view(1, -1, *[1] * self.ndim)
        return lorentz_tail(z.movedim(1, -1), self.log_scale, self.c).movedim(-1, 1)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        )


class LorentzConv1d(_LorentzConv):
    """Lorentz convolution of sequences ``(B, d + 1, L)`` (Bdeir et al., HCNN, ICLR 2024).

    Parameters
    ----------
    in_features, out_features : int
        Dimensions of the manifolds.
    kernel_size, stride, padding, dilation : int
        As in :class:`torch.nn.Conv1d`; padding adds origins.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    bias : bool
        Add a bias.
    scale : float
        See :class:`~hyperkit.nn.LorentzLinear`.

    Examples
    --------
    >>> from hyperkit.nn import LorentzConv1d, geometry
    >>> x = geometry("lorentz").random_normal(2, 10, features=4).movedim(-1, 1)
    >>> LorentzConv1d(4, 6, 3, padding=1)(x).shape
    torch.Size([2, 7, 10])
    """

    ndim = 1


class LorentzConv2d(_LorentzConv):
    """Lorentz convolution of images ``(B, d + 1, H, W)``; arguments as in :class:`LorentzConv1d`.

    Examples
    --------
    >>> from hyperkit.nn import LorentzConv2d, geometry
    >>> x = geometry("lorentz").random_normal(2, 9, 9, features=4).movedim(-1, 1)
    >>> LorentzConv2d(4, 6, 3, stride=2)(x).shape
    torch.Size([2, 7, 4, 4])
    """

    ndim = 2


class LorentzConv3d(_LorentzConv):
    """Lorentz convolution of volumes ``(B, d + 1, D, H, W)``; arguments as in :class:`LorentzConv1d`.

    Examples
    --------
    >>> from hyperkit.nn import LorentzConv3d, geometry
    >>> x = geometry("lorentz").random_normal(1, 5, 5, 5, features=4).movedim(-1, 1)
    >>> LorentzConv3d(4, 6, 3)(x).shape
    torch.Size([1, 7, 3, 3, 3])
    """

    ndim = 3
