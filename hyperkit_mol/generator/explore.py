"""What a trained generator is good for beside sampling: ways, surroundings, goals, scaffolds.

Every function works on the two latent manifolds at once, by geodesics and wrapped normals, and decodes with
the sampler: every molecule is valid by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rdkit import Chem, rdBase
from torch import Tensor

from hyperkit_mol.chem.prepare import TreeDataset, prepare
from hyperkit_mol.chem.reading import BadInputError
from hyperkit_mol.generator.autoencoder import Latent
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.generator.sampling import Sampler

__all__ = [
    "Candidate",
    "decorate",
    "distance",
    "encode",
    "interpolate",
    "neighbors",
    "optimize",
    "reconstruct",
]


def trees_of(model: MoleculeGenerator, smiles: Sequence[str], jobs: int = 1) -> TreeDataset:
    """Motif trees of molecules in the model's vocabulary.

    Raises
    ------
    ValueError
        Naming the first molecule that has none, and why.
    """
    if not smiles:
        raise ValueError("smiles must hold at least one molecule, got none")
    data = model.config.data

    def trees(part: Sequence[str]) -> TreeDataset:
        return prepare(
            part,
            vocabulary=model.vocabulary,
            max_atoms=data.max_atoms,
            keep_largest_fragment=data.keep_largest_fragment,
            max_bad=None,
            jobs=jobs,
        )

    try:
        found = trees(smiles)
        encoded = set(found.row.tolist())
    except BadInputError:  # none of them has a tree
        found, encoded = None, set()
    if found is not None and len(encoded) == len(smiles):
        return found
    text = next(text for k, text in enumerate(smiles) if k not in encoded)
    try:
        trees([text])
    except BadInputError as err:
        reason = str(err).split("no molecule is left. ")[-1]
        raise ValueError(f"{text!r} cannot be encoded: {reason}") from None
    raise AssertionError("a molecule without a tree has none by itself")


@torch.no_grad()
def encode(model: MoleculeGenerator, smiles: Sequence[str], jobs: int = 1) -> Latent:
    """Latents of molecules.

    Parameters
    ----------
    model : MoleculeGenerator
    smiles : sequence of str
    jobs : int
        Processes that parse.

    Returns
    -------
    Latent
        ``(len(smiles), latent)`` each.

    Raises
    ------
    ValueError
        If a molecule cannot be parsed or has a motif that the model does not know.
    """
    data = trees_of(model, smiles, jobs)
    training = model.training
    model.eval()
    latent = model.autoencoder.encode_all(data, np.arange(len(data)))
    model.train(training)
    return latent


def _known(model: MoleculeGenerator, smiles: Sequence[str]) -> list[str]:
    """The distinct ones of sampled molecules that :func:`encode` takes."""
    distinct = list(dict.fromkeys(smiles))
    data = model.config.data
    with rdBase.BlockLogs():
        found = prepare(distinct, vocabulary=model.vocabulary, max_atoms=data.max_atoms, max_bad=None, jobs=1)
    return [distinct[k] for k in found.row.tolist()]


def _decode(sampler: Sampler, latent: Latent, seed: int) -> list[str]:
    out: list[str] = []
    for number, begin in enumerate(range(0, len(latent.tree), sampler.batch_size)):
        part = Latent(*(x[begin : begin + sampler.batch_size] for x in latent))
        generator = torch.Generator().manual_seed(seed + number)
        out += sampler.smiles(sampler.decode(part, generator))
    return out


def reconstruct(model: MoleculeGenerator, smiles: Sequence[str]) -> list[str]:
    """The likeliest molecule of each molecule's latent; equal to the canonical input when nothing is lost.

    Raises
    ------
    ValueError
        See :func:`encode`.
    """
    return _decode(Sampler(model, temperature=0.0), encode(model, smiles), 0)


def distance(model: MoleculeGenerator, a: Latent, b: Latent) -> Tensor:
    """Distance on the product of the two latent manifolds, ``(*,)``."""
    space = model.autoencoder.space
    tree, graph = (space.sqdist(x, y) for x, y in zip(a, b, strict=True))
    return (tree + graph).sqrt()


def interpolate(
    model: MoleculeGenerator, start: str, end: str, steps: int = 10, resolution: int = 1024
) -> list[tuple[float, str]]:
    """Molecules along the geodesic from one molecule's latent to another's.

    In hyperbolic space the way between two far points turns near the origin: most of it looks like one end or
    the other, and what lies between is met in a short stretch. So the way is decoded (greedily) at
    `resolution` points and told as the molecules that it meets.

    Parameters
    ----------
    model : MoleculeGenerator
    start, end : str
        SMILES.
    steps : int
        Molecules to give at most, >= 2.
    resolution : int
        Points of the geodesic that are decoded, >= `steps`.

    Returns
    -------
    list of (float, str)
        Place on the way (0 to 1: the middle of the stretch that decodes to the molecule; 0 and 1 for the
        ends) and canonical SMILES. No two neighbours are the same molecule. The ends are the reconstructions
        of `start` and `end`; where more than `steps` are met, those kept are spread evenly over them.

    Raises
    ------
    ValueError
        If `steps` or `resolution` is out of range; see also :func:`encode`.
    """
    if steps < 2:
        raise ValueError(f"steps must be >= 2, got {steps}")
    if resolution < steps:
        raise ValueError(f"resolution must be >= steps = {steps}, got {resolution}")
    latent = encode(model, [start, end])
    t = torch.linspace(0, 1, resolution)
    space = model.autoencoder.space
    way = Latent(
        *(space.geodesic(t, x[:1].expand(resolution, -1), x[1:].expand(resolution, -1)) for x in latent)
    )
    found = _decode(Sampler(model, temperature=0.0), way, 0)
    begins = [0, *(k for k in range(1, resolution) if found[k] != found[k - 1])]
    ends = [*(k - 1 for k in begins[1:]), resolution - 1]
    places = [float(t[a] + t[b]) / 2 for a, b in zip(begins, ends, strict=True)]
    places[0], places[-1] = 0.0, 1.0 if len(places) > 1 else 0.0
    met = [(place, found[k]) for place, k in zip(places, begins, strict=True)]
    if len(met) <= steps:
        return met
    return [met[k] for k in np.linspace(0, len(met) - 1, steps).round().astype(int)]


def _scatter(model: MoleculeGenerator, latent: Latent, radius: float, generator: torch.Generator) -> Latent:
    """Wrapped normal around each latent; `radius` is the root mean square distance on each manifold."""
    latents = model.autoencoder.latents
    std = latent.tree.new_full((), radius / latents.features**0.5)
    return Latent(*(latents.wrapped_normal(x, std, generator)[0] for x in latent))


def neighbors(
    model: MoleculeGenerator,
    smiles: str,
    count: int = 100,
    *,
    radius: float = 1.0,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Molecules around a molecule: wrapped normal around its latent, then decoding.

    Parameters
    ----------
    model : MoleculeGenerator
    smiles : str
    count : int
        Latents to draw, >= 1; neighbours that decode to the same molecule are given once.
    radius : float
        Root mean square distance of the draws from the molecule's latent, >= 0.
    temperature : float
        Of the decoder's choices.
    seed : int

    Returns
    -------
    list of str
        Distinct molecules other than the given one, the most frequent first.

    Raises
    ------
    ValueError
        If an argument is out of range; see also :func:`encode`.
    """
    if count < 1:
        raise ValueError(f"count must be >= 1, got {count}")
    if radius < 0:
        raise ValueError(f"radius must be >= 0, got {radius}")
    centre = encode(model, [smiles])
    generator = torch.Generator().manual_seed(seed)
    around = _scatter(model, Latent(*(x.expand(count, -1) for x in centre)), radius, generator)
    found = _decode(Sampler(model, temperature=temperature), around, seed)
    own = _plain(smiles)
    number: dict[str, int] = {}
    for text in found:
        if text != own:
            number[text] = number.get(text, 0) + 1
    return sorted(number, key=lambda s: -number[s])


