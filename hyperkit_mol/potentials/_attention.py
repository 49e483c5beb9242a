"""Attention of an atom's neighbours on each other, with a second derivative and no jump at the cutoff."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hyperkit.ops import lorentz

__all__ = ["NeighborAttention"]


class NeighborAttention(nn.Module):
    """Multi-head self-attention over each atom's M neighbours.

    The logit of neighbours j and k of one atom is ``sum_l P_l(cos theta_jk) <q_jl, k_kl>/sqrt(d) + b_k``
    (queries and keys split over Legendre degrees: equal to scalar products of ``q_l (x) Y_l(direction)``,
    hence invariant to rotation), the weight

        w_jk = u_k exp(logit_jk) / (1 + sum_k' u_k' exp(logit_jk'))

    with the envelope u. A neighbour at the cutoff has u = 0 and takes no part, and the 1 in the denominator
    is a place to rest: when the last neighbour leaves, its weight goes to 0, where a plain softmax would
    divide 0 by 0. With ``attention="lorentz"`` queries, keys and values are points of the Lorentz model over
    the same space coordinates: the logit is minus the squared Lorentzian distance over a learned temperature,
    as in :class:`hyperkit.nn.LorentzAttention`, values are joined by the Lorentz centroid, and the place to
    rest is the origin.

    The softmax is written out because PyTorch's ``scaled_dot_product_attention`` has no second derivative,
    which conservative forces need in training.

    Parameters
    ----------
    features : int
        Width H of a message.
    num_heads : int
    degrees : int
        Legendre degrees; divides ``features / num_heads``.
    radial : int
        Radial functions of the bias b.
    attention : str
        "euclidean" or "lorentz".
    c : float
        Curvature parameter of the Lorentz model, > 0.
    """

    def __init__(
        self,
        features: int,
        num_heads: int,
        degrees: int,
        radial: int,
        attention: str = "euclidean",
        c: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.degrees = num_heads, degrees
        self.head_features = features // num_heads
        self.lorentz, self.c = attention == "lorentz", c
        self.project = nn.Linear(features, 3 * features)
        self.bias = nn.Linear(radial, num_heads, bias=False)
        self.out = nn.Linear(features, features)
        if self.lorentz:
            self.log_temperature = nn.Parameter(
                torch.full((num_heads, 1, 1), 0.5 * math.log(self.head_features))
            )

    def forward(self, message: Tensor, envelope: Tensor, legendre: Sequence[Tensor], basis: Tensor) -> Tensor:
        """Attend.

        Parameters
        ----------
        message : Tensor
            ``(N, M, H)``.
        envelope : Tensor
            ``(N, M)``, 0 for padding.
        legendre : sequence of Tensor
            ``(N, M, M)`` of each degree.
        basis : Tensor
            ``(N, M, radial)``.

        Returns
        -------
        Tensor
            ``(N, M, H)``.
        """
        n, m, _ = message.shape
        heads = self.num_heads
        q, k, v = self.project(message).view(n, m, 3, heads, self.head_features).permute(2, 0, 3, 1, 4)
        bias = self.bias(basis).transpose(1, 2).unsqueeze(2)
        if self.lorentz:
            factor = 2.0 * torch.exp(-self.log_temperature)
            logits = self._products(q * factor, k, legendre)
            # <q, k>_L = <q, k> - t_q t_k; the constant 2/c of the squared distance keeps logits near 0.
            t_q, t_k = self._time(q), self._time(k)
            logits = logits + factor * (1.0 / self.c - t_q * t_k.transpose(-1, -2))
        else:
            logits = self._products(q * self.head_features**-0.5, k, legendre)
        weight, rest = (self._twice if self.training else self._once)(logits, bias, envelope)
        if self.lorentz:
            points = lorentz.from_space(v, self.c)
            mean = weight @ points
            origin = torch.zeros_like(mean)
            origin[..., 0] = rest.squeeze(-1) / math.sqrt(self.c)
            joined = lorentz.normalize(mean + origin, self.c)[..., 1:]
        else:
            joined = weight @ v
        return self.out(joined.transpose(1, 2).reshape(n, m, -1))

    @staticmethod
    def _once(logits: Tensor, bias: Tensor, envelope: Tensor) -> tuple[Tensor, Tensor]:
        """Weights, and what rests, by the fused softmax: a third of the passes over the largest tensors."""
        # The bound only keeps a slope finite that is multiplied by a weight of 0.
        level = envelope.clamp(min=1e-30).log().masked_fill(envelope == 0, -math.inf)
        logits = logits + (bias + level[:, None, None, :])
        weight = torch.cat([torch.zeros_like(logits[..., :1]), logits], -1).softmax(-1)
        return weight[..., 1:], weight[..., :1]

    @staticmethod
    def _twice(logits: Tensor, bias: Tensor, envelope: Tensor) -> tuple[Tensor, Tensor]:
        """The same where it is differentiated twice: without a logarithm of what may be next to nothing."""
        logits = logits + bias
        # The highest term cancels from value and derivatives; it only keeps exp in range. Padding is left out
        # of it: a wild logit there would push all others to 0.
        with torch.no_grad():
            level = envelope.clamp(min=1e-30).log().masked_fill(envelope == 0, -math.inf)
            top = (logits + level[:, None, None, :]).amax(-1, keepdim=True).clamp(min=0.0)
            shift = top.where(envelope[:, None, None, :] > 0, math.inf)
        weight = envelope[:, None, None, :] * torch.exp(logits - shift)
        rest = torch.exp(-top)
        total = rest + weight.sum(-1, keepdim=True)
        return weight / total, rest / total

    def _products(self, q: Tensor, k: Tensor, legendre: Sequence[Tensor]) -> Tensor:
        n, heads, m, _ = q.shape
        if self.degrees == 1:
            return q @ k.transpose(-1, -2)
        # One degree at a time is less to read and write than all of them and a sum; P_0 is 1.
        first, *queries = q.reshape(n, heads, m, self.degrees, -1).unbind(3)
        start, *keys = k.reshape(n, heads, m, self.degrees, -1).unbind(3)
        total = first @ start.mT
        for one, other, factor in zip(queries, keys, legendre[1:], strict=True):
            total = torch.addcmul(total, one @ other.mT, factor.unsqueeze(1))
        return total

    def _time(self, space: Tensor) -> Tensor:
        return torch.sqrt(space.square().sum(-1, keepdim=True) + 1.0 / self.c)
