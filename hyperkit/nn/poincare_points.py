"""Poincaré ball: activation, dropout, residual, concatenation, centroid, batch normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hyperkit._checks import floats, width
from hyperkit.nn import _batch_norm
from hyperkit.nn._base import Activation, activation_of, one_of, positive, share
from hyperkit.nn.poincare import BallCurvature, BallLayer
from hyperkit.nn.pooling import _points, euclidean_split
from hyperkit.nn.residual import _log_weight
from hyperkit.ops import poincare as ops
from hyperkit.ops._rows import ball_from_space, ball_to_space

BallResidualKind = Literal["midpoint", "mobius", "space"]


def beta_ratio(whole: int, part: int) -> float:
    """``B(whole/2, 1/2)/B(part/2, 1/2)``: keeps the expected length of a tangent vector's coordinates."""

    def log_beta(n: int) -> float:
        return math.lgamma(0.5 * n) + math.lgamma(0.5) - math.lgamma(0.5 * (n + 1))

    return math.exp(log_beta(whole) - log_beta(part))


class PoincareActivation(BallLayer):
    """A function of the tangent vector at the origin: ``exp_0(f(log_0 x))`` (Ganea et al., NeurIPS 2018).

    Parameters
    ----------
    activation : str or callable
        See :class:`~hyperkit.nn.LorentzLinear`.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareActivation
    >>> PoincareActivation("relu")(torch.tensor([0.5, 0.0]))
    tensor([0.5000, 0.0000])
    """

    def __init__(self, activation: Activation = "relu", *, c: BallCurvature = 1.0) -> None:
        super().__init__(c)
        f = activation_of(activation)
        if f is None:
            raise ValueError("activation must be a name or a callable, got None")
        self.activation = f

    def forward(self, x: Tensor) -> Tensor:
        """Map points ``(*, d)`` to points ``(*, d)``."""
        return ops.expmap0(self.activation(ops.logmap0(x, self.c)), self.c)


