"""The operators in PyTorch: hyperkit's own eager functions under the operators' signatures.

What a second derivative is taken of, and what the tests compare with.
"""

from __future__ import annotations

import torch
from torch import Tensor


def row(kind: int, x: Tensor, y: Tensor | None = None, v: Tensor | None = None, *, c: float) -> Tensor:
    """Operator ``row``: kinds as in ``csrc/hk_args.h``; x, y, v of shape ``(n, d + 1)`` or ``(n, d)``."""
    from hyperkit.ops import _fused, lorentz, poincare

    functions = (
        *(lorentz.dist, lorentz.sqdist, lorentz.logmap, lorentz.expmap0, lorentz.logmap0),
        *(poincare.dist, poincare.expmap0, poincare.logmap0, poincare.mobius_add, poincare.logmap),
        *(lorentz.expmap, lorentz.transp, poincare.expmap, poincare.transp, poincare.conformal),
    )
    given = [t for t in (x, y, v) if t is not None]
    options = {"keepdim": True} if kind in (0, 1, 5, 14) else {}
    with _fused.disabled():
        return functions[kind](*given, c, **options)  # type: ignore[arg-type]


def tail(z: Tensor, log_scale: Tensor, c: float) -> Tensor:
    """Operator ``tail``: the scales, of shape ``(s,)``, take turns with the rows of z, ``(n s, d + 1)``."""
    from hyperkit.nn._base import lorentz_tail
    from hyperkit.ops import _fused

    with _fused.disabled():
        return lorentz_tail(z.unflatten(0, (-1, len(log_scale))), log_scale.unsqueeze(-1), c).flatten(0, 1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, log_scale: Tensor, c: float) -> Tensor:
    """Operator ``linear``: the product and its tail."""
    return tail(torch.nn.functional.linear(x, weight, bias), log_scale, c)


def ball_tail(
    z: Tensor, space: Tensor, time: Tensor, gain: Tensor, tilt: Tensor, power: Tensor, c: float
) -> Tensor:
    """Operator ``ball_tail``."""
    from hyperkit.nn.poincare import ball_tail
    from hyperkit.ops import _fused

    with _fused.disabled():
        return ball_tail(z, space.unsqueeze(-1), time.unsqueeze(-1), gain, tilt, power, c)


def conv(
    x: Tensor,
    matrix: Tensor,
    first: Tensor,
    bias: Tensor,
    scale: Tensor,
    kernels: Tensor,
    begin: Tensor,
    source: Tensor,
    weight: Tensor,
    correlation: int,
    sigma: float,
    c: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Operator ``conv``: HKConv over pairs sorted by centre (shapes in ``csrc/hk_args.h``)."""
    from hyperkit.nn._kernel_rows import Rule, Shared, join, neighbour_points

    k = kernels.shape[0]
    o = matrix.shape[0] // k - 1
    n = x.shape[0]
    target = torch.repeat_interleave(torch.arange(n, device=x.device), begin.diff())
    linear = torch.cat([first.unsqueeze(-1), matrix], -1)
    # Rows of the operator's matrix: all space rows, then the gates.
    layered = torch.cat([linear[k * o :].unsqueeze(1), linear[: k * o].unflatten(0, (k, o))], 1)
    biased = torch.cat([bias[k * o :].unsqueeze(1), bias[: k * o].unflatten(0, (k, o))], 1)
    rule = Rule("lorentz", ("distance", "linear", "gaussian")[correlation], sigma, None, c)
    shared = Shared(kernels, layered, biased, scale.log(), None, None, None)
    points, reach = neighbour_points(rule, x[source], x[target], None, shared)
    reach = reach * weight.unsqueeze(-1)
    total = reach.new_zeros(n, 1).index_add(0, target, reach)
    sums = points.new_zeros(n, o + 1).index_add(0, target, reach * points)
    out = join(sums, total, c)
    return out, total, sums
