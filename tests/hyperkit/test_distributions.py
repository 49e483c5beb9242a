"""Densities integrate to one, samples follow them, gradients are those of the mathematics."""

import math

import pytest
import torch

from hyperkit import Klein, Lorentz, PoincareBall
from hyperkit.distributions import RiemannianNormal, UniformBall, WrappedNormal
from hyperkit.ops import lorentz as L

C = 0.7


def make(kind, manifold, dim: int = 2, dtype=torch.float64):
    v = torch.zeros(dim + 1, dtype=dtype)
    v[1], v[-1] = 0.8, -0.4
    loc = L.expmap0(v, C)
    if isinstance(manifold, PoincareBall):
        loc = L.to_poincare(loc, C)
    scale = torch.tensor(0.8, dtype=dtype)
    return kind(manifold, loc, scale if kind is not WrappedNormal else torch.full((dim,), 0.8, dtype=dtype))


KINDS = [WrappedNormal, RiemannianNormal, UniformBall]
MANIFOLDS = [Lorentz(C), PoincareBall(C)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("manifold", MANIFOLDS, ids=lambda m: m.name)
def test_density_integrates_to_one(kind, manifold) -> None:
    """Over polar coordinates about the origin, which is not the location; area sinh(sqrt(c) r)/sqrt(c)."""
    p = make(kind, manifold)
    r = torch.linspace(0, 9, 1201, dtype=torch.float64)[1:]
    angle = torch.arange(240, dtype=torch.float64) * (2 * math.pi / 240)
    u = torch.stack([angle.cos(), angle.sin()], -1)
    x = L.from_space((torch.sinh(C**0.5 * r) / C**0.5).view(-1, 1, 1) * u, C)
    density = p.log_prob(x if isinstance(manifold, Lorentz) else L.to_poincare(x, C)).exp()
    area = (torch.sinh(C**0.5 * r) / C**0.5).view(-1, 1)
    total = float((density * area).sum() * (9 / 1200) * (2 * math.pi / 240))
    assert abs(total - 1) < (2e-2 if kind is UniformBall else 1e-4)  # a step function on a grid


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_the_density(kind, dim: int) -> None:
    """Chi-square of the distance from the location in 16 cells of equal probability."""
    p = make(kind, Lorentz(C), dim)
    n, cells = 8000, 16
    x = p.sample((n,), torch.Generator().manual_seed(0))
    r = L.dist(x, p.loc, C)
    grid = torch.linspace(0, 16, 40001, dtype=torch.float64)[1:]
    y = L.boost(
        L.from_space(torch.sinh(C**0.5 * grid).unsqueeze(-1) / C**0.5 * torch.eye(dim)[0], C), p.loc, C
    )
    shell = (dim - 1) * torch.log(torch.sinh(C**0.5 * grid))
    cdf = torch.cumsum(torch.exp(p.log_prob(y) + shell), 0)
    cdf = cdf / cdf[-1]
    cell = torch.clamp((cdf[torch.searchsorted(grid, r).clamp(max=39999)] * cells).long(), max=cells - 1)
    counts = torch.bincount(cell, minlength=cells).double()
    chi2 = float(((counts - n / cells) ** 2 / (n / cells)).sum())
    assert chi2 < 37.7  # 99.9% point of 15 degrees of freedom
    # Directions about the location are uniform.
    v = p._normal_coordinates(x)
    mean = torch.nn.functional.normalize(v, dim=-1).mean(0)
    assert float(mean.abs().max()) < 4 / (n * dim) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_samples(kind) -> None:
    """With the noise fixed, rsample is a function of the parameters: finite differences."""
    base = make(kind, Lorentz(C))
    parameter = "radius" if kind is UniformBall else "scale"
    value = getattr(base, parameter).clone().requires_grad_()

    def draw(s: torch.Tensor) -> torch.Tensor:
        return kind(Lorentz(C), base.loc, s).rsample((5,), torch.Generator().manual_seed(1))

    assert torch.autograd.gradcheck(draw, (value,), atol=1e-5)


def test_riemannian_normal_matches_the_closed_form_in_two_dimensions() -> None:
    """Said et al. 2014, for c = 1: Z = 2 pi sqrt(pi/2) s exp(s^2/2) erf(s/sqrt(2))."""
    m = Lorentz(1.0)
    for s in (0.1, 0.8, 2.5):
        p = RiemannianNormal(m, L.origin(3, dtype=torch.float64), s)
        z = 2 * math.pi * math.sqrt(math.pi / 2) * s * math.exp(s * s / 2) * math.erf(s / math.sqrt(2))
        assert abs(float(p.log_normalizer) - math.log(z)) < 1e-9


def test_uniform_ball_has_the_volume_of_the_ball() -> None:
    p = UniformBall(Lorentz(1.0), L.origin(4, dtype=torch.float64), 1.5)  # 3 dimensions
    assert abs(float(p.log_normalizer) - math.log(math.pi * (math.sinh(3.0) - 3.0))) < 1e-9
    assert float(p.log_prob(L.expmap0(torch.tensor([0.0, 1.6, 0, 0], dtype=torch.float64)))) == -math.inf


def test_wrapped_normal_is_right_far_out_in_float32() -> None:
    m = Lorentz(1.0)
    x = L.from_space(torch.sinh(torch.tensor(30.0)) * torch.eye(3)[:1])
    got = WrappedNormal(m, m.origin(4), 10.0).log_prob(x)
    v = 30.0
    expected = -0.5 * 9 - 3 * math.log(10.0) - 1.5 * math.log(2 * math.pi) - 2 * (v - math.log(2 * v))
    assert abs(float(got) - expected) < 1e-3


def test_bad_arguments_are_named() -> None:
    m = Lorentz()
    with pytest.raises(ValueError, match=r"scale must be > 0, got 0.0"):
        WrappedNormal(m, m.origin(3), 0.0)
    with pytest.raises(TypeError, match="manifold must be Lorentz or PoincareBall, got Klein"):
        RiemannianNormal(Klein(), m.origin(3), 1.0)
    with pytest.raises(ValueError, match=r"radius must be > 0, got -1"):
        UniformBall(m, m.origin(3), -1)
