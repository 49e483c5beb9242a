"""Geodesics, circles, horocycles, trees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperkit.ops import poincare as ops
from hyperkit.plot._axes import ball, points, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

# Beyond this radius (c = 1) a point of the disk lies within 1e-7 of the edge: nothing of it can be seen.
_IDEAL_RADIUS = 16.0


def _segments(x: Tensor, y: Tensor, n: int, reach: float | None = None) -> Tensor:
    """Geodesics from x to y ``(*, 2)``, as ``(*, n, 2)``, densest where the picture is largest.

    The line is a circle through x and y about m with ``2 m.x = 1 + |x|^2``, ``2 m.y = 1 + |y|^2``. With
    ``w = J((1+|y|^2) x - (1+|x|^2) y)/2`` and ``D = det(x, y)`` it is ``m = w/D``; the line's point nearest
    to the origin is ``w/|w| D/(|w| + sqrt(|w|^2 - D^2))``, for straight lines (D = 0), too. The points are
    laid out from there, where float64 has most digits, by the square root of their distance: evenly in length
    nearly all of a long line would fall on the edge. With `reach` it goes on to this distance both ways.
    """
    x2, y2 = (1.0 + p.square().sum(-1, keepdim=True) for p in (x, y))
    w = 0.5 * _turn(y2 * x - x2 * y)
    size = w.norm(dim=-1, keepdim=True)
    same = size == 0
    det = (x[..., :1] * y[..., 1:] - x[..., 1:] * y[..., :1]).clamp(-size, size)
    axis = torch.where(same, torch.tensor([1.0, 0.0], dtype=x.dtype), w / torch.where(same, 1.0, size))
    foot = axis * det / torch.where(same, 1.0, size + (size.square() - det.square()).clamp(min=0.0).sqrt())
    along = _turn(axis)
    low, high = (
        ops.dist(foot, p, keepdim=True) * ((p - foot) * along).sum(-1, keepdim=True).sign() for p in (x, y)
    )
    if reach is not None:
        low, high = (reach * (e - f).sign() for e, f in ((low, high), (high, low)))
    root = torch.lerp(_root(low), _root(high), torch.linspace(0, 1, n, dtype=x.dtype)).unsqueeze(-1)
    t = root.square() * root.sign()
    curve = ops.mobius_add(foot.unsqueeze(-2), torch.tanh(0.5 * t) * along.unsqueeze(-2))
    curve = torch.where(same.unsqueeze(-2), x.unsqueeze(-2), curve)
    if reach is None:
        curve[..., 0, :], curve[..., -1, :] = x, y
    return curve


def _turn(x: Tensor) -> Tensor:
    """A quarter turn ``J x`` of ``(*, 2)``."""
    return torch.stack([-x[..., 1], x[..., 0]], -1)


def _root(x: Tensor) -> Tensor:
    return x.sign() * x.abs().sqrt()


def geodesic(
    ax: Axes,
    x: Any,
    y: Any,
    c: float | Tensor = 1.0,
    *,
    extend: bool = False,
    samples: int = 100,
    **style: Any,
) -> list[Line2D]:
    """Draw the geodesics between points, or the whole lines through them.

    Parameters
    ----------
    ax : Axes
        From :func:`disk` or :func:`half_plane`.
    x, y : Tensor
        Ends, ``(*, 3)`` (Lorentz) or ``(*, 2)`` (Poincaré); broadcast.
    c : float or Tensor
        Curvature, > 0.
    extend : bool
        Draw the line from ideal point to ideal point; the ends must differ.
    samples : int
        Points on a line.
    **style
        For :meth:`matplotlib.axes.Axes.plot`.
    """
    if samples < 2:
        raise ValueError(f"samples must be >= 2, got {samples}")
    a, b = torch.broadcast_tensors(ball("x", x, c), ball("y", y, c))
    a, b = a.reshape(-1, 2), b.reshape(-1, 2)
    if extend and bool((a == b).all(-1).any()):
        raise ValueError("x and y must differ for extend=True: one point lies on many lines")
    curves = show(ax, _segments(a, b, samples, _IDEAL_RADIUS if extend else None))
    style = {"lw": 1.2, "color": "#3f51b5", "zorder": 2, **style}
    return [ax.plot(line[:, 0], line[:, 1], **style)[0] for line in curves]


def circle(
    ax: Axes,
    centre: Any,
    radius: float,
    c: float | Tensor = 1.0,
    *,
    filled: bool = False,
    samples: int = 200,
    **style: Any,
) -> list[Any]:
    """Draw the circles (or balls) of one hyperbolic radius about points.

    Parameters
    ----------
    ax : Axes
        From :func:`disk` or :func:`half_plane`.
    centre : Tensor
        Points ``(*, 3)`` or ``(*, 2)``.
    radius : float
        Geodesic radius, > 0, in the units of the curvature.
    c : float or Tensor
        Curvature, > 0.
    filled : bool
        Fill the ball.
    samples : int
        Corners of the polygon.
    **style
        For :class:`matplotlib.patches.Polygon`.
    """
    if not radius > 0:
        raise ValueError(f"radius must be > 0, got {radius}")
    p = ball("centre", centre, c).reshape(-1, 1, 2)
    r = float(torch.as_tensor(c).detach()) ** 0.5 * radius
    angle = torch.linspace(0, 2 * math.pi, samples + 1, dtype=torch.float64)[:-1]
    # About the origin, then moved: the corners are spread evenly about the centre that is seen.
    ring = ops.expmap0(0.5 * r * torch.stack([angle.cos(), angle.sin()], -1))
    return _polygons(ax, show(ax, ops.mobius_add(p, ring)), filled, style)


def horocycle(
    ax: Axes,
    omega: Any,
    level: float = 0.0,
    c: float | Tensor = 1.0,
    *,
    filled: bool = False,
    samples: int = 400,
    **style: Any,
) -> list[Any]:
    """Draw the horocycles (or horoballs) ``B_omega = level`` of :func:`hyperkit.ops.poincare.busemann`.

    Parameters
    ----------
    ax : Axes
        From :func:`disk` or :func:`half_plane`.
    omega : Tensor
        Ideal points as directions ``(*, 2)``, of any length > 0.
    level : float
        0 goes through the origin, less lies nearer to the ideal point; in the units of the curvature.
    c : float or Tensor
        Curvature, > 0.
    filled : bool
        Fill the horoball.
    samples : int
        Corners of the curve.
    **style
        For :class:`matplotlib.patches.Polygon`.
    """
    omega = torch.as_tensor(omega).detach().cpu().double().reshape(-1, 2)
    size = omega.norm(dim=-1, keepdim=True)
    if not bool((size > 0).all()):
        raise ValueError("omega must be directions of length > 0, got a zero vector")
    unit = (omega / size).unsqueeze(-2)
    b = float(torch.as_tensor(c).detach()) ** 0.5 * level
    # A circle that touches the edge at omega and crosses the axis at tanh(-b/2).
    radius = 0.5 * (1.0 - math.tanh(-0.5 * b))
    # Denser near omega, where the half-plane's picture reaches far out.
    s = torch.linspace(-1, 1, samples + 2, dtype=torch.float64)[1:-1]
    angle = math.pi * (1.0 - s.abs()).square() * s.sign()
    normal = torch.stack([-unit[..., 1], unit[..., 0]], -1)
    ring = angle.cos().unsqueeze(-1) * unit + angle.sin().unsqueeze(-1) * normal
    return _polygons(ax, show(ax, ops.projx((1.0 - radius) * unit + radius * ring)), filled, style)


def _polygons(ax: Axes, curves: Any, filled: bool, style: dict[str, Any]) -> list[Any]:
    from matplotlib.patches import Polygon

    color = style.pop("color", "#d1495b")
    base: dict[str, Any] = {
        "edgecolor": color,
        "facecolor": color if filled else "none",
        "lw": 1.2,
        "zorder": 2,
    }
    if filled:
        base["alpha"] = 0.35
    return [ax.add_patch(Polygon(curve, closed=True, **{**base, **style})) for curve in curves]


def tree(
    ax: Axes,
    edges: Any,
    x: Any,
    c: float | Tensor = 1.0,
    *,
    samples: int = 24,
    nodes: bool = True,
    color: Any = None,
    **style: Any,
) -> LineCollection:
    """Draw a tree or graph: geodesics for edges, points for nodes.

    Parameters
    ----------
    ax : Axes
        From :func:`disk` or :func:`half_plane`.
    edges : networkx graph, Tensor or sequence
        A graph, an edge index ``(2, E)``, or pairs of nodes.
    x : Tensor or mapping
        Points ``(N, 3)`` or ``(N, 2)``, in the order of the graph's nodes; or a point for each node.
    c : float or Tensor
        Curvature, > 0.
    samples : int
        Points on an edge.
    nodes : bool
        Draw the nodes, too.
    color : optional
        Of the nodes, see :func:`points`.
    **style
        For :class:`matplotlib.collections.LineCollection`.

    Raises
    ------
    ValueError
        If an edge names a node without a point.
    """
    from matplotlib.collections import LineCollection

    table, index = _edges(edges, x)
    at = ball("x", table, c)
    if at.ndim != 2:
        raise ValueError(f"x must have shape (N, 3) or (N, 2), got {tuple(at.shape)}")
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= len(at)):
        raise ValueError(
            f"edges must name nodes 0 to {len(at) - 1}, got {int(index.min())} to {int(index.max())}"
        )
    curves = show(ax, _segments(at[index[0]], at[index[1]], samples))
    style = {"linewidths": 0.6, "colors": "#3f51b5", "alpha": 0.6, "zorder": 1, **style}
    lines = LineCollection(list(curves), **style)
    ax.add_collection(lines, autolim=False)
    if nodes:
        points(ax, at, s=8.0, color="#d1495b" if color is None else color)
    return lines


def _edges(edges: Any, x: Any) -> tuple[Any, Tensor]:
    """Points in a table and the edge index ``(2, E)`` into it."""
    if isinstance(edges, Tensor):
        if edges.ndim != 2 or edges.shape[0] != 2 or edges.is_floating_point():
            raise ValueError(
                f"edges must be an integer tensor (2, E), got {edges.dtype} {tuple(edges.shape)}"
            )
        return x, edges.detach().cpu().long()
    order = list(edges.nodes) if hasattr(edges, "nodes") else None
    pairs = [tuple(e)[:2] for e in (edges.edges if hasattr(edges, "edges") else edges)]
    if isinstance(x, Mapping):
        order = list(x)
        x = torch.stack([torch.as_tensor(p) for p in x.values()])
    if order is not None:
        row = {node: i for i, node in enumerate(order)}
        missing = [n for pair in pairs for n in pair if n not in row]
        if missing:
            raise ValueError(f"x must hold a point for every node of edges, {missing[0]!r} has none")
        pairs = [(row[a], row[b]) for a, b in pairs]
    return x, torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
