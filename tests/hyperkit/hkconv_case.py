"""A small graph, a layer with every parameter in use, and how results are compared: for the HKConv tests."""

import torch

from hyperkit.nn import HKConv, geometry
from hyperkit.ops import lorentz as L

EDGES = torch.tensor([[1, 2, 3, 0, 4, 2, 0, 1], [0, 0, 0, 1, 1, 4, 4, 2]])  # node 3 has no neighbour
CORRELATIONS = ["distance", "linear", "gaussian", "learned"]
AGGREGATIONS = ["mean", "attention", "gin"]
F64 = torch.float64


def points(n=5, d=4, c=1.0, std=0.7, dtype=F64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return geometry("lorentz", c).random_normal(n, features=d, std=std, dtype=dtype, generator=g)


def layer(d=4, o=3, k=5, dtype=F64, cls=HKConv, **options):
    torch.manual_seed(0)
    conv = cls(d, o, k, **options).to(dtype)
    with torch.no_grad():  # every parameter away from its special start
        for p in conv.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return conv


def near(a, b, tolerance):
    """Difference in units of the largest number."""
    assert a.shape == b.shape
    off = float((a.double() - b.double()).detach().abs().max() / max(1.0, float(b.detach().abs().max())))
    assert off <= tolerance, f"{off:.3g} apart"


def on_hyperboloid(x, c):
    assert bool(x.isfinite().all())
    torch.testing.assert_close(x[:, 0], L.projx(x, c)[:, 0], rtol=1e-6, atol=0)
