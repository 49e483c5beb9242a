"""The compiled operators against hyperkit's own eager functions in float64."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import geoopt
import numpy as np
import pytest
import torch
from ext_case import (
    KINDS,
    ball_case,
    conv_case,
    linear_case,
    needs_gpu,
    needs_library,
    on_devices,
    op,
    reference,
    relative,
    row_arguments,
    row_errors,
    rows,
    tail_case,
)
from torch import Tensor

from hyperkit import Lorentz, PoincareBall
from hyperkit.nn import HKConv, geometry
from hyperkit.ops import _fused
from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P
from hyperkit.optim import RiemannianAdam

pytestmark = needs_library


def row(kind: int, ts: list[Tensor]) -> Tensor:
    return op("row")(kind, *row_arguments(ts), 1.3)


@on_devices
@pytest.mark.parametrize("kind", KINDS)
def test_row_and_both_derivatives(kind, device):
    ts = [t.clone().requires_grad_() for t in rows(kind, device=device)]
    us = [t.detach().double().requires_grad_() for t in ts]
    out, want = row(kind, ts), reference().row(kind, *us, c=1.3)
    assert relative(out, want) < 1e-6
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(kind)).to(device)
    first = torch.autograd.grad(out, ts, g, create_graph=True)
    expected = torch.autograd.grad(want, us, g.double(), create_graph=True)
    second = torch.autograd.grad([t.square().sum() for t in first], ts)
    expected2 = torch.autograd.grad([t.square().sum() for t in expected], us)
    for a, b in zip((*first, *second), (*expected, *expected2), strict=True):
        # The ball's exponential map ends close to the edge here; the eager form is off by as much.
        assert relative(a, b) < (3e-5 if kind == 12 else 5e-6)


@on_devices
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 257])
def test_row_of_any_width_keeps_nan_to_its_row(kind, d, device):
    ts = rows(kind, n=5, d=d, seed=3, device=device)
    ts[0][2, -1] = torch.nan
    out = row(kind, ts)
    assert out[2].isnan().any()
    others = [0, 1, 3, 4]
    want = reference().row(kind, *[t.double() for t in ts], c=1.3)
    assert relative(out[others], want[others]) < 2e-6
    assert row(kind, [t[:0] for t in ts]).shape[0] == 0


@on_devices
def test_row_operations_far_out_match_float64(device):
    # Points at radius 12: close ones, and ones whose radii differ.
    g = torch.Generator().manual_seed(0)
    u = torch.nn.functional.normalize(torch.randn(200, 8, generator=g), dim=-1)
    for change in (1.0 + 1e-3 * torch.rand(200, 1, generator=g), 1.0 + torch.rand(200, 1, generator=g)):
        xs = u.to(device) * np.sinh(12.0)
        x, y = L.from_space(xs), L.from_space(xs * change.to(device))
        want = L.dist(x.double(), y.double())
        assert float(((op("row")(0, x, y, None, 1.0).squeeze(-1) - want) / want).abs().max()) < 1e-4


HARD = {"far out": 9.0, "at the origin": 0.0}


@on_devices
@pytest.mark.parametrize("place", HARD)
@pytest.mark.parametrize("kind", [10, 11, 12, 13])
def test_exp_and_transport_at_hard_points(kind, place, device):
    # Steps towards the origin, outwards, of no length; transport to coincident points, close and far ones.
    g = torch.Generator().manual_seed(0)
    u, w = (torch.nn.functional.normalize(torch.randn(40, 8, generator=g).double(), dim=-1) for _ in range(2))
    flat = lambda t: torch.nn.functional.pad(t, (1, 0))  # noqa: E731
    radius = HARD[place]
    x = L.expmap0(flat(radius * u))
    v = L.transp0(x, flat(torch.cat([-radius * u[:10], 2.0 * u[10:20] + w[10:20], 0.0 * u[20:22], w[22:]])))
    y = L.expmap(x, L.transp0(x, flat(0.1 * w)))
    y[::3], y[1::9] = x[::3], L.expmap0(flat(8.0 * w))[1::9]
    if kind > 11:
        v = v[:, 1:] if radius == 0.0 else P.transp0(L.to_poincare(x), L.transp0back(x, v)[:, 1:] * 0.5)
        x, y = L.to_poincare(x), L.to_poincare(y)
    ts = [t.float().to(device) for t in ((x, v) if kind in (10, 12) else (x, y, v))]
    leaves, doubles = [t.requires_grad_() for t in ts], [t.detach().double().requires_grad_() for t in ts]
    out = op("row")(kind, *row_arguments(leaves), 1.0)
    want = reference().row(kind, *doubles, c=1.0)
    if kind == 12:  # a step to the origin leaves the rounding error of its length over the gap, 5e-4
        assert relative(out, want) < 5e-4
    else:
        assert row_errors(out, want) < 3e-6
    by = torch.randn(out.shape, generator=g).to(device)
    found = torch.autograd.grad(out, leaves, by)
    expected = torch.autograd.grad(want, doubles, by.double())
    for a, b in zip(found, expected, strict=True):
        # The ball's gap loses digits (of 1 - |x|^2 = 5e-4), eager as well; the others keep theirs.
        assert row_errors(a, b) < (2e-3 if kind == 12 else 1e-5)


@on_devices
@pytest.mark.parametrize("correlation", ["distance", "linear", "gaussian"])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"k": 1, "o": 16},
        {"d": 1, "o": 1},
        {"d": 257, "o": 32, "n": 8},
        {"d": 64, "o": 64, "k": 16},
        # Sizes known to the compiler; on the CPU four pairs go together, of which a few are left over.
        {"d": 16, "o": 16, "k": 8, "m": 4},
        {"d": 32, "o": 32, "k": 8, "m": 7},
        {"d": 64, "o": 64, "k": 8, "m": 9},
    ],
)
def test_conv_value_and_gradients(correlation, sizes, device):
    tensors, graph, rule = conv_case(correlation, **sizes, device=device)
    a = [t.clone().requires_grad_() for t in tensors]
    b = [t.double().requires_grad_() for t in tensors]
    got = op("conv")(*a[:6], *graph, a[6], *rule)
    want = reference().conv(*b[:6], *graph, b[6], *rule)
    for x, y in zip(got, want, strict=True):
        assert relative(x, y) < 5e-5
    g = torch.randn_like(got[0])
    g[want[1].squeeze(-1) == 0] = 0
    first = torch.autograd.grad(got[0], a, g)
    expected = torch.autograd.grad(want[0], b, g.double(), allow_unused=True)
    for x, y in zip(first, expected, strict=True):
        if y is not None:
            assert float((x - y).abs().max()) < 2e-4 * max(1.0, float(y.abs().max()))


@on_devices
def test_conv_second_derivative(device):
    tensors, graph, rule = conv_case(device=device)
    a = [t.clone().requires_grad_() for t in tensors[:6]]
    b = [t.double().requires_grad_() for t in tensors[:6]]
    weight = tensors[6]
    out = op("conv")(*a, *graph, weight, *rule)[0]
    want = reference().conv(*b, *graph, weight.double(), *rule)[0]
    first = torch.autograd.grad(out.square().sum(), a, create_graph=True)
    expected = torch.autograd.grad(want.square().sum(), b, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), a)
    expected2 = torch.autograd.grad(expected[0].square().sum() + expected[1].square().sum(), b)
    for x, y in zip(second, expected2, strict=True):
        assert relative(x, y) < 1e-3
        assert float(y.abs().max()) > 0


@on_devices
def test_layer_is_the_same_with_and_without_the_kernel(device, monkeypatch):
    torch.manual_seed(0)
    x = geometry("lorentz").random_normal(30, features=8).to(device)
    layer = HKConv(8, 8, 3, empty="self", self_loop=False).to(device)
    edges = torch.randint(0, 29, (2, 90))  # the last node is alone
    shuffled = edges[:, torch.randperm(90)].to(device)
    seen = []
    original = torch.ops.hyperkit_ext.conv
    monkeypatch.setattr(torch.ops.hyperkit_ext, "conv", lambda *a: seen.append(1) or original(*a))
    results = []
    for eager in (False, True):
        layer.zero_grad()
        leaf = x.detach().clone().requires_grad_()
        if eager:
            with _fused.disabled():
                out = layer(leaf, shuffled)
                out.square().sum().backward()
        else:
            out = layer(leaf, shuffled)
            out.square().sum().backward()
        results.append([out.detach(), leaf.grad, *(p.grad.clone() for p in layer.parameters())])
    assert seen == [1]
    for a, b in zip(*results, strict=True):
        assert relative(a, b) < 1e-4


@on_devices
def test_conv_far_from_the_origin_where_products_of_nodes_cancel(device):
    tensors, graph, rule = conv_case(device=device)
    far = L.expmap0(torch.nn.functional.pad(torch.full((7,), 2.6, device=device), (1, 0)))
    tensors[0] = L.boost(tensors[0], far)
    got = op("conv")(*tensors[:6], *graph, tensors[6], *rule)[0]
    doubles = [t.double() for t in tensors]
    want = reference().conv(*doubles[:6], *graph, doubles[6], *rule)[0]
    assert relative(got, want) < 1e-4


@on_devices
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("make", [Lorentz, PoincareBall])
def test_adam_has_the_eager_trajectory(make, amsgrad, device, monkeypatch):
    seen = []
    original = torch.ops.hyperkit_ext.adam_
    monkeypatch.setattr(torch.ops.hyperkit_ext, "adam_", lambda *a: seen.append(a[-1]) or original(*a))
    ends = []
    for eager in (False, True):
        torch.manual_seed(0)
        m = make(1.3)
        width = 9 if make is Lorentz else 8
        start = m.random_normal(40, width, std=0.5).as_subclass(Tensor).to(device)
        p = geoopt.ManifoldParameter(start.clone(), manifold=m)
        optimiser = RiemannianAdam([p], lr=0.05, weight_decay=0.01, amsgrad=amsgrad)
        target = m.random_normal(40, width, std=2.0).to(device)
        for _ in range(20):
            optimiser.zero_grad()
            m.dist2(p.as_subclass(Tensor), target.as_subclass(Tensor)).sum().backward()
            with _fused.disabled() if eager else contextlib.nullcontext():
                optimiser.step()
        ends.append((p.detach().as_subclass(Tensor), optimiser.state[p]["exp_avg"]))
    for a, b in zip(*ends, strict=True):
        assert relative(a, b) < 2e-4
    assert relative(ends[0][0], start) > 1e-2
    assert seen == [make is PoincareBall] * 20


def test_tanimoto_is_exact():
    from hyperkit_mol.moses._nearest import bit_columns, nearest_similarity

    rng = np.random.default_rng(0)
    p, q = (np.packbits(rng.random((n, 1024)) < 0.05, axis=1) for n in (700, 40))
    q[0], q[1] = 0, p[5]
    p[7] = 0
    columns = bit_columns(p)
    want = nearest_similarity(q, columns)
    assert (op("tanimoto_max")(torch.from_numpy(q), torch.from_numpy(p)).numpy() == want).all()
    assert _fused.takes_columns(q)
    assert (_fused.nearest_by_columns(q, *columns) == want).all()
    q[2] = 255
    assert not _fused.takes_columns(q)  # 1024 set bits
    assert not _fused.takes_columns(q[:2, :64])


@on_devices
@pytest.mark.parametrize(
    "name",
    [n + back for n in ("row", "tail", "ball_tail", "linear", "conv") for back in ("", "_backward")],
)
def test_opcheck(name, device):
    utils = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if not name.endswith("backward"):  # traced along with the forward operators
        utils.append("test_aot_dispatch_dynamic")
    if name.startswith("row"):
        for kind in (2, 6, 11):
            ts = row_arguments([t.requires_grad_() for t in rows(kind, n=6, device=device)])
            more = (torch.randn_like(ts[0]), 1.3, True, True, True) if name == "row_backward" else (1.3,)
            torch.library.opcheck(op(name).default, (kind, *ts, *more), test_utils=utils)
        return
    if name.startswith("tail"):
        z, scale = (t.requires_grad_() for t in tail_case(n=6, device=device))
        more = (torch.randn_like(z), 1.3) if name == "tail_backward" else (1.3,)
        torch.library.opcheck(op(name).default, (z, scale, *more), test_utils=utils)
        return
    if name.startswith("ball"):
        ts = [t.requires_grad_() for t in ball_case(n=6, device=device)]
        more = (torch.randn_like(ts[0]), 1.3) if name == "ball_tail_backward" else (1.3,)
        torch.library.opcheck(op(name).default, (*ts, *more), test_utils=utils)
        return
    if name.startswith("linear"):
        given = (*(t.requires_grad_() for t in linear_case(6, device=device) if t is not None), 1.3)
        if name == "linear_backward":
            out, kept = (t.detach() for t in op("linear")(*given))
            given = (*given, out, kept, torch.randn_like(out), True, True)
        torch.library.opcheck(op(name).default, given, test_utils=utils)
        return
    tensors, graph, rule = conv_case(n=6, m=3, k=2, d=3, o=2, device=device)
    leaves = [t.requires_grad_() for t in tensors]
    args = (*leaves[:6], *graph, leaves[6], *rule)
    if name == "conv_backward":
        out, total, sums = (t.detach() for t in op("conv")(*args))
        args = (*args, total, sums, torch.randn_like(out), True, True)
    torch.library.opcheck(op(name).default, args, test_utils=utils)


def test_shape_dtype_and_range_errors_come_before_a_kernel():
    x, y = rows(0)
    for call, message in (
        (lambda: op("row")(0, x, y[:3], None, 1.0), "rows of y"),
        (lambda: op("row")(0, x, None, None, 1.0), "needs y"),
        (lambda: op("row")(0, x, y, y, 1.0), "takes no v"),
        (lambda: op("row")(11, x, y, y[:3], 1.0), "rows of v"),
        (lambda: op("row")(77, x, y, None, 1.0), "kind must be"),
        (lambda: op("row")(0, x.double(), y.double(), None, 1.0), "dtype"),
        (lambda: op("row")(0, x.T.contiguous().T, y, None, 1.0), "contiguous"),
        (lambda: op("row")(0, x, y, None, -1.0), "c must be > 0"),
        (lambda: op("tail")(x, x[0, :7].contiguous(), 1.0), "log_scale must divide"),
        (lambda: op("tail")(x.double(), x[0, :1], 1.0), "dtype"),
        (lambda: op("tail_backward")(x, x[0, :1], y[:3], 1.0), "rows of grad"),
        (
            lambda: op("ball_tail")(x, x[:, 0].contiguous(), y[:3, 0].contiguous(), *[x[0]] * 3, 1.0),
            "of time",
        ),
        (
            lambda: op("ball_tail")(x, *[x[:, 0].contiguous()] * 2, x[0], x[0, 1:], x[0], 1.0),
            "length of tilt",
        ),
        (lambda: op("linear")(x, y[:5, 1:].contiguous(), None, x[0, :1], 1.0), "columns of weight"),
        (lambda: op("linear")(x, y[:5], x[0, :4], x[0, :1], 1.0), "length of bias"),
        (lambda: op("linear")(x, y[:5], None, x[0, :2], 1.0), "length of log_scale"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
    tensors, (begin, source), rule = conv_case()
    for i, bad, message in (
        (7, source + 100, "source must name nodes"),
        (6, begin + 1, "begin must go from 0"),
        (1, tensors[1][:, 1:].contiguous(), "columns of matrix"),
        (8, tensors[6][1:].contiguous(), "length of weight"),
    ):
        args = [*tensors[:6], begin, source, tensors[6], *rule]
        args[i] = bad
        with pytest.raises(RuntimeError, match=message):
            op("conv")(*args)


@on_devices
def test_empty_graphs(device):
    for n, m in ((0, 3), (4, 0)):
        tensors, graph, rule = conv_case(n=n, m=m, device=device)
        leaves = [t.requires_grad_() for t in tensors]
        out, total, _ = op("conv")(*leaves[:6], *graph, leaves[6], *rule)
        assert out.shape == (n, 7)
        assert (total == 0).all()
        out.sum().backward()
        assert (out[:, 1:] == 0).all()


def test_python_defines_what_the_library_does():
    from hyperkit._ext import gpu, ops

    for text in ops.SCHEMAS:
        name = text.split("(")[0]
        assert str(op(name).default._schema) == f"hyperkit_ext::{text}"
        assert name in gpu.OPERATORS or name == "tanimoto_columns"
    assert all(callable(getattr(gpu.Operators, name)) for name in gpu.OPERATORS)


@needs_gpu
@pytest.mark.gpu
def test_gpu_rows_are_taken_at_any_size_and_conv_not_where_it_must_be_deterministic(monkeypatch):
    x, y = rows(0, n=3, device="cuda")
    seen = []
    original = torch.ops.hyperkit_ext.row
    monkeypatch.setattr(torch.ops.hyperkit_ext, "row", lambda *a: seen.append(a[0]) or original(*a))
    L.dist(x, y, 1.3)
    assert seen == [0]
    w = torch.zeros(4, 7, 8, device="cuda")
    assert _fused.conv_takes(1.0, x, w)
    torch.use_deterministic_algorithms(True)
    try:
        assert not _fused.conv_takes(1.0, x, w)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not _fused.conv_takes(1.0, x, torch.zeros(512, 513, 257, device="cuda"))


@needs_gpu
@pytest.mark.gpu
def test_gpu_products_are_full_float32_whatever_the_user_has_set():
    tensors, graph, rule = conv_case(n=200, d=32, o=32, device="cuda")
    doubles = [t.double() for t in tensors]
    want = reference().conv(*doubles[:6], *graph, doubles[6], *rule)[0]
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        got = op("conv")(*tensors[:6], *graph, tensors[6], *rule)[0]
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert relative(got, want) < 2e-5


@needs_gpu
@pytest.mark.gpu
def test_gpu_tanimoto_is_exact():
    g = torch.Generator().manual_seed(0)
    q, r = (torch.randint(0, 256, (n, 128), generator=g, dtype=torch.uint8) for n in (40, 700))
    got = op("tanimoto_max")(q.cuda(), r.cuda()).cpu()
    assert (got == op("tanimoto_max")(q, r)).all()


@needs_gpu
@pytest.mark.gpu
def test_gpu_layer_compiles_whole_and_takes_a_side_stream():
    torch.manual_seed(0)
    layer = HKConv(8, 8, 3).cuda()
    x = geometry("lorentz").random_normal(30, features=8).cuda()
    edges = torch.randint(0, 30, (2, 90), device="cuda")
    want = layer(x, edges)
    compiled = torch.compile(layer, fullgraph=True)
    assert relative(compiled(x, edges), want) < 1e-5
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        again = layer(x, edges)
    stream.synchronize()
    assert relative(again, want) < 1e-6


_SCRIPT = """
import torch
from hyperkit.ops import _fused, lorentz as L
print(_fused.active())
torch.manual_seed(0)
x = L.expmap0(torch.nn.functional.pad(torch.randn(3000, 8), (1, 0)))
print(float(L.dist(x, x.flip(0)).sum()))
"""


@pytest.mark.parametrize(
    "setting", [{"HYPERKIT_BACKEND": "eager"}, {"HYPERKIT_ISA": "base"}, {"HYPERKIT_ISA": "avx2"}]
)
def test_switches(setting):
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env={**os.environ, **setting},
        capture_output=True,
        text=True,
        check=True,
    )
    active, total = done.stdout.split()[-2:]
    assert active == str("HYPERKIT_BACKEND" not in setting)
    torch.manual_seed(0)
    x = L.expmap0(torch.nn.functional.pad(torch.randn(3000, 8), (1, 0)))
    assert float(total) == pytest.approx(float(L.dist(x, x.flip(0)).sum()), rel=1e-5)


_GPU_SCRIPT = """
import torch
from hyperkit.info import info
from hyperkit.nn import HKConv, LorentzLinear, geometry
from hyperkit.nn._base import lorentz_tail
torch.manual_seed(0)
layer = HKConv(8, 8, 3).cuda()
x = geometry("lorentz").random_normal(30, features=8).cuda().requires_grad_()
edges = torch.randint(0, 30, (2, 90), device="cuda")
out = layer(x, edges)
out.square().sum().backward()
print(info()["gpu"])
print(float(out.square().sum()), float(x.grad.square().sum()))
"""


@needs_gpu
@pytest.mark.gpu
def test_gpu_backends_agree():
    said, sums = {}, {}
    for backend in ("ext", "nvrtc", "eager"):
        done = subprocess.run(
            [sys.executable, "-c", _GPU_SCRIPT],
            env={**os.environ, "HYPERKIT_BACKEND": backend},
            capture_output=True,
            text=True,
            check=True,
        )
        *_, said[backend], numbers = done.stdout.strip().splitlines()
        sums[backend] = [float(v) for v in numbers.split()]
    assert "libhyperkit" in said["ext"]
    assert "NVRTC" in said["nvrtc"]
    assert "eager PyTorch" in said["eager"]
    for backend in ("ext", "nvrtc"):
        assert sums[backend] == pytest.approx(sums["eager"], rel=1e-4)
