"""The model: sampling walks as training does, every variant trains in float32, latents ignore atom order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from generator_case import small_config
from rdkit import Chem
from rdkit.Chem.Descriptors import MolWt
from rich.console import Console

from hyperkit.optim import RiemannianAdam
from hyperkit_mol.chem.batch import Collator
from hyperkit_mol.chem.prepare import TreeDataset, prepare
from hyperkit_mol.generator.autoencoder import Latent
from hyperkit_mol.generator.encoder import by_kind
from hyperkit_mol.generator.gan import LatentCritic, LatentGenerator, gradient_penalty
from hyperkit_mol.generator.generate import generate
from hyperkit_mol.generator.heads import LabelHead, pick, segment_log_softmax
from hyperkit_mol.generator.lightning_modules import GANTraining
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.generator.sampling import Sampler
from hyperkit_mol.generator.stream import BatchStream, to_tensors

GEOMETRIES = ("lorentz", "euclidean")


def batch_of(data: TreeDataset, count: int) -> dict[str, torch.Tensor]:
    return to_tensors(Collator(data.vocabulary)(data, np.arange(count)))


@pytest.fixture(scope="module", params=GEOMETRIES)
def trained(request: pytest.FixtureRequest, data: TreeDataset) -> MoleculeGenerator:
    """A generator whose autoencoder has seen 200 batches: its trees are of a molecule's size."""
    torch.manual_seed(0)
    model = MoleculeGenerator(data.vocabulary, small_config(model__geometry=request.param, model__mass=True))
    auto = model.autoencoder.train()
    optimizer = RiemannianAdam(auto.parameters(), lr=1e-2)
    stream = BatchStream(data, np.arange(len(data)), batch_size=64, seed=0)
    for step in range(200):
        optimizer.zero_grad()
        auto(stream.batch(step)).total(0.0).backward()
        optimizer.step()
    return model.eval()


def test_the_walk_computes_what_training_computes(data: TreeDataset, trained: MoleculeGenerator) -> None:
    """Step by step with a cache, or padded and all at once: the same states, node by node.

    Relations, slots, depths, open slots, children, masses and the dropping of finished rows all enter here.
    """
    decoder = trained.autoencoder.decoder
    assert decoder.mass is not None
    assert decoder.mass.out.weight.abs().max() > 0.01
    seen: dict[str, list[torch.Tensor]] = {"leave": [], "node": []}
    hooks = [
        getattr(decoder, name).register_forward_hook(lambda _, __, out, name=name: seen[name].append(out))
        for name in seen
    ]
    try:
        latent = trained.sample_latents(200)
        trees = Sampler(trained, max_nodes=40).decode(latent, torch.Generator().manual_seed(1))
        walked = {name: list(values) for name, values in seen.items()}
        for values in seen.values():
            values.clear()
        keep = np.arange(trees.label.shape[1])[None] < trees.length[:, None]
        flat = [x[keep] for x in (trees.label, trees.parent, trees.site)]
        with torch.no_grad():
            batch = to_tensors(Collator(data.vocabulary).from_flat(trees.length, *flat))
            decoder(batch, trained.autoencoder.condition(latent))
    finally:
        for hook in hooks:
            hook.remove()
    assert trees.length.max() > 10
    assert len(set(trees.length.tolist())) > 5
    row, step = batch["node_mask"].nonzero(as_tuple=True)
    for name, (forced,) in seen.items():
        for n, out in enumerate(walked[name]):
            torch.testing.assert_close(out, forced[step == n], rtol=1e-4, atol=1e-4)
    assert len(walked["leave"]) == trees.length.max()
    assert len(row) == trees.length.sum()


def test_sampled_roots_follow_the_likelihood(data: TreeDataset, trained: MoleculeGenerator) -> None:
    """The share of a root among samples from one latent is the probability that training gives it.

    Sampling offers roots only, so the probabilities are of roots among roots.
    """
    vocabulary = data.vocabulary
    roots = np.flatnonzero(vocabulary.label_attach < 0)
    with torch.no_grad():
        one = trained.autoencoder.encode(batch_of(data, 1))
        trees = Sampler(trained).decode(Latent(*(x.expand(20_000, -1) for x in one)))
        none = np.full(len(roots), -1)
        single = to_tensors(Collator(vocabulary).from_flat(np.ones(len(roots), np.int64), roots, none, none))
        z = trained.autoencoder.condition(one).expand(len(roots), -1)
        probability = torch.exp(-trained.autoencoder.decoder(single, z).label)
        probability = (probability / probability.sum()).numpy()
    share = np.bincount(trees.label[:, 0], minlength=vocabulary.num_labels)[roots] / 20_000
    np.testing.assert_allclose(share, probability, atol=0.015)
    assert share.max() > 0.05


