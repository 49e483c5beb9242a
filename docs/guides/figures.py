"""Figures of the guide "Hyperbolic geometry in pictures": ``python docs/guides/figures.py`` writes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from hyperkit import Lorentz, PoincareBall
from hyperkit.ops import lorentz as lo
from hyperkit.ops import poincare as po

BALL, LORENTZ = PoincareBall(), Lorentz()
BLUE, RED, GREEN, GREY = "#3f51b5", "#d1495b", "#2a9d55", "#8a8f98"


def disk(ax: Axes, title: str) -> None:
    """An empty Poincaré disk."""
    ax.add_patch(plt.Circle((0, 0), 1, facecolor="#f6f7fb", edgecolor="#333333", lw=1.0))
    ax.set(aspect="equal", xlim=(-1.06, 1.06), ylim=(-1.06, 1.06))
    ax.axis("off")
    ax.set_title(title, fontsize=10)


def curve(ax: Axes, points: Tensor, **style: object) -> None:
    """A line through points ``(n, 2)``."""
    x, y = points.double().numpy().T
    ax.plot(x, y, **{"color": BLUE, "lw": 1.2, **style})  # type: ignore[arg-type]


def segment(x: Tensor, y: Tensor, n: int = 60) -> Tensor:
    """Points along the geodesic from x to y, ``(n, 2)``."""
    t = torch.linspace(0, 1, n, dtype=x.dtype)
    return po.geodesic(t, x, y, 1.0)


def polar(r: float, angle: float) -> Tensor:
    """The point of the disk at hyperbolic distance r from the origin."""
    v = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64) * r
    return BALL.expmap0(v / 2)


def lines() -> plt.Figure:
    """Geodesics, circles, parallels."""
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(9.6, 3.4))
    disk(left, "straight lines (geodesics)")
    for k in range(9):
        a, b = polar(9, 0.3 + 0.7 * k), polar(9, 0.3 + 0.7 * k + 0.5 + 0.3 * k)
        curve(left, segment(a, b, 200))
    disk(middle, "circles of radius 1 are equal")
    angle = torch.linspace(0, 2 * math.pi, 120, dtype=torch.float64)
    for r, a in [(0, 0), (1.5, 0.4), (2.5, 2.2), (3.5, 4.0), (4.5, 5.3), (2.5, 3.2), (3.5, 1.3)]:
        centre = polar(r, a)
        unit = torch.stack([angle.cos(), angle.sin()], -1)
        unit = unit / po.norm(centre, unit, 1.0, keepdim=True)
        curve(middle, po.expmap(centre, unit, 1.0))
        middle.plot(*centre.numpy(), ".", color=RED, ms=3)
    disk(right, "many parallels through one point")
    base = segment(polar(9, 2.6), polar(9, 0.5), 200)
    curve(right, base, color=RED, lw=1.8)
    p = polar(0.9, -1.4)
    for k in range(7):
        v = torch.tensor([math.cos(-0.75 + 0.25 * k), math.sin(-0.75 + 0.25 * k)], dtype=torch.float64)
        v = v / po.norm(p, v, 1.0, keepdim=True)
        t = torch.linspace(-9, 9, 300, dtype=torch.float64)
        curve(right, po.geodesic_unit(t, p, v, 1.0), lw=0.9)
    right.plot(*p.numpy(), "o", color="#222222", ms=4)
    return fig


def tree() -> plt.Figure:
    """Room grows as fast as a tree."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.8))
    disk(left, "a binary tree, all edges of length 1.2")
    length, depth = 1.2, 6
    dots: dict[int, list[Tensor]] = {}

    def grow(x: Tensor, direction: Tensor, level: int) -> None:
        dots.setdefault(level, []).append(x)
        if level == depth:
            return
        for turn in (-0.95, 0.95) if level else (-2.09, 0.0, 2.09):
            c, s = math.cos(turn), math.sin(turn)
            v = direction @ torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
            v = v / po.norm(x, v, 1.0, keepdim=True)
            child = po.expmap(x, length * v, 1.0)
            curve(left, segment(x, child, 8), lw=max(0.3, 1.4 - 0.17 * level))
            grow(child, po.transp(x, child, v, 1.0), level + 1)

    grow(torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64), 0)
    for level, points in dots.items():
        x, y = torch.stack(points).numpy().T
        left.plot(x, y, ".", color=RED, ms=max(1.2, 7 - level))
    r = torch.linspace(0, 8, 100, dtype=torch.float64)
    right.semilogy(r, 2 * math.pi * torch.sinh(r), color=BLUE, label="hyperbolic, 2π sinh r")
    right.semilogy(r, 2 * math.pi * r, color=GREY, label="Euclidean, 2π r")
    right.semilogy(
        range(1, 8), [3 * 2 ** (k - 1) for k in range(1, 8)], "o", color=RED, label="nodes at depth r"
    )
    right.set(xlabel="radius r", ylim=(1, 2e4))
    right.set_title("length of a circle", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    right.spines[["top", "right"]].set_visible(False)
    return fig


def models() -> plt.Figure:
    """The hyperboloid and its shadow in the disk."""
    fig = plt.figure(figsize=(9.0, 3.8))
    ax = fig.add_subplot(1, 2, 1)
    s = torch.linspace(-2.6, 2.6, 200, dtype=torch.float64)
    ax.plot(s, torch.sqrt(1 + s * s), color=BLUE, lw=1.6)
    ax.plot(s, s.abs(), ":", color=GREY, lw=1)
    ax.plot([-1, 1], [0, 0], color="#333333", lw=2.5)
    for r in (-1.5, -0.8, 0.0, 0.8, 1.5):
        x, t = math.sinh(r), math.cosh(r)
        foot = x / (1 + t)
        ax.plot([x, 0], [t, -1], color=RED, lw=0.7)
        ax.plot(x, t, "o", color=BLUE, ms=4)
        ax.plot(foot, 0, "o", color=RED, ms=4)
    ax.plot(0, -1, "k^", ms=5)
    ax.set(aspect="equal", xlim=(-2.6, 2.6), ylim=(-1.3, 2.8), xlabel="space", ylabel="time")
    ax.set_title("Lorentz model (blue) seen from (-1, 0): the ball (red)", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax = fig.add_subplot(1, 2, 2)
    disk(ax, "the same seven lines: Poincaré (blue), Klein (red, straight)")
    for k in range(7):
        a, b = polar(9, 0.9 * k), polar(9, 0.9 * k + 1.2 + 0.15 * k)
        line = segment(a, b, 200)
        curve(ax, line)
        curve(ax, 2 * line / (1 + (line * line).sum(-1, keepdim=True)), color=RED, lw=0.8)
    return fig


def maps() -> plt.Figure:
    """Exponential map, transport around a triangle, centroid."""
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(9.6, 3.4))
    disk(left, "expmap: walk along a tangent vector")
    x = polar(1.0, 3.6)
    for k in range(8):
        v = torch.tensor([math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)], dtype=torch.float64)
        v = v / po.norm(x, v, 1.0, keepdim=True)
        t = torch.linspace(0, 2, 60, dtype=torch.float64)
        curve(left, po.geodesic_unit(t, x, v, 1.0))
        for step in (1.0, 2.0):
            left.plot(*po.expmap(x, step * v, 1.0).numpy(), ".", color=RED, ms=5)
    left.plot(*x.numpy(), "o", color="#222222", ms=4)
    disk(middle, "transport around a triangle")
    corners = [polar(1.6, a) for a in (math.pi / 2, math.pi * 7 / 6, math.pi * 11 / 6)]
    v = torch.tensor([1.0, 0.0], dtype=torch.float64)
    v = 0.7 * v / po.norm(corners[0], v, 1.0, keepdim=True)
    for k in range(3):
        a, b = corners[k], corners[(k + 1) % 3]
        curve(middle, segment(a, b))
        for t in (0.0, 0.25, 0.5, 0.75, 1.0):
            p = po.geodesic(t, a, b, 1.0)
            u = po.transp(a, p, v, 1.0)
            tip = po.expmap(p, u, 1.0)
            colour = GREEN if (k, t) == (0, 0.0) else RED if (k, t) == (2, 1.0) else GREY
            middle.annotate("", tip.numpy(), p.numpy(), arrowprops={"arrowstyle": "->", "color": colour})
        v = po.transp(a, b, v, 1.0)
    disk(right, "centroid (red), coordinate mean (grey)")
    points = torch.stack([polar(r, a) for r, a in [(3.5, 0.2), (3.2, 0.6), (3.8, -0.3), (0.6, 2.5)]])
    mean = po.centroid(points, None, None, 1.0)
    for p in points:
        curve(right, segment(mean, p), lw=0.7)
        right.plot(*p.numpy(), "o", color=BLUE, ms=4)
    right.plot(*mean.numpy(), "o", color=RED, ms=6)
    right.plot(*points.mean(0).numpy(), "s", color=GREY, ms=5)
    return fig


