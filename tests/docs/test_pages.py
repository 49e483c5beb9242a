"""What the pages say can be typed, and what they promise to a geoopt user holds."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import geoopt
import pytest
import torch

import hyperkit

DOCS = Path(__file__).resolve().parents[2] / "docs"
# Pages whose Python blocks run as they stand; other pages' blocks need files or minutes.
RUNNABLE = ["guides/numerics.md", "guides/geometry.md", "migration.md", "hkconv.md", "geometry/index.md"]


@pytest.mark.parametrize("page", RUNNABLE)
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.S | re.M)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})


@pytest.mark.parametrize("page", ["guides/moses-report.md", "guides/own-potential.md"])
def test_first_block_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ase", reason="needs the extra `potentials`")
    monkeypatch.chdir(tmp_path)
    block = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.S | re.M)[0]
    exec(compile(block, page, "exec"), {})


def look_up(name: str) -> Any:
    """The object of a dotted name: the longest part that is a module, then attributes."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        return reduce(getattr, parts[end:], module)
    raise ImportError(name)


def rows(left: str) -> list[tuple[str, str]]:
    """Pairs of the migration page's table whose first column begins with `left`."""
    text = (DOCS / "migration.md").read_text(encoding="utf-8")
    found = re.findall(rf"^\| `({left}[\w.]+)` \| `?([\w.]*)`? \|", text, re.M)
    assert found
    return found


@pytest.mark.parametrize(("old", "new"), rows(r"geoopt\."))
def test_geoopt_names(old: str, new: str) -> None:
    assert callable(look_up(old))
    assert callable(look_up(new))


def test_hypll_names() -> None:
    found = [new for _, new in rows(r"hypll\.") if new]
    assert len(found) >= 12
    for name in found:
        assert look_up(name) is not None


def test_all_of_geoopts_own_methods_are_in_the_table_or_named_as_missing() -> None:
    """Nothing that geoopt has is passed over in silence."""
    text = (DOCS / "migration.md").read_text(encoding="utf-8")
    named = {name for name, _ in rows(r"geoopt\.")}
    # The machinery of the base class, aliases that compose two rows, and gyrovector names.
    beside = {"transp_follow_retr", "transp_follow_expmap", "expmap_transp", "retr_transp", "random", "sproj"}
    beside |= {"inv_sproj", "proju", "c", "k", "radius", "inner0", "logmap0back"}
    gyro = {
        "mobius_coadd",
        "mobius_cosub",
        "mobius_pointwise_mul",
        "mobius_fn_apply",
        "mobius_fn_apply_chain",
    }
    beside |= gyro | {"gyration", "antipode"}
    assert "gyration" in text
    for cls in (geoopt.PoincareBall, geoopt.Lorentz):
        own = {
            m for base in cls.__mro__ for m in vars(base) if base.__module__.startswith("geoopt.manifolds.")
        }
        base = set(vars(geoopt.Manifold)) - {"dist", "expmap", "logmap", "transp", "inner", "norm", "projx"}
        for method in own - base - beside:
            if not method.startswith("_") and callable(getattr(cls, method, None)):
                assert f"geoopt.{cls.__name__}.{method}" in named, method


def _points(manifold: Any, lorentz: bool) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    raw = 0.4 * torch.randn(3, 20, 4, generator=generator, dtype=torch.float64)
    if lorentz:
        raw[..., 0] = 0.0
    x, y = manifold.expmap0(raw[0]), manifold.expmap0(raw[1])
    return x, y, manifold.proju(x, raw[2])


@pytest.mark.parametrize("kind", ["ball", "lorentz"])
def test_values_agree_with_geoopt(kind: str) -> None:
    """The same definitions: moderate radii, float64, where geoopt is accurate."""
    c = 0.7
    lorentz = kind == "lorentz"
    ours: Any = hyperkit.Lorentz(c) if lorentz else hyperkit.PoincareBall(c)
    theirs: Any = geoopt.Lorentz(k=1 / c) if lorentz else geoopt.PoincareBall(c=c)
    theirs = theirs.to(torch.float64)
    x, y, v = _points(ours, lorentz)
    v0 = ours.logmap0(y)
    calls: dict[str, tuple[Any, ...]] = {
        "dist": (x, y), "dist0": (x,), "expmap": (x, v), "expmap0": (v0,), "logmap": (x, y), "logmap0": (x,),
        "transp": (x, y, v), "transp0": (y, v0), "transp0back": (x, v), "egrad2rgrad": (x, v),
        "inner": (x, v, v),
        "projx": (x,),
    }  # fmt: skip
    if lorentz:
        calls["proju"] = (x, 2.0 * v + x)
    else:
        third = torch.tensor(0.3, dtype=torch.float64)
        calls |= {
            "norm": (x, v), "geodesic": (third, x, y), "retr": (x, 0.1 * v), "dist2": (x, y),
            "geodesic_unit": (third, x, v / ours.norm(x, v, keepdim=True)), "mobius_add": (x, y),
            "mobius_matvec": (torch.eye(4, dtype=torch.float64) * 0.5, x),
            "mobius_scalar_mul": (torch.tensor(0.4, dtype=torch.float64), x), "lambda_x": (x,),
        }  # fmt: skip
    for name, arguments in calls.items():
        # Without keepdim geoopt's inner product in the ball has shape (N, N).
        options = {"keepdim": True} if name == "inner" else {}
        mine, other = (getattr(m, name)(*arguments, **options) for m in (ours, theirs))
        mine, other = mine.as_subclass(torch.Tensor), other.as_subclass(torch.Tensor)
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_figures_are_those_of_the_script(tmp_path: Path) -> None:
    """The committed pictures are what the script draws today (numbers to 1e-3)."""
    pytest.importorskip("matplotlib")
    sys.path.insert(0, str(DOCS / "guides"))
    try:
        figures = importlib.import_module("figures")
    finally:
        sys.path.remove(str(DOCS / "guides"))
    figures.main(tmp_path)
    for name in figures.FIGURES:
        new, old = (
            (folder / f"{name}.svg").read_text() for folder in (tmp_path, DOCS / "guides" / "figures")
        )
        paths = [re.findall(r' d="([^"]+)"', text) for text in (new, old)]
        assert len(paths[0]) == len(paths[1]), name
        numbers = [[float(v) for p in found for v in re.findall(r"-?\d+\.\d+", p)] for found in paths]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-3), name


def test_sample_of_the_extxyz_format_is_readable(tmp_path: Path) -> None:
    pytest.importorskip("ase", reason="needs the extra `potentials`")
    from hyperkit_mol.potentials.data import read_structures

    text = re.search(r"^```text\n(3\n.*?)^```", (DOCS / "guides/own-potential.md").read_text(), re.S | re.M)
    assert text
    (tmp_path / "a.xyz").write_text(text[1])
    (frame,) = read_structures(tmp_path / "a.xyz")
    assert frame.energy == -2081.1
    assert frame.forces is not None
    assert frame.forces.shape == (3, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manifold_layers", "molecules", "potential"])
def test_notebooks_run(name: str) -> None:
    pytest.importorskip("marimo", reason="notebooks need the extra `notebooks`")
    if name == "potential":
        pytest.importorskip("ase", reason="needs the extra `potentials`")
        pytest.importorskip("vesin", reason="needs the extra `potentials`")
    done = subprocess.run(
        [sys.executable, str(DOCS.parent / "notebooks" / f"{name}.py")],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(done.stdout.splitlines()) >= 3
