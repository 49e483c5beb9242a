"""All layers at once: a hundred deep in float32, on the meta device, their docstrings' examples."""

import copy
import doctest
import importlib
import inspect

import pytest
import torch
from torch import Tensor, nn

from hyperkit import Lorentz, PoincareBall
from hyperkit import nn as hnn
from hyperkit.nn import geometry
from hyperkit.ops import lorentz as L

C, D, N = 0.8, 8, 6
RING = torch.stack([torch.arange(N), (torch.arange(N) + 1) % N])


class _Apply(nn.Module):
    """A layer and how it is called on points ``(2, 6, d)``."""

    def __init__(self, layer: nn.Module, call) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.layer, x)


def _plain(layer, x):
    return layer(x)


def _joined(layer, x):
    return layer(x, x.flip(-2))


def _last(layer, x):
    return layer(x)[0]


def _edges(layer, x):
    return torch.stack([layer(row, edge_index=RING.to(x.device)) for row in x])


def _rows(layer, x):
    return torch.stack([layer(row) for row in x])


def _channels1(layer, x):
    return layer(x.movedim(-1, 1)).movedim(1, -1)


def _image(layer, x):
    """Six points as an image of 2 x 3."""
    return layer(x.movedim(-1, 1).unflatten(-1, (2, 3))).flatten(2).movedim(1, -1)


def _volume(layer, x):
    return layer(x.movedim(-1, 1).unflatten(-1, (1, 2, 3))).flatten(2).movedim(1, -1)


def _halves(layer, x):
    """Split and concatenate."""
    return layer(layer.split(x, 2))


def _around(layer, x):
    """Each point becomes the centroid of itself and its neighbour."""
    return layer(torch.stack([x, x.roll(1, -2)], -2))


def _square(layer, x):
    """Pairs of neighbours, pooled: as many points as before."""
    both = torch.stack([x, x.roll(1, -2)], -2).flatten(-3, -2)
    return _channels1(layer, both)


def _square2(layer, x):
    both = x.unsqueeze(1).expand(-1, 2, -1, -1).repeat_interleave(2, 2)
    return layer(both.movedim(-1, 1)).flatten(2).movedim(1, -1)


def _square3(layer, x):
    both = x[:, None, None].expand(-1, 2, 2, -1, -1).repeat_interleave(2, 3)
    return layer(both.movedim(-1, 1)).flatten(2).movedim(1, -1)


