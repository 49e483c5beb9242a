"""Activation, dropout and batch normalisation of Lorentz points, through their space coordinates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperkit._checks import lorentz_points, width
from hyperkit.nn import _batch_norm
from hyperkit.nn._base import Activation, LorentzCurvature, LorentzLayer, activation_of, positive, share
from hyperkit.ops import lorentz as ops


class LorentzActivation(LorentzLayer):
    """A function of the space coordinates, the time over them (Hypformer, KDD 2024).

    Parameters
    ----------
    activation : str or callable
        See :class:`~hyperkit.nn.LorentzLinear`.
    c : float or Lorentz
        Curvature, > 0, or a manifold.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import LorentzActivation
    >>> LorentzActivation("relu")(torch.tensor([1.5, -0.5, 1.0]))
    tensor([1.4142, 0.0000, 1.0000])
    """

    def __init__(self, activation: Activation = "relu", *, c: LorentzCurvature = 1.0) -> None:
        super().__init__(c)
        f = activation_of(activation)
        if f is None:
            raise ValueError("activation must be a name or a callable, got None")
        self.activation = f

    def forward(self, x: Tensor) -> Tensor:
        """Map points ``(*, d + 1)`` to points ``(*, d + 1)``."""
        (x,) = lorentz_points(self.c, x=x)
        return ops.from_space(self.activation(x[..., 1:]), self.c)


class LorentzDropout(LorentzLayer):
    """Dropout of the space coordinates, the time over them.

    Parameters
    ----------
    p : float
        Share of coordinates dropped while training.
    c : float or Lorentz
        Curvature, > 0, or a manifold.

    Examples
    --------
    >>> from hyperkit.nn import LorentzDropout, geometry
    >>> x = geometry("lorentz").random_normal(2, features=8)
    >>> LorentzDropout(0.2)(x).shape
    torch.Size([2, 9])
    """

    def __init__(self, p: float = 0.5, *, c: LorentzCurvature = 1.0) -> None:
        super().__init__(c)
        share(p=p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Map points ``(*, d + 1)`` to points ``(*, d + 1)``."""
        if not self.training or self.p == 0.0:
            return x
        (x,) = lorentz_points(self.c, x=x)
        return ops.from_space(nn.functional.dropout(x[..., 1:], self.p), self.c)


class LorentzBatchNorm(LorentzLayer):
    """Batch normalisation about the Lorentz centroid with running statistics (Bdeir et al., ICLR 2024).

    The batch's centroid is moved to the origin by its boost, the normal coordinates there are divided by the
    root of the Fréchet variance and multiplied by a learnable scale, and the result is moved to a learnable
    point. Applied to points that are all moved by an isometry, the result is the same up to a rotation.

    Parameters
    ----------
    features : int
        Dimension d of the manifold.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    eps : float
        Added to the variance.
    momentum : float
        Weight of a batch in the running statistics. The running mean moves along the geodesic.

    Examples
    --------
    >>> from hyperkit.nn import LorentzBatchNorm, geometry
    >>> x = geometry("lorentz").random_normal(32, features=8)
    >>> LorentzBatchNorm(8)(x).shape
    torch.Size([32, 9])
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, features: int, *, c: LorentzCurvature = 1.0, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__(c)
        positive(features=features)
        self.features, self.eps, self.momentum = features, eps, momentum
        self.scale = nn.Parameter(torch.ones(1))
        # Space coordinates of the point that the mean goes to: no constraint, any optimiser may move them.
        self.shift = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))  # space coordinates as well
        self.register_buffer("running_var", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise points ``(*, d + 1)`` over all leading dimensions."""
        width(x, self.features + 1, "x", "features + 1")
        c = self.c
        flat = x.reshape(-1, self.features + 1)
        if self.training:
            if len(flat) < 2:
                raise ValueError(f"x must hold at least 2 points while training, got {len(flat)}")
            made = _batch_norm.normalise(flat[..., 1:], self.scale, self.shift, c, self.eps)
            if made is not None:
                assert not isinstance(c, Tensor)
                mean = _batch_norm.geodesic(self.momentum, self.running_mean, made.mean, c)
                self.running_mean.copy_(mean)
                self.running_var.lerp_(made.variance, self.momentum)
                return ops.from_space(made.points, c).reshape(x.shape)
            mean = ops.centroid(flat, c=c)
        else:
            mean = ops.from_space(self.running_mean, c)
        v = _batch_norm.seen_from(mean, flat, c)
        if self.training:
            variance = v.square().sum(-1).mean().unsqueeze(0)
            with torch.no_grad():
                old = ops.from_space(self.running_mean, c)
                self.running_mean.copy_(ops.geodesic(self.momentum, old, mean, c)[1:])
                self.running_var.lerp_(variance, self.momentum)
        else:
            variance = self.running_var
        v = v * (self.scale * torch.rsqrt(variance + self.eps))
        out = ops.boost(ops.expmap0(v, c), ops.from_space(self.shift, c), c)
        return out.reshape(x.shape)
