"""Speed of row operations against the memory bound, and of optimiser steps and layers against torch's.

Process time, not wall time, so that a busy machine does not blur the ratios; each figure is the median over
rounds of its ratio to a copy of the same tensor timed in the same round. "limit" is what an ideal fused
kernel must move: each input and output once. Run

    python tests/benchmarks/ops_speed.py [--compile] [--rows N] [--threads T]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import geoopt
import torch
from torch import Tensor, nn

from hyperkit import Lorentz, PoincareBall
from hyperkit.nn import geometry
from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P
from hyperkit.optim import RiemannianAdam

D = 64


def seconds(f: Callable[[], object]) -> float:
    start = time.process_time()
    f()
    return time.process_time() - start


def ratios(f: Callable[[], object], unit: Callable[[], object], rounds: int) -> float:
    """Median over rounds of time(f)/time(unit)."""
    f()
    out = []
    for _ in range(rounds):
        base = min(seconds(unit) for _ in range(3))
        out.append(seconds(f) / base)
    return statistics.median(out)


def backward(f: Callable[..., Tensor], *args: Tensor) -> Callable[[], object]:
    leaves = [a.detach().clone().requires_grad_() for a in args]
    weight = torch.randn_like(f(*leaves).detach())

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(f(*leaves), weight)

    return run


def kept(f: Callable[..., Tensor], *args: Tensor) -> float:
    """Bytes kept for the backward pass, in units of one argument."""
    leaves = [a.detach().clone().requires_grad_() for a in args]
    held: dict[int, int] = {}
    own = {leaf.untyped_storage().data_ptr() for leaf in leaves}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        f(*leaves)
    return sum(b for p, b in held.items() if p not in own) / args[0].untyped_storage().nbytes()


def operations(rows: int) -> list[tuple[str, Callable, Callable, tuple[Tensor, ...], int, int]]:
    """Name, ours, geoopt's, arguments, units of the limit forward and forward + backward."""
    g = torch.Generator().manual_seed(0)
    v, w, u = (torch.randn(rows, D, generator=g) * 0.1 for _ in range(3))
    lo, ball = geoopt.Lorentz(), geoopt.PoincareBall()
    pad = nn.functional.pad
    x, y = L.expmap0(pad(v, (1, 0))), L.expmap0(pad(w, (1, 0)))
    t = L.proju(x, pad(u, (1, 0)))
    a, b = P.expmap0(v), P.expmap0(w)
    return [
        ("lorentz expmap0", L.expmap0, lo.expmap0, (pad(v, (1, 0)),), 2, 5),
        ("lorentz logmap0", L.logmap0, lo.logmap0, (x,), 2, 5),
        ("lorentz dist", L.dist, lo.dist, (x, y), 2, 6),
        ("lorentz expmap", L.expmap, lo.expmap, (x, t), 3, 8),
        ("lorentz logmap", L.logmap, lo.logmap, (x, y), 3, 8),
        ("lorentz transp", L.transp, lo.transp, (x, y, t), 4, 11),
        ("lorentz projx", L.projx, lo.projx, (x,), 2, 5),
        ("ball expmap0", P.expmap0, ball.expmap0, (v,), 2, 5),
        ("ball logmap0", P.logmap0, ball.logmap0, (a,), 2, 5),
        ("ball dist", P.dist, ball.dist, (a, b), 2, 6),
        ("ball expmap", P.expmap, ball.expmap, (a, u), 3, 8),
        ("ball logmap", P.logmap, ball.logmap, (a, b), 3, 8),
        ("ball transp", P.transp, ball.transp, (a, b, u), 4, 11),
        ("ball mobius_add", P.mobius_add, ball.mobius_add, (a, b), 3, 8),
    ]


def table_of_operations(rows: int, rounds: int, compiled: bool) -> None:
    source = torch.randn(rows, D)
    target = torch.empty_like(source)

    def copy() -> None:  # two units: read and write
        target.copy_(source)

    print("Ratios to the limit, and what is kept for the backward pass in units of one argument.\n")
    print("| op | forward: ours | geoopt | forward + backward: ours | geoopt | kept: ours | geoopt |")
    print("|---|---|---|---|---|---|---|")
    gains = []
    for name, ours, theirs, args, units, both in operations(rows):
        cells = []
        for f in (torch.compile(ours, fullgraph=True) if compiled else ours, theirs):
            with torch.no_grad():
                forward = 2 * ratios(lambda f=f, args=args: f(*args), copy, rounds) / units
            cells.append((forward, 2 * ratios(backward(f, *args), copy, rounds) / both, kept(f, *args)))
        gains += [cells[1][0] / cells[0][0], cells[1][1] / cells[0][1]]
        columns = [f"{o:.1f} | {t:.1f}" for o, t in zip(*cells, strict=True)]
        print(f"| {name} | " + " | ".join(columns) + " |", flush=True)
    print(f"\ngeometric mean over geoopt: {statistics.geometric_mean(gains):.2f}x\n")


def table_of_optimisers(rows: int, rounds: int) -> None:
    plain = nn.Parameter(torch.randn(rows, D))
    plain.grad = torch.randn_like(plain) * 0.1
    adam = torch.optim.Adam([plain])
    print("| optimiser step | / torch.optim.Adam: ours | geoopt |")
    print("|---|---|---|")
    for name, m, other, width in (
        ("lorentz", Lorentz(), geoopt.Lorentz(), D + 1),
        ("ball", PoincareBall(), geoopt.PoincareBall(), D),
    ):
        cells = []
        for manifold, make in ((m, RiemannianAdam), (other, geoopt.optim.RiemannianAdam)):
            start = m.random_normal(rows, width, std=0.1).as_subclass(Tensor)
            p = geoopt.ManifoldParameter(start, manifold=manifold)  # type: ignore[call-arg]
            p.grad = torch.randn_like(start) * 0.1
            cells.append(ratios(make([p]).step, adam.step, rounds))
        print(f"| {name} | {cells[0]:.1f} | {cells[1]:.1f} |", flush=True)


def table_of_layers(rounds: int) -> None:
    print("\n| layer, forward + backward | / its Euclidean twin |")
    print("|---|---|")
    cells: dict[str, list[float]] = {}
    unit = torch.randn(2000, 2000)
    for name in ("lorentz", "euclidean"):
        g = geometry(name)
        torch.manual_seed(0)
        x, tokens = g.random_normal(256, 20, features=128), torch.rand(256, 20, 20)
        for kind, layer, args in (
            ("Linear", g.Linear(128, 128), (x,)),
            ("GraphConv", g.GraphConv(128, 128), (x, tokens)),
            ("MLR", g.MLR(128, 500), (x,)),
            ("Attention", g.Attention(128, 4), (x,)),
            ("TransformerBlock", g.TransformerBlock(128, 4), (x,)),
            ("Residual", g.Residual(), (x, x.flip(0))),
        ):
            leaves = [a.clone().requires_grad_() for a in args]
            out = torch.randn_like(layer(*leaves).detach())

            def run(layer=layer, leaves=leaves, out=out) -> None:
                torch.autograd.backward(layer(*leaves), out)

            cells.setdefault(kind, []).append(ratios(run, lambda: unit.clone(), rounds))
    for kind, (ours, theirs) in cells.items():
        print(f"| {kind} | {ours / theirs:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="our operations under torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table_of_operations(args.rows, args.rounds, args.compile)
    table_of_optimisers(args.rows, args.rounds)
    table_of_layers(args.rounds)


if __name__ == "__main__":
    main()
