"""Busemann functions, distances to hyperplanes and horospheres, reflections, means."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperkit._checks import Curvature, curvature, floats, lorentz_points, width
from hyperkit.ops import _lorentz_maps as maps
from hyperkit.ops._lorentz_metric import _time, from_space
from hyperkit.ops._lorentz_points import _time_minus_space, centroid, from_poincare, to_poincare
from hyperkit.ops._poincare_core import ball_points, gap
from hyperkit.ops._scalar import dot, sq


def _unit(omega: Tensor) -> Tensor:
    return omega / torch.linalg.vector_norm(omega, dim=-1, keepdim=True)


def lorentz_busemann(x: Tensor, omega: Tensor, c: Curvature = 1.0, *, keepdim: bool = False) -> Tensor:
    """Busemann function of the ideal point `omega`: ``log(sqrt(c) (x_0 - omega.x_s))/sqrt(c)``.

    The bracket is written ``1/(c (x_0 + |x_s|)) + |x_s| |u - omega|^2/2`` with ``u = x_s/|x_s|``, positive
    terms, so that it keeps its digits on the way to `omega`, where it tends to minus the distance.

    Parameters
    ----------
    x : Tensor
        Points ``(*, d + 1)``.
    omega : Tensor
        Directions ``(*, d)``, of any length > 0.
    c : float or Tensor
        Curvature, > 0.
    """
    c = curvature(c)
    (x,) = lorentz_points(c, x=x)
    (omega,) = floats(omega=omega)
    width(omega, x.shape[-1] - 1, "omega", "the dimension of x")
    bracket = _time_minus_space(x[..., 1:], _unit(omega), c)
    out = torch.log(c**0.5 * bracket) / c**0.5
    return out if keepdim else out.squeeze(-1)


def poincare_busemann(x: Tensor, omega: Tensor, c: Curvature = 1.0, *, keepdim: bool = False) -> Tensor:
    """Busemann function on the ball, ``log(|omega - sqrt(c) x|^2/(1 - c |x|^2))/sqrt(c)``.

    Shapes ``(*, d)``; `omega` is a direction.
    """
    c = curvature(c)
    (x,), (omega,) = ball_points(c, x=x), floats(omega=omega)
    width(omega, x.shape[-1], "omega", "that of x")
    out = torch.log(sq(_unit(omega) - c**0.5 * x) / gap(x, c)) / c**0.5
    return out if keepdim else out.squeeze(-1)


def lorentz_dist_to_hyperplane(
    x: Tensor, normal: Tensor, c: Curvature = 1.0, *, signed: bool = False, keepdim: bool = False
) -> Tensor:
    """Distance to the geodesic hyperplane ``{y : <normal, y> = 0}``: ``asinh(sqrt(c) <w, x>/|w|)/sqrt(c)``.

    Parameters
    ----------
    x : Tensor
        Points ``(*, d + 1)``.
    normal : Tensor
        Space-like vectors w ``(*, d + 1)``, ``<w, w> > 0``: for a plane through p, a tangent vector at p.
    c : float or Tensor
        Curvature, > 0.
    signed : bool
        Positive on the side to which `normal` points.
    """
    c = curvature(c)
    x, normal = lorentz_points(c, x=x) + floats(normal=normal)
    width(normal, x.shape[-1], "normal", "that of x")
    w0, ws = normal[..., :1], normal[..., 1:]
    xs = x[..., 1:]
    along = dot(ws, xs) - w0 * _time(sq(xs), c)
    out = torch.asinh(c**0.5 * along * torch.rsqrt(sq(ws) - w0 * w0)) / c**0.5
    out = out if signed else out.abs()
    return out if keepdim else out.squeeze(-1)


def poincare_dist_to_hyperplane(
    x: Tensor, p: Tensor, a: Tensor, c: Curvature = 1.0, *, signed: bool = False, keepdim: bool = False
) -> Tensor:
    """Distance to the hyperplane through `p` orthogonal to `a` (Ganea et al., NeurIPS 2018, theorem 5).

    ``asinh(2 sqrt(c) <z, a>/((1 - c |z|^2) |a|))/sqrt(c)`` with ``z = (-p) (+) x``. With ``e = x - p`` it is
    ``z/(1 - c|z|^2) = (g_p e - c |e|^2 p)/(g_p g_x)``, no second Möbius gap. All of shape ``(*, d)``.
    """
    c = curvature(c)
    x, p = ball_points(c, x=x, p=p)
    (a,) = floats(a=a)
    width(a, x.shape[-1], "a", "that of x")
    gx, gp = gap(x, c), gap(p, c)
    e = x - p
    along = dot(gp * e - (c * sq(e)) * p, _unit(a)) / gp / gx
    out = torch.asinh(2.0 * c**0.5 * along) / c**0.5
    out = out if signed else out.abs()
    return out if keepdim else out.squeeze(-1)


def lorentz_dist_to_horosphere(
    x: Tensor, omega: Tensor, bias: Tensor | float, c: Curvature = 1.0, *, keepdim: bool = False
) -> Tensor:
    """Distance ``|B_omega(x) - bias|`` to the horosphere of level `bias` of :func:`lorentz_busemann`."""
    out = lorentz_busemann(x, omega, c, keepdim=True) - bias
    return out.abs() if keepdim else out.abs().squeeze(-1)


def poincare_dist_to_horosphere(
    x: Tensor, omega: Tensor, bias: Tensor | float, c: Curvature = 1.0, *, keepdim: bool = False
) -> Tensor:
    """Distance ``|B_omega(x) - bias|`` to the horosphere of level `bias` of :func:`poincare_busemann`."""
    out = poincare_busemann(x, omega, c, keepdim=True) - bias
    return out.abs() if keepdim else out.abs().squeeze(-1)


def lorentz_reflection(x: Tensor, normal: Tensor, c: Curvature = 1.0) -> Tensor:
    """Reflection in the hyperplane of `normal`, ``x - 2 <w, x>/<w, w> w``; shapes ``(*, d + 1)``."""
    c = curvature(c)
    x, normal = lorentz_points(c, x=x) + floats(normal=normal)
    width(normal, x.shape[-1], "normal", "that of x")
    w0, ws = normal[..., :1], normal[..., 1:]
    xs = x[..., 1:]
    k = 2.0 * (dot(ws, xs) - w0 * _time(sq(xs), c)) / (sq(ws) - w0 * w0)
    return from_space(xs - k * ws, c)


def lorentz_frechet_mean(
    x: Tensor,
    weights: Tensor | None = None,
    c: Curvature = 1.0,
    *,
    tolerance: float | None = None,
    max_steps: int = 50,
) -> Tensor:
    """Fréchet mean: the point that minimises the weighted sum of squared geodesic distances.

    Newton's iteration from the Lorentz centroid. Seen from the estimate, with ``u_i`` the logarithms and
    ``d_i = sqrt(c) |u_i|``, the gradient is ``-sum w_i u_i`` and the Hessian
    ``sum w_i (d_i coth d_i I + (1 - d_i coth d_i) u_i u_i^T/|u_i|^2)``, which is at least the identity.

    Parameters
    ----------
    x : Tensor
        Points ``(*, N, d + 1)``.
    weights : Tensor, optional
        Shape ``(*, N)``, >= 0, not all 0.
    c : float or Tensor
        Curvature, > 0.
    tolerance : float, optional
        Length of the last step in units of ``1/sqrt(c)``; by default ``1e-5`` in float32, ``1e-10`` in
        float64 (the error is of the order of its square).
    max_steps : int
        Most steps.

    Returns
    -------
    Tensor
        Shape ``(*, d + 1)``. Its first derivative is exact (implicit differentiation: one more Newton step
        with the Hessian held fixed); it has no second derivative.

    Raises
    ------
    RuntimeError
        If it has not converged after `max_steps`.
    """
    c = curvature(c)
    (x,) = lorentz_points(c, x=x)
    if weights is None:
        weights = x.new_ones(x.shape[:-1])
    weights = (weights / weights.sum(-1, keepdim=True)).unsqueeze(-1)
    tolerance = tolerance or (1e-5 if x.dtype == torch.float32 else 1e-10)
    with torch.no_grad():
        fixed = c.detach() if isinstance(c, Tensor) else c
        mean = centroid(x, weights.squeeze(-1), c=fixed)
        for _ in range(max_steps):
            gradient, hessian = _newton(x, weights, mean, fixed)
            step = torch.linalg.solve(hessian, gradient.unsqueeze(-1)).squeeze(-1)
            mean = maps.boost(maps.expmap0(torch.nn.functional.pad(step, (1, 0)), fixed), mean, fixed)
            length = (
                float((fixed**0.5 * torch.linalg.vector_norm(step, dim=-1)).max()) if step.numel() else 0.0
            )
            if length <= tolerance:
                break
        else:
            raise RuntimeError(
                f"the mean has not converged after max_steps={max_steps}: the last step was {length:.3g}, "
                f"tolerance is {tolerance:g}"
            )
        hessian = _newton(x, weights, mean, fixed)[1]
    if not (torch.is_grad_enabled() and (x.requires_grad or weights.requires_grad or isinstance(c, Tensor))):
        return mean
    logs = maps.logmap0(maps.boost(x, mean.unsqueeze(-2), c, inverse=True), c)[..., 1:]
    step = torch.linalg.solve(hessian, (weights * logs).sum(-2).unsqueeze(-1)).squeeze(-1)
    return maps.boost(maps.expmap0(torch.nn.functional.pad(step, (1, 0)), c), mean, c)


def _newton(x: Tensor, weights: Tensor, mean: Tensor, c: Curvature) -> tuple[Tensor, Tensor]:
    """Gradient ``(*, d)`` and Hessian ``(*, d, d)`` in the frame that the boost carries from the origin."""
    logs = maps.logmap0(maps.boost(x, mean.unsqueeze(-2), c, inverse=True), c)[..., 1:]
    q = sq(logs)
    some = c * q > 1e-12
    q1 = torch.where(some, q, 1.0)
    n = torch.sqrt(c * q1)
    coth = torch.where(some, n / torch.tanh(n), 1.0)
    outer = (weights * (1.0 - coth) / q1 * logs).transpose(-1, -2) @ logs
    eye = torch.eye(logs.shape[-1], dtype=x.dtype, device=x.device)
    return (weights * logs).sum(-2), (weights * coth).sum(-2, keepdim=True) * eye + outer


def poincare_centroid(
    x: Tensor, weights: Tensor | None = None, mask: Tensor | None = None, c: Curvature = 1.0
) -> Tensor:
    """Einstein midpoint on the ball: the Lorentz centroid of the same points (:func:`.lorentz.centroid`)."""
    c = curvature(c)
    (x,) = ball_points(c, x=x)
    return to_poincare(centroid(from_poincare(x, c), weights, mask, c), c)


def poincare_frechet_mean(
    x: Tensor, weights: Tensor | None = None, c: Curvature = 1.0, **options: float
) -> Tensor:
    """Fréchet mean on the ball, see :func:`lorentz_frechet_mean`; points ``(*, N, d)`` to ``(*, d)``."""
    c = curvature(c)
    (x,) = ball_points(c, x=x)
    return to_poincare(lorentz_frechet_mean(from_poincare(x, c), weights, c, **options), c)  # type: ignore[arg-type]