def test_samples_are_valid_and_repeatable(data: TreeDataset) -> None:
    """Even of an untrained model, whose molecules are contrived."""
    model = MoleculeGenerator(data.vocabulary, small_config()).eval()
    sampler = Sampler(model, batch_size=128)
    smiles = [s for part in sampler.sample(300, seed=3) for s in part]
    assert len(smiles) == 300
    assert all(Chem.MolFromSmiles(s) is not None for s in smiles)
    again = [s for part in sampler.sample(300, seed=3) for s in part]
    other = [s for part in sampler.sample(300, seed=4) for s in part]
    assert smiles == again
    assert smiles != other


def test_a_model_has_a_temperature_of_its_own(data: TreeDataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MoleculeGenerator(data.vocabulary, small_config(temperature=0.25)).eval()
    model.save(tmp_path / "model")
    loaded = MoleculeGenerator.load(tmp_path / "model")
    own, same, other = (Sampler(loaded, temperature=t).batch(0, 30, 0) for t in (None, 0.25, 1.0))
    assert own == same != other
    generate(tmp_path / "model", 30, tmp_path / "out.smi", console=Console(quiet=True))
    assert (tmp_path / "out.smi").read_text().split() == own


def test_samples_are_canonical(trained: MoleculeGenerator) -> None:
    smiles = next(Sampler(trained, batch_size=300).sample(300, seed=3))
    # RDKit's canonical form is not a fixed point for some contrived molecules.
    assert np.mean([s == Chem.CanonSmiles(s) for s in smiles]) > 0.95


@pytest.mark.parametrize("limit", [1, 5, 40])
def test_walks_end_within_the_limit(data: TreeDataset, limit: int) -> None:
    model = MoleculeGenerator(data.vocabulary, small_config()).eval()
    trees = Sampler(model, max_nodes=limit, temperature=5.0).decode(model.sample_latents(300))
    assert trees.length.max() <= limit
    assert len(Sampler(model, max_nodes=limit).smiles(trees)) == 300


def test_latents_do_not_depend_on_the_atom_order(awkward: list[str]) -> None:
    shuffled = []
    for i, smiles in enumerate(awkward):
        mol = Chem.MolFromSmiles(smiles)
        Chem.RemoveStereochemistry(mol)
        order = np.random.default_rng(i).permutation(mol.GetNumAtoms()).tolist()
        shuffled.append(Chem.MolToSmiles(Chem.RenumberAtoms(mol, order), canonical=False))
    one = prepare(awkward, jobs=1)
    two = prepare(shuffled, jobs=1, vocabulary=one.vocabulary)
    model = MoleculeGenerator(one.vocabulary, small_config()).eval()
    with torch.no_grad():
        a, b = (model.autoencoder.encode(batch_of(x, len(awkward))) for x in (one, two))
    torch.testing.assert_close(a, b)


def test_padding_does_not_matter(data: TreeDataset) -> None:
    model = MoleculeGenerator(data.vocabulary, small_config()).eval()
    collate = Collator(data.vocabulary)
    together = model.autoencoder(to_tensors(collate(data, np.arange(50)))).reconstruction
    for i in (0, 7, 33):
        alone = model.autoencoder(to_tensors(collate(data, np.array([i])))).reconstruction
        torch.testing.assert_close(alone.label[0], together.label[i], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.site[0], together.site[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_packing_does_not_matter(data: TreeDataset, geometry: str) -> None:
    """Latents, losses and gradients are those of one molecule a row."""
    auto = MoleculeGenerator(data.vocabulary, small_config(model__geometry=geometry)).autoencoder.eval()
    collate, found = Collator(data.vocabulary), []
    for pack in (False, True):
        batch = to_tensors(collate(data, np.arange(50), pack))
        loss = auto(batch).reconstruction
        auto.zero_grad()
        (loss.label + loss.site).mean().backward()
        grads = {k: x.grad.clone() for k, x in auto.named_parameters() if x.grad is not None}
        found.append((auto.encode(batch), [loss.label, loss.site, loss.exact, loss.label_right], grads))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("prior", ["gan", "wrapped-normal", "vae"])
def test_every_variant_trains_500_steps_in_float32(data: TreeDataset, geometry: str, prior: str) -> None:
    """The paper's variational and end-to-end variants went to NaN in float64; ours must train in float32."""
    config = small_config(prior=prior, model__geometry=geometry, autoencoder__lr=3e-3)
    model = MoleculeGenerator(data.vocabulary, config)
    auto = model.autoencoder.train()
    optimizer = RiemannianAdam(auto.parameters(), lr=3e-3, betas=(0.9, 0.99), stabilize=100)
    stream = BatchStream(data, np.arange(len(data)), batch_size=32, seed=0)
    losses = []
    for step in range(500):
        optimizer.zero_grad()
        found = auto(stream.batch(step))
        loss = found.total(config.model.kl_weight)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(auto.parameters(), 1.0, error_if_nonfinite=True)
        assert torch.isfinite(norm)
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5])
    assert all(torch.isfinite(p).all() for p in auto.parameters())
    assert all(p.dtype == torch.float32 for p in auto.parameters())


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gan_moves_towards_the_data(data: TreeDataset, geometry: str) -> None:
    """The penalty has a right second derivative, and 150 steps bring the fakes' mean to the data's."""
    config = small_config(model__geometry=geometry, gan__lr=2e-3, gan__base="noise")
    model = MoleculeGenerator(data.vocabulary, config)
    space = model.autoencoder.space
    generator = LatentGenerator(space, config.model.latent, config.gan)
    critic = LatentCritic(space, config.model.latent, config.gan)
    shift = torch.randn(config.model.latent) * 0.5

    def real(n: int) -> Latent:
        return Latent(*(space.lift(shift + 0.2 * torch.randn(n, config.model.latent)) for _ in range(2)))

    def gap() -> float:
        with torch.no_grad():
            a, b = real(2000).tree, generator(generator.sample_noise(2000)).tree
        return float(space.sqdist(space.centroid(a), space.centroid(b)))

    before = gap()
    opts = [RiemannianAdam(m.parameters(), lr=2e-3, betas=(0.0, 0.9)) for m in (critic, generator)]
    for step in range(150):
        for optimizer in opts:  # the rate falls to 0 as in the pipeline: without that the two players circle
            optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (150 - step) / 75)
        for _ in range(3):
            a = real(128)
            with torch.no_grad():
                b = generator(generator.sample_noise(128))
            loss = critic(b).mean() - critic(a).mean() + 10 * gradient_penalty(space, critic, a, b)
            opts[0].zero_grad()
            loss.backward()
            assert all(p.grad is None or torch.isfinite(p.grad).all() for p in critic.parameters())
            opts[0].step()
        loss = -critic(generator(generator.sample_noise(128))).mean()
        opts[1].zero_grad()
        loss.backward()
        opts[1].step()
    assert gap() < 0.2 * before


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gan_starts_from_the_normal_fitted_to_the_latents(data: TreeDataset, geometry: str) -> None:
    """Mean and covariance are right before the first step; what the towers add is small."""
    config = small_config(model__geometry=geometry, model__latent_noise=0.0)
    autoencoder = MoleculeGenerator(data.vocabulary, config).autoencoder
    space = autoencoder.space
    size = config.model.latent
    mixing = torch.randn(2 * size, 2 * size) * 0.1
    vectors = 0.3 * torch.randn(2 * size) + torch.randn(4000, 2 * size) @ mixing
    real = Latent(*(space.lift(v) for v in vectors.chunk(2, -1)))
    generator = LatentGenerator(space, size, config.gan)
    training = GANTraining(generator, autoencoder, real, config)
    assert generator.normal is not None
    drawn = generator.normal.sample(20_000, None)
    torch.testing.assert_close(drawn.mean(0), vectors.mean(0), atol=0.02, rtol=0.0)
    torch.testing.assert_close(drawn.T.cov(), vectors.T.cov(), atol=0.02, rtol=0.0)
    noise = generator.sample_noise(2000)
    made = generator(noise)
    base = generator.normal(noise[:, config.gan.noise :]).chunk(2, -1)
    moved = [space.sqdist(x, space.lift(v)).sqrt().mean() for x, v in zip(made, base, strict=True)]
    spread = space.sqdist(real.tree[:2000], real.tree[2000:]).sqrt().mean()
    assert max(moved) < 0.5 * spread
    assert all(
        torch.equal(a, b) for a, b in zip(training.average.buffers(), generator.buffers(), strict=True)
    )


