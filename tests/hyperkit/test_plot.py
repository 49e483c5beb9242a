"""Pictures: what is drawn is where it should be."""

import math
import subprocess
import sys

import matplotlib as mpl
import networkx as nx
import numpy as np
import pytest
import torch

mpl.use("Agg")
import matplotlib.pyplot as plt

from hyperkit import Lorentz, PoincareBall, plot
from hyperkit.nn import LorentzMLR, PoincareMLR
from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P
from hyperkit.ops.convert import convert

C = 0.6


@pytest.fixture(params=[plot.disk, plot.half_plane])
def ax(request):
    figure, axes = plt.subplots()
    yield request.param(axes)
    plt.close(figure)


def ball(n: int, c: float = C, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return PoincareBall(c).random_normal(n, 2, generator=g, dtype=torch.float64).as_subclass(torch.Tensor)


def drawn(ax, xy) -> torch.Tensor:
    """What is on the picture, as points of the ball of curvature -1."""
    model = "poincare" if ax.get_ylim()[0] < -1 else "halfspace"
    return convert(torch.as_tensor(np.asarray(xy), dtype=torch.float64), model, "poincare")


def test_points_of_both_models_and_any_curvature(ax) -> None:
    x = ball(9)
    lorentz = P.to_lorentz(x, C).requires_grad_()
    a = plot.points(ax, x, C, color=torch.arange(9))
    b = plot.points(ax, lorentz, torch.tensor(C), color="red")
    torch.testing.assert_close(drawn(ax, a.get_offsets()), C**0.5 * x)
    torch.testing.assert_close(drawn(ax, b.get_offsets()), C**0.5 * x)
    ax.figure.canvas.draw()


def test_geodesics_are_shortest(ax) -> None:
    x, y = ball(5), ball(5, seed=1)
    for i, line in enumerate(plot.geodesic(ax, x, y, C)):
        z = drawn(ax, line.get_xydata()) / C**0.5
        torch.testing.assert_close(z[0], x[i], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(z[-1], y[i], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(P.dist(x[i], z, C) + P.dist(z, y[i], C), P.dist(x[i], y[i], C).expand(100))
        assert bool((P.dist(x[i], z, C).diff() >= 0).all())


def test_far_ends_and_whole_lines(ax) -> None:
    """A line between points at radius 30 is smooth on the picture; a whole line ends at the edge."""
    far = P.expmap0(15 * torch.eye(2, dtype=torch.float64))
    (line,) = plot.geodesic(ax, far[0], far[1])
    z = drawn(ax, line.get_xydata())
    # The line between two ideal points is a circle that is orthogonal to the edge; here it is about (1, 1).
    torch.testing.assert_close((z - 1).norm(dim=-1), torch.ones(100, dtype=torch.float64), rtol=0, atol=1e-6)
    assert float(z.diff(dim=0).norm(dim=-1).max()) < 0.1
    (whole,) = plot.geodesic(ax, ball(1), ball(1, seed=1), C, extend=True)
    ends = drawn(ax, whole.get_xydata())[[0, -1]]
    assert float((1 - ends.norm(dim=-1)).max()) < 1e-6
    with pytest.raises(ValueError, match="x and y must differ for extend=True"):
        plot.geodesic(ax, ball(1), ball(1), extend=True)


def test_circles_and_horocycles(ax) -> None:
    p, omega = ball(3), torch.tensor([[1.0, 0.0], [0.3, -2.0]])
    for i, patch in enumerate(plot.circle(ax, p, 0.8, C, filled=True)):
        z = drawn(ax, patch.get_xy()) / C**0.5
        torch.testing.assert_close(P.dist(p[i], z, C), torch.full((len(z),), 0.8, dtype=torch.float64))
    for i, patch in enumerate(plot.horocycle(ax, omega, -0.4, C)):
        z = drawn(ax, patch.get_xy()) / C**0.5
        near = P.dist0(z, C) < 8
        level = P.busemann(z[near], omega[i].double(), C)
        torch.testing.assert_close(level, torch.full_like(level, -0.4), rtol=0, atol=1e-6)
        assert int(near.sum()) > 200


def test_trees_from_every_form(ax) -> None:
    graph = nx.balanced_tree(2, 3)
    x = ball(graph.number_of_nodes())
    index = torch.tensor(list(graph.edges)).T
    names = nx.relabel_nodes(graph, {i: f"node {i}" for i in graph})
    places = {f"node {i}": x[i] for i in reversed(range(len(x)))}
    forms = [(graph, x), (index, x), (list(graph.edges), x), (names, places), (names, x)]
    segments = [plot.tree(ax, edges, at, C).get_segments() for edges, at in forms]
    for other in segments[1:]:
        np.testing.assert_allclose(np.array(other), np.array(segments[0]))
    first = drawn(ax, segments[0][3]) / C**0.5
    torch.testing.assert_close(first[0], x[index[0, 3]])
    torch.testing.assert_close(first[-1], x[index[1, 3]])
    with pytest.raises(ValueError, match="'missing' has none"):
        plot.tree(ax, [("missing", "node 1")], places, C)
    with pytest.raises(ValueError, match="edges must name nodes 0 to 14, got 0 to 15"):
        plot.tree(ax, torch.tensor([[0], [15]]), x, C)


def test_decision_regions_are_the_classifier(ax) -> None:
    torch.manual_seed(0)
    mlr = PoincareMLR(2, 3, c=C)
    classes = plot.decision_regions(ax, mlr, C, resolution=40)
    xlim, ylim = ((-1, 1), (-1, 1)) if ax.get_ylim()[0] < -1 else (ax.get_xlim(), ax.get_ylim())
    assert {-1, 0, 1, 2} >= set(classes.unique().tolist()) > {-1}
    for row, column in ((20, 20), (30, 12), (35, 20)):
        here = [
            xlim[0] + (xlim[1] - xlim[0]) * column / 39,
            ylim[0] + (ylim[1] - ylim[0]) * row / 39,
        ]
        expected = mlr((drawn(ax, here) / C**0.5).float()).argmax()
        assert int(classes[row, column]) == int(expected)
    outside = classes[0] if ylim[0] < 0 else classes[:0]
    assert bool((outside == -1).all())
    lorentz = LorentzMLR(2, 3, c=C)
    same = plot.decision_regions(ax, lorentz, C, model="lorentz", resolution=30)
    through = plot.decision_regions(ax, lambda x: lorentz(L.from_poincare(x, C)), C, resolution=30)
    assert float((same == through).float().mean()) > 0.99
    two = plot.decision_regions(ax, lambda x: x[:, 0], C, resolution=30, colors=["red", "blue"])
    assert set(two[two >= 0].tolist()) == {0, 1}
    ax.figure.canvas.draw()


def test_bad_input_is_named(ax) -> None:
    with pytest.raises(ValueError, match=r"ax must come from hyperkit\.plot\.disk"):
        plot.points(plt.figure().subplots(), ball(2))
    plt.close("all")
    for x, message in (
        (torch.zeros(2, 4), r"x must hold points of the plane"),
        (torch.full((2, 2), math.nan), "x holds NaN"),
        (torch.full((2, 2), 0.9), r"x must lie in the ball of c=1, got sqrt\(c\) \|x\| = 1\.27"),
    ):
        with pytest.raises(ValueError, match=message):
            plot.points(ax, x)
    with pytest.raises(ValueError, match="c must be > 0"):
        plot.points(ax, ball(2), -1.0)
    with pytest.raises(ValueError, match="radius must be > 0, got 0"):
        plot.circle(ax, ball(2), 0)
    with pytest.raises(ValueError, match="omega must be directions of length > 0"):
        plot.horocycle(ax, torch.zeros(2))
    with pytest.raises(ValueError, match="model must be 'poincare' or 'lorentz'"):
        plot.decision_regions(ax, lambda x: x, model="klein")
    with pytest.raises(ValueError, match="classifier must give a row for each"):
        plot.decision_regions(ax, lambda x: x[:3], resolution=20)


def test_matplotlib_is_imported_late() -> None:
    code = "import sys, hyperkit.plot; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_manifold_tensors_and_empty(ax) -> None:
    x = Lorentz(C).random_normal(4, 3)
    plot.points(ax, x, C)
    plot.points(ax, torch.zeros(0, 2))
    plot.geodesic(ax, torch.zeros(0, 2), torch.zeros(0, 2))
