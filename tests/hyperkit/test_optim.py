"""The optimisers follow geoopt's trajectory and keep their promises about state."""

import copy

import geoopt
import pytest
import torch
from torch import nn

from hyperkit import Lorentz, PoincareBall, ProperVelocity
from hyperkit.optim import RiemannianAdam, RiemannianSGD


class Mixed(nn.Module):
    """A point on each of three manifolds and a Euclidean vector."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        for name, m, d in (
            ("lorentz", Lorentz(0.7), 4),
            ("ball", PoincareBall(0.7), 3),
            ("proper", ProperVelocity(), 3),
            ("plain", geoopt.Euclidean(ndim=1), 3),
        ):
            if name == "plain":
                self.plain = nn.Parameter(torch.randn(5, 3, dtype=torch.float64, generator=g))
                continue
            x = m.random_normal(5, d, dtype=torch.float64, generator=g)
            target = m.random_normal(5, d, dtype=torch.float64, generator=g)
            setattr(self, name, geoopt.ManifoldParameter(x.as_subclass(torch.Tensor), manifold=m))
            self.register_buffer(f"{name}_target", target.as_subclass(torch.Tensor))

    def forward(self) -> torch.Tensor:
        loss = (self.plain - 1).square().sum()
        for name in ("lorentz", "ball", "proper"):
            p = getattr(self, name)
            loss = loss + p.manifold.dist2(p, getattr(self, f"{name}_target")).sum()
        return loss


def train(model: Mixed, optimiser, steps: int = 40) -> None:
    for _ in range(steps):
        optimiser.zero_grad()
        model().backward()
        optimiser.step()


@pytest.mark.parametrize(
    ("ours", "theirs", "kwargs"),
    [
        (RiemannianAdam, geoopt.optim.RiemannianAdam, {"lr": 0.05}),
        (RiemannianAdam, geoopt.optim.RiemannianAdam, {"lr": 0.05, "amsgrad": True, "betas": (0.5, 0.9)}),
        (RiemannianAdam, geoopt.optim.RiemannianAdam, {"lr": 0.05, "weight_decay": 0.01, "stabilize": 7}),
        (RiemannianSGD, geoopt.optim.RiemannianSGD, {"lr": 0.05}),
        (RiemannianSGD, geoopt.optim.RiemannianSGD, {"lr": 0.05, "weight_decay": 0.01}),
    ],
)
def test_geoopt_trajectory(ours, theirs, kwargs) -> None:
    a, b = Mixed(), Mixed()
    train(a, ours(a.parameters(), **kwargs))
    train(b, theirs(b.parameters(), **kwargs))
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-7, atol=1e-7, msg=name)


@pytest.mark.parametrize("kwargs", [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_momentum_converges(kwargs) -> None:
    model = Mixed()
    before = float(model().detach())
    train(model, RiemannianSGD(model.parameters(), lr=0.02, **kwargs), 150)
    assert float(model().detach()) < 1e-3 * before
    assert model.lorentz.manifold.check_point_on_manifold(model.lorentz.detach().as_subclass(torch.Tensor))


def test_euclidean_momentum_is_geoopts() -> None:
    a, b = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    for p, make in ((a, RiemannianSGD), (b, geoopt.optim.RiemannianSGD)):
        optimiser = make([p], lr=0.1, momentum=0.8)
        for _ in range(5):
            optimiser.zero_grad()
            (p**4).sum().backward()
            optimiser.step()
    torch.testing.assert_close(a, b)


def test_plain_parameters_take_adams_step() -> None:
    a, b = (nn.Linear(3, 2) for _ in range(2))
    b.load_state_dict(a.state_dict())
    x = torch.randn(4, 3)
    for model, make in ((a, RiemannianAdam), (b, torch.optim.Adam)):
        optimiser = make(model.parameters(), lr=0.01)
        for _ in range(10):
            optimiser.zero_grad()
            model(x).square().sum().backward()
            optimiser.step()
    torch.testing.assert_close(a.weight, b.weight)


def test_resumes_to_the_same_points() -> None:
    a = Mixed()
    opt = RiemannianAdam(a.parameters(), lr=0.05)
    train(a, opt, 10)
    b = copy.deepcopy(a)
    again = RiemannianAdam(b.parameters(), lr=0.05)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    train(a, opt, 10)
    train(b, again, 10)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p.detach(), q.detach())


@pytest.mark.parametrize("manifold", [Lorentz(), PoincareBall(), None])
def test_sparse_rows_move_as_dense_ones_and_others_rest(manifold) -> None:
    g = torch.Generator().manual_seed(0)
    width = 4
    start = torch.randn(6, width, generator=g) if manifold is None else None
    if start is None:
        start = manifold.random_normal(6, width, generator=g).as_subclass(torch.Tensor)
    index = torch.tensor([1, 4, 1])
    results = []
    for sparse in (True, False):
        data = start.clone() if sparse else start.clone()[[1, 4]]
        p = nn.Parameter(data) if manifold is None else geoopt.ManifoldParameter(data, manifold=manifold)
        optimiser = RiemannianAdam([p], lr=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            rows = nn.functional.embedding(index if sparse else torch.tensor([0, 1, 0]), p, sparse=sparse)
            rows.square().sum().backward()
            assert p.grad.is_sparse == sparse
            optimiser.step()
        results.append(p.detach().as_subclass(torch.Tensor))
    torch.testing.assert_close(results[0][[1, 4]], results[1])
    assert torch.equal(results[0][[0, 2, 3, 5]], start[[0, 2, 3, 5]])


def test_bad_arguments_are_named() -> None:
    p = [nn.Parameter(torch.zeros(2))]
    with pytest.raises(ValueError, match=r"lr must be >= 0, got -1"):
        RiemannianAdam(p, lr=-1)
    with pytest.raises(ValueError, match=r"betas must be in \[0, 1\)"):
        RiemannianAdam(p, betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="nesterov needs momentum"):
        RiemannianSGD(p, nesterov=True)
