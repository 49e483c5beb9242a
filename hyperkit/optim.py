"""Riemannian Adam and SGD for models that mix Euclidean and manifold parameters.

The trajectories are geoopt's to rounding. What is added: Euclidean parameters take torch's fused or foreach
step, Lorentz parameters one pass of closed forms (a momentum is carried along its own geodesic), sparse
gradients update only their rows, and the state is what ``torch.optim`` keeps, so that checkpoints load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from hyperkit._geoopt import geoopt
from hyperkit.manifolds.lorentz import Lorentz
from hyperkit.manifolds.poincare import PoincareBall
from hyperkit.ops import _fused
from hyperkit.ops import lorentz as ops

_FUSED = ("cpu", "cuda", "mps", "xpu")


def _manifold(p: Tensor) -> Any:
    """The manifold of a parameter; None for a Euclidean one."""
    m = p.manifold if isinstance(p, geoopt.ManifoldParameter | geoopt.ManifoldTensor) else None
    return None if isinstance(m, geoopt.Euclidean) else m


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must be >= 0, got {value}")


class _Riemannian(torch.optim.Optimizer):
    """What both optimisers share."""

    _momentum: str  # name of the state that is a tangent vector

    def _step(self, group: dict[str, Any]) -> None:
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the loss again and returns it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["steps"] = group.get("steps", 0) + 1
            self._step(group)
            if group["stabilize"] and group["steps"] % group["stabilize"] == 0:
                self._stabilize(group)
        return loss

    @torch.no_grad()
    def stabilize(self) -> None:
        """Bring all points and momenta back on their manifolds."""
        for group in self.param_groups:
            self._stabilize(group)

    def _stabilize(self, group: dict[str, Any]) -> None:
        for p in group["params"]:
            m = _manifold(p)
            if m is not None:
                p.copy_(m.projx(p))
                tangent = self.state[p].get(self._momentum) if p in self.state else None
                if tangent is not None:
                    tangent.copy_(m.proju(p, tangent))


class RiemannianAdam(_Riemannian):
    """Riemannian Adam (Bécigneul and Ganea, ICLR 2019), with the arguments of :class:`torch.optim.Adam`.

    On a manifold the second moment is that of the Riemannian norm, one number for each point, and the first
    moment is transported with the point. Parameters that are no :class:`geoopt.ManifoldParameter` take Adam's
    step. For parameters of an embedding with ``sparse=True`` only the rows of the gradient move.

    Parameters
    ----------
    params : iterable
        Parameters or groups.
    lr : float
        Step length.
    betas : tuple of float
        Decay of both moments.
    eps : float
        Added to the root of the second moment.
    weight_decay : float
        L2 penalty, as in Adam.
    amsgrad : bool
        Keep the largest second moment.
    stabilize : int, optional
        Project points and momenta every so many steps. The formulas here keep Lorentz points on the
        manifold, so that it is not needed.

    Raises
    ------
    ValueError
        For a negative rate, eps or decay, or betas outside [0, 1).

    Examples
    --------
    >>> import torch
    >>> from hyperkit.nn import LorentzLinear, LorentzMLR
    >>> from hyperkit.optim import RiemannianAdam
    >>> model = torch.nn.Sequential(LorentzLinear(4, 8), LorentzMLR(8, 3))
    >>> optimiser = RiemannianAdam(model.parameters(), lr=1e-2)
    """

    _momentum = "exp_avg"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        stabilize: int | None = None,
    ) -> None:
        _not_negative(lr=lr, eps=eps, weight_decay=weight_decay)
        if not all(0.0 <= b < 1.0 for b in betas):
            raise ValueError(f"betas must be in [0, 1), got {betas}")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "stabilize": stabilize,
        }
        super().__init__(params, defaults)

    def _begin(self, p: Tensor, amsgrad: bool) -> dict[str, Any]:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            like = p.detach().as_subclass(Tensor)
            state["exp_avg"] = torch.zeros_like(like)
            # One number a point on a manifold: the norm has no coordinates.
            one = (
                like.new_zeros(*like.shape[:-1], 1)
                if isinstance(_manifold(p), Lorentz | PoincareBall)
                else None
            )
            state["exp_avg_sq"] = torch.zeros_like(like) if one is None else one
            if amsgrad:
                state["max_exp_avg_sq"] = torch.zeros_like(state["exp_avg_sq"])
        return state

    def _step(self, group: dict[str, Any]) -> None:
        flat: list[Tensor] = []
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self._begin(p, group["amsgrad"])
            if _manifold(p) is None and not p.grad.is_sparse:
                flat.append(p)
                continue
            state["step"] += 1
            if not p.grad.is_sparse:
                self._move(p, _manifold(p), p.data.as_subclass(Tensor), p.grad, state, group)
                continue
            if group["weight_decay"]:
                raise ValueError("weight_decay must be 0 for sparse gradients")
            grad = p.grad.coalesce()
            rows = grad.indices()[0]
            part = {k: v if k == "step" else v[rows] for k, v in state.items()}
            point = p.data.as_subclass(Tensor)[rows]
            self._move(p, _manifold(p), point, grad.values(), part, group)
            p.data.as_subclass(Tensor)[rows] = point
            for k in state.keys() - {"step"}:
                state[k][rows] = part[k]
        if flat:
            self._flat(flat, group)

    def _flat(self, params: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[p] for p in params]
        fused = all(p.device.type in _FUSED and p.is_floating_point() for p in params)
        fused = fused and len({(p.device, p.dtype) for p in params}) == 1
        steps = [s["step"] for s in states]
        if fused and params[0].device.type != "cpu":
            # Fused kernels of accelerators count on their own device.
            for s in states:
                s["step"] = s["step"].to(params[0].device)
            steps = [s["step"] for s in states]
        adam(
            [p.data.as_subclass(Tensor) for p in params],
            [p.grad for p in params],  # type: ignore[misc]
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [s["max_exp_avg_sq"] for s in states] if group["amsgrad"] else [],
            steps,
            fused=fused,
            foreach=None if not fused else False,
            amsgrad=group["amsgrad"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _move(
        self, p: Tensor, manifold: Any, x: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """One step of `x` and of the moments in `state`, in place."""
        beta1, beta2 = group["betas"]
        step = float(state["step"])
        correction1, correction2 = 1.0 - beta1**step, 1.0 - beta2**step
        m, v = state["exp_avg"], state["exp_avg_sq"]
        ball = isinstance(manifold, PoincareBall)
        if (ball or isinstance(manifold, Lorentz)) and _fused.adam(
            x,
            grad,
            m,
            v,
            state["max_exp_avg_sq"] if group["amsgrad"] else None,
            rate=group["lr"] / correction1,
            betas=group["betas"],
            correction2=correction2,
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            c=manifold.c,
            ball=ball,
        ):
            return
        if group["weight_decay"]:
            grad = grad.add(x, alpha=group["weight_decay"])
        if manifold is None:
            rgrad, square = grad, grad * grad
        elif isinstance(manifold, Lorentz):
            rgrad, square = ops.rgrad_and_square(x, grad, manifold.c)
        else:
            rgrad = manifold.egrad2rgrad(x, grad)
            square = manifold.component_inner(x, rgrad)
        m.lerp_(rgrad, 1.0 - beta1)
        v.mul_(beta2).add_(square, alpha=1.0 - beta2)
        if group["amsgrad"]:
            torch.maximum(state["max_exp_avg_sq"], v, out=state["max_exp_avg_sq"])
            v = state["max_exp_avg_sq"]
        factor = (-group["lr"] / correction1) / ((v / correction2).sqrt_().add_(group["eps"]))
        if manifold is None:
            x.addcmul_(m, factor)
        elif isinstance(manifold, Lorentz):
            y, carried = ops.carry(x, m, factor, manifold.c)
            x.copy_(y)
            m.copy_(carried)
        else:
            y, carried = manifold.retr_transp(x, factor * m, m)
            x.copy_(y)
            m.copy_(carried)


class RiemannianSGD(_Riemannian):
    """Riemannian SGD with momentum, with the arguments of :class:`torch.optim.SGD`.

    The trajectory is geoopt's, but for the start of the momentum on a manifold: geoopt starts with the
    Euclidean gradient, which is no tangent vector; here it is the Riemannian one.

    Parameters
    ----------
    params : iterable
        Parameters or groups.
    lr : float
        Step length.
    momentum, dampening : float
        As in SGD.
    weight_decay : float
        L2 penalty.
    nesterov : bool
        Nesterov's momentum.
    stabilize : int, optional
        Project points and momenta every so many steps.

    Raises
    ------
    ValueError
        For negative arguments, or Nesterov without momentum or with dampening.
    """

    _momentum = "momentum_buffer"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        stabilize: int | None = None,
    ) -> None:
        _not_negative(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(
                f"nesterov needs momentum > 0 and dampening 0, got momentum={momentum}, dampening={dampening}"
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "stabilize": stabilize,
        }
        super().__init__(params, defaults)

    def _step(self, group: dict[str, Any]) -> None:
        flat: list[Tensor] = []
        for p in group["params"]:
            if p.grad is None:
                continue
            if _manifold(p) is None and not p.grad.is_sparse:
                flat.append(p)
            elif p.grad.is_sparse:
                self._sparse(p, group)
            else:
                self._move(p, p.data.as_subclass(Tensor), p.grad, group)
        if flat:
            self._flat(flat, group)

    def _flat(self, params: list[Tensor], group: dict[str, Any]) -> None:
        if group["momentum"] > 0:
            for p in params:
                # As geoopt: the buffer starts with the gradient, which is then added once more.
                if "momentum_buffer" not in self.state[p]:
                    grad = p.grad if p.grad is not None else torch.zeros_like(p)
                    self.state[p]["momentum_buffer"] = grad.clone()
        buffers: list[Any] = [self.state[p].get("momentum_buffer") for p in params]
        sgd(
            [p.data.as_subclass(Tensor) for p in params],
            [p.grad for p in params],  # type: ignore[misc]
            buffers,
            foreach=None,
            fused=False,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=False,
        )

    def _sparse(self, p: Tensor, group: dict[str, Any]) -> None:
        if group["momentum"] or group["weight_decay"]:
            raise ValueError("momentum and weight_decay must be 0 for sparse gradients")
        assert p.grad is not None
        grad = p.grad.coalesce()
        rows = grad.indices()[0]
        whole = p.data.as_subclass(Tensor)
        point = whole[rows]
        self._move(p, point, grad.values(), group)
        whole[rows] = point

    def _move(self, p: Tensor, x: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        manifold = _manifold(p) or geoopt.Euclidean(ndim=1)
        if group["weight_decay"]:
            grad = grad.add(x, alpha=group["weight_decay"])
        momentum = group["momentum"]
        if not momentum:
            x.copy_(manifold.retr(x, -group["lr"] * manifold.egrad2rgrad(x, grad)))
            return
        state = self.state[p]
        rgrad = manifold.egrad2rgrad(x, grad)
        if "momentum_buffer" not in state:
            # A tangent vector from the start (geoopt starts with the Euclidean gradient).
            state["momentum_buffer"] = rgrad.clone()
        buffer = state["momentum_buffer"]
        buffer.mul_(momentum).add_(rgrad, alpha=1.0 - group["dampening"])
        if isinstance(manifold, Lorentz) and not group["nesterov"]:
            y, carried = ops.carry(x, buffer, -group["lr"], manifold.c)
        else:
            direction = rgrad.add(buffer, alpha=momentum) if group["nesterov"] else buffer
            y, carried = manifold.retr_transp(x, -group["lr"] * direction, buffer)
        x.copy_(y)
        buffer.copy_(carried)
