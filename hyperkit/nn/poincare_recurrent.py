"""A gated recurrent unit on the Poincaré ball."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperkit._checks import full_precision, width
from hyperkit.nn._base import Activation, activation_of, positive
from hyperkit.nn.poincare import BallCurvature, BallLayer
from hyperkit.ops import poincare as ops


class PoincareGRUCell(BallLayer):
    """Gated recurrent unit of hyperbolic neural networks (Ganea et al., NeurIPS 2018, section 3.3).

    ``r = sigmoid(log_0(W_r (x) h (+) U_r (x) x (+) b_r))``, z likewise,
    ``h' = f((W diag(r)) (x) h (+) U (x) x (+) b)`` and the new state ``h (+) diag(z) (x) (-h (+) h')``, with
    Möbius addition, Möbius matrix products and f applied to the tangent vector at the origin.

    Parameters
    ----------
    in_features, features : int
        Dimensions of input and state.
    c : float or PoincareBall
        Curvature, > 0, or a manifold.
    activation : str or callable, optional
        f; none by default, as in the paper: the ball itself is bounded.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareGRUCell
    >>> PoincareGRUCell(4, 3)(torch.zeros(2, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        c: BallCurvature = 1.0,
        activation: Activation = None,
    ) -> None:
        super().__init__(c)
        positive(in_features=in_features, features=features)
        self.in_features, self.features = in_features, features
        self.activation = activation_of(activation)
        # Rows: update, reset, candidate. Biases are tangent vectors at the origin.
        self.weight_input = nn.Parameter(torch.empty(3, features, in_features))
        self.weight_state = nn.Parameter(torch.empty(3, features, features))
        self.bias = nn.Parameter(torch.zeros(3, features))
        bound = features**-0.5
        nn.init.uniform_(self.weight_input, -bound, bound)
        nn.init.uniform_(self.weight_state, -bound, bound)

    def _products(self, x: Tensor) -> Tensor:
        """``W (x) x`` of the three gates, ``(3, *, features)``."""
        with full_precision(x):
            v = ops.logmap0(x, self.c) @ self.weight_input.flatten(0, 1).transpose(0, 1)
        return ops.expmap0(v.unflatten(-1, (3, self.features)).movedim(-2, 0), self.c)

    def _offsets(self, shape: torch.Size) -> Tensor:
        """The biases as points, ``(3, *shape, features)``."""
        bias = ops.expmap0(self.bias, self.c)
        return bias.view(3, *[1] * len(shape), -1).expand(3, *shape, -1).contiguous()

    def _step(self, products: Tensor, offsets: Tensor, h: Tensor) -> Tensor:
        c = self.c
        v = ops.logmap0(h, c)
        turn = self.weight_state.transpose(-1, -2)
        with full_precision(h):
            state = v @ turn[:2].view(2, *[1] * (v.ndim - 2), *turn.shape[1:])
        inner = ops.mobius_add(ops.expmap0(state, c), products[:2], c)
        gates = torch.sigmoid(ops.logmap0(ops.mobius_add(inner, offsets[:2], c), c))
        update, reset = gates.unbind(0)
        with full_precision(h):
            state = (reset * v) @ turn[2]
        inner = ops.mobius_add(ops.expmap0(state, c), products[2], c)
        new = ops.mobius_add(inner, offsets[2], c)
        if self.activation is not None:
            new = ops.expmap0(self.activation(ops.logmap0(new, c)), c)
        step = ops.logmap0(ops.mobius_add(-h, new, c), c)
        return ops.mobius_add(h, ops.expmap0(update * step, c), c)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """New state ``(*, features)`` from input ``(*, in_features)`` and state (or the origin)."""
        width(x, self.in_features, "x", "in_features")
        if h is None:
            h = x.new_zeros(*x.shape[:-1], self.features)
        width(h, self.features, "h", "features")
        return self._step(self._products(x), self._offsets(h.shape[:-1]), h)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, features={self.features}"


class PoincareGRU(BallLayer):
    """:class:`PoincareGRUCell` along sequences ``(B, T, in_features)``; arguments as there.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import PoincareGRU
    >>> states, last = PoincareGRU(4, 3)(torch.zeros(2, 5, 4))
    >>> states.shape, last.shape
    (torch.Size([2, 5, 3]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        c: BallCurvature = 1.0,
        activation: Activation = None,
    ) -> None:
        super().__init__(c)
        self.cell = PoincareGRUCell(in_features, features, c=self.manifold, activation=activation)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States of all steps ``(B, T, features)`` and the last one ``(B, features)``."""
        if x.ndim != 3 or x.shape[1] == 0:
            raise ValueError(f"x must have shape (B, T, in_features) with T >= 1, got {tuple(x.shape)}")
        cell, states = self.cell, []
        width(x, cell.in_features, "x", "in_features")
        if h is None:
            h = x.new_zeros(len(x), cell.features)
        width(h, cell.features, "h", "features")
        # What does not depend on the state, for all steps at once.
        products, offsets = cell._products(x.transpose(0, 1)), cell._offsets(h.shape[:-1])
        for step in products.unbind(1):
            h = cell._step(step, offsets, h)
            states.append(h)
        return torch.stack(states, 1), states[-1]
