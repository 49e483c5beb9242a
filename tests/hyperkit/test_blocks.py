"""Operations in blocks of rows are the plain ones: values, first and second derivatives."""

import pytest
import torch

from hyperkit.ops import _blocks, _fused
from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P

OPERATIONS = {"transp": (L.transp, 3), "ball transp": (P.transp, 3)}


@pytest.mark.parametrize("name", OPERATIONS)
def test_blocks_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f, count = OPERATIONS[name]
    g = torch.Generator().manual_seed(0)
    ball = name.startswith("ball")
    v = [0.3 * torch.randn(3, 5, 4, dtype=torch.float64, generator=g) for _ in range(3)]

    def run(*leaves: torch.Tensor) -> torch.Tensor:
        if ball:
            return f(*leaves, 0.7)
        points = [L.from_space(a, 0.7) for a in leaves]
        if (count > 1 and "exp" in name) or "transp" in name:
            points[-1] = L.transp0(points[0], torch.nn.functional.pad(leaves[-1], (1, 0)), 0.7)
        return f(*points, 0.7)

    leaves = [a.requires_grad_() for a in v[:count]]
    results = []
    for block in (1 << 18, 16):  # all at once, then three or four rows at a time
        monkeypatch.setattr(_blocks, "BLOCK", block)
        out = run(*leaves)
        grads = torch.autograd.grad(out.square().sum(), leaves, retain_graph=True)
        again = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(a.square().sum() for a in again), leaves)
        results.append((out, *grads, *again, *second))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_blocks_are_taken_and_keep_only_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blocks, "BLOCK", 16)
    x, y, v = (torch.rand(9, 4).mul(0.4).requires_grad_() for _ in range(3))
    saved: list[torch.Tensor] = []
    with (
        _fused.disabled(),
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
    ):
        out = P.transp(x, y, v)
    assert type(out.grad_fn).__name__ == "_BlockedBackward"
    assert {t.data_ptr() for t in saved} == {x.data_ptr(), y.data_ptr(), v.data_ptr()}
    # Only the gradients that are wanted are computed.
    with _fused.disabled():
        (g,) = torch.autograd.grad(P.transp(x.detach(), y, v.detach()).sum(), y)
    torch.testing.assert_close(g, torch.autograd.grad(out.sum(), y)[0])


def test_second_derivative_where_one_point_depends_on_the_other() -> None:
    """The backward pass differentiates the operation alone, not the graph that its inputs share."""
    a = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, 4, dtype=torch.float64)

    def f(a: torch.Tensor) -> torch.Tensor:
        return L.sqdist(L.from_space(a), L.from_space(torch.sin(a) * b))

    assert torch.autograd.gradgradcheck(f, (a,))


def test_forward_mode_takes_the_plain_function() -> None:
    import torch.autograd.forward_ad as fw

    x = L.expmap0(torch.randn(3, 4, dtype=torch.float64))
    v = torch.randn(3, 4, dtype=torch.float64)
    with fw.dual_level():
        tangent = fw.unpack_dual(L.dist0(fw.make_dual(x, v))).tangent
    (g,) = torch.autograd.grad(L.dist0(x.requires_grad_()).sum(), x)
    torch.testing.assert_close(tangent, (g * v).sum(-1))
