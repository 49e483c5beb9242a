"""Muon for the matrices of a network, Adam for everything else, as one optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["MuonAdam", "orthogonalize"]

# Coefficients of the quintic iteration: its fixed points lie around 1, and it gets there in five steps.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearly the orthogonal factor of `matrix` ``(m, n)``: its singular values become about 1 (0.7 to 1.2).

    Newton-Schulz iteration ``X <- aX + (b XX' + c (XX')^2) X`` (Jordan et al., Muon, 2024). In the matrix's
    own precision: bfloat16, usual on GPUs, is slower on a CPU.
    """
    x = matrix / (matrix.norm() + 1e-7)
    wide = x.shape[0] > x.shape[1]
    if wide:
        x = x.mT
    for _ in range(steps):
        square = x @ x.mT
        x = _A * x + (_B * square + _C * (square @ square)) @ x
    return x.mT if wide else x


class MuonAdam(torch.optim.Optimizer):
    """Muon in the groups that say ``muon=True``, Adam with decoupled weight decay in the others.

    A matrix moves by ``lr * sqrt(max(1, rows/columns))`` along its orthogonalised Nesterov momentum; so that
    `lr` says by how much its singular values move, whatever the gradient's size.

    One optimiser for both, because Lightning's automatic optimisation takes one.

    Parameters
    ----------
    groups : iterable of dict
        With ``params``, ``lr``, and optionally ``muon`` and ``weight_decay``.
    betas : (float, float)
        Of Adam.
    momentum : float
        Of Muon.
    eps : float
        Of Adam.

    Raises
    ------
    ValueError
        If a parameter of a Muon group is not a matrix.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.95,
        eps: float = 1e-8,
    ) -> None:
        defaults = {
            "lr": 1e-3,
            "betas": betas,
            "momentum": momentum,
            "eps": eps,
            "weight_decay": 0.0,
            "muon": False,
            "steps": 0,
        }
        super().__init__(groups, defaults)
        for group in self.param_groups:
            for p in group["params"]:
                if group["muon"] and p.ndim != 2:
                    raise ValueError(f"params of a Muon group must be matrices, got shape {tuple(p.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; `closure` recomputes the loss where it is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["steps"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.mul_(1.0 - group["lr"] * group["weight_decay"])
                (self._muon if group["muon"] else self._adam)(p, p.grad, group)
        return loss

    def _muon(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        mean = state["momentum"].lerp_(grad, 1.0 - group["momentum"])
        update = orthogonalize(grad.lerp(mean, group["momentum"]))
        p.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, p.shape[0] / p.shape[1])))

    def _adam(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
        b1, b2 = group["betas"]
        mean = state["mean"].lerp_(grad, 1.0 - b1)
        square = state["square"].mul_(b2).addcmul_(grad, grad, value=1.0 - b2)
        root = (square.sqrt() / math.sqrt(1.0 - b2 ** group["steps"])).add_(group["eps"])
        p.addcdiv_(mean, root, value=-group["lr"] / (1.0 - b1 ** group["steps"]))
