"""Accuracy of the operations against mpmath at 120 digits, for hyperkit, geoopt and hypll on the same points.

The truth is that of the stored inputs: what the operation should return for the numbers it was given. Run

    python tests/benchmarks/numerics.py            # prints the tables (a minute)
    python tests/benchmarks/numerics.py --json F   # and writes the figures
    python tests/benchmarks/numerics.py --libraries "hypll ball"

hypll's rows appear where it is installed (``pip install --no-deps hypll``; nothing else here needs it).
`tests/hyperkit/test_numerics.py` asserts bounds on the same measurements.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import geoopt
import mpmath as mp
import torch
from torch import Tensor

from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P

mp.mp.dps = 120
D = 8
RADII = (1.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0)
SMALL = (1e-1, 1e-3, 1e-5, 1e-7)
DTYPES = {"float32": torch.float32, "float64": torch.float64}
Vector = list


# Exact geometry on lists of mpmath numbers, c = 1


def exact(x: Tensor) -> list[Vector]:
    """Rows of a tensor as exact numbers."""
    return [[mp.mpf(float(a)) for a in row] for row in x.double().tolist()]


def rounded(rows: list[Vector], dtype: torch.dtype) -> Tensor:
    """Rows rounded to a dtype (through float64: off by 2^-53 of half an ulp at most)."""
    return torch.tensor([[float(a) for a in row] for row in rows], dtype=torch.float64).to(dtype)


def mdot(a: Vector, b: Vector):
    return mp.fsum(p * q for p, q in zip(a, b, strict=True))


def mtime(s: Vector):
    return mp.sqrt(1 + mdot(s, s))


def mdist(a: Vector, b: Vector):
    """Distance of the points over two space parts."""
    w = [p - q for p, q in zip(a, b, strict=True)]
    dt = mtime(a) - mtime(b)
    return 2 * mp.asinh(mp.sqrt(abs(mdot(w, w) - dt * dt)) / 2)


def mnorm(x: Vector, v: Vector):
    """Riemannian norm of the tangent vector at x with space part v."""
    return mp.sqrt(abs(mdot(v, v) - (mdot(x, v) / mtime(x)) ** 2))


def mexp(x: Vector, v: Vector) -> Vector:
    n = mnorm(x, v)
    if n == 0:
        return list(x)
    return [mp.cosh(n) * p + mp.sinh(n) / n * q for p, q in zip(x, v, strict=True)]


def mlog(x: Vector, y: Vector) -> Vector:
    d = mdist(x, y)
    if d == 0:
        return [mp.mpf(0)] * len(x)
    return [d / mp.sinh(d) * (q - mp.cosh(d) * p) for p, q in zip(x, y, strict=True)]


def mtransp0(y: Vector, v: Vector) -> Vector:
    k = mdot(y, v) / (1 + mtime(y))
    return [q + k * p for p, q in zip(y, v, strict=True)]


def mball(s: Vector) -> Vector:
    return [a / (1 + mtime(s)) for a in s]


def munball(p: Vector) -> Vector:
    k = 2 / (1 - mdot(p, p))
    return [k * a for a in p]


# Points


def directions(n: int, seed: int) -> list[Vector]:
    g = torch.Generator().manual_seed(seed)
    rows = exact(torch.randn(n, D, dtype=torch.float64, generator=g))
    return [[a / mp.sqrt(mdot(r, r)) for a in r] for r in rows]


def at(radius: float, u: list[Vector]) -> list[Vector]:
    s = mp.sinh(mp.mpf(radius))
    return [[s * a for a in r] for r in u]


def apart(x: list[Vector], delta: float, seed: int) -> list[Vector]:
    """Points at the distance delta from x, in random directions of the tangent space."""
    out = []
    for p, u in zip(x, directions(len(x), seed), strict=True):
        v = mtransp0(p, u)
        n = mnorm(p, v)
        out.append(mexp(p, [mp.mpf(delta) / n * a for a in v]))
    return out


# Libraries under one face: space parts (Lorentz) or ball points in and out


class Lorentz:
    """hyperkit's Lorentz operations."""

    name = "hyperkit Lorentz"
    top = 40.0

    def store(self, s: list[Vector], dtype: torch.dtype) -> Tensor:
        return L.from_space(rounded(s, dtype))

    def read(self, x: Tensor) -> list[Vector]:
        return exact(x[..., 1:])

    def store_tangent(self, x: Tensor, v: list[Vector], dtype: torch.dtype) -> Tensor:
        """Tangent vector at x with the space part v; the time by tangency."""
        space = rounded(v, dtype)
        time = [mdot(p, q) / mtime(p) for p, q in zip(self.read(x), exact(space), strict=True)]
        return torch.cat([rounded([[t] for t in time], dtype), space], -1)

    def read_tangent(self, x: Tensor, v: Tensor) -> list[Vector]:
        return exact(v[..., 1:])

    dist = staticmethod(L.dist)
    dist0 = staticmethod(L.dist0)
    expmap0 = staticmethod(L.expmap0)
    logmap0 = staticmethod(L.logmap0)
    expmap = staticmethod(L.expmap)
    logmap = staticmethod(L.logmap)
    transp = staticmethod(L.transp)
    egrad2rgrad = staticmethod(L.egrad2rgrad)


