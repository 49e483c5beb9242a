"""A picture for each family of operations: ``python docs/geometry/figures.py`` writes them (SVG, PNG)."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import networkx as nx
import torch
from matplotlib.figure import Figure
from torch import Tensor

from hyperkit import nn as hnn
from hyperkit import plot
from hyperkit.ops import lorentz as lo
from hyperkit.ops import poincare as po
from hyperkit.ops.convert import convert

FOLDER = Path(__file__).parent / "figures"
BLUE, RED, GREEN, GREY = "#3f51b5", "#d1495b", "#2a9d55", "#8a8f98"


def polar(radius: float, angle: float) -> Tensor:
    """The point of the disk at a distance from the origin."""
    return po.expmap0(0.5 * radius * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64))


def row(n: int) -> tuple[Figure, list]:
    fig, axes = plt.subplots(1, n, figsize=(3.1 * n, 3.2))
    return fig, list(axes)


def label(ax, x: Tensor, text: str, shift: tuple[float, float] = (0.03, 0.03)) -> None:
    ax.annotate(text, (float(x[0]) + shift[0], float(x[1]) + shift[1]), fontsize=9)


def arrow(ax, x: Tensor, v: Tensor, color: str = RED) -> None:
    """A tangent vector of the disk at x, drawn in the length of its coordinates."""
    ax.annotate(
        "",
        (x + v).tolist(),
        x.tolist(),
        arrowprops={"arrowstyle": "-|>", "color": color, "lw": 1.4},
        zorder=4,
    )


def distances() -> Figure:
    """``dist``, ``geodesic``, ``dist0``: both models of the same points."""
    fig, (left, middle, right) = row(3)
    x, y = polar(1.6, 2.6), polar(2.2, 0.4)
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    for make, ax in ((plot.disk, left), (plot.half_plane, right)):
        make(ax, title="geodesic, equal steps" if ax is left else "the same in the half-plane")
        plot.geodesic(ax, x, y, extend=True, color=GREY, lw=0.7)
        plot.geodesic(ax, x, y, lw=2.0)
        plot.points(ax, po.geodesic(t, x, y), color=RED, s=16)
    plot.disk(middle, title="circles of radius 0.5, 1, ..., 3")
    for k in range(1, 7):
        plot.circle(middle, po.projx(torch.zeros(2, dtype=torch.float64)), 0.5 * k, color=BLUE)
        plot.circle(middle, polar(1.6, 0.7), 0.5 * k, color=RED, lw=0.7)
    return fig


def maps() -> Figure:
    """``expmap``, ``logmap``, ``transp``."""
    fig, (left, middle, right) = row(3)
    x = polar(1.2, 2.4)
    plot.disk(left, title="exp and log at a point")
    for k in range(12):
        angle = 2 * math.pi * k / 12
        v = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
        v = v / po.norm(x, v, keepdim=True)
        plot.geodesic(left, x, po.expmap(x, 1.5 * v), lw=0.9)
        plot.points(left, po.expmap(x, 1.5 * v), color=RED, s=10)
        arrow(left, x, 1.0 * v)
    plot.disk(middle, title="transport along geodesics")
    corners = [polar(1.4, 0.5 + 2 * math.pi * k / 3) for k in range(3)]
    u = torch.tensor([0.0, 0.5], dtype=torch.float64)
    v = u / po.norm(corners[0], u, keepdim=True) * 0.9
    arrow(middle, corners[0], v, GREEN)
    for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
        plot.geodesic(middle, a, b)
        for k in range(1, 5):
            p = po.geodesic(k / 4, a, b)
            arrow(middle, p, po.transp(a, p, v))
        v = po.transp(a, b, v)
    plot.disk(right, title="Möbius addition moves the plane")
    a = polar(1.0, 0.3)
    tree = nx.balanced_tree(3, 3)
    nodes = _layout(tree, 1.1)
    plot.tree(right, tree, nodes, color=GREY, colors=GREY)
    plot.tree(right, tree, po.mobius_add(a, nodes), color=RED, colors=BLUE)
    return fig


def _layout(tree: nx.Graph, length: float) -> Tensor:
    """A rooted tree with each child at one distance from its parent."""
    place = {0: torch.zeros(2, dtype=torch.float64)}
    for parent, child in nx.bfs_edges(tree, 0):
        kids = [k for k in tree.neighbors(parent) if k > parent]
        start = 0.0
        if parent:
            back = po.mobius_add(-place[parent], place[min(tree.neighbors(parent))])
            start = math.atan2(float(back[1]), float(back[0]))
        degree = len(kids) + (parent != 0)
        angle = start + 2 * math.pi * (kids.index(child) + (parent != 0)) / degree
        place[child] = po.mobius_add(place[parent], polar(length, angle))
    return torch.stack([place[n] for n in sorted(place)])


def isometries() -> Figure:
    """``boost``, ``rotation``, ``reflection``, on Lorentz points."""
    fig, axes = row(3)
    tree = nx.balanced_tree(3, 3)
    x = convert(_layout(tree, 1.1), "poincare", "lorentz")
    turn = torch.tensor(
        [[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]], dtype=torch.float64
    )
    a = lo.from_space(torch.tensor([0.9, 0.5], dtype=torch.float64))
    normal = torch.tensor([0.5, -0.4, 1.0], dtype=torch.float64)
    moved = {
        "boost": lo.boost(x, a),
        "rotation": lo.from_space(x[:, 1:] @ turn.T),
        "reflection": lo.reflection(x, normal),
    }
    for ax, (name, y) in zip(axes, moved.items(), strict=True):
        plot.disk(ax, title=name)
        plot.tree(ax, tree, x, color=GREY, colors=GREY)
        plot.tree(ax, tree, y)
    # The mirror is where <normal, y> = 0: it goes through its point nearest to the origin, at right angles.
    space = normal[1:] / normal[1:].norm()
    foot = lo.expmap0(torch.cat([torch.zeros(1), torch.atanh(normal[0] / normal[1:].norm()) * space]))
    side = torch.stack([torch.zeros((), dtype=torch.float64), -space[1], space[0]])
    plot.geodesic(axes[2], foot, lo.expmap(foot, side), extend=True, color=GREEN, lw=1.6)
    return fig


def means() -> Figure:
    """``centroid``, ``frechet_mean``, weights."""
    fig, (left, middle, right) = row(3)
    g = torch.Generator().manual_seed(4)
    v = torch.randn(7, 2, generator=g, dtype=torch.float64)
    x = po.mobius_add(polar(1.0, 0.8), po.expmap0(0.6 * v))
    plot.disk(left, title="Einstein midpoint and Fréchet mean")
    for mean, color, name in ((po.centroid(x), RED, "midpoint"), (po.frechet_mean(x), GREEN, "Fréchet")):
        plot.geodesic(left, x, mean, color=color, lw=0.5)
        plot.points(left, mean, color=color, s=40, label=name)
    plot.points(left, x, color=BLUE, s=18)
    left.legend(loc="lower left", fontsize=7, frameon=False)
    plot.disk(middle, title="weighted midpoints of three points")
    corners = torch.stack([polar(2.4, 0.3 + 2.0 * k) for k in range(3)])
    w = torch.distributions.Dirichlet(torch.ones(3, dtype=torch.float64)).sample((600,))
    plot.points(
        middle, po.centroid(corners.expand(600, 3, 2), w), color=w.max(-1).values, s=4, cmap="viridis"
    )
    plot.geodesic(middle, corners, corners.roll(1, 0), color=GREY)
    plot.points(middle, corners, color=RED, s=30)
    plot.disk(right, title="... which an isometry moves along")
    moved = po.mobius_add(polar(1.3, 3.3), corners)
    inside = po.centroid(moved.expand(600, 3, 2), w)
    plot.points(right, inside, color=w.max(-1).values, s=4, cmap="viridis")
    plot.geodesic(right, moved, moved.roll(1, 0), color=GREY)
    plot.points(right, moved, color=RED, s=30)
    return fig


def planes() -> Figure:
    """``busemann``, ``dist_to_hyperplane``, ``dist_to_horosphere``, MLR."""
    fig, (left, middle, right) = row(3)
    omega = torch.tensor([0.8, 0.6], dtype=torch.float64)
    plot.disk(left, title="levels of a Busemann function")
    for k in range(-3, 4):
        plot.horocycle(left, omega, float(k), color=RED if k == 0 else BLUE)
    plot.points(left, (1 - 1e-9) * omega, color="black", s=18)
    plot.disk(middle, title="distance to a geodesic")
    p, a = polar(0.6, 2.2), torch.tensor([0.6, -0.8], dtype=torch.float64)
    grid = torch.linspace(-1, 1, 400, dtype=torch.float64)
    xy = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)
    inside = xy.square().sum(-1) < 0.9999
    d = torch.full(inside.shape, math.nan, dtype=torch.float64)
    d[inside] = po.dist_to_hyperplane(xy[inside], p, a, signed=True)
    levels = [-3, -2, -1, 0, 1, 2, 3]
    colors = [RED if k == 0 else BLUE for k in levels]
    middle.contour(grid.numpy(), grid.numpy(), d.numpy(), levels=levels, colors=colors, linewidths=1.0)
    torch.manual_seed(7)
    plot.disk(right, title="regions of a Poincaré MLR")
    mlr = hnn.PoincareMLR(2, 5)
    with torch.no_grad():
        angle = torch.linspace(0, 2 * math.pi, 6)[:-1]
        mlr.weight.copy_(2.0 * torch.stack([angle.cos(), angle.sin()], -1))
        mlr.bias.copy_(torch.tensor([0.6, 0.1, -0.2, 0.4, 0.0]))
    plot.decision_regions(right, mlr)
    return fig


def models() -> Figure:
    """``convert``: one tree and one MLR in the models that can be drawn."""
    fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), width_ratios=[1, 1, 1.5])
    tree = nx.balanced_tree(2, 5)
    x = _layout(tree, 1.0)
    plot.disk(axes[0], title="Poincaré disk")
    plot.tree(axes[0], tree, x)
    plot.disk(axes[1], title="Klein disk: geodesics are straight")
    klein = convert(x, "poincare", "klein").numpy()
    for a, b in tree.edges:
        axes[1].plot(*zip(klein[a], klein[b], strict=True), color=BLUE, lw=0.6, alpha=0.6)
    axes[1].scatter(klein[:, 0], klein[:, 1], s=8, color=RED, linewidths=0, zorder=3)
    plot.half_plane(axes[2], width=3.0, height=2.2, title="upper half-plane")
    plot.tree(axes[2], tree, x)
    return fig


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for make in (distances, maps, isometries, means, planes, models):
        torch.manual_seed(0)
        fig = make()
        fig.tight_layout()
        fig.savefig(FOLDER / f"{make.__name__}.png", dpi=90, bbox_inches="tight")
        plt.close(fig)


if __name__ == "__main__":
    main()
