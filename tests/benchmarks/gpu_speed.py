"""The GPU kernels against eager PyTorch, ``torch.compile`` and Triton, in one run on one card.

Times are medians of CUDA events over forms that take turns, a whole call of the layer each, as a user makes
it; "operator" is the compiled operator alone, ten calls in a row. "copy" is the rate of a device-to-device
copy of 1 GiB in the same run, bytes read and written; a row operation's bound moves each input and output
once at it.

    python tests/benchmarks/gpu_speed.py [--rounds 20] [--rows 1000000] [--width 64] [--no-compile] [-o FILE]

Needs a GPU and the library (``python -m hyperkit._ext build --cuda``) or NVRTC. The Triton form is a forward
pass for padded neighbours, written for this comparison: one program a node, a tile of neighbours by outputs
for each kernel point, everything in float32 (so it loses what hyperkit keeps far from the origin).
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import geoopt
import torch
from torch import Tensor

from hyperkit import Lorentz, PoincareBall
from hyperkit.info import info
from hyperkit.nn import HKConv, LorentzLinear, geometry
from hyperkit.ops import _fused, lorentz, poincare
from hyperkit.optim import RiemannianAdam

SIZES = (
    (20_000, 16, 8, 32),
    (100_000, 16, 8, 32),
    (20_000, 16, 8, 64),
    (20_000, 16, 16, 32),
    (20_000, 32, 8, 32),
)


def milliseconds(forms: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each form; they take turns."""
    for f in forms.values():
        for _ in range(3):
            f()
    torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, f in forms.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            f()
            end.record()
            torch.cuda.synchronize()
            times[name].append(start.elapsed_time(end))
    return {name: statistics.median(t) for name, t in times.items()}


def copy_rate() -> float:
    """Bytes read and written a second by a large copy."""
    a, b = (torch.empty(1 << 28, device="cuda") for _ in range(2))
    return 2 * a.nbytes / (milliseconds({"copy": lambda: b.copy_(a)}, 10)["copy"] * 1e-3)


def eager(f: Callable, *arguments: object) -> object:
    with _fused.disabled():
        return f(*arguments)


def step(f: Callable, *inputs: Tensor) -> None:
    """Forward and backward."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    out = f(*leaves)
    out.backward(torch.ones_like(out))


def kept(f: Callable, *inputs: Tensor) -> float:
    """MiB that a forward pass leaves for the backward pass, its output not counted."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    out = f(*leaves)
    return (torch.cuda.memory_allocated() - before - out.untyped_storage().nbytes()) / 2**20