class GeooptLorentz(Lorentz):
    name = "geoopt Lorentz"

    def __init__(self) -> None:
        self.m = {d: geoopt.Lorentz(torch.tensor(1.0, dtype=d)) for d in DTYPES.values()}

    def __getattribute__(self, name: str):
        if name in ("dist", "dist0", "expmap0", "logmap0", "expmap", "logmap", "transp", "egrad2rgrad"):
            return lambda x, *a: getattr(self.m[x.dtype], name)(x, *a)
        return object.__getattribute__(self, name)


class Ball(Lorentz):
    """hyperkit's ball; tangent vectors are read as Lorentz space parts through the exact isometry."""

    name = "hyperkit ball"
    top = 35.0

    def store(self, s: list[Vector], dtype: torch.dtype) -> Tensor:
        return rounded([mball(r) for r in s], dtype)

    def read(self, x: Tensor) -> list[Vector]:
        return [munball(r) for r in exact(x)]

    def store_tangent(self, x: Tensor, v: list[Vector], dtype: torch.dtype) -> Tensor:
        rows = []
        for p, u in zip(exact(x), v, strict=True):
            s = munball(p)
            t, time = mtime(s), mdot(s, u) / mtime(s)
            rows.append([a / (1 + t) - b * time / (1 + t) ** 2 for a, b in zip(u, s, strict=True)])
        return rounded(rows, dtype)

    def read_tangent(self, x: Tensor, v: Tensor) -> list[Vector]:
        rows = []
        for p, u in zip(exact(x), exact(v), strict=True):
            k = 2 / (1 - mdot(p, p))
            rows.append([k * a + k * k * mdot(p, u) * b for a, b in zip(u, p, strict=True)])
        return rows

    dist = staticmethod(P.dist)
    dist0 = staticmethod(P.dist0)
    expmap0 = staticmethod(P.expmap0)
    logmap0 = staticmethod(P.logmap0)
    expmap = staticmethod(P.expmap)
    logmap = staticmethod(P.logmap)
    transp = staticmethod(P.transp)
    egrad2rgrad = staticmethod(P.egrad2rgrad)


class GeooptBall(Ball):
    name = "geoopt ball"

    def __init__(self) -> None:
        self.m = {d: geoopt.PoincareBall(torch.tensor(1.0, dtype=d)) for d in DTYPES.values()}

    __getattribute__ = GeooptLorentz.__getattribute__


LIBRARIES: tuple[type[Lorentz], ...] = (Lorentz, Ball, GeooptLorentz, GeooptBall)

