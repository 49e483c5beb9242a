"""Every GPU kernel once on small cases, for NVIDIA's compute-sanitizer; the results are compared as well.

    compute-sanitizer --tool memcheck  python tests/cuda_ext/sanitize.py
    compute-sanitizer --tool racecheck python tests/cuda_ext/sanitize.py

Needs a GPU and the library built with ``--cuda``.
"""

from __future__ import annotations

import torch
from ext_case import SCALAR, conv_case, conv_gradients, relative, row_gradients, rows
from hyperkit._ext import build, gpu, reference


def main() -> None:
    path = build.find_library()
    assert path is not None, "python -m hyperkit._ext build --cuda"
    launch, device = gpu.Prebuilt(path).launch, torch.device("cuda", 0)
    largest = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    for limit in (largest, 24 * 1024):  # eight lanes a node; a warp
        ops = gpu.Operators(launch, device, multiprocessors=2, shared_limit=limit)
        for correlation in ("distance", "linear", "gaussian"):
            tensors, graph, rule = conv_case(correlation, n=40, m=3, k=7, d=35, o=33, device="cuda")
            given = (*tensors[:6], *graph, tensors[6], *rule)
            doubles = [t.double().requires_grad_() for t in tensors]
            want = reference.conv(*doubles[:6], *graph, doubles[6], *rule)
            assert relative(ops.conv(*given)[0], want[0].detach()) < 2e-5
            g = torch.randn(want[0].shape, device="cuda")
            g[want[1].squeeze(-1) == 0] = 0
            expected = torch.autograd.grad(want[0], doubles, g.double(), allow_unused=True)
            for a, b in zip(conv_gradients(ops, tensors, graph, rule, g), expected, strict=True):
                assert b is None or relative(a, b) < 1e-3
    for kind in range(gpu.KINDS):
        ts = rows(kind, n=37, d=21, device="cuda")
        out = ops.row(kind, ts[0], ts[1] if len(ts) > 1 else None, 1.3)
        assert relative(out, reference.row(kind, *[t.double() for t in ts], c=1.3)) < 2e-6
        row_gradients(ops, kind, ts, torch.randn_like(ts[0][:, :1] if kind in SCALAR else ts[0]))
    x = rows(0, n=37, d=21, device="cuda")[0]
    moments = torch.zeros_like(x), torch.zeros(37, 1, device="cuda")
    ops.adam_(x, torch.randn_like(x), *moments, None, 0.1, 0.9, 0.99, 0.5, 1e-8, 0.01, 1.3)
    bits = torch.randint(0, 256, (50, 128), dtype=torch.uint8, device="cuda")
    assert bool((ops.tanimoto_max(bits[:9].contiguous(), bits) == 1).all())
    torch.cuda.synchronize()
    print("every kernel ran, results agree")


if __name__ == "__main__":
    main()