class PoincareDropout(BallLayer):
    """Dropout of the coordinates of the tangent vector at the origin.

    Parameters
    ----------
    p : float
        Share of coordinates dropped while training.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareDropout
    >>> PoincareDropout(0.3).eval()(torch.tensor([0.5, 0.25]))
    tensor([0.5000, 0.2500])
    """

    def __init__(self, p: float = 0.5, *, c: BallCurvature = 1.0) -> None:
        super().__init__(c)
        share(p=p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Map points ``(*, d)`` to points ``(*, d)``."""
        (x,) = floats(x=x)
        if not self.training or self.p == 0.0:
            return x
        return ops.expmap0(nn.functional.dropout(ops.logmap0(x, self.c), self.p), self.c)


class PoincareResidual(BallLayer):
    """Join two branches: weighted Einstein midpoint, Möbius addition ``x (+) w (x) y``, or space coordinates.

    The addition is that of the Poincaré ResNet (van Spengler et al., ICCV 2023): the distance to the origin
    grows with the depth, and the points reach the edge of float32's ball. The midpoint lies between both
    points and commutes with isometries; a deep network stays where it is, its gradient does not. The sum of
    the Lorentz points' space coordinates is for deep networks with a norm before each branch: see
    :class:`~hyperkit.nn.LorentzResidual`.

    Parameters
    ----------
    c : float or PoincareBall
        Curvature, > 0, or a manifold.
    weight : float
        ``w > 0`` at the start; learnable, as its logarithm.
    kind : {"midpoint", "mobius", "space"}
        How to join.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareResidual
    >>> PoincareResidual()(torch.tensor([0.5, 0.0]), torch.tensor([-0.5, 0.0]))[0].item()
    0.0
    """

    def __init__(
        self, *, c: BallCurvature = 1.0, weight: float = 1.0, kind: BallResidualKind = "midpoint"
    ) -> None:
        super().__init__(c)
        one_of(kind=(kind, ("midpoint", "mobius", "space")))
        self.kind = kind
        self.log_weight = _log_weight(weight)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Join points ``(*, d)`` and ``(*, d)``."""
        weight, c = self.log_weight.exp(), self.c
        if self.kind == "mobius":
            return ops.mobius_add(x, ops.mobius_scalar_mul(weight, y, c), c)
        if self.kind == "space":
            return ball_from_space(torch.addcmul(ball_to_space(x, c), ball_to_space(y, c), weight), c)
        both = torch.stack(torch.broadcast_tensors(x, y), -2)
        weights = torch.cat([torch.ones_like(weight), weight]).to(both.dtype)
        return ops.centroid(both, weights.expand(both.shape[:-1]), None, self.c)

    def extra_repr(self) -> str:
        return f"kind={self.kind}"


class PoincareConcat(BallLayer):
    """Beta-concatenation (Shimizu et al., HNN++, ICLR 2021), and its inverse.

    Tangent vectors at the origin side by side, each scaled by ``B(n/2, 1/2)/B(n_i/2, 1/2)``, which keeps the
    expected size of a coordinate whatever the number of parts.

    Parameters
    ----------
    c : float or PoincareBall
        Curvature, > 0, or a manifold.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareConcat
    >>> join = PoincareConcat()
    >>> y = join(torch.tensor([0.1, 0.2]), torch.tensor([0.3]))
    >>> [round(v, 3) for v in join.split(y, [2, 1])[1].tolist()]
    [0.3]
    """

    def __init__(self, *, c: BallCurvature = 1.0) -> None:
        super().__init__(c)

    def forward(self, *xs: Tensor | Sequence[Tensor]) -> Tensor:
        """Join points ``(*, d_i)``, given one by one or as a list, to ``(*, sum d_i)``."""
        points = _points(xs)
        if not points:
            raise ValueError("points must hold at least one tensor, got none")
        n = sum(p.shape[-1] for p in points)
        parts = [beta_ratio(n, p.shape[-1]) * ops.logmap0(p, self.c) for p in points]
        return ops.expmap0(torch.cat(parts, -1), self.c)

    def split(self, x: Tensor, sizes: int | Sequence[int]) -> tuple[Tensor, ...]:
        """Inverse of the concatenation: parts of the given sizes, or that number of equal parts."""
        n = x.shape[-1]
        parts = euclidean_split(ops.logmap0(x, self.c), sizes)
        return tuple(ops.expmap0(v / beta_ratio(n, v.shape[-1]), self.c) for v in parts)


class PoincareCentroid(BallLayer):
    """Einstein midpoint, weighted and masked: see :func:`hyperkit.ops.poincare.centroid`.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareCentroid
    >>> PoincareCentroid()(torch.tensor([[0.5, 0.1], [-0.5, -0.1]])).abs().max().item() < 1e-6
    True
    """

    def __init__(self, *, c: BallCurvature = 1.0) -> None:
        super().__init__(c)

    def forward(self, x: Tensor, weights: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Centroid of ``(*, N, d)``; weights, mask ``(*, N)`` or ``(*, M, N)``; the origin if empty."""
        return ops.centroid(x, weights, mask, self.c)


class PoincareBatchNorm(BallLayer):
    """Batch normalisation about the Einstein midpoint, with running statistics.

    The batch's midpoint is moved to the origin by Möbius addition, an isometry; tangent vectors there are
    divided by the root of the Fréchet variance and multiplied by a learnable scale; the result is moved to a
    learnable point (van Spengler et al., Poincaré ResNet, ICCV 2023, which has no running statistics). Points
    that are all moved by one isometry give the same result up to a rotation.

    Parameters
    ----------
    features : int
        Dimension d of the ball.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.
    eps : float
        Added to the variance.
    momentum : float
        Weight of a batch in the running statistics. The running mean moves along the geodesic.
    dim : int
        The dimension that holds the coordinates: -1, or 1 for images ``(B, d, H, W)``.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareBatchNorm
    >>> x = 0.1 * torch.randn(8, 4, 5, 5)
    >>> PoincareBatchNorm(4, dim=1)(x).shape
    torch.Size([8, 4, 5, 5])
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        features: int,
        *,
        c: BallCurvature = 1.0,
        eps: float = 1e-5,
        momentum: float = 0.1,
        dim: int = -1,
    ) -> None:
        super().__init__(c)
        positive(features=features)
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum must be in [0, 1], got {momentum}")
        self.features, self.eps, self.momentum, self.dim = features, eps, momentum, dim
        self.scale = nn.Parameter(torch.ones(1))
        # A tangent vector at the origin: no constraint, any optimiser may move it.
        self.shift = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise points over all dimensions but that of the coordinates; the shape stays."""
        (x,) = floats(x=x)
        moved = x.movedim(self.dim, -1)
        width(moved, self.features, "x", f"features, in dimension {self.dim}")
        c = self.c
        flat = moved.reshape(-1, self.features)
        if self.training:
            if len(flat) < 2:
                raise ValueError(f"x must hold at least 2 points while training, got {len(flat)}")
            shift = ball_to_space(ops.expmap0(self.shift, c), c)
            made = _batch_norm.normalise(ball_to_space(flat, c), self.scale, shift, c, self.eps)
            if made is not None:
                assert not isinstance(c, Tensor)
                old = ball_to_space(self.running_mean, c)
                mean = _batch_norm.geodesic(self.momentum, old, made.mean, c)
                self.running_mean.copy_(ball_from_space(mean, c))
                self.running_var.lerp_(made.variance, self.momentum)
                return ball_from_space(made.points, c).reshape(moved.shape).movedim(-1, self.dim)
            mean = ops.centroid(flat, c=c)
        else:
            mean = self.running_mean
        v = ops.logmap0(ops.mobius_add(-mean, flat, c), c)
        if self.training:
            # A vector of coordinates at the origin has twice its length.
            variance = 4.0 * v.square().sum(-1).mean().unsqueeze(0)
            with torch.no_grad():
                self.running_mean.copy_(ops.geodesic(self.momentum, self.running_mean, mean, c))
                self.running_var.lerp_(variance, self.momentum)
        else:
            variance = self.running_var
        v = v * (self.scale * torch.rsqrt(variance + self.eps))
        out = ops.mobius_add(ops.expmap0(self.shift, c), ops.expmap0(v, c), c)
        return out.reshape(moved.shape).movedim(-1, self.dim)

    def extra_repr(self) -> str:
        return f"features={self.features}, dim={self.dim}"