if importlib.util.find_spec("hypll"):
    from hypll.manifolds.poincare_ball.math import diffgeom  # type: ignore[import-not-found]

    class HypllBall(Ball):
        """hypll's functions, at exactly c = 1 (its ``Curvature(1.0)`` means 1.3133)."""

        name = "hypll ball"

        @staticmethod
        def _c(x: Tensor) -> Tensor:
            return torch.ones((), dtype=x.dtype)

        def dist(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
            return diffgeom.dist(x, y, self._c(x))

        def dist0(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return diffgeom.dist(torch.zeros_like(x), x, self._c(x))

        def expmap0(self, v: Tensor) -> Tensor:  # type: ignore[override]
            return diffgeom.expmap0(v, self._c(v), dim=-1)

        def logmap0(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return diffgeom.logmap0(x, self._c(x), dim=-1)

        def expmap(self, x: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
            return diffgeom.expmap(x, v, self._c(x), dim=-1)

        def logmap(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
            return diffgeom.logmap(x, y, self._c(x), dim=-1)

        def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
            return diffgeom.transp(x, y, v, self._c(x), dim=-1)

        def egrad2rgrad(self, x: Tensor, g: Tensor) -> Tensor:  # type: ignore[override]
            return diffgeom.euc_to_tangent(x, g, self._c(x), dim=-1)

    LIBRARIES = (*LIBRARIES, HypllBall)


def _median(errors: list) -> float:
    values = sorted(float(e) for e in errors)
    return values[len(values) // 2]


def _worst(errors: list) -> float:
    values = [float(e) for e in errors]
    return float("nan") if any(v != v for v in values) else max(values)


def _relative(got: Tensor, truth: list) -> list:
    return [abs(mp.mpf(g) - t) / t for g, t in zip(got.double().tolist(), truth, strict=True)]


# Measurements: (library, dtype, radius, points) -> error of each row


def far(lib: Lorentz, dtype: torch.dtype, r: float, n: int) -> list:
    """Relative error of the distance of points in independent directions."""
    x, y = lib.store(at(r, directions(n, 0)), dtype), lib.store(at(r, directions(n, 1)), dtype)
    return _relative(lib.dist(x, y), [mdist(a, b) for a, b in zip(lib.read(x), lib.read(y), strict=True)])


def mixed(lib: Lorentz, dtype: torch.dtype, r: float, n: int) -> list:
    """The same for a point at radius r and one at r/3."""
    x, y = lib.store(at(r, directions(n, 0)), dtype), lib.store(at(r / 3, directions(n, 1)), dtype)
    return _relative(lib.dist(x, y), [mdist(a, b) for a, b in zip(lib.read(x), lib.read(y), strict=True)])


def near(delta: float) -> Callable[[Lorentz, torch.dtype, float, int], list]:
    """Relative error of the distance of points `delta` apart before they are stored."""

    def measure(lib: Lorentz, dtype: torch.dtype, r: float, n: int) -> list:
        base = at(r, directions(n, 0))
        x, y = lib.store(base, dtype), lib.store(apart(base, delta, 2), dtype)
        truth = [mdist(a, b) for a, b in zip(lib.read(x), lib.read(y), strict=True)]
        got = lib.dist(x, y).double().tolist()
        # Rows that rounding made equal have the distance 0.
        return [abs(mp.mpf(g) - t) / t if t > 0 else abs(mp.mpf(g)) for g, t in zip(got, truth, strict=True)]

    measure.__doc__ = f"Relative error of the distance of points {delta:g} apart."
    return measure


def self_distance(lib: Lorentz, dtype: torch.dtype, r: float, n: int) -> list:
    """``dist(x, x)``, truly 0."""
    x = lib.store(at(r, directions(n, 0)), dtype)
    return lib.dist(x, x.clone()).abs().tolist()


def to_origin(lib: Lorentz, dtype: torch.dtype, r: float, n: int) -> list:
    """Relative error of ``dist0``."""
    x = lib.store(at(r, directions(n, 0)), dtype)
    return _relative(lib.dist0(x), [mp.asinh(mp.sqrt(mdot(a, a))) for a in lib.read(x)])


def exp0(lib: Lorentz, dtype: torch.dtype, r: float, n: int) -> list:
    """``|exp_0(v) - truth|/|truth|`` in the coordinates of the model, for ``|v| = r``."""
    ball = isinstance(lib, Ball)
    v = rounded([[mp.mpf(r) / (2 if ball else 1) * a for a in u] for u in directions(n, 0)], dtype)
    out = []
    got = exact(lib.expmap0(v)) if ball else exact(lib.expmap0(torch.nn.functional.pad(v, (1, 0)))[..., 1:])
    for g, w in zip(got, exact(v), strict=True):
        m = mp.sqrt(mdot(w, w))
        k = (mp.tanh(m) if ball else mp.sinh(m)) / m
        e = [a - k * b for a, b in zip(g, w, strict=True)]
        out.append(mp.sqrt(mdot(e, e)) / (k * m))
    return out


def log0(lib: Lorentz, dtype: torch.dtype, r: float, n: int) -> list:
    """``|log_0(x) - truth|/|truth|`` for a stored x."""
    ball = isinstance(lib, Ball)
    x = lib.store(at(r, directions(n, 0)), dtype)
    got = exact(lib.logmap0(x)) if ball else exact(lib.logmap0(x)[..., 1:])
    out = []
    for g, s in zip(got, lib.read(x), strict=True):
        m = mp.sqrt(mdot(s, s))
        k = mp.asinh(m) / m / (2 if ball else 1)
        e = [a - k * b for a, b in zip(g, s, strict=True)]
        out.append(mp.sqrt(mdot(e, e)) / (k * m))
    return out


def _base(lib: Lorentz, dtype: torch.dtype, r: float, n: int, length: float = 1.0) -> tuple[Tensor, Tensor]:
    x = lib.store(at(r, directions(n, 0)), dtype)
    v = []
    for p, u in zip(lib.read(x), directions(n, 3), strict=True):
        w = mtransp0(p, u)
        k = mp.mpf(length) / mnorm(p, w)
        v.append([k * a for a in w])
    return x, lib.store_tangent(x, v, dtype)


def exp_at(lib: Lorentz, dtype: torch.dtype, r: float, n: int) -> list:
    """Distance of ``exp_x(v)`` from the truth over that of the truth once rounded, ``|v| = 1``.

    1 is the best that the format can hold.
    """
    x, v = _base(lib, dtype, r, n)
    truth = [mexp(p, u) for p, u in zip(lib.read(x), lib.read_tangent(x, v), strict=True)]
    best = _worst([mdist(a, b) for a, b in zip(lib.read(lib.store(truth, dtype)), truth, strict=True)])
    return [mdist(a, b) / best for a, b in zip(lib.read(lib.expmap(x, v)), truth, strict=True)]


def log_at(lib: Lorentz, dtype: torch.dtype, r: float, n: int) -> list:
    """Riemannian error of ``log_x(y)`` over that of the truth once rounded, y about 1 from x."""
    x, v = _base(lib, dtype, r, n)
    y = lib.store([mexp(p, u) for p, u in zip(lib.read(x), lib.read_tangent(x, v), strict=True)], dtype)
    truth = [mlog(p, q) for p, q in zip(lib.read(x), lib.read(y), strict=True)]

    def errors(w: Tensor) -> list:
        return [
            mnorm(p, [a - b for a, b in zip(g, t, strict=True)])
            for p, g, t in zip(lib.read(x), lib.read_tangent(x, w), truth, strict=True)
        ]

    best = _worst(errors(lib.store_tangent(x, truth, dtype)))
    return [e / best for e in errors(lib.logmap(x, y))]


def round_trip(lib: Lorentz, dtype: torch.dtype, r: float, n: int) -> list:
    """``|log_x(exp_x(v)) - v|`` in the Riemannian norm, ``|v| = 1``."""
    x, v = _base(lib, dtype, r, n)
    back = lib.read_tangent(x, lib.logmap(x, lib.expmap(x, v)))
    return [
        mnorm(p, [a - b for a, b in zip(g, t, strict=True)])
        for p, g, t in zip(lib.read(x), back, lib.read_tangent(x, v), strict=True)
    ]


def transport_norm(lib: Lorentz, dtype: torch.dtype, r: float, n: int) -> list:
    """``| |transp(v)|/|v| - 1 |`` from x to a point at the same radius in an independent direction."""
    x, v = _base(lib, dtype, r, n)
    y = lib.store(at(r, directions(n, 1)), dtype)
    w = lib.read_tangent(y, lib.transp(x, y, v))
    return [
        abs(mnorm(q, a) / mnorm(p, b) - 1)
        for p, q, a, b in zip(lib.read(x), lib.read(y), w, lib.read_tangent(x, v), strict=True)
    ]


def gradient_norm(lib: Lorentz, dtype: torch.dtype, r: float, n: int) -> list:
    """``| |Riemannian gradient of dist| - 1 |``."""
    x, y = lib.store(at(r, directions(n, 0)), dtype), lib.store(at(r, directions(n, 1)), dtype)
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(lib.dist(leaf, y).sum(), leaf)
    v = lib.read_tangent(x, lib.egrad2rgrad(x, g))
    return [abs(mnorm(p, u) - 1) for p, u in zip(lib.read(x), v, strict=True)]


MEASURES: dict[str, Callable] = {
    "far": far,
    "mixed": mixed,
    "near 0.1": near(0.1),
    "near 1e-6": near(1e-6),
    "self": self_distance,
    "dist0": to_origin,
    "exp0": exp0,
    "log0": log0,
    "exp at x / best": exp_at,
    "log at x / best": log_at,
    "round trip at x": round_trip,
    "transport": transport_norm,
    "gradient": gradient_norm,
}


TANGENT = ("exp at x / best", "log at x / best", "round trip at x", "transport", "gradient")


def measure(lib: Lorentz, kind: str, dtype: str, radius: float, n: int = 12) -> tuple[float, float]:
    """Median and worst error; NaN where the library raises or returns no number."""
    try:
        errors = MEASURES[kind](lib, DTYPES[dtype], radius, n)
        return _median(errors), _worst(errors)
    except (ValueError, ZeroDivisionError, OverflowError):
        return float("nan"), float("nan")  # not a number among the results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--libraries", nargs="+", default=[make.name for make in LIBRARIES])
    args = parser.parse_args()
    figures: dict = {}
    for kind, f in MEASURES.items():
        print(f"\n### {kind}: {(f.__doc__ or '').splitlines()[0]}\n")
        radii = SMALL + RADII if kind in ("exp0", "log0", "dist0") else RADII
        print("| library | dtype | " + " | ".join(f"{r:g}" for r in radii) + " |")
        print("|---" * (len(radii) + 2) + "|")
        for make in LIBRARIES:
            if make.name not in args.libraries:
                continue
            lib = make()
            for dtype in DTYPES:
                limit = {"float32": 15.0, "float64": 35.0}[dtype] if isinstance(lib, Ball) else 40.0
                cells = []
                for r in radii:
                    # An ambient tangent vector in float32 has no direction left from radius 16 on.
                    end = min(limit, 15.0) if kind in TANGENT and dtype == "float32" else limit
                    value = measure(lib, kind, dtype, r, args.points) if r <= end else None
                    figures.setdefault(kind, {}).setdefault(lib.name, {}).setdefault(dtype, {})[r] = value
                    cells.append("-" if value is None else f"{value[0]:.0e}")
                print(f"| {lib.name} | {dtype[5:]} | " + " | ".join(cells) + " |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
