"""Kernel points: the energy, its minima, and the files they are kept in."""

import itertools
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

from hyperkit.nn import HKConv, kernel_points
from hyperkit.nn import _kernel_points as kp
from hyperkit.ops import lorentz as L

F64 = torch.float64


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and no memory of what was solved before."""
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path))
    kp._arrangement.cache_clear()
    yield tmp_path
    kp._arrangement.cache_clear()


def test_energy_is_the_papers():
    """Equation 3 as double sums, over points that include the origin."""
    c = 0.6
    v = torch.randn(3, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    points = [L.origin(5, c=c, dtype=F64), *L.expmap0(torch.nn.functional.pad(v, (1, 0)), c)]
    expected = sum(1 / float(L.dist(a, b, c)) for a, b in itertools.permutations(points, 2))
    expected += sum(float(L.dist0(p, c)) for p in points)
    assert float(kp.energy(v, c)) == pytest.approx(expected, rel=1e-13)


def test_two_points_by_hand():
    """One point besides the origin: 2/r + r is least at sqrt(2). Three on a line: both on one side or not."""
    energy, slope, v = kp._descend(torch.tensor([[0.3, -0.2]], dtype=F64), 1.0)
    assert energy == pytest.approx(2 * 2**0.5, abs=1e-12)
    assert float(v.norm()) == pytest.approx(2**0.5, abs=1e-6)
    assert slope < kp.STATIONARY
    np.testing.assert_allclose(np.sort(kp.solve(3, 1).ravel()), [-1, 0, 1], atol=1e-9)


@pytest.mark.parametrize(("k", "dim"), [(4, 2), (8, 2), (8, 3), (5, 4), (12, 11)])
def test_shipped_points_are_minima(k, dim):
    """At the scale of least energy the gradient vanishes, and no move leads lower."""
    shipped = kp._shipped()[kp._name(k, dim, 1.0)]
    assert shipped.dtype == np.float64
    assert shipped.shape == (k, dim)
    v = torch.from_numpy(shipped[1:])
    low, slope, v = kp._descend(2.5 * v, 1.0)  # finds the scale
    assert slope < kp.STATIONARY
    # The scaled arrangement is already the minimum's: descending did not change its shape.
    np.testing.assert_allclose((v / v.norm(dim=1).max()).numpy(), shipped[1:], atol=1e-5)
    g = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-2, 0.3):
        for _ in range(20):
            moved = v + size * torch.randn(v.shape, generator=g, dtype=F64)
            assert float(kp.energy(moved)) > low - 1e-12


def test_shipped_points_are_what_the_solver_gives():
    for k, dim in ((3, 2), (6, 2)):
        np.testing.assert_allclose(kp.solve(k, dim), kp._shipped()[kp._name(k, dim, 1.0)], atol=1e-7)


@pytest.mark.parametrize("c", [1.0, 0.3])
@pytest.mark.parametrize(("k", "d"), [(1, 3), (2, 1), (4, 2), (5, 16), (9, 64)])
def test_layout(cache, k, d, c):
    v = kernel_points(k, d, c)
    assert v.dtype == F64
    assert v.shape == (k, d)
    assert bool((v[0] == 0).all())
    points = L.expmap0(torch.nn.functional.pad(v, (1, 0)), c)
    if k > 1:
        assert float(L.dist0(points, c).max()) == pytest.approx(0.66, abs=1e-12)
    if d >= k - 1 > 1:  # room for a regular simplex around the origin
        between = L.cdist(points[1:], points[1:], c)[~torch.eye(k - 1, dtype=torch.bool)]
        assert float(between.max() - between.min()) < 1e-5
        torch.testing.assert_close(v[1:].sum(0), torch.zeros(d, dtype=F64), atol=1e-5, rtol=0)
    torch.testing.assert_close(kernel_points(k, d, c, extent=2.0), v * (2.0 / 0.66))


def test_the_same_in_another_process_and_in_the_layer():
    code = "from hyperkit.nn import kernel_points; print(kernel_points(6, 10).sum(0).tolist())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(kernel_points(6, 10).sum(0).tolist())
    a, b = HKConv(10, 4, 6), HKConv(10, 7, 6)
    assert torch.equal(a.kernel_points(), b.kernel_points())
    torch.testing.assert_close(a.kernels.kernel_tangents.double(), kernel_points(6, 10), atol=1e-7, rtol=0)


def test_solved_once_and_kept(cache, monkeypatch, caplog):
    first = kernel_points(3, 2, 0.31)
    (file,) = (cache / "kernel_points").iterdir()
    assert "K3_d2_c0.31" in file.name
    kp._arrangement.cache_clear()
    with monkeypatch.context() as m:
        m.setattr(kp, "solve", lambda *a: pytest.fail("solved a second time"))
        assert torch.equal(kernel_points(3, 2, 0.31), first)
    for broken in (b"", b"not an array", file.read_bytes()[:100]):
        file.write_bytes(broken)
        kp._arrangement.cache_clear()
        with caplog.at_level(logging.WARNING):
            torch.testing.assert_close(kernel_points(3, 2, 0.31), first, rtol=0, atol=1e-12)
        assert "solving kernel points again" in caplog.text
        caplog.clear()
        assert torch.from_numpy(np.load(file)).shape == (3, 2)  # and mended
    np.save(file, np.ones((3, 2)))  # an array, but no arrangement
    kp._arrangement.cache_clear()
    torch.testing.assert_close(kernel_points(3, 2, 0.31), first, rtol=0, atol=1e-12)
    assert len(list(file.parent.iterdir())) == 1  # no temporary file is left


def test_a_cache_that_cannot_be_written(cache, monkeypatch, caplog):
    (cache / "file").write_text("")
    monkeypatch.setenv("HYPERKIT_CACHE", str(cache / "file"))
    with caplog.at_level(logging.WARNING):
        assert kernel_points(3, 2, 0.32).shape == (3, 2)
    assert "not kept for the next time" in caplog.text


def test_cache_folder_with_and_without_platformdirs(monkeypatch, tmp_path):
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path))
    assert kp.cache_folder() == tmp_path / "kernel_points"
    monkeypatch.delenv("HYPERKIT_CACHE")
    assert kp.cache_folder().parts[-2:] == ("hyperkit", "kernel_points")
    monkeypatch.setattr(kp.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(kp.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert kp.cache_folder() == tmp_path / "xdg" / "hyperkit" / "kernel_points"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((0, 2), "num_kernels must be >= 1, got 0"),
        ((2, 0), "features must be >= 1, got 0"),
        ((2, 2, -1.0), "c must be > 0"),
        ((2, 2, 1.0, 0.0), "extent must be > 0"),
        ((2, 2, 1.0, float("inf")), "extent must be > 0 and finite"),
    ],
)
def test_refused(args, message):
    with pytest.raises(ValueError, match=message):
        kernel_points(*args)
