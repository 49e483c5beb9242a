"""Attention weights: the right ones, of an unchanged model, and what is said of them."""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from potential_case import NUMBERS, POSITIONS, acid, build
from typer.testing import CliRunner

from hyperkit.nn import EuclideanAttention, LorentzAttention
from hyperkit.ops import lorentz
from hyperkit_mol.potentials import ModelError, Structure, save_potential

pytest.importorskip("vesin", reason="neighbour lists need vesin (the extra `potentials`)")

from hyperkit_mol.potentials._attention import NeighborAttention
from hyperkit_mol.potentials.attention_maps import AttentionProfile, attention_profile, attention_weights
from hyperkit_mol.potentials.attention_plots import plot_attention, write_attention

KINDS = [(kind, attention) for kind in ("escaip", "transformer") for attention in ("euclidean", "lorentz")]


@pytest.mark.parametrize(("kind", "attention"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_add_up_to_one(kind: str, attention: str, dtype: torch.dtype) -> None:
    model = build(kind=kind, attention=attention, dtype=dtype)
    found = attention_weights(model, acid())
    groups, tokens = (1, 10) if kind == "transformer" else (8, 7)
    assert found.weights.shape == (2, 2, groups, tokens, tokens)
    total = (found.weights.sum(-1) + found.rest)[:, :, found.query]
    np.testing.assert_allclose(total, 1.0, atol=1e-6 if dtype == torch.float32 else 1e-12)
    assert (found.weights >= 0).all()
    assert (found.rest >= -1e-6).all()
    assert (found.rest[:, :, found.query] > 1e-3).all() == (kind == "escaip")
    # Padding neither asks nor is asked.
    both = found.query[..., :, None] & found.query[..., None, :]
    assert (found.weights[:, :, ~both] == 0).all()


@pytest.mark.parametrize(("kind", "attention"), KINDS)
def test_the_weights_give_what_the_layers_return(kind: str, attention: str) -> None:
    """Weights times values, joined and projected, are the output of each attention layer."""
    model = build(kind=kind, attention=attention)
    layers = [
        m
        for m in model.backbone.modules()
        if isinstance(m, (EuclideanAttention, LorentzAttention, NeighborAttention))
    ]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handles = [m.register_forward_hook(lambda _, a, out: seen.append((a[0], out))) for m in layers]
    weights = torch.from_numpy(attention_weights(model, acid()).weights).transpose(1, 2)
    for handle in handles:
        handle.remove()
    assert len(seen) == len(layers) == len(weights) == 2
    for layer, weight, (x, out) in zip(layers, weights, seen, strict=True):
        n, m, heads = *x.shape[:2], layer.num_heads
        if isinstance(layer, NeighborAttention):
            v = layer.project(x).view(n, m, 3, heads, -1)[:, :, 2].transpose(1, 2)
            if attention == "lorentz":
                mean = weight @ lorentz.from_space(v, 1.0)
                mean[..., 0] += 1.0 - weight.sum(-1)
                mean = lorentz.normalize(mean, 1.0)[..., 1:]
            else:
                mean = weight @ v
            rows = mean.transpose(1, 2).reshape(n, m, -1)
            real = weight.sum((1, 3)) > 0
            torch.testing.assert_close(layer.out(rows)[real], out[real], atol=1e-10, rtol=0)
            continue
        (v,) = layer._project(x, 2, 3)
        if isinstance(layer, LorentzAttention):
            mean = lorentz.normalize(weight @ v, 1.0)[..., 1:].transpose(1, 2).flatten(2)
            expected = layer.out(lorentz.from_space(mean, 1.0))
        else:
            expected = layer.out((weight @ v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(expected, out, atol=1e-10, rtol=0)


def test_transformer_by_hand() -> None:
    """Layer 1 from the parameters alone, in loops."""
    model = build(kind="transformer", layers=1)
    net = model.backbone
    p = {k: v.detach().numpy() for k, v in net.named_parameters()}
    kinds = [model.elements.index(z) for z in NUMBERS]
    atoms = p["element.weight"][kinds] + (POSITIONS - POSITIONS.mean(0)) @ p["coordinates.weight"].T
    tokens = np.concatenate([p["charge.weight"][[11]], p["spin.weight"][[2]], atoms])
    size = np.sqrt((tokens**2).mean(-1, keepdims=True) + np.finfo(float).eps)
    h = tokens / size * p["blocks.0.norm1.weight"]
    q, k = np.split(
        h @ p["blocks.0.attention.in_proj.weight"].T + p["blocks.0.attention.in_proj.bias"], 3, 1
    )[:2]
    found = attention_weights(model, acid(charge=1, spin=2))
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        for i in range(10):
            e = np.array([np.exp(q[i, part] @ k[j, part] / np.sqrt(8)) for j in range(10)])
            np.testing.assert_allclose(found.weights[0, head, 0, i], e / e.sum(), atol=1e-10)
    assert np.isnan(found.distance[0, :2]).all()
    assert found.distance[0, 2, 3] == pytest.approx(np.linalg.norm(POSITIONS[0] - POSITIONS[1]))
    assert found.center[0].tolist() == [-1, -1, *range(8)]


def test_escaip_by_hand() -> None:
    """Layer 1 with angles, envelopes and the place to rest, in loops over pairs of neighbours."""
    model = build(layers=1)
    layer = model.backbone.blocks[0].attention  # type: ignore[union-attr, index]
    messages: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda _, a, out: messages.append(a[0]))
    found = attention_weights(model, acid())
    handle.remove()
    with torch.no_grad():
        q, k, _ = layer.project(messages[0]).view(8, 7, 3, 2, 8).unbind(2)
    q, k, bias = q.numpy(), k.numpy(), layer.bias.weight.detach().numpy()
    batch = model.prepare([acid()])
    for i in range(8):
        others = batch.neighbors[i][batch.neighbor_mask[i]].tolist()
        vectors = [POSITIONS[j] - POSITIONS[i] for j in others]
        r = [float(np.linalg.norm(v)) for v in vectors]
        u = [1 - 28 * (d / 3.5) ** 6 + 48 * (d / 3.5) ** 7 - 21 * (d / 3.5) ** 8 for d in r]
        for head in range(2):
            for a in range(len(others)):
                e = []
                for b in range(len(others)):
                    cosine = vectors[a] @ vectors[b] / (r[a] * r[b])
                    logit = sum(
                        np.polynomial.legendre.legval(cosine, np.eye(4)[l])
                        * (q[i, a, head, 2 * l : 2 * l + 2] @ k[i, b, head, 2 * l : 2 * l + 2])
                        for l in range(4)
                    ) / np.sqrt(8)
                    basis = [np.sin(n * np.pi * r[b] / 3.5) * np.sqrt(7.0) / 2 / r[b] for n in range(1, 7)]
                    e.append(u[b] * np.exp(logit + bias[head] @ basis))
                row = found.weights[0, head, i, a]
                np.testing.assert_allclose(row[: len(e)], np.array(e) / (1 + sum(e)), atol=1e-7)
                assert found.rest[0, head, i, a] == pytest.approx(1 / (1 + sum(e)), abs=1e-7)
        expected = np.linalg.norm(POSITIONS[others][:, None] - POSITIONS[others], axis=-1)
        np.testing.assert_allclose(found.distance[i][: len(others), : len(others)], expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["escaip", "transformer"])
def test_the_model_is_left_as_it_was(kind: str) -> None:
    model = build(kind=kind, dtype=torch.float32)
    before = model(model.prepare([acid()]))
    assert model.train() is model
    attention_weights(model, acid())
    assert model.training
    model.eval()
    after = model(model.prepare([acid()]))
    assert torch.equal(before.energy, after.energy)
    assert torch.equal(before.forces, after.forces)
    assert not any(m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ModelError, match="does not know Si"):
        attention_weights(model, Structure(np.zeros((1, 3)), np.array([14])))
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_periodic_images_and_a_cap() -> None:
    cell = np.array([[4.2, 0.3, 0.0], [0.0, 3.9, 0.4], [0.5, 0.0, 4.4]])
    crystal = Structure(
        np.array([[0.1, 0.2, 0.3], [1.4, 0.9, 1.1], [2.9, 2.5, 3.0]]), np.array([6, 8, 1]), cell, np.ones(3)
    )
    found = attention_weights(build(cutoff=4.5), crystal)
    # Neighbours of one atom are at most two cutoffs apart, images counted where they are.
    assert np.nanmin(found.distance + 99 * np.eye(found.distance.shape[-1])) > 0.5
    assert 4.5 < np.nanmax(found.distance) <= 9.0
    profile = attention_profile(build(cutoff=4.5), [crystal])
    assert np.isfinite(profile.spacing).all()
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3), -1).reshape(-1, 3) * 1.4
    crowd = Structure(grid + np.random.default_rng(0).normal(size=grid.shape) * 0.05, np.full(27, 6))
    found = attention_weights(build(max_neighbors=5, cutoff=6.0), crowd)
    assert found.weights.shape[-1] < 20  # the model has cut its lists
    np.testing.assert_allclose((found.weights.sum(-1) + found.rest)[:, :, found.query], 1.0, atol=1e-12)


# ---- profiles -----------------------------------------------------------------------------------


def test_profile_against_plain_sums() -> None:
    model = build(kind="transformer")
    structures = [acid(0.1, k) for k in range(3)]
    profile = attention_profile(model, structures, bins=6)
    found = [attention_weights(model, s) for s in structures]
    off = ~np.eye(8, dtype=bool)
    for layer in range(2):
        for head in range(2):
            d = np.concatenate([f.distance[0, 2:, 2:][off] for f in found])
            w = np.concatenate([f.weights[layer, head, 0, 2:, 2:][off] for f in found])
            for b in range(6):
                here = (d >= profile.edges[b]) & (d < profile.edges[b + 1])
                assert profile.pairs[b] == here.sum()
                if here.any():
                    assert profile.mean[layer, head, b] == pytest.approx(w[here].mean())
            parts = [p[layer, head] for p in (profile.to_self, profile.to_charge, profile.to_spin)]
            assert sum(parts) + w.sum() / 24 == pytest.approx(1.0)
            assert parts[1] == pytest.approx(np.mean([f.weights[layer, head, 0, 2:, 0] for f in found]))
    assert profile.pairs.sum() == 3 * 8 * 7
    assert (profile.to_rest == 0).all()
    assert profile.reach.shape == (2, 24)


def test_shares_of_escaip_add_up() -> None:
    model = build()
    profile, found = attention_profile(model, [acid()]), attention_weights(model, acid())
    others = found.weights * ~np.eye(7, dtype=bool)
    mean = others.sum(-1)[:, :, found.query].mean(-1)
    np.testing.assert_allclose(profile.to_self + profile.to_rest + mean, 1.0, atol=1e-12)
    assert (profile.to_charge == 0).all()


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_a_known_law_is_recovered(power: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperkit_mol.potentials import attention_maps

    random = np.random.default_rng(1)
    cloud = Structure(random.uniform(0, 9, (60, 3)), np.full(60, 6))
    d = np.linalg.norm(cloud.positions[:, None] - cloud.positions, axis=-1)
    full = np.full((1, 62, 62), np.nan)
    full[0, 2:, 2:] = d
    weights = np.zeros((1, 1, 1, 62, 62))
    with np.errstate(divide="ignore"):
        weights[0, 0, 0, 2:, 2:] = np.where(np.eye(60, dtype=bool), 0, 0.01 * np.maximum(d, 1e-9) ** -power)
    law = attention_maps.AttentionWeights(
        weights, np.zeros(weights.shape[:-1]), full, np.ones((1, 62), bool), np.arange(-2, 60).clip(-1)[None]
    )
    monkeypatch.setattr(attention_maps, "attention_weights", lambda *_: law)
    profile = attention_profile(build(kind="transformer"), [cloud], bins=40)
    assert profile.exponent[0] == pytest.approx(power, abs=0.05)
    if power == 0.0:
        assert profile.radius[0] == profile.radius_even
        np.testing.assert_allclose(profile.reach[0], profile.reach_even)
    else:
        assert profile.radius[0] < profile.radius_even
        assert (profile.reach[0] < profile.reach_even).all()
    off = d[~np.eye(60, dtype=bool)]
    assert profile.radius_even == pytest.approx(np.quantile(off, 0.9), abs=0.01)
    # Crowding: with a steep law an atom's reach follows its nearest neighbours.
    correlation, even = profile.crowding()
    if power == 0.0:
        assert correlation[0] == pytest.approx(even)
    else:
        assert correlation[0] > even + (0.2 if power == 1.0 else 0.4)


def test_nothing_to_look_at() -> None:
    one = Structure(np.zeros((1, 3)), np.array([8]))
    for kind in ("escaip", "transformer"):
        with pytest.raises(ModelError, match="no two atoms"):
            attention_profile(build(kind=kind), [one])
        # Beside others a lone atom does no harm.
        profile = attention_profile(build(kind=kind), [one, acid()])
        assert np.isfinite(profile.reach).all()
        assert profile.reach.shape[1] == 8
    with pytest.raises(ValueError, match="structures must not be empty"):
        attention_profile(build(), [])
    with pytest.raises(ValueError, match="bins must be >= 1, got 0"):
        attention_profile(build(), [acid()], bins=0)
    with pytest.raises(ValueError, match="longest must be > 0"):
        attention_profile(build(), [acid()], longest=-1.0)


# ---- pictures and files -------------------------------------------------------------------------


def profile_of(kind: str) -> AttentionProfile:
    return attention_profile(build(kind=kind), [acid(0.05, k) for k in range(2)])


@pytest.mark.parametrize("kind", ["escaip", "transformer"])
def test_the_picture(kind: str) -> None:
    profile = profile_of(kind)
    figure = plot_attention(profile)
    axes = figure.get_axes()
    assert len(axes) == 2 * 2 + 3
    line = axes[1].get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), profile.mean[0, 1, profile.pairs > 0])
    top = axes[0].get_ylim()[1]
    assert top >= np.nanmax(profile.mean)  # nothing is cut off
    labels = [t.get_text() for t in axes[4].get_legend().get_texts()]
    assert len(labels) == 3
    assert labels[-1] == "1/r"


