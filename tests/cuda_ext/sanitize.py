"""Every kernel on small cases, for sanitizers; the results are compared as well.

On a GPU, with the library built with ``--cuda``:

    compute-sanitizer --tool memcheck  python tests/cuda_ext/sanitize.py
    compute-sanitizer --tool racecheck python tests/cuda_ext/sanitize.py

On the CPU with a library built with AddressSanitizer and UBSan (``test_ext_sanitizers.py`` does it):

    HYPERKIT_BACKEND=eager LD_PRELOAD=libasan.so python tests/cuda_ext/sanitize.py LIBRARY
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from ext_case import (
    SCALAR,
    ball_case,
    conv_case,
    conv_gradients,
    linear_case,
    relative,
    row_arguments,
    row_gradients,
    rows,
    tail_case,
)
from hyperkit._ext import build, gpu, launching, ops, reference

SIZES = (
    {"n": 40, "m": 3, "k": 7, "d": 35, "o": 33},
    {"n": 9, "m": 2, "k": 1, "d": 1, "o": 1},
    {"n": 12, "m": 2, "k": 3, "d": 5, "o": 16},
    {"n": 12, "m": 7, "k": 8, "d": 16, "o": 16},
)


def convolutions(op: Any, device: str) -> None:
    """Forward and backward, all correlations."""
    for sizes in SIZES:
        for correlation in ("distance", "linear", "gaussian"):
            tensors, graph, rule = conv_case(correlation, **sizes, device=device)
            doubles = [t.double().requires_grad_() for t in tensors]
            want = reference.conv(*doubles[:6], *graph, doubles[6], *rule)
            assert relative(op.conv(*tensors[:6], *graph, tensors[6], *rule)[0], want[0].detach()) < 2e-5
            g = torch.randn(want[0].shape, device=device)
            g[want[1].squeeze(-1) == 0] = 0
            expected = torch.autograd.grad(want[0], doubles, g.double(), allow_unused=True)
            for a, b in zip(conv_gradients(op, tensors, graph, rule, g), expected, strict=True):
                assert b is None or float((a - b).abs().max()) < 1e-3 * max(1.0, float(b.abs().max()))


def others(op: Any, device: str) -> None:
    """Rows, linear layers, Adam's step, nearest neighbours."""
    for kind in range(gpu.KINDS):
        for d in (1, 21, 64):
            ts = rows(kind, n=37, d=d, device=device)
            out = op.row(kind, *row_arguments(ts), 1.3)
            # The ball's exponential map loses digits next to the edge, the eager form as well.
            bound = 5e-4 if kind == 12 else 2e-6
            assert relative(out, reference.row(kind, *[t.double() for t in ts], c=1.3)) < bound
            row_gradients(op, kind, ts, torch.randn_like(ts[0][:, :1] if kind in SCALAR else ts[0]))
    for d in (1, 21, 64):
        for scales in (1, 37):
            z, scale = tail_case(37, d, scales, device=device)
            op.tail_backward(z, scale, torch.randn_like(op.tail(z, scale, 1.3)), 1.3)
        ball = ball_case(37, d, device=device)
        op.ball_tail_backward(*ball, torch.randn_like(op.ball_tail(*ball, 1.3)), 1.3)
        for n, bias in ((37, True), (1, False)):
            given = linear_case(n, 21, d, bias=bias, device=device)
            out, kept = op.linear(*given, 1.3)
            op.linear_backward(*given, 1.3, out, kept, torch.randn_like(out), True, True)
    x = rows(0, n=37, d=21, device=device)[0]
    for largest in (None, torch.zeros(37, 1, device=device)):
        moments = torch.zeros_like(x), torch.zeros(37, 1, device=device)
        op.adam_(x, torch.randn_like(x), *moments, largest, 0.1, 0.9, 0.99, 0.5, 1e-8, 0.01, 1.3, False)
    b = rows(5, n=37, d=21, device=device)[0]
    for columns in (1, 21):
        v = torch.zeros(37, columns, device=device)
        for largest in (None, torch.zeros_like(v)):
            numbers = (0.1, 0.9, 0.99, 0.5, 1e-8, 0.01, 1.3, True)
            op.adam_(b, torch.randn_like(b), torch.zeros_like(b), v, largest, *numbers)
    bits = torch.randint(0, 256, (50, 128), dtype=torch.uint8, device=device)
    assert bool((op.tanimoto_max(bits[:9].contiguous(), bits) == 1).all())


def main() -> None:
    torch.manual_seed(0)
    if len(sys.argv) > 1:
        torch.ops.load_library(sys.argv[1])
        ops.register()
        convolutions(torch.ops.hyperkit_ext, "cpu")
        others(torch.ops.hyperkit_ext, "cpu")
    else:
        path = build.find_library()
        assert path is not None, "python -m hyperkit._ext build --cuda"
        launch, device = launching.Prebuilt(path).launch, torch.device("cuda", 0)
        largest = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
        for limit in (24 * 1024, largest):  # a warp a node; eight lanes
            op = gpu.Operators(launch, device, multiprocessors=2, shared_limit=limit)
            convolutions(op, "cuda")
        others(op, "cuda")
        torch.cuda.synchronize()
    print("every kernel ran, results agree")


if __name__ == "__main__":
    main()
