"""Ways, surroundings, goals and scaffolds: what each verb promises, on a small generator."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from generator_case import small_config
from rdkit import Chem
from typer.testing import CliRunner

from hyperkit.optim import RiemannianAdam
from hyperkit_mol.chem.prepare import TreeDataset
from hyperkit_mol.cli import app
from hyperkit_mol.generator import explore
from hyperkit_mol.generator.cli_explore import objective_of
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.generator.sampling import Sampler
from hyperkit_mol.generator.shipped import shipped_model
from hyperkit_mol.generator.stream import BatchStream

PARACETAMOL, GUAIACOL = "CC(=O)Nc1ccc(O)cc1", "COc1ccccc1O"
SCAFFOLDS = ("c1ccccc1", "c1ccc(-c2ccncc2)cc1", "CC(=O)Nc1ccc(O)cc1", "O=C(c1ccccc1)N1CCNCC1", "CC")


@pytest.fixture(scope="module")
def model(data: TreeDataset) -> MoleculeGenerator:
    torch.manual_seed(0)
    model = MoleculeGenerator(data.vocabulary, small_config(prior="wrapped-normal"))
    auto = model.autoencoder.train()
    optimizer = RiemannianAdam(auto.parameters(), lr=1e-2)
    stream = BatchStream(data, np.arange(len(data)), batch_size=64, seed=0)
    for step in range(60):
        optimizer.zero_grad()
        auto(stream.batch(step)).total(0.0).backward()
        optimizer.step()
    assert model.normal is not None
    model.normal.factor *= 0.3
    return model.eval()


@pytest.fixture(scope="module")
def shipped() -> MoleculeGenerator:
    """The trained model of the package: what a barely trained one decodes is all alike."""
    return MoleculeGenerator.load(shipped_model())


def canonical(smiles: list[str]) -> bool:
    return all(Chem.MolToSmiles(Chem.MolFromSmiles(s)) == s for s in smiles)


def test_encoding_does_not_depend_on_order_or_writing(model: MoleculeGenerator) -> None:
    a = explore.encode(model, [PARACETAMOL, GUAIACOL])
    b = explore.encode(model, ["Oc1ccccc1OC", "Oc1ccc(NC(C)=O)cc1"])
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y.flip(0))
    far = explore.distance(model, a, b)
    near = explore.distance(model, a, explore.encode(model, [PARACETAMOL, GUAIACOL]))
    assert (far > 1e-3).all()
    assert (near < 1e-3).all()


@pytest.mark.parametrize(
    ("smiles", "said"),
    [(["CC", "C1CC"], "'C1CC' cannot be encoded"), (["[Xe]"], "'\\[Xe\\]' cannot"), ([], "at least one")],
)
def test_what_cannot_be_encoded_is_named(model: MoleculeGenerator, smiles: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        explore.encode(model, smiles)


def test_interpolation_begins_and_ends_at_the_reconstructions(shipped: MoleculeGenerator) -> None:
    way = explore.interpolate(shipped, PARACETAMOL, GUAIACOL, 50, resolution=200)
    smiles = [s for _, s in way]
    assert [smiles[0], smiles[-1]] == explore.reconstruct(shipped, [PARACETAMOL, GUAIACOL])
    places = [place for place, _ in way]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0.0, 1.0)
    assert all(a != b for a, b in itertools.pairwise(smiles))
    assert canonical(smiles)
    few = explore.interpolate(shipped, PARACETAMOL, GUAIACOL, 2, resolution=200)
    assert few == [way[0], way[-1]]
    assert len(explore.interpolate(shipped, PARACETAMOL, PARACETAMOL, 5)) == 1
    with pytest.raises(ValueError, match="steps must be >= 2, got 1"):
        explore.interpolate(shipped, PARACETAMOL, GUAIACOL, 1)
    with pytest.raises(ValueError, match="resolution must be >= steps"):
        explore.interpolate(shipped, PARACETAMOL, GUAIACOL, 9, resolution=8)


def test_neighbors_spread_with_the_radius(model: MoleculeGenerator) -> None:
    own = explore.reconstruct(model, [PARACETAMOL])
    still = explore.neighbors(model, PARACETAMOL, 50, radius=0.0)
    assert set(still) <= set(own)
    near, far = (explore.neighbors(model, PARACETAMOL, 200, radius=r, seed=3) for r in (0.3, 3.0))
    assert len(set(far)) == len(far) > len(near)
    assert PARACETAMOL not in far
    assert canonical(far)
    assert far == explore.neighbors(model, PARACETAMOL, 200, radius=3.0, seed=3)
    with pytest.raises(ValueError, match="radius must be >= 0"):
        explore.neighbors(model, PARACETAMOL, radius=-1.0)
    with pytest.raises(ValueError, match="count must be >= 1"):
        explore.neighbors(model, PARACETAMOL, 0)


def test_draws_lie_at_the_radius(model: MoleculeGenerator) -> None:
    centre = explore.encode(model, [PARACETAMOL])
    wide = type(centre)(*(x.expand(4000, -1) for x in centre))
    drawn = explore._scatter(model, wide, 0.8, torch.Generator().manual_seed(0))
    space = model.autoencoder.space
    for x, y in zip(wide, drawn, strict=True):
        assert float(space.sqdist(x, y).mean().sqrt()) == pytest.approx(0.8, rel=0.05)


def test_optimising_climbs_and_scores_each_molecule_once(
    model: MoleculeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a decoder that is known: chains as long as the first coordinate of the tree latent says."""

    def chains(sampler: Sampler, latent, seed: int) -> list[str]:
        return ["C" * max(1, int(100 + 30 * x)) for x in latent.tree[:, 1].tolist()]

    monkeypatch.setattr(explore, "_decode", chains)
    asked: list[str] = []

    def length(smiles: str) -> float:
        asked.append(smiles)
        if len(smiles) % 10 == 0:
            raise ValueError("not wanted")
        return float("nan") if len(smiles) % 10 == 5 else float(len(smiles))

    seen: list[int] = []

    def told(number: int, best: list[explore.Candidate]) -> None:
        seen.append(number)

    def search(rounds: int, progress=None) -> list[explore.Candidate]:
        return explore.optimize(
            model, length, rounds=rounds, population=60, keep=10, seed=1, progress=progress
        )

    found = search(8, told)
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(asked) == len(set(asked)) > 20
    scores = [c.score for c in found]
    assert scores == sorted(scores, reverse=True) == [float(len(c.smiles)) for c in found]
    assert len(set(scores)) == len(found) == 10
    assert all(s % 5 for s in scores)
    # What was asked first are draws of the prior; eight rounds reach far beyond them.
    assert found[0].score > max(map(len, asked[:20])) + 30
    assert found == search(8)


