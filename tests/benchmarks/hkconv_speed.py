"""The fused HKConv against eager and ``torch.compile``, A B A B in one run.

Process time, so that a busy machine does not blur the ratios; the forms take turns and each figure is the
least over the rounds. "bound" is the larger of two times that no program for this method can beat here: the
multiply-adds of one product a node and of the combination a pair at the rate of a large matrix product, and
the bytes of inputs, products and outputs at the rate of a copy, both measured in the same run. With
``--compile`` the matrix products and the step-by-step form of differences (``paper`` of ``hkconv_eager.py``)
are compiled as well.

    python tests/benchmarks/hkconv_speed.py [--nodes 20000] [--neighbors 16] [--kernels 8] [--features 32]
                                            [--threads 1] [--rounds 3] [--compile] [--vary]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from hkconv_eager import paper
from torch import Tensor

from hyperkit.info import info
from hyperkit.nn import HKConv, geometry
from hyperkit.ops import _fused


def seconds(f: Callable[[], object]) -> float:
    start = time.process_time()
    f()
    return time.process_time() - start


def backward(f: Callable, x: Tensor, neighbors: Tensor) -> None:
    f(x.clone().requires_grad_(), neighbors).sum().backward()


def kept(f: Callable, x: Tensor, neighbors: Tensor) -> float:
    """MiB held for the backward pass."""
    held: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        f(x.clone().requires_grad_(), neighbors)
    return sum(held.values()) / 2**20


def case(n: int, m: int, k: int, d: int) -> tuple[HKConv, Tensor, Tensor]:
    torch.manual_seed(0)
    x = geometry("lorentz").random_normal(n, features=d, std=0.5)
    return HKConv(d, d, k), x, torch.randint(0, n, (n, m))


def bound(n: int, m: int, k: int, d: int) -> float:
    """Seconds for a forward pass; see the module's text."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    source = torch.randn(1 << 23)
    target = torch.empty_like(source)
    for f in (lambda: a @ b, lambda: target.copy_(source)):
        f()
    rate = 1024**3 / min(seconds(lambda: a @ b) for _ in range(5))
    speed = 8 * source.numel() / min(seconds(lambda: target.copy_(source)) for _ in range(5))
    multiply_adds = n * k * (d + 1) * d + n * m * (k * (d + 1) * 4 + 6 * d + k * d)
    moved = 4 * (n * (d + 1) * 2 + n * k * (d + 1) + n * m * (k * (d + 1) + d + 1))
    return max(multiply_adds / rate, moved / speed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = {"nodes": 20000, "neighbors": 16, "kernels": 8, "features": 32, "threads": 1, "rounds": 3}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compile", action="store_true", help="add torch.compile of two eager forms")
    parser.add_argument("--vary", action="store_true", help="the fused form's cost against N, M, K and d")
    a = parser.parse_args()
    if not _fused.active():
        raise SystemExit("kernels not built: python -m hyperkit._ext build")
    torch.set_num_threads(a.threads)
    size = {"n": a.nodes, "m": a.neighbors, "k": a.kernels, "d": a.features}
    if a.vary:
        print("| N | M | K | d | forward ms | forward + backward ms |")
        print("|---|---|---|---|---|---|")
        for change in ({}, *({key: value * f} for key, value in size.items() for f in (0.5, 2))):
            now = {key: int(value) for key, value in {**size, **change}.items()}
            layer, x, neighbors = case(**now)

            def one(x: Tensor, neighbors: Tensor, layer: HKConv = layer) -> Tensor:
                return layer(x, neighbors=neighbors)

            with torch.no_grad():
                one(x, neighbors)
                f = min(seconds(lambda: one(x, neighbors)) for _ in range(a.rounds))  # noqa: B023
            b = min(seconds(lambda: backward(one, x, neighbors)) for _ in range(a.rounds))  # noqa: B023
            print(
                f"| {' | '.join(str(v) for v in now.values())} | {1e3 * f:.0f} | {1e3 * b:.0f} |", flush=True
            )
        return
    layer, x, neighbors = case(**size)

    def fused(x: Tensor, neighbors: Tensor) -> Tensor:
        return layer(x, neighbors=neighbors)

    def eager(x: Tensor, neighbors: Tensor) -> Tensor:
        with _fused.disabled():
            return layer(x, neighbors=neighbors)

    forms: dict[str, Callable] = {"fused": fused, "eager": eager}
    if a.compile:
        plain = torch.compile(fused)
        steps = torch.compile(lambda x, neighbors: paper(layer, x, neighbors))

        def compiled(x: Tensor, neighbors: Tensor) -> Tensor:
            with _fused.disabled():
                return plain(x, neighbors)

        def difference(x: Tensor, neighbors: Tensor) -> Tensor:
            with _fused.disabled():
                return steps(x, neighbors)

        forms |= {"compiled": compiled, "compiled difference form": difference}
    best = dict.fromkeys(((form, way) for form in forms for way in "fb"), float("inf"))
    for turn in range(a.rounds + 1):  # the first warms up and checks
        for form, f in forms.items():
            with torch.no_grad():
                forward = seconds(lambda f=f: f(x, neighbors))
                if turn == 0:
                    torch.testing.assert_close(f(x, neighbors), fused(x, neighbors), rtol=1e-3, atol=1e-4)
            both = seconds(lambda f=f: backward(f, x, neighbors))
            if turn:
                best[form, "f"] = min(best[form, "f"], forward)
                best[form, "b"] = min(best[form, "b"], both)
    print(f"{size}, float32, {a.threads} thread(s); {info()['kernels']}")
    print(f"bound of the forward pass: {1e3 * bound(**size):.1f} ms\n")
    print("| form | forward ms | / fused | forward + backward ms | / fused | kept MiB |")
    print("|---|---|---|---|---|---|")
    for form, f in forms.items():
        forward, both = best[form, "f"], best[form, "b"]
        print(
            f"| {form} | {1e3 * forward:.0f} | {forward / best['fused', 'f']:.1f} "
            f"| {1e3 * both:.0f} | {both / best['fused', 'b']:.1f} | {kept(f, x, neighbors):.1f} |"
        )


if __name__ == "__main__":
    main()