def triton_conv() -> Callable | None:
    """HKConv forward in Triton, or None without it."""
    try:
        import triton
        import triton.language as tl
    except ImportError:
        return None

    @triton.jit
    def kernel(
        x, product, first, bias, scale, kernels, source, out, M: tl.constexpr, K: tl.constexpr,
        D: tl.constexpr, O: tl.constexpr,
    ):  # fmt: skip
        n = tl.program_id(0)
        row: tl.constexpr = K * (O + 1)
        i, m, e = tl.arange(0, D), tl.arange(0, M), tl.arange(0, O)
        s = tl.load(source + n * M + m)
        p = tl.load(x + n * (D + 1) + 1 + i)
        xs = tl.load(x + s[:, None] * (D + 1) + 1 + i[None, :])
        tp = tl.sqrt(tl.sum(p * p) + 1.0)
        tx = tl.sqrt(tl.sum(xs * xs, 1) + 1.0)
        w = xs - p[None, :]
        dt = tl.sum(w * (xs + p[None, :]), 1) / (tx + tp)
        kappa = dt - tl.sum(xs * p[None, :], 1) / (1.0 + tp) + tl.sum(p * p) / (1.0 + tp)
        z = w - kappa[:, None] * p[None, :]
        z0 = tl.sqrt(tl.sum(z * z, 1) + 1.0)
        mt = tl.zeros([M], dtype=tl.float32)
        mean = tl.zeros([M, O], dtype=tl.float32)
        total = tl.zeros([M], dtype=tl.float32)
        for k in range(K):
            q = tl.load(kernels + k * (D + 1) + 1 + i)
            q0 = tl.load(kernels + k * (D + 1))
            cosh = z0 * q0 - tl.sum(z * q[None, :], 1)
            h = tl.maximum(cosh - 1.0, 0.0)
            dist = tl.log(1.0 + h + tl.sqrt(h * (h + 2.0)))
            at = k * O + e
            u = tl.load(product + n * row + at)
            ux = tl.load(product + s[:, None] * row + at[None, :])
            y = ux - (1.0 + kappa[:, None]) * u[None, :] + z0[:, None] * tl.load(first + at)[None, :]
            y += tl.load(bias + at)[None, :]
            g = K * O + k
            gate = tl.load(product + s * row + g) - (1.0 + kappa) * tl.load(product + n * row + g)
            gate = tl.sigmoid(gate + z0 * tl.load(first + g) + tl.load(bias + g))
            excess = gate * tl.load(scale + k) + 1e-4
            qq = tl.sum(y * y, 1)
            f2 = excess * (excess + 2.0) / (qq + 1e-8)
            f = tl.sqrt(f2)
            mt += dist * tl.sqrt(f2 * qq + 1.0)
            total += dist
            mean += (dist * f)[:, None] * y
        square = tl.sum(mean * mean, 1)
        bracket = tl.maximum(mt * mt - square, total * total)
        r = 1.0 / tl.sqrt(bracket)
        point = mean * r[:, None]
        time = tl.sum(tl.sqrt(square * r * r + 1.0)) / M
        space = tl.sum(point, 0) / M
        size = tl.sum(space * space)
        rr = 1.0 / tl.sqrt(tl.maximum(time * time - size, 1.0))
        tl.store(out + n * (O + 1) + 1 + e, space * rr)
        tl.store(out + n * (O + 1), tl.sqrt(size * rr * rr + 1.0))

    def call(layer: HKConv, x: Tensor, neighbors: Tensor) -> Tensor:
        k = layer.kernels
        assert k.bias is not None
        assert k.log_scale is not None
        space, gate = k.weight[:, 1:], k.weight[:, 0]
        matrix = torch.cat([space[..., 1:].flatten(0, 1), gate[:, 1:]])
        first = torch.cat([space[..., 0].flatten(), gate[:, 0]])
        bias = torch.cat([k.bias[:, 1:].flatten(), k.bias[:, 0]])
        n, m = neighbors.shape
        product = x[:, 1:] @ matrix.T
        kernels, count = k.points(), len(k.weight)
        out = x.new_empty(n, k.weight.shape[1])
        d, o = x.shape[1] - 1, k.weight.shape[1] - 1
        kernel[(n,)](
            x, product, first, bias, k.log_scale.exp(), kernels, neighbors, out, m, count, d, o
        )  # fmt: skip
        return out

    return call


def operator_alone(layer: HKConv, x: Tensor, neighbors: Tensor) -> Callable[[], None]:
    """Ten calls of the operator with what the layer gives it."""
    seen: list[tuple] = []
    original = torch.ops.hyperkit_ext.conv
    torch.ops.hyperkit_ext.conv = lambda *a: seen.append(a) or original(*a)
    layer(x, neighbors=neighbors)
    torch.ops.hyperkit_ext.conv = original

    def run() -> None:
        for _ in range(10):
            original(*seen[0])

    return run