def test_penalty_is_zero_for_a_critic_of_slope_one() -> None:
    """D(x) = d(x, o) has a Riemannian gradient of norm 1 everywhere but at the origin."""
    model = MoleculeGenerator(prepare(["CCO"], jobs=1).vocabulary, small_config())
    space = model.autoencoder.space

    class Distance(torch.nn.Module):
        def forward(self, latent: Latent) -> torch.Tensor:
            return space.manifold.dist0(latent.tree) + 0 * latent.graph.sum(-1)

    points = [Latent(*(space.random_normal(64, features=8) for _ in range(2))) for _ in range(2)]
    assert gradient_penalty(space, Distance(), *points) < 1e-6


def test_two_level_softmax_is_a_distribution(data: TreeDataset) -> None:
    space = MoleculeGenerator(data.vocabulary, small_config()).autoencoder.space
    head = LabelHead(space, 16, 500, 64)
    assert head.cuts == [64, 256, 500]
    # Near the origin, so that no cluster's probability vanishes beside the others'.
    y = space.random_normal(3, features=16, std=0.2)
    label = torch.arange(500).repeat(3)
    log_prob, _ = head(y.repeat_interleave(500, 0), label)
    torch.testing.assert_close(log_prob.exp().view(3, 500).sum(1), torch.ones(3))
    draws = head.sample(y[:1].expand(200_000, -1), torch.ones(500, dtype=torch.bool), 1.0)
    share = torch.bincount(draws, minlength=500) / len(draws)
    assert (share - log_prob.exp()[:500]).abs().max() < 0.005
    allowed = torch.zeros(500, dtype=torch.bool)
    allowed[[3, *range(300, 350)]] = True
    draws = head.sample(y[:1].expand(100_000, -1), allowed, 1.0)
    share = torch.bincount(draws, minlength=500) / len(draws)
    wanted = log_prob.exp()[:500] * allowed
    assert (share - wanted / wanted.sum()).abs().max() < 0.01
    assert set(head.sample(y, allowed, 0.0).tolist()) <= set(allowed.nonzero()[:, 0].tolist())