def test_optimising_begins_where_it_is_told(model: MoleculeGenerator) -> None:
    found = explore.optimize(model, len, start=[PARACETAMOL], rounds=1, population=20, keep=30, radius=0.5)
    assert PARACETAMOL in {c.smiles for c in found if c.round == 0}
    with pytest.raises(ValueError, match="gave no number"):
        explore.optimize(model, lambda s: float("nan"), rounds=1, population=10)
    for wrong in ({"rounds": 0}, {"population": 0}, {"keep": 0}, {"radius": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            explore.optimize(model, len, **wrong)


@pytest.mark.parametrize("scaffold", SCAFFOLDS)
@pytest.mark.parametrize("pull", [0.0, 1.0])
def test_every_decorated_molecule_holds_the_scaffold(
    model: MoleculeGenerator, scaffold: str, pull: float
) -> None:
    found = explore.decorate(model, scaffold, 60, pull=pull, seed=2, batch_size=40)
    core = Chem.MolFromSmiles(scaffold)
    assert len(found) == 60
    assert all(Chem.MolFromSmiles(s).HasSubstructMatch(core) for s in found)
    assert canonical(found)
    assert len(set(found)) > 5
    assert found == explore.decorate(model, scaffold, 60, pull=pull, seed=2, batch_size=40)


def test_a_given_tree_stays_whole_when_there_is_no_room(model: MoleculeGenerator) -> None:
    """At the limit of motifs the given tree is all that is built, whatever the decoder would add."""
    tree = explore.trees_of(model, ["CC(=O)Nc1ccc(O)cc1"]).tree(0)
    size = len(tree[0])
    z = model.sample_latents(50, torch.Generator().manual_seed(0))
    sampler = Sampler(model, max_nodes=size)
    built = sampler.decode(z, torch.Generator().manual_seed(0), start=tree)
    assert (built.length == size).all()
    assert set(sampler.smiles(built)) == {PARACETAMOL}
    with pytest.raises(ValueError, match="at most max_nodes"):
        Sampler(model, max_nodes=size - 1).decode(z, start=tree)


def test_decorate_refuses_what_it_cannot_do(model: MoleculeGenerator) -> None:
    for arguments, said in (({"pull": 1.5}, "pull"), ({"count": 0}, "count")):
        with pytest.raises(ValueError, match=said):
            explore.decorate(model, "CC", **arguments)
    with pytest.raises(ValueError, match="cannot be encoded"):
        explore.decorate(model, "[Xe]")


def test_objectives_by_name(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert objective_of("qed")("CCO") == pytest.approx(0.4068, abs=1e-3)
    # logP 1.6866, accessibility 1, no large ring; and one of eight atoms.
    assert objective_of("plogp")("c1ccccc1") == pytest.approx(0.6866, abs=1e-3)
    assert np.isnan(objective_of("qed")("C1CC"))
    (tmp_path / "my_objective.py").write_text("def score(smiles):\n    return len(smiles)\n")
    monkeypatch.chdir(tmp_path)
    assert objective_of("my_objective:score")("CCO") == 3
    for name, said in (("nonsense", "qed, plogp"), ("no_such:f", "imported"), ("my_objective:g", "imported")):
        with pytest.raises(ValueError, match=said):
            objective_of(name)


@pytest.mark.slow
def test_verbs_write_files_and_pictures(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    calls = {
        "interpolate": [PARACETAMOL, GUAIACOL, "--steps", "4"],
        "neighbors": [PARACETAMOL, "-n", "30", "--radius", "2"],
        "decorate": ["c1ccccc1", "-n", "12"],
        "optimize": ["qed", "--rounds", "2", "--population", "30", "--keep", "5"],
    }
    for verb, arguments in calls.items():
        for picture in (f"{verb}.svg", f"{verb}.png"):
            done = CliRunner().invoke(app, [verb, *arguments, "-o", f"{verb}.out", "--picture", picture])
            assert done.exit_code == 0, done.output
            assert (tmp_path / picture).stat().st_size > 500
        found = (tmp_path / f"{verb}.out").read_text().splitlines()
        assert len(found) >= {"interpolate": 2, "neighbors": 5, "decorate": 12, "optimize": 5}[verb]
    lines = (tmp_path / "optimize.out").read_text().splitlines()
    assert lines[0] == "smiles,score,round"
    assert not list(tmp_path.glob(".*"))
    for arguments, said in (
        (["neighbors", "C1CC"], "cannot be encoded"),
        (["decorate", "CC", "--picture", "x.gif"], "must end in .svg or .png"),
        (["optimize", "nonsense"], "objective must be"),
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 1
        assert said in done.output
        assert "Traceback" not in done.output


def test_the_shipped_model_generates_without_training(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["generate", "-n", "200", "-o", "out.smi"])
    assert done.exit_code == 0, done.output
    smiles = (tmp_path / "out.smi").read_text().split()
    assert len(smiles) == 200
    assert len(set(smiles)) > 190
    assert canonical(smiles)
    sizes = [Chem.MolFromSmiles(s).GetNumHeavyAtoms() for s in smiles]
    assert 18 < np.mean(sizes) < 25  # MOSES: 21.7
    model = MoleculeGenerator.load(shipped_model())
    assert model.config.prior == "gan"
    assert model.config.model.geometry == "lorentz"
    assert sum(f.stat().st_size for f in shipped_model().iterdir()) <= 20_000_000
    # Moclobemide, tolbutamide, diazepam, zolpidem, leflunomide: in the range of MOSES, 250 to 350 Da.
    # Smaller ones (paracetamol, aspirin) do not come back.
    drugs = [
        "O=C(NCCN1CCOCC1)c1ccc(Cl)cc1",
        "CCCCNC(=O)NS(=O)(=O)c1ccc(C)cc1",
        "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
        "Cc1ccc(-c2nc3ccc(C)cn3c2CC(=O)N(C)C)cc1",
        "Cc1oncc1C(=O)Nc1ccc(C(F)(F)F)cc1",
    ]
    assert sum(a == b for a, b in zip(drugs, explore.reconstruct(model, drugs), strict=True)) >= 3