def conv_times(sizes: tuple[int, int, int, int], rounds: int, compile_: bool) -> dict[str, object]:
    """Forward and forward + backward of all forms at one size."""
    n, m, k, d = sizes
    torch.manual_seed(0)
    x = geometry("lorentz").random_normal(n, features=d, std=0.5).cuda()
    layer = HKConv(d, d, k, self_loop=False).cuda()
    neighbors = torch.randint(0, n, (n, m)).cuda()
    forms: dict[str, Callable] = {
        "fused": lambda x: layer(x, neighbors=neighbors),
        "eager": lambda x: eager(lambda x: layer(x, neighbors=neighbors), x),
    }
    if compile_:
        with _fused.disabled():
            compiled = torch.compile(lambda x: layer(x, neighbors=neighbors), dynamic=False)
            step(compiled, x)
        forms["torch.compile"] = lambda x: eager(compiled, x)
        around = torch.compile(lambda x: layer(x, neighbors=neighbors), dynamic=False)
        step(around, x)
        forms["fused in torch.compile"] = around
    written = triton_conv()
    with torch.no_grad():
        want = forms["eager"](x)
        error = float((forms["fused"](x) - want).abs().max() / want.abs().max())
        forward = {name: (lambda f=f: f(x)) for name, f in forms.items()}
        if written is not None:
            off = float((written(layer, x, neighbors) - want).abs().max() / want.abs().max())
            print(f"  Triton differs from eager by {off:.1e} of the largest value")
            forward["Triton"] = lambda: written(layer, x, neighbors)
        one = milliseconds(forward, rounds)
        operator = operator_alone(layer, x, neighbors)
        alone = milliseconds({"operator": operator}, rounds)["operator"] / 10
    both = milliseconds({name: (lambda f=f: step(f, x)) for name, f in forms.items()}, rounds)
    memory = {name: round(kept(f, x), 1) for name, f in forms.items()}
    print(f"N M K d = {sizes}: fused differs from eager by {error:.1e}", flush=True)
    one["operator"] = alone
    print("  forward ms  ", {name: round(t, 3) for name, t in one.items()})
    print("  both ms     ", {name: round(t, 3) for name, t in both.items()})
    print("  kept MiB    ", memory, flush=True)
    return {"sizes": sizes, "forward": one, "both": both, "kept": memory, "error": error}


def row_times(n: int, d: int, rounds: int, rate: float) -> list[dict[str, object]]:
    """Row operations against eager, in units of their bound."""
    pad = torch.nn.functional.pad
    v, w = (torch.randn(n, d, device="cuda") * 2.0 / d**0.5 for _ in range(2))
    lx, ly = (lorentz.expmap0(pad(t, (1, 0))) for t in (v, w))
    bx, by = poincare.expmap0(v), poincare.expmap0(w)
    cases: dict[str, tuple[Callable, tuple[Tensor, ...]]] = {
        "lorentz expmap0": (lorentz.expmap0, (pad(v, (1, 0)),)),
        "lorentz logmap0": (lorentz.logmap0, (lx,)),
        "lorentz dist": (lorentz.dist, (lx, ly)),
        "lorentz logmap": (lorentz.logmap, (lx, ly)),
        "lorentz expmap": (lorentz.expmap, (lx, lorentz.logmap(lx, ly))),
        "lorentz transp": (lorentz.transp, (lx, ly, lorentz.logmap(lx, ly))),
        "ball expmap0": (poincare.expmap0, (v,)),
        "ball logmap0": (poincare.logmap0, (bx,)),
        "ball dist": (poincare.dist, (bx, by)),
        "ball logmap": (poincare.logmap, (bx, by)),
        "ball mobius_add": (poincare.mobius_add, (bx, by)),
        "ball expmap": (poincare.expmap, (bx, poincare.logmap(bx, by))),
        "ball transp": (poincare.transp, (bx, by, v)),
    }
    found = []
    for name, (f, inputs) in cases.items():
        run, go = functools.partial(f, *inputs), functools.partial(step, f, *inputs)
        with torch.no_grad():
            out = run()
            one = milliseconds({"kernel": run, "eager": functools.partial(eager, run)}, rounds)
        both = milliseconds({"kernel": go, "eager": functools.partial(eager, go)}, rounds)
        size = sum(t.nbytes for t in inputs)
        bound = (size + out.nbytes) / rate * 1e3
        line = {
            "op": name,
            "bound": bound,
            "forward": one,
            "both": both,
            "both_bound": bound + (2 * size + out.nbytes) / rate * 1e3,
        }
        found.append(line)
        print(
            f"{name:18} bound {bound:.3f} ms  forward: kernel {one['kernel']:.3f} eager {one['eager']:.3f}  "
            f"forward + backward: bound {line['both_bound']:.3f} kernel {both['kernel']:.3f} eager "
            f"{both['eager']:.3f}",
            flush=True,
        )
    return found


