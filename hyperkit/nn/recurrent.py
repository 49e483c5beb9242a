"""A gated recurrent unit on the Lorentz model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperkit._checks import width
from hyperkit.nn._base import LorentzCurvature, LorentzLayer
from hyperkit.nn.linear import LorentzLinear
from hyperkit.ops import lorentz as ops


class LorentzGRUCell(LorentzLayer):
    """Gated recurrent unit with points as input and state.

    The gates are sigmoids of a linear map of input and state, joined by direct concatenation: a reset gate
    for each space coordinate of the state and one update gate for the point. The candidate is a Lorentz
    linear layer of the input joined to the reset state. The new state is the Lorentz centroid of state and
    candidate with the update gate as weight: a convex combination, as in the Euclidean unit, and no
    exponential map.

    Parameters
    ----------
    in_features, features : int
        Dimensions of input and state.
    c : float or Lorentz
        Curvature, > 0, or a manifold.
    scale : float
        See :class:`~hyperkit.nn.LorentzLinear`.

    Examples
    --------
    >>> from hyperkit.nn import LorentzGRUCell, geometry
    >>> LorentzGRUCell(8, 4)(geometry("lorentz").random_normal(2, features=8)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self, in_features: int, features: int, *, c: LorentzCurvature = 1.0, scale: float = 10.0
    ) -> None:
        super().__init__(c)
        self.in_features, self.features = in_features, features
        joint = in_features + features
        # One number of the update gate for the point, one of the reset gate for each coordinate.
        self.gates = nn.Linear(joint + 1, features + 1)
        self.candidate = LorentzLinear(joint, features, c=self.manifold, scale=scale)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """New state ``(B, features + 1)`` from input ``(B, in_features + 1)`` and state (or the origin)."""
        width(x, self.in_features + 1, "x", "in_features + 1")
        c = self.c
        if h is None:
            h = ops.origin(*x.shape[:-1], self.features + 1, c=c, dtype=x.dtype, device=x.device)
        gates = torch.sigmoid(self.gates(ops.direct_concat([x, h], c)))
        update, reset = gates[..., :1].to(h.dtype), gates[..., 1:].to(h.dtype)
        rest = ops.from_space(reset * h[..., 1:], c)
        new = self.candidate(ops.direct_concat([x, rest], c))
        return ops.normalize(torch.lerp(new, h, update), c)


class LorentzGRU(LorentzLayer):
    """:class:`LorentzGRUCell` along sequences ``(B, T, in_features + 1)``; arguments as there.

    Examples
    --------
    >>> from hyperkit.nn import LorentzGRU, geometry
    >>> states, last = LorentzGRU(8, 4)(geometry("lorentz").random_normal(2, 5, features=8))
    >>> states.shape, last.shape
    (torch.Size([2, 5, 5]), torch.Size([2, 5]))
    """

    def __init__(
        self, in_features: int, features: int, *, c: LorentzCurvature = 1.0, scale: float = 10.0
    ) -> None:
        super().__init__(c)
        self.cell = LorentzGRUCell(in_features, features, c=self.manifold, scale=scale)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States of all steps ``(B, T, features + 1)`` and the last one ``(B, features + 1)``."""
        if x.ndim != 3 or x.shape[1] == 0:
            raise ValueError(f"x must have shape (B, T, in_features + 1) with T >= 1, got {tuple(x.shape)}")
        states = []
        for step in x.unbind(1):
            h = self.cell(step, h)
            states.append(h)
        return torch.stack(states, 1), states[-1]
