"""Functions of distances and angles: envelope, radial bases, Legendre polynomials."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["CAP_START", "RadialBasis", "envelope", "legendre", "soft_cap"]

# Soft rank from which neighbours fade, as a part of the cap.
CAP_START = 0.7


def envelope(distance: Tensor, cutoff: float) -> Tensor:
    """Polynomial that falls from 1 to 0 at `cutoff`, with two zero derivatives there.

    ``1 - 28 x^6 + 48 x^7 - 21 x^8`` with ``x = d/cutoff`` (Gasteiger et al., DimeNet, ICLR 2020, equation 8,
    p = 6), computed as ``(1 - x)^3 (1 + 3x + 6x^2 + 10x^3 + 15x^4 + 21x^5)``: positive terms only, where the
    first form is lost in rounding near the cutoff. The third derivative jumps there.
    """
    x = (distance / cutoff).clamp(max=1.0)
    return (1.0 - x) ** 3 * (1.0 + x * (3.0 + x * (6.0 + x * (10.0 + x * (15.0 + x * 21.0)))))


class RadialBasis(nn.Module):
    """Distances ``(*,)`` to radial functions ``(*, size)``.

    Parameters
    ----------
    kind : str
        "bessel": ``sin(n pi d/cutoff)/d`` (DimeNet), good at high resolution with few functions; "gaussian":
        Gaussians over [0, cutoff], as EScAIP has them.
    size : int
    cutoff : float
        Å.
    """

    centers: Tensor

    def __init__(self, kind: str, size: int, cutoff: float) -> None:
        super().__init__()
        self.kind, self.cutoff = kind, cutoff
        if kind == "bessel":
            values = torch.arange(1, size + 1, dtype=torch.float64) * math.pi
        else:
            values = torch.linspace(0.0, cutoff, size, dtype=torch.float64)
        self.register_buffer("centers", values.to(torch.get_default_dtype()), persistent=False)
        self.width = cutoff / (size - 1)

    def forward(self, distance: Tensor) -> Tensor:
        d = distance.unsqueeze(-1)
        if self.kind == "bessel":
            # The factor keeps each function of order one over [1 Å, cutoff].
            return torch.sin(d * (self.centers / self.cutoff)) * (math.sqrt(2.0 * self.cutoff) / 2.0 / d)
        return torch.exp(-0.5 * ((d - self.centers) / self.width).square())


def legendre(cosine: Tensor, degrees: int) -> tuple[Tensor, ...]:
    """``P_0 .. P_{degrees-1}`` of `cosine` ``(N, M, M)``.

    One tensor each: the derivative of a part of a stack is a stack of zeros around it.
    """
    values = [torch.ones_like(cosine), cosine]
    for l in range(2, degrees):
        values.append(((2 * l - 1) * cosine * values[-1] - (l - 1) * values[-2]) / l)
    return tuple(values[:degrees])


def soft_cap(distance: Tensor, weight: Tensor, limit: int, softness: float = 0.2) -> Tensor:
    """Factor that fades out all but the nearest neighbours, smooth in every distance.

    The soft rank of a neighbour is the number of nearer ones, each counted by its envelope times
    ``sigmoid((d_ij - d_ik)/softness)``. The factor is 1 up to rank ``0.7 limit`` and exactly 0 from `limit`
    on.

    Parameters
    ----------
    distance : Tensor
        ``(N, M)``, Å.
    weight : Tensor
        Envelopes ``(N, M)``.
    limit : int
    softness : float
        Å.
    """
    nearer = torch.sigmoid((distance.unsqueeze(2) - distance.unsqueeze(1)) / softness)
    # An atom is not its own predecessor: it would count as half of one.
    rank = (nearer * weight.unsqueeze(1)).sum(-1) - 0.5 * weight
    y = ((limit - rank) / ((1.0 - CAP_START) * limit)).clamp(0.0, 1.0)
    return y**3 * (10.0 - 15.0 * y + 6.0 * y**2)