def layer_times(rounds: int) -> list[dict[str, object]]:
    """LorentzLinear against eager and against ``torch.nn.Linear`` of the same width."""
    found = []
    for n, d in ((20_000, 32), (100_000, 64), (100_000, 256)):
        torch.manual_seed(0)
        x = geometry("lorentz").random_normal(n, features=d, std=0.5).cuda()
        layer, plain = LorentzLinear(d, d).cuda(), torch.nn.Linear(d, d).cuda()
        space = x[:, 1:].contiguous()
        forms: dict[str, Callable[[], object]] = {
            "kernel": lambda layer=layer, x=x: layer(x),
            "eager": lambda layer=layer, x=x: eager(layer, x),
            "torch.nn.Linear": lambda plain=plain, space=space: plain(space),
        }
        with torch.no_grad():
            error = float((layer(x) - eager(layer, x)).abs().max())  # pyright: ignore[reportOperatorIssue]
            forward = milliseconds(forms, rounds)
        both = milliseconds(
            {
                "kernel": lambda layer=layer, x=x: step(layer, x),
                "eager": lambda layer=layer, x=x: eager(step, layer, x),
                "torch.nn.Linear": lambda plain=plain, space=space: step(plain, space),
            },
            rounds,
        )
        found.append({"n": n, "d": d, "forward": forward, "both": both, "error": error})
        print(f"LorentzLinear {n} x {d}, differs by {error:.0e}: {rounded(forward)}; both {rounded(both)}")
    return found


def rounded(times: dict[str, float]) -> dict[str, float]:
    return {name: round(t, 3) for name, t in times.items()}


def adam_times(m: Lorentz | PoincareBall, n: int, d: int, rounds: int) -> dict[str, float]:
    """A step on points of `m` with `d` coordinates against ``torch.optim.Adam``'s."""
    start = m.random_normal(n, d, std=0.5).as_subclass(Tensor).cuda()
    p = geoopt.ManifoldParameter(start.clone(), manifold=m)
    q = torch.nn.Parameter(start.clone())
    p.grad, q.grad = torch.randn_like(start), torch.randn_like(start)
    ours = RiemannianAdam([p], lr=1e-3)
    theirs = torch.optim.Adam([q], lr=1e-3)
    fused = torch.optim.Adam([torch.nn.Parameter(start.clone())], lr=1e-3, fused=True)
    fused.param_groups[0]["params"][0].grad = q.grad
    return milliseconds(
        {
            "kernel": ours.step,
            "eager": lambda: eager(ours.step),
            "torch.optim.Adam": theirs.step,
            "torch.optim.Adam, fused": fused.step,
        },
        rounds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="how many of the sizes of HKConv")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    for name, value in info().items():
        print(f"{name:9} {value}")
    rate = copy_rate()
    print(f"copy {rate / 1e12:.2f} TB/s", flush=True)
    result: dict[str, object] = {"info": info(), "copy": rate}
    result["conv"] = [
        conv_times(s, args.rounds, not args.no_compile and i == 0) for i, s in enumerate(SIZES[: args.sizes])
    ]
    result["rows"] = row_times(args.rows, args.width, args.rounds, rate)
    result["linear"] = layer_times(args.rounds)
    for name, m, d in (("adam", Lorentz(), args.width + 1), ("ball adam", PoincareBall(), args.width)):
        result[name] = times = adam_times(m, args.rows, d, args.rounds)
        print(name, "ms", rounded(times))
    if args.output:
        args.output.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
