"""Symmetries as assertions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hyperkit.manifolds.lorentz import Lorentz


def assert_isometry_equivariant(
    layer: Callable[..., Tensor], manifold: Lorentz, *points: Tensor, tolerance: float = 1e-9, seed: int = 0
) -> None:
    """Assert that moving all inputs by one random isometry moves the output by it.

    Parameters
    ----------
    layer : callable
        From points to points of the same dimension.
    manifold : Lorentz
        In the dtype of the points.
    *points : Tensor
        Inputs ``(*, d + 1)``, float64 for the default tolerance.
    tolerance : float
        Largest distance allowed between both results.

    Raises
    ------
    AssertionError
        If they are further apart.
    """
    iso = _isometry(manifold, points, seed)
    left, right = layer(*(p @ iso.T for p in points)), layer(*points) @ iso.T
    worst = float(manifold.dist(left, right).max().detach())
    assert worst <= tolerance, f"the layer does not commute with isometries: {worst:.3g} apart"


def assert_isometry_invariant(
    layer: Callable[..., Tensor], manifold: Lorentz, *points: Tensor, tolerance: float = 1e-9, seed: int = 0
) -> None:
    """Assert that moving all inputs by one random isometry leaves the output; see the equivariant one."""
    iso = _isometry(manifold, points, seed)
    left, right = layer(*(p @ iso.T for p in points)), layer(*points)
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def _isometry(manifold: Lorentz, points: Sequence[Tensor], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return manifold.random_isometry(points[0].shape[-1] - 1, dtype=points[0].dtype, generator=generator)


def assert_permutation_equivariant(
    layer: Callable[[Tensor], Tensor], x: Tensor, *, dim: int = -2, tolerance: float = 1e-5, seed: int = 0
) -> None:
    """Assert that permuting the input along `dim` permutes the output.

    Raises
    ------
    AssertionError
        If the results differ by more than `tolerance`, or the order happens to be the identity.
    """
    order = torch.randperm(x.shape[dim], generator=torch.Generator().manual_seed(seed))
    assert bool((order != torch.arange(x.shape[dim])).any()), "choose another seed: the order is the identity"
    left, right = layer(x.index_select(dim, order)), layer(x).index_select(dim, order)
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def assert_gradients_finite(f: Callable[..., Tensor], *args: Tensor, second: bool = True) -> None:
    """Assert that value, gradient and (with `second`) the gradient of its sum are finite.

    Raises
    ------
    AssertionError
        Naming what is not.
    """
    leaves = [a.detach().clone().requires_grad_() for a in args]
    out = f(*leaves)
    assert bool(out.isfinite().all()), "the value is not finite"
    grads = torch.autograd.grad(out.sum(), leaves, create_graph=second)
    for i, g in enumerate(grads):
        assert bool(g.isfinite().all()), f"the gradient of argument {i} is not finite"
    if second and any(g.requires_grad for g in grads):
        total = sum((g.sum() for g in grads), torch.zeros((), dtype=out.dtype))
        for i, g in enumerate(torch.autograd.grad(total, leaves, allow_unused=True)):
            assert g is None or bool(g.isfinite().all()), f"second derivative {i} is not finite"
