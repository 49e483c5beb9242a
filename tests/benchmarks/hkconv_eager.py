"""HKConv in PyTorch: time and memory of the forms that the layer can be written in.

- ``paper``: from the equations, K separate linear layers, distances from differences of points (``(N, M, K,
  d)`` tensors throughout), everything kept for the backward pass: what the published code does;
- ``whole``: hyperkit's formulas in one piece, kept for the backward pass;
- ``blocks``: HKConv as it is.

Process time of one thread (or T), so that a busy machine does not blur the ratios; the forms take turns, and
each figure is the least over the rounds. "kept" is what is held for the backward pass; "peak" is the largest
resident memory of a process that does one forward and backward pass, less that of one that stops before it
(Linux).

    python tests/benchmarks/hkconv_eager.py [--nodes 20000] [--neighbors 16] [--kernels 8] [--features 32]
                                            [--threads 1] [--rounds 3] [--compile] [--no-memory]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from hyperkit.nn import HKConv, geometry
from hyperkit.nn import _kernel_rows as rows
from hyperkit.nn._base import lorentz_tail
from hyperkit.ops import lorentz as L

FORMS = ("paper", "whole", "blocks")


def paper(conv: HKConv, x: Tensor, neighbors: Tensor) -> Tensor:
    """The layer step by step on ``(N, M, d + 1)`` and ``(N, M, K, d + 1)`` tensors."""
    k = conv.kernels
    z = L.boost(x[neighbors], x.unsqueeze(1), inverse=True)
    bias = k.bias if k.bias is not None else torch.zeros_like(k.weight[..., 0])
    points = torch.stack(
        [
            lorentz_tail(torch.nn.functional.linear(z, k.weight[i], bias[i]), k.log_scale[i : i + 1], 1.0)  # type: ignore[index]
            for i in range(conv.num_kernels)
        ],
        -2,
    )
    weights = L.dist(z.unsqueeze(-2), conv.kernel_points())
    return L.centroid(L.centroid(points, weights))


def function(form: str, conv: HKConv) -> Callable[[Tensor, Tensor], Tensor]:
    if form == "paper":
        return lambda x, neighbors: paper(conv, x, neighbors)
    return lambda x, neighbors: conv(x, neighbors=neighbors)


def setup(a: argparse.Namespace) -> tuple[HKConv, Tensor, Tensor]:
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    x = geometry("lorentz").random_normal(a.nodes, features=a.features, std=0.5)
    return HKConv(a.features, a.features, a.kernels), x, torch.randint(0, a.nodes, (a.nodes, a.neighbors))


def backward(f: Callable, x: Tensor, neighbors: Tensor) -> None:
    f(x.clone().requires_grad_(), neighbors).sum().backward()


def seconds(f: Callable[[], object]) -> float:
    start = time.process_time()
    f()
    return time.process_time() - start


def kept(f: Callable, x: Tensor, neighbors: Tensor) -> float:
    """MiB held for the backward pass."""
    held: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        f(x.clone().requires_grad_(), neighbors)
    return sum(held.values()) / 2**20


def resident(arguments: list[str], form: str) -> float:
    """Largest resident memory in MiB of a process of its own that does one pass in this form."""
    command = [sys.executable, __file__, *arguments, "--once", form]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def use(form: str) -> None:
    rows.BLOCK = 1 << 22 if form == "blocks" else 1 << 60


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("nodes", 20000),
        ("neighbors", 16),
        ("kernels", 8),
        ("features", 32),
        ("threads", 1),
        ("rounds", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compile", action="store_true", help="add torch.compile of the whole form")
    parser.add_argument("--no-memory", action="store_true", help="times only")
    parser.add_argument("--once", help=argparse.SUPPRESS)
    a = parser.parse_args()
    conv, x, neighbors = setup(a)

    if a.once is not None:
        use(a.once)
        if a.once != "nothing":
            backward(function(a.once, conv), x, neighbors)
        # Not getrusage: its maximum counts the process that started this one.
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
        return

    forms: list[str] = list(FORMS)
    functions = {form: function(form, conv) for form in forms}
    if a.compile:
        forms.append("compiled")
        functions["compiled"] = torch.compile(functions["whole"])
    expected = None
    best = {(form, way): float("inf") for form in forms for way in "fb"}
    for turn in range(a.rounds + 1):  # the first round warms up and checks
        for form in forms:
            use(form)
            f = functions[form]
            with torch.no_grad():
                forward = seconds(lambda f=f: f(x, neighbors))
                if turn == 0:
                    out = f(x, neighbors)
                    expected = out if expected is None else expected
                    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-4)
            both = seconds(lambda f=f: backward(f, x, neighbors))
            if turn:
                best[form, "f"] = min(best[form, "f"], forward)
                best[form, "b"] = min(best[form, "b"], both)
    arguments = [v for v in sys.argv[1:] if v not in ("--compile", "--no-memory")]
    print(f"N={a.nodes} M={a.neighbors} K={a.kernels} d={a.features}, float32, {a.threads} thread(s)\n")
    base = 0.0 if a.no_memory else resident(arguments, "nothing")
    print("| form | forward ms | forward + backward ms | kept MiB | peak MiB |")
    print("|---|---|---|---|---|")
    for form in forms:
        use(form)
        memory = ["-", "-"]
        if form != "compiled" and not a.no_memory:
            memory = [f"{kept(functions[form], x, neighbors):.0f}", f"{resident(arguments, form) - base:.0f}"]
        print(
            f"| {form} | {1e3 * best[form, 'f']:.0f} | {1e3 * best[form, 'b']:.0f} | "
            + " | ".join(memory)
            + " |"
        )


if __name__ == "__main__":
    main()