def _plain(smiles: str) -> str:
    """Canonical SMILES without stereochemistry, as the decoder writes it."""
    mol = Chem.MolFromSmiles(smiles)
    Chem.RemoveStereochemistry(mol)
    return Chem.MolToSmiles(mol)


@dataclass(frozen=True)
class Candidate:
    """A molecule that :func:`optimize` found: its score, and the round it was found in (0: the start)."""

    smiles: str
    score: float
    round: int


def optimize(
    model: MoleculeGenerator,
    objective: Callable[[str], float],
    *,
    start: Sequence[str] = (),
    rounds: int = 20,
    population: int = 500,
    keep: int = 50,
    radius: float = 1.0,
    seed: int = 0,
    progress: Callable[[int, list[Candidate]], None] | None = None,
) -> list[Candidate]:
    """Search the latent space for molecules of high score.

    An evolution strategy on the latent manifold: each round, half of the population is drawn around the best
    molecules so far (wrapped normal), half between two of them (a random point of the geodesic, and a little
    noise). All are decoded greedily, so a latent stands for one molecule, and each molecule is scored once.

    Parameters
    ----------
    model : MoleculeGenerator
    objective : callable
        SMILES to a number; larger is better. NaN or an exception means that the molecule is not wanted.
    start : sequence of str
        Molecules to begin from; the prior's samples if empty.
    rounds, population, keep : int
        Rounds, molecules decoded in each, and how many of the best are parents of the next.
    radius : float
        Root mean square distance of a mutation.
    seed : int
    progress : callable, optional
        Called after each round with its number and the best `keep` candidates.

    Returns
    -------
    list of Candidate
        The best `keep`, best first, distinct.

    Raises
    ------
    ValueError
        If an argument is out of range, or if no molecule got a score; see also :func:`encode`.
    """
    for name, value in (("rounds", rounds), ("population", population), ("keep", keep)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if radius <= 0:
        raise ValueError(f"radius must be > 0, got {radius}")
    sampler = Sampler(model, temperature=0.0)
    space = model.autoencoder.space
    generator = torch.Generator().manual_seed(seed)
    scores: dict[str, float] = {}
    best: list[tuple[Candidate, Tensor, Tensor]] = []

    def score(text: str) -> float:
        if text not in scores:
            try:
                scores[text] = float(objective(text))
            except Exception:
                scores[text] = float("nan")
        return scores[text]

    def admit(latent: Latent, found: list[str], number: int) -> None:
        nonlocal best
        known = {row[0].smiles for row in best}
        for text, tree, graph in zip(found, *latent, strict=True):
            if text in known or np.isnan(value := score(text)):
                continue
            known.add(text)
            best.append((Candidate(text, value, number), tree, graph))
        best = sorted(best, key=lambda row: -row[0].score)[:keep]

    if start:
        origin = encode(model, start)
        admit(origin, [_plain(s) for s in start], 0)
    elif model.config.fade > 0:
        # A faded latent leaves open which molecule it is: the search begins at the latents of sampled ones.
        drawn = _known(model, Sampler(model).batch(0, population, seed))
        origin = encode(model, drawn)
        admit(origin, drawn, 0)
    else:
        origin = model.sample_latents(population, generator)
        admit(origin, _decode(sampler, origin, seed), 0)
    for number in range(1, rounds + 1):
        if not best:
            raise ValueError("objective gave no number for any molecule so far")
        parents = Latent(torch.stack([row[1] for row in best]), torch.stack([row[2] for row in best]))

        def draw(size: int, parents: Latent = parents) -> Latent:
            # Squaring favours the best without forgetting the others.
            place = (torch.rand(size, generator=generator).square() * len(parents.tree)).long()
            return Latent(*(x[place] for x in parents))

        crossed = population // 2 if len(best) > 1 else 0
        near = _scatter(model, draw(population - crossed), radius, generator)
        if crossed:
            t = torch.rand(crossed, generator=generator)
            a, b = draw(crossed), draw(crossed)
            middle = Latent(*(space.geodesic(t, x, y) for x, y in zip(a, b, strict=True)))
            middle = _scatter(model, middle, 0.3 * radius, generator)
            near = Latent(*(torch.cat(pair) for pair in zip(near, middle, strict=True)))
        admit(near, _decode(sampler, near, seed), number)
        if progress is not None:
            progress(number, [row[0] for row in best])
    return [row[0] for row in best]


def decorate(
    model: MoleculeGenerator,
    scaffold: str,
    count: int = 100,
    *,
    pull: float = 0.5,
    temperature: float | None = None,
    seed: int = 0,
    batch_size: int = 1024,
) -> list[str]:
    """Molecules that contain a scaffold: decoding starts from its motif tree and may only add to it.

    Parameters
    ----------
    model : MoleculeGenerator
    scaffold : str
        SMILES; its own hydrogens are where the molecule may grow.
    count : int
        Molecules to sample, >= 1.
    pull : float
        Where decoding looks: 0 at the scaffold's own latent, 1 at a sample of the prior, between them on the
        geodesic.
    temperature : float, optional
        Of the decoder's choices; the model's own (``config.temperature``) if left out.
    seed : int
    batch_size : int

    Returns
    -------
    list of str
        `count` canonical SMILES, each with the scaffold as a substructure; the scaffold itself may be among
        them.

    Raises
    ------
    ValueError
        If an argument is out of range; see also :func:`encode`.
    """
    if count < 1:
        raise ValueError(f"count must be >= 1, got {count}")
    if not 0 <= pull <= 1:
        raise ValueError(f"pull must be from 0 to 1, got {pull}")
    data = trees_of(model, [scaffold])
    centre = model.autoencoder.encode_all(data, np.zeros(1, np.int64))
    space = model.autoencoder.space
    sampler = Sampler(model, temperature=temperature)
    out: list[str] = []
    with rdBase.BlockLogs():
        for number, begin in enumerate(range(0, count, batch_size)):
            size = min(batch_size, count - begin)
            generator = torch.Generator().manual_seed(
                int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
            )
            prior = model.sample_latents(size, generator)
            t = torch.full((size,), float(pull))
            z = Latent(
                *(space.geodesic(t, x.expand(size, -1), y) for x, y in zip(centre, prior, strict=True))
            )
            # The way from a whole latent to a faded one: as far along as the point is.
            fade = pull * model.config.fade
            out += sampler.smiles(sampler.decode(z, generator, start=data.tree(0), fade=fade))
    return out