DEEP = {
    "LorentzActivation": (lambda: hnn.LorentzActivation("tanh", c=C), _plain),
    "LorentzAttention": (lambda: hnn.LorentzAttention(D, 2, c=C), _plain),
    "LorentzAvgPool1d": (lambda: hnn.LorentzAvgPool1d(2, c=C), _square),
    "LorentzAvgPool2d": (lambda: hnn.LorentzAvgPool2d(2, c=C), _square2),
    "LorentzAvgPool3d": (lambda: hnn.LorentzAvgPool3d(2, c=C), _square3),
    "LorentzBatchNorm": (lambda: hnn.LorentzBatchNorm(D, c=C), _plain),
    "LorentzCentroid": (lambda: hnn.LorentzCentroid(c=C), _around),
    "LorentzChangeCurvature": (
        lambda: nn.Sequential(hnn.LorentzChangeCurvature(C, 3.0), hnn.LorentzChangeCurvature(3.0, C)),
        _plain,
    ),
    "LorentzConcat": (lambda: hnn.LorentzConcat(c=C), _halves),
    "LorentzConv1d": (lambda: hnn.LorentzConv1d(D, D, 3, padding=1, c=C), _channels1),
    "LorentzConv2d": (lambda: hnn.LorentzConv2d(D, D, 3, padding=1, c=C), _image),
    "LorentzConv3d": (lambda: hnn.LorentzConv3d(D, D, 3, padding=1, c=C), _volume),
    "LorentzDropout": (lambda: hnn.LorentzDropout(0.1, c=C), _plain),
    "LorentzGRU": (lambda: hnn.LorentzGRU(D, D, c=C), _last),
    "LorentzGRUCell": (lambda: hnn.LorentzGRUCell(D, D, c=C), _joined),
    "LorentzGraphAttention": (lambda: hnn.LorentzGraphAttention(D, D, 2, c=C), _edges),
    "LorentzGraphConv": (lambda: hnn.LorentzGraphConv(D, D, c=C, self_loop=True), _edges),
    "LorentzLayerNorm": (lambda: hnn.LorentzLayerNorm(D, c=C), _plain),
    "LorentzLinear": (lambda: hnn.LorentzLinear(D, D, c=C), _plain),
    "LorentzLinearAttention": (lambda: hnn.LorentzLinearAttention(D, 2, c=C), _plain),
    "LorentzPositionalEncoding": (lambda: hnn.LorentzPositionalEncoding(D, N, c=C), _plain),
    "LorentzRMSNorm": (lambda: hnn.LorentzRMSNorm(D, c=C), _plain),
    "LorentzResidual": (lambda: hnn.LorentzResidual(c=C), _joined),
    "LorentzTransformerBlock": (lambda: hnn.LorentzTransformerBlock(D, 2, D, c=C), _plain),
    "HKConv": (lambda: hnn.HKConv(D, D, 4, c=C, self_loop=True), _edges),
    "HKAttention": (lambda: hnn.HKAttention(D, 2, c=C), _plain),
    "HKTransformerBlock": (lambda: hnn.HKTransformerBlock(D, 2, D, c=C), _plain),
    "PoincareActivation": (lambda: hnn.PoincareActivation("tanh", c=C), _plain),
    "PoincareAttention": (lambda: hnn.PoincareAttention(D, 2, c=C), _plain),
    "PoincareAvgPool1d": (lambda: hnn.PoincareAvgPool1d(2, c=C), _square),
    "PoincareAvgPool2d": (lambda: hnn.PoincareAvgPool2d(2, c=C), _square2),
    "PoincareAvgPool3d": (lambda: hnn.PoincareAvgPool3d(2, c=C), _square3),
    "PoincareBatchNorm": (lambda: hnn.PoincareBatchNorm(D, c=C), _plain),
    "PoincareCentroid": (lambda: hnn.PoincareCentroid(c=C), _around),
    "PoincareConcat": (lambda: hnn.PoincareConcat(c=C), _halves),
    "PoincareConv1d": (lambda: hnn.PoincareConv1d(D, D, 3, padding=1, c=C), _channels1),
    "PoincareConv2d": (lambda: hnn.PoincareConv2d(D, D, 3, padding=1, c=C), _image),
    "PoincareConv3d": (lambda: hnn.PoincareConv3d(D, D, 3, padding=1, c=C), _volume),
    "PoincareDropout": (lambda: hnn.PoincareDropout(0.1, c=C), _plain),
    "PoincareGRU": (lambda: hnn.PoincareGRU(D, D, c=C), _last),
    "PoincareGRUCell": (lambda: hnn.PoincareGRUCell(D, D, c=C), _joined),
    "PoincareGraphConv": (lambda: hnn.PoincareGraphConv(D, D, c=C, self_loop=True), _edges),
    "PoincareHKConv": (lambda: hnn.PoincareHKConv(D, D, 4, c=C, self_loop=True), _edges),
    "PoincareLayerNorm": (lambda: hnn.PoincareLayerNorm(D, c=C), _plain),
    "PoincareLinear": (lambda: hnn.PoincareLinear(D, D, c=C), _plain),
    "PoincarePositionalEncoding": (lambda: hnn.PoincarePositionalEncoding(D, N, c=C), _plain),
    "PoincareRMSNorm": (lambda: hnn.PoincareRMSNorm(D, c=C), _plain),
    "PoincareResidual": (lambda: hnn.PoincareResidual(c=C), _joined),
    "PoincareResidual (Möbius)": (lambda: hnn.PoincareResidual(c=C, kind="mobius"), _joined),
    "PoincareTransformerBlock": (lambda: hnn.PoincareTransformerBlock(D, 2, D, c=C), _plain),
    "PoincareTransformerBlock (no norms)": (
        lambda: hnn.PoincareTransformerBlock(D, 2, D, c=C, norm=False, residual="midpoint"),
        _plain,
    ),
}
# Ends of a network, whose output or input are no points of the same width: nothing to stack.
NOT_STACKED = {"LorentzEmbedding", "LorentzMLR", "PoincareEmbedding", "PoincareMLR", "ExpMap0", "HKNet"}


def start(ball: bool, device: str = "cpu") -> Tensor:
    x = geometry("lorentz", C).random_normal(2, N, features=D, generator=torch.Generator().manual_seed(0))
    return (L.to_poincare(x, C) if ball else x).to(device)


def test_no_layer_is_forgotten() -> None:
    layers = {n for n in hnn.__all__ if n.startswith(("Lorentz", "Poincare", "HK")) or n == "ExpMap0"}
    assert layers == {name.split()[0] for name in DEEP} | NOT_STACKED