def test_batches_made_by_processes_are_the_threads(data: TreeDataset) -> None:
    stream = BatchStream(data, np.arange(len(data)), batch_size=64, seed=0)
    begin, end = stream.per_pass - 2, stream.per_pass + 2  # over the end of a pass
    state = torch.get_rng_state()
    found = [list(stream.section(begin, end, workers)) for workers in (0, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(x) for x in found] == [4, 4]
    for a, b in zip(*found, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("by_size", [False, True])
def test_a_pass_has_every_molecule_once(data: TreeDataset, by_size: bool) -> None:
    """Batches of one size only where asked for: a clipped gradient of theirs counts for too little."""
    stream = BatchStream(data, np.arange(len(data)), batch_size=64, seed=0, by_size=by_size)
    batches = [stream.members(k) for k in range(stream.per_pass)]
    seen = np.concatenate(batches)
    assert len(np.unique(seen)) == len(seen) == 64 * (len(data) // 64)
    spread = np.mean([data.sizes[b].std() for b in batches])
    assert (spread < 0.3 * data.sizes.std()) == by_size
    assert not np.array_equal(stream.members(stream.per_pass), batches[0])


def test_weights_by_kind_are_indexing() -> None:
    weight = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    kind = torch.randint(0, 5, (4, 7, 6))
    found, wanted = by_kind(weight, kind), weight[..., kind]
    assert torch.equal(found, wanted)
    g = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(x, weight, g)[0] for x in (found, wanted))
    torch.testing.assert_close(ours, theirs)


def test_masses_of_labels_add_up_to_the_molecules(moses_sample: list[str], awkward: list[str]) -> None:
    found = prepare(moses_sample[:200] + awkward, jobs=1)
    mass = found.vocabulary.label_mass
    for n, row in enumerate(found.row):
        mol = Chem.MolFromSmiles((moses_sample[:200] + awkward)[row])
        assert mass[found.tree(n)[0]].sum() == pytest.approx(MolWt(mol), abs=0.01)


def test_segments() -> None:
    logits, segment = torch.randn(50, dtype=torch.float64), torch.randint(5, (50,)).sort().values
    mine = segment_log_softmax(logits.requires_grad_(), segment, 5)
    for k in segment.unique():
        torch.testing.assert_close(mine[segment == k], logits[segment == k].log_softmax(0))
    best = pick(logits, segment, 5)
    for k in segment.unique():
        assert best[k] == (segment == k).nonzero()[:, 0][logits[segment == k].argmax()]
    assert torch.autograd.gradcheck(lambda x: segment_log_softmax(x, segment, 5), logits)


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"temperature": -1.0}, "temperature must be >= 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_nodes": 99}, "max_nodes"),
    ],
)
def test_sampler_refuses(data: TreeDataset, setting: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Sampler(MoleculeGenerator(data.vocabulary, small_config()), **setting)