def test_files(tmp_path: Path) -> None:
    profile = profile_of("transformer")
    written = write_attention(profile, tmp_path / "deep" / "a.png")
    assert [p.name for p in written] == ["a.png", "a.csv", "a.json"]
    width, height = struct.unpack(">II", written[0].read_bytes()[16:24])
    assert width >= 1000
    assert height >= 700
    with written[1].open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 2 * (profile.pairs > 0).sum()
    first = int(np.flatnonzero(profile.pairs)[0])
    assert float(rows[0]["mean_weight"]) == pytest.approx(profile.mean[0, 0, first], rel=1e-5)
    figures = json.loads(written[2].read_text())
    assert figures["layers"][1]["radius"] == pytest.approx(profile.radius[1], abs=1e-6)
    assert len(figures["layers"][0]["share_by_head"]["charge"]) == 2
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["a.csv", "a.json", "a.png"]
    with pytest.raises(ValueError, match=r"must end in .png, .svg or .pdf, got a.gif"):
        write_attention(profile, tmp_path / "a.gif")


def test_the_command(tmp_path: Path) -> None:
    ase_io = pytest.importorskip("ase.io", reason="reading structures needs ASE (the extra `potentials`)")
    from ase import Atoms

    from hyperkit_mol.cli import app

    save_potential(tmp_path / "m", build())
    ase_io.write(tmp_path / "s.xyz", [Atoms(NUMBERS, acid(0.05, k).positions) for k in range(4)])
    run = CliRunner().invoke
    base = ["potential", "attention", str(tmp_path / "m"), str(tmp_path / "s.xyz")]
    done = run(app, [*base, "-o", str(tmp_path / "a.svg"), "--index", "1:4:2", "--bins", "8"])
    assert done.exit_code == 0, done.output
    assert "2 structures; written to" in done.output
    assert "layer 2: weight ~ distance^" in done.output
    assert (tmp_path / "a.svg").read_text().count("<svg") == 1
    done = run(app, [*base, "-o", str(tmp_path / "b.png"), "--index", "-1"])
    assert "1 structures" in done.output
    for index, message in (
        ("4", "has 4 structures, counted from 0"),
        ("9:", "none of the 4 structures"),
        ("first", "must be a number or begin:end:step, got 'first'"),
        ("0:4:0", "must be a number or begin:end:step"),
    ):
        done = run(app, [*base, "-o", str(tmp_path / "c.png"), "--index", index])
        assert done.exit_code == 1
        assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "c.png").exists()