@pytest.mark.parametrize("name", DEEP)
def test_a_hundred_layers_in_float32(name: str) -> None:
    """Training mode, forward and backward: points on the manifold, finite gradients."""
    make, call = DEEP[name]
    ball = name.startswith("Poincare")
    m = PoincareBall(C) if ball else Lorentz(C)
    torch.manual_seed(0)
    layers = [_Apply(make(), call) for _ in range(100)]
    leaf = start(ball).requires_grad_()
    x: Tensor = leaf
    for layer in layers:
        x = layer(x)
    assert x.dtype == torch.float32
    assert x.shape == leaf.shape
    assert m.check_point_on_manifold(x.detach())
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    (x * weight).sum().backward()
    assert leaf.grad is not None
    assert bool(leaf.grad.isfinite().all())
    for layer in layers:
        assert all(bool(p.grad.isfinite().all()) for p in layer.parameters() if p.grad is not None)


BLOCKS = {
    "lorentz": lambda **more: hnn.LorentzTransformerBlock(D, 2, D, c=C, **more),
    "kernel points": lambda **more: hnn.HKTransformerBlock(D, 2, D, c=C, **more),
    "poincare": lambda **more: hnn.PoincareTransformerBlock(D, 2, D, c=C, **more),
}


def _gradient_ratio(make, ball: bool, depth: int) -> float:
    """Riemannian norm of the gradient at the input over that at the output, in float64."""
    torch.manual_seed(0)
    m = PoincareBall(C) if ball else Lorentz(C)
    x = start(ball).double()
    first = (x if ball else m.projx(x)).requires_grad_()
    last = first
    for layer in [make().double() for _ in range(depth)]:
        last = layer(last)
    last.retain_grad()
    weight = torch.randn(last.shape, generator=torch.Generator().manual_seed(1), dtype=last.dtype)
    (last * weight).sum().backward()
    ends = [(p.detach(), p.grad) for p in (first, last)]
    a, b = (float(m.norm(p, m.egrad2rgrad(p, g)).square().sum().sqrt()) for p, g in ends)
    return a / b


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_keep_their_size_at_depth(name: str) -> None:
    """A hundred blocks with the sum of space coordinates; midpoints change it exponentially."""
    ball = name == "poincare"
    deep = _gradient_ratio(lambda: BLOCKS[name](residual="space"), ball, 100)
    assert 1e-2 < deep < 1e6, deep
    first, second = (_gradient_ratio(lambda: BLOCKS[name](residual="space"), ball, n) for n in (25, 50))
    assert deep / second < 50 * max(1.0, second / first)


def test_midpoints_make_the_kernel_points_gradient_overflow() -> None:
    """Why HKTransformerBlock adds space coordinates: 100 blocks of midpoints overflow float32."""
    ratio = _gradient_ratio(lambda: hnn.HKTransformerBlock(D, 2, D, c=C, residual="midpoint"), False, 50)
    assert ratio > 1e10


@pytest.mark.parametrize("name", DEEP)
def test_shapes_on_the_meta_device(name: str) -> None:
    """Sizes of a network are worked out without memory or arithmetic."""
    make, call = DEEP[name]
    ball = name.startswith("Poincare")
    layer = copy.deepcopy(_Apply(make(), call)).to("meta")
    x = start(ball, "meta")
    out = layer(x)
    assert out.device.type == "meta"
    assert out.shape == x.shape


@pytest.mark.parametrize("make", [lambda: hnn.LorentzMLR(D, 3), lambda: hnn.PoincareMLR(D, 3)])
def test_logits_on_the_meta_device(make) -> None:
    layer = make().to("meta")
    width = D + 1 if isinstance(layer, hnn.LorentzMLR) else D
    assert layer(torch.empty(2, width, device="meta")).shape == (2, 3)


def _modules() -> list[str]:
    names = {getattr(hnn, n).__module__ for n in hnn.__all__}
    return sorted(n for n in names if n.startswith("hyperkit"))


@pytest.mark.parametrize("module", [*_modules(), "hyperkit._checks", "hyperkit.plot"])
def test_the_examples_of_the_docstrings(module: str) -> None:
    torch.manual_seed(0)
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_every_layer_shows_an_example() -> None:
    bare = [
        n
        for n in hnn.__all__
        if inspect.isclass(getattr(hnn, n))
        and issubclass(getattr(hnn, n), nn.Module)
        and not n.startswith("Euclidean")
        and ">>>" not in (getattr(hnn, n).__doc__ or "")
    ]
    assert bare == []
