"""What the hyperbolic manifolds share: where the curvature lives, and checks."""

from __future__ import annotations

import math
from typing import Any

import geoopt
import torch
from torch import Tensor

from hyperkit._checks import curvature


class Hyperbolic(geoopt.Manifold):
    """Base of the hyperbolic manifolds: a curvature ``-c`` that is a number or a parameter.

    Parameters
    ----------
    c : float
        Curvature, > 0.
    learnable : bool
        Make it a parameter, stored as ``log c``: it stays positive under any optimiser and ``c = 1`` is
        exactly 1. A fixed curvature is a plain number, exact in every dtype.

    Raises
    ------
    ValueError
        If ``c <= 0``.
    """

    ndim = 1
    reversible = False
    log_c: Tensor

    def __init__(self, c: float = 1.0, learnable: bool = False) -> None:
        super().__init__()
        c = float(curvature(float(c)))
        self._fixed = c
        if learnable:
            self.log_c = torch.nn.Parameter(torch.tensor(math.log(c)))
        else:
            # Says on which device and in which dtype this manifold makes points; holds no value.
            self.register_buffer("_anchor", torch.empty(0), persistent=False)

    @property
    def learnable(self) -> bool:
        """Whether the curvature is a parameter."""
        return "log_c" in self._parameters

    @property
    def c(self) -> float | Tensor:
        """The curvature: a number when fixed, a tensor with a gradient when learnable."""
        return self.log_c.exp() if self.learnable else self._fixed

    def get_extra_state(self) -> Tensor:
        """The fixed curvature, so that a state dict restores it; a tensor, for ``weights_only=True``."""
        return torch.tensor(self._fixed, dtype=torch.float64)

    def set_extra_state(self, state: Any) -> None:
        """Take the curvature from a state dict."""
        self._fixed = float(state)

    def extra_repr(self) -> str:
        c = self.log_c.detach().exp() if self.learnable else self._fixed
        return f"c={float(c):g}" + (", learnable" if self.learnable else "")

    def _like(self, dtype: torch.dtype | None, device: Any) -> dict[str, Any]:
        return {"dtype": dtype or self.dtype, "device": device or self.device}


def sizes(size: tuple) -> tuple[int, ...]:
    """Accept ``f(2, 3)`` and ``f((2, 3))`` alike, as geoopt does."""
    if len(size) == 1 and not isinstance(size[0], int):
        return tuple(size[0])
    return tuple(size)
