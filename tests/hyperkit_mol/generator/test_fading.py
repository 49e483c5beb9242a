"""Faded latents: what is left of a molecule, what the decoder is told, and every place that has to know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from generator_case import run, small_config, weights
from pydantic import ValidationError
from rdkit import Chem

from hyperkit_mol.chem.batch import Collator
from hyperkit_mol.chem.prepare import TreeDataset
from hyperkit_mol.generator import explore
from hyperkit_mol.generator.autoencoder import Autoencoder, Latent
from hyperkit_mol.generator.config import load_config
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.generator.sampling import Sampler
from hyperkit_mol.generator.stream import to_tensors

GEOMETRIES = ("lorentz", "euclidean")


def autoencoder(data: TreeDataset, geometry: str, **changes: object) -> Autoencoder:
    torch.manual_seed(0)
    config = small_config(model__geometry=geometry, model__posterior="normal", model__faded=0.5, **changes)
    return MoleculeGenerator(data.vocabulary, config).autoencoder


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("fade", [0.0, 0.3, 1.0])
def test_means_shrink_and_widths_grow_to_the_prior(data: TreeDataset, geometry: str, fade: float) -> None:
    """Drawn far often: mean and standard deviation by the formula, in coordinates at the posterior's mean."""
    auto = autoencoder(data, geometry, model__prior_std=0.4)
    space, latents = auto.space, auto.latents
    at = 0.5 * torch.randn(8)
    point = space.lift(at.expand(50_000, -1))
    with torch.no_grad():
        drawn = auto.blur(Latent(point, point), fade=fade).tree
        width = torch.nn.functional.softplus(auto.tree_scale(point[:1])) + 1e-4
    keep = 1 - fade
    std = torch.sqrt((keep * width) ** 2 + (1 - keep**2) * 0.4**2)
    if geometry == "euclidean":
        torch.testing.assert_close(drawn.mean(0), keep * at, atol=0.01, rtol=0.0)
        torch.testing.assert_close(drawn.std(0), std[0], atol=0.01, rtol=0.0)
    else:
        # Of a wrapped normal the squared distance to its mean has the expectation of the tangent vector's.
        centre = space.lift((keep * at).expand_as(drawn[:, 1:]))
        squared = space.sqdist(centre, drawn)
        torch.testing.assert_close(squared.mean(), std.square().sum(), rtol=0.02, atol=0.0)
    if fade == 1:
        other = auto.blur(Latent(space.lift(-at.expand(50_000, -1)), point), fade=1.0).tree
        gap = latents.log0(other).mean(0) - latents.log0(drawn).mean(0)
        assert gap.abs().max() < 0.02


def test_each_molecule_has_its_own_fade(data: TreeDataset) -> None:
    auto = autoencoder(data, "lorentz")
    mean = Latent(*(auto.space.random_normal(3, features=8) for _ in range(2)))
    fade = torch.tensor([0.0, 0.4, 1.0])
    together = auto.blur(mean, torch.Generator().manual_seed(1), fade)
    for row, value in enumerate(fade.tolist()):
        alone = auto.blur(mean, torch.Generator().manual_seed(1), value)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[row], b[row])
    told = auto.condition(together, fade)
    assert not torch.allclose(told[1], auto.condition(together, 0.0)[1])
    torch.testing.assert_close(told[0], auto.condition(together, 0.0)[0])


@pytest.mark.parametrize("posterior", ["point", "normal"])
def test_training_fades_and_validation_does_not(data: TreeDataset, posterior: str) -> None:
    torch.manual_seed(0)
    config = small_config(model__posterior=posterior, model__faded=1.0, model__latent_noise=0.0)
    auto = MoleculeGenerator(data.vocabulary, config).autoencoder
    batch = to_tensors(Collator(data.vocabulary)(data, np.arange(32)))
    seen: list[float | torch.Tensor] = []
    whole = auto.condition

    def condition(latent: Latent, fade: float | torch.Tensor = 0.0) -> torch.Tensor:
        seen.append(fade)
        return whole(latent, fade)

    auto.condition = condition  # type: ignore[method-assign]
    loss = auto.train()(batch).total(0.1)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in auto.parameters())
    auto.eval()(batch)
    fade = torch.as_tensor(seen[0])
    assert fade.shape == (32,)
    assert 0 < fade.min() < fade.max() < 1
    assert seen[1] == 0.0


@pytest.mark.parametrize("prior", ["gan", "wrapped-normal"])
def test_a_run_that_begins_without_fading(
    finished: Path, smiles_file: Path, tmp_path: Path, prior: str
) -> None:
    """The autoencoder of an older run is taken over as it was; prior and samples are faded."""
    config = small_config(
        data__source=str(smiles_file), autoencoder_from=str(finished), model__faded=0.5, fade=0.5, prior=prior
    )
    model = MoleculeGenerator.load(run(config, tmp_path / "run"))
    before, after = weights(finished / "model"), model.state_dict()
    name = "autoencoder.joint.weight"
    assert torch.equal(after[name][:, :-1], before[name])
    assert not after[name][:, -1].any()
    assert model.config.fade == 0.5
    smiles = next(Sampler(model).sample(50, seed=0))
    assert all(Chem.MolFromSmiles(s) is not None for s in smiles)


def test_the_sampler_tells_the_decoder(data: TreeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(model__faded=0.5, fade=0.7, prior="wrapped-normal")
    model = MoleculeGenerator(data.vocabulary, config).eval()
    told = []
    whole = model.autoencoder.condition
    monkeypatch.setattr(
        model.autoencoder, "condition", lambda latent, fade=0.0: told.append(fade) or whole(latent, fade)
    )
    Sampler(model).batch(0, 4, 0)
    explore.interpolate(model, "CCO", "CCN", steps=3)
    explore.decorate(model, "c1ccccc1", 4, pull=0.5)
    assert told == [0.7, 0.0, 0.35]


def test_optimising_begins_at_molecules_that_were_sampled(data: TreeDataset) -> None:
    config = small_config(model__faded=0.5, fade=0.7, prior="wrapped-normal")
    torch.manual_seed(0)
    model = MoleculeGenerator(data.vocabulary, config).eval()
    found = explore.optimize(model, len, rounds=1, population=20, keep=60)
    first = {c.smiles for c in found if c.round == 0}
    assert first
    assert first <= set(Sampler(model).batch(0, 20, 0))


def test_fade_needs_a_decoder_that_knows_it() -> None:
    with pytest.raises(ValidationError, match=r"fade > 0 needs model\.faded > 0"):
        small_config(fade=0.2)
    assert load_config("moses-cpu", {"model.faded": 0.5, "fade": 0.2}).fade == 0.2