def boost() -> plt.Figure:
    """What HKConv sees: the neighbourhood, moved so that the node is the origin."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.0, 3.9))
    node = polar(2.2, 0.8)
    turn = [0.3, 1.4, 2.6, 3.9, 5.2]
    around = []
    for k, a in enumerate(turn):
        v = torch.tensor([math.cos(a), math.sin(a)], dtype=torch.float64)
        v = v / po.norm(node, v, 1.0, keepdim=True)
        around.append(po.expmap(node, (0.7 + 0.12 * k) * v, 1.0))
    near = torch.stack(around)
    moved = lo.to_poincare(
        lo.boost(lo.from_poincare(near, 1.0), lo.from_poincare(node, 1.0), 1.0, inverse=True), 1.0
    )
    kernels = torch.stack([polar(0.0, 0.0)] + [polar(0.66, a) for a in (0.5, 2.1, 3.6, 5.0)])
    for ax, centre, points, title in (
        (left, node, near, "a node and its neighbours"),
        (
            right,
            torch.zeros(2, dtype=torch.float64),
            moved,
            "after the boost: kernel points (green) weigh them",
        ),
    ):
        disk(ax, title)
        for p in points:
            curve(ax, segment(centre, p), lw=0.9)
            ax.plot(*p.numpy(), "o", color=BLUE, ms=5)
        ax.plot(*centre.numpy(), "o", color=RED, ms=6)
    for p in kernels:
        right.plot(*p.numpy(), "P", color=GREEN, ms=7, mec="white", mew=0.5)
    return fig


FIGURES: dict[str, Callable[[], plt.Figure]] = {
    "lines": lines,
    "tree": tree,
    "models": models,
    "maps": maps,
    "boost": boost,
}


def main(folder: Path) -> None:
    """Draw all figures into a folder; the same bytes at every run."""
    mpl.rcParams["svg.hashsalt"] = "hyperkit"
    for name, draw in FIGURES.items():
        fig = draw()
        fig.tight_layout()
        fig.savefig(
            folder / f"{name}.svg",
            facecolor="white",
            bbox_inches="tight",
            pad_inches=0.05,
            metadata={"Date": None},
        )
        plt.close(fig)


if __name__ == "__main__":
    out = Path(__file__).parent / "figures"
    out.mkdir(exist_ok=True)
    main(out)
