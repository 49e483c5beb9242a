"""Invalid input is named; check mode looks at values."""

import pytest
import torch

import hyperkit
from hyperkit import Lorentz, PoincareBall
from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P


def test_points_off_the_manifold_are_named_in_check_mode() -> None:
    x = L.expmap0(torch.randn(3, 4))
    bad = x.clone()
    bad[2, 0] += 0.5
    L.dist(x, bad)  # the time is not read: right without the mode
    with hyperkit.check():
        L.dist(x, x)
        with pytest.raises(ValueError, match=r"y is off the hyperboloid of c=1.0: row \(2,\) has time"):
            L.dist(x, bad)
        with hyperkit.check(False):
            L.dist(x, bad)
        with pytest.raises(ValueError, match="off the hyperboloid"):
            L.dist(bad, x)
    L.dist(x, bad)


def test_points_outside_the_ball_are_named_in_check_mode() -> None:
    x = torch.tensor([[0.1, 0.2], [0.8, 0.7]])
    with hyperkit.check(), pytest.raises(ValueError, match=r"x is outside the ball: row \(1,\)"):
        P.dist0(x)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_a_number_is_named_in_check_mode(value: float) -> None:
    x = L.expmap0(torch.randn(2, 4))
    x[0, 1] = value
    with hyperkit.check(), pytest.raises(ValueError, match="x has 1 values that are NaN or infinite"):
        L.dist0(x)
    assert not bool(torch.isfinite(L.dist0(x)).all())  # and never quietly replaced


@pytest.mark.parametrize("c", [0.0, -2.0, float("nan"), float("inf")])
def test_curvature_must_be_positive(c: float) -> None:
    with pytest.raises(ValueError, match="c must be > 0"):
        Lorentz(c)
    with pytest.raises(ValueError, match="c must be > 0"):
        P.expmap0(torch.zeros(2), c)


def test_curvature_tensor_is_looked_at_in_check_mode() -> None:
    with hyperkit.check(), pytest.raises(ValueError, match=r"c must be > 0, got -1"):
        L.expmap0(torch.zeros(3), torch.tensor(-1.0))
    with pytest.raises(TypeError, match="c must be a floating-point tensor"):
        L.expmap0(torch.zeros(3), torch.tensor(1))
    with pytest.raises(TypeError, match="c must be a number > 0 or a tensor, got str"):
        L.expmap0(torch.zeros(3), "1")


def test_wrong_shapes_and_types_are_named() -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(\*, d \+ 1\)"):
        L.dist0(torch.ones(3, 1))
    with pytest.raises(ValueError, match="y has last dimension 2 but x has 3"):
        P.dist(torch.zeros(3), torch.zeros(2))
    with pytest.raises(TypeError, match=r"x is torch.float16: manifold operations need float32"):
        P.dist0(torch.zeros(3, dtype=torch.float16))
    with pytest.raises(TypeError, match="x must be a tensor, got list"):
        P.dist0([0.0])
    with pytest.raises(TypeError, match="mask must be boolean"):
        L.centroid(L.origin(2, 3), mask=torch.ones(2))
    with pytest.raises(ValueError, match="weights and mask must end in the 2 points"):
        L.centroid(L.origin(2, 3), torch.ones(3))
    with pytest.raises(ValueError, match="size must end in d"):
        Lorentz().random_normal(1)


def test_empty_tensors_work() -> None:
    x, p = L.origin(0, 4), torch.zeros(0, 3)
    assert L.expmap(x, L.logmap(x, x)).shape == (0, 4)
    assert L.centroid(L.origin(2, 0, 4)).shape == (2, 4)
    torch.testing.assert_close(L.centroid(L.origin(2, 0, 4)), L.origin(2, 4))
    assert P.transp(p, p, p).shape == (0, 3)
    assert PoincareBall().cdist(p, torch.zeros(2, 3)).shape == (0, 2)


def test_half_precision_is_raised_under_autocast() -> None:
    x = L.expmap0(torch.randn(2, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert L.centroid(x, torch.rand(2)).dtype == torch.float32
        assert L.pairwise_inner(x, x).dtype == torch.float32
        assert P.mobius_matvec(torch.eye(3), torch.zeros(2, 3)).dtype == torch.float32


def test_planes_refuse_vectors_of_another_width() -> None:
    """A normal without its time was taken for one, and the distance was NaN."""
    x, p, short = L.origin(4), torch.zeros(3), torch.tensor([1.0, 0.0])
    for call in (
        lambda: L.dist_to_hyperplane(x, short),
        lambda: L.reflection(x, short),
        lambda: L.busemann(x, short),
        lambda: L.dist_to_horosphere(x, short, 0.0),
        lambda: P.dist_to_hyperplane(p, p, short),
        lambda: P.busemann(p, short),
    ):
        with pytest.raises(ValueError, match="must have last dimension"):
            call()
