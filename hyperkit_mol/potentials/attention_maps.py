"""Where a potential looks: its attention weights against the distance between atoms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperkit.nn import EuclideanAttention, LorentzAttention
from hyperkit_mol.potentials._attention import NeighborAttention
from hyperkit_mol.potentials.batch import Structure
from hyperkit_mol.potentials.errors import ModelError
from hyperkit_mol.potentials.potential import Potential

__all__ = ["AttentionProfile", "AttentionWeights", "attention_profile", "attention_weights"]

Array = npt.NDArray[np.float64]
_SHARE = 0.9  # of the attention to other atoms that lies within the radius


@dataclass(frozen=True, eq=False)
class AttentionWeights:
    """Weights of one structure: L layers, H heads, G groups of T tokens that attend to each other.

    The Transformer has one group: charge, spin, and the n atoms, ``T = n + 2``. EScAIP has a group for each
    atom: its neighbours.

    Parameters
    ----------
    weights : array
        ``(L, H, G, T, T)``: of a query (row) for a key. 0 in the rows and columns of padding.
    rest : array
        ``(L, H, G, T)``: what a query gives to the place to rest (EScAIP); 0 in a Transformer. A row of
        `weights` and its rest add up to 1.
    distance : array
        ``(G, T, T)``, Å, between query and key; NaN where one of them is no atom.
    query : array
        ``(G, T)``, True for tokens that exist.
    center : array
        ``(G, T)``: the atom that a row belongs to: the query itself (Transformer; -1 for charge and spin), or
        the atom whose neighbour the query is (EScAIP).
    """

    weights: Array
    rest: Array
    distance: Array
    query: npt.NDArray[np.bool_]
    center: npt.NDArray[np.int64]


@contextmanager
def _listening(potential: Potential) -> Iterator[list[Tensor]]:
    """Weights of every attention layer that runs inside, in order; the layers compute what they always do."""
    found: list[Tensor] = []
    handles, places = [], {}

    def listen(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        weights = _weights(module, args, kwargs)
        place = places.setdefault(module, len(found))
        if place == len(found):
            found.append(weights)
        else:  # the next part of a large structure's atoms
            found[place] = torch.cat([found[place], weights])

    for module in potential.backbone.modules():
        if isinstance(module, (EuclideanAttention, LorentzAttention, NeighborAttention)):
            handles.append(module.register_forward_pre_hook(listen, with_kwargs=True))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _weights(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Weights ``(B, H, T, S)`` of a layer, from its inputs and its own projections."""
    if isinstance(module, NeighborAttention):
        return _neighbor_weights(module, *args, **kwargs)
    (x, *_), mask = args, kwargs.get("mask")
    q, k = module._project(x, 0, 2)
    if isinstance(module, LorentzAttention):
        q = q * 2.0 * torch.exp(-module.log_temperature)
        scores = q[..., 1:] @ k[..., 1:].mT - q[..., :1] @ k[..., :1].mT
    else:
        scores = q @ k.mT * module.head_features**-0.5
    if kwargs.get("causal"):
        mask = torch.ones_like(scores[0, 0], dtype=torch.bool).tril() & (True if mask is None else mask)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1)


def _neighbor_weights(
    module: NeighborAttention, message: Tensor, envelope: Tensor, legendre: Sequence[Tensor], basis: Tensor
) -> Tensor:
    """``u_k exp(l_jk) / (1 + sum u exp(l))``, in logarithms: no term is too large."""
    n, m, _ = message.shape
    projected = module.project(message).view(n, m, 3, module.num_heads, module.head_features)
    q, k, _ = projected.permute(2, 0, 3, 1, 4)
    logits = module.bias(basis).transpose(1, 2).unsqueeze(2)
    if module.lorentz:
        factor = 2.0 * torch.exp(-module.log_temperature)
        times = (
            torch.sqrt(q.square().sum(-1, keepdim=True) + 1.0 / module.c),
            torch.sqrt(k.square().sum(-1, keepdim=True) + 1.0 / module.c),
        )
        product = module._products(q, k, legendre) - times[0] @ times[1].mT
        logits = logits + factor * (product + 1.0 / module.c)
    else:
        logits = logits + module._products(q, k, legendre) * module.head_features**-0.5
    logits = logits + envelope.log()[:, None, None, :]
    place = torch.zeros_like(logits[..., :1])
    return torch.cat([logits, place], -1).softmax(-1)[..., :-1]


@torch.no_grad()
def attention_weights(potential: Potential, structure: Structure) -> AttentionWeights:
    """Attention of a potential on one structure.

    Parameters
    ----------
    potential : Potential
        Unchanged; its energies and forces stay what they are to the last bit.
    structure : Structure

    Raises
    ------
    ModelError
        For a structure that the model does not know (elements, charge, spin, periodicity).
    StructureError
        For overlapping atoms.
    """
    mode = potential.training
    potential.eval()
    try:
        batch = potential.prepare([structure])
        with _listening(potential) as found:
            potential.backbone(batch)
    finally:
        potential.train(mode)
    if not found:
        raise ModelError(f"{type(potential.backbone).__name__} has no attention layer")
    # (L, H, G, T, T): the batch dimension of a layer is the groups of one structure.
    weights = torch.stack(found).double().cpu().transpose(1, 2)
    positions = batch.positions.double().cpu()
    n = len(positions)
    if potential.config.kind == "transformer":
        before = weights.shape[-1] - n
        distance = torch.full((1, n + before, n + before), torch.nan, dtype=torch.float64)
        distance[0, before:, before:] = torch.cdist(positions, positions)
        query = torch.ones(1, n + before, dtype=torch.bool)
        center = (torch.arange(n + before) - before).clamp(min=-1).unsqueeze(0)
        rest = torch.zeros(weights.shape[:-1], dtype=torch.float64)
    else:
        m = weights.shape[-1]
        # With a cap the model cuts its lists; real neighbours come first, so the first m are what it saw.
        query = batch.neighbor_mask[:, :m].cpu()
        shift = torch.einsum("nmi,ij->nmj", batch.shifts[:, :m].double().cpu(), batch.cell[0].double().cpu())
        image = positions[batch.neighbors[:, :m].cpu()] + shift
        distance = torch.cdist(image, image)
        both = query.unsqueeze(-1) & query.unsqueeze(-2)
        distance = distance.masked_fill(~both, torch.nan)
        weights = weights * both
        rest = (1.0 - weights.sum(-1)) * query
        center = torch.arange(n).unsqueeze(-1).expand(n, m)
    return AttentionWeights(
        weights.numpy(), rest.numpy(), distance.numpy(), query.numpy(), center.contiguous().numpy()
    )


@dataclass(frozen=True, eq=False)
class AttentionProfile:
    """Attention against distance, over all structures: L layers, H heads, K bins, A atoms.

    Parameters
    ----------
    kind : str
        "escaip" or "transformer".
    structures : int
    edges : array
        Of the bins ``(K + 1,)``, Å.
    pairs : array
        Pairs of a query and another atom in each bin ``(K,)``.
    mean : array
        Mean weight of a pair ``(L, H, K)``; NaN in an empty bin.
    to_self, to_rest, to_charge, to_spin : array
        ``(L, H)``: share of the attention of atoms that goes to the query itself, to the place to rest
        (EScAIP), and to the tokens of charge and spin (Transformer). What is left goes to other atoms.
    radius : array
        ``(L,)``, Å: effective attention radius, within which lies 90 % of the attention to other atoms.
    radius_even : float
        What it would be if all of them got the same.
    exponent : array
        ``(L,)``: p of the best ``weight ~ distance^-p`` (least squares of logarithms, bins weighted by their
        pairs).
    reach : array
        ``(L, A)``, Å: of each atom, the mean distance of what it attends to (itself left out), weighted by
        attention.
    reach_even : array
        The same with equal weights ``(A,)``.
    spacing : array
        Mean distance of each atom to its 4 nearest ones ``(A,)``: how crowded it is there.
    """

    kind: str
    structures: int
    edges: Array
    pairs: Array
    mean: Array
    to_self: Array
    to_rest: Array
    to_charge: Array
    to_spin: Array
    radius: Array
    radius_even: float
    exponent: Array
    reach: Array
    reach_even: Array
    spacing: Array

    @property
    def centers(self) -> Array:
        """Middles of the bins ``(K,)``, Å."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    def crowding(self) -> tuple[Array, float]:
        """Rank correlation, over atoms, of reach and spacing: of each layer ``(L,)``, and for even attention.

        Positive: attention reaches further where atoms are further apart. Only what exceeds the second figure
        is the model's doing, since an atom at the rim is further from everything. NaN for fewer than 3 atoms.
        """
        layers = np.array([_rank_correlation(r, self.spacing) for r in self.reach])
        return layers, _rank_correlation(self.reach_even, self.spacing)

    def figures(self) -> dict[str, Any]:
        """The figures but those by bin, ready for JSON."""
        correlation, even = self.crowding()
        layers = []
        for k in range(len(self.mean)):
            shares = {
                name: _plain(getattr(self, f"to_{name}")[k]) for name in ("self", "rest", "charge", "spin")
            }
            layers.append(
                {
                    "layer": k + 1,
                    "radius": _plain(self.radius[k]),
                    "exponent": _plain(self.exponent[k]),
                    "reach_and_spacing": _plain(correlation[k]),
                    "share_by_head": shares,
                }
            )
        return {
            "model": self.kind,
            "structures": self.structures,
            "pairs": int(self.pairs.sum()),
            "radius_of_even_attention": _plain(self.radius_even),
            "reach_and_spacing_of_even_attention": _plain(even),
            "layers": layers,
        }


def _plain(value: Any) -> Any:
    """Numbers for JSON, which has no NaN."""
    if np.ndim(value):
        return [_plain(v) for v in value]
    return round(float(value), 6) if np.isfinite(value) else None


def _rank_correlation(a: Array, b: Array) -> float:
    from scipy.stats import rankdata

    # Rounded: atoms that symmetry makes equal must not be ranked by the last bit.
    ranks = [rankdata(np.round(x, 9)) for x in (a, b)]
    if len(a) < 3 or min(r.std() for r in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def attention_profile(
    potential: Potential, structures: Sequence[Structure], *, bins: int = 24, longest: float | None = None
) -> AttentionProfile:
    """Attention against distance, averaged over structures.

    Pairs are of two atoms that attend to each other: any two (Transformer), or two neighbours j and k of one
    atom (EScAIP), the query of which counts as one of the other atom's. All queries count the same.

    Parameters
    ----------
    potential : Potential
    structures : sequence of Structure
    bins : int
    longest : float, optional
        End of the last bin, Å; the longest distance there is by default. Longer ones are left out of the
        bins, not of shares and radii.

    Raises
    ------
    ModelError, StructureError
        See :func:`attention_weights`; also if no structure has two atoms that attend to each other.
    ValueError
        If there are no structures, or `bins` or `longest` is out of range.
    """
    if not structures:
        raise ValueError("structures must not be empty")
    if bins < 1:
        raise ValueError(f"bins must be >= 1, got {bins}")
    if longest is not None and not longest > 0:
        raise ValueError(f"longest must be > 0, got {longest}")
    distances, others = [], []
    shares: Any = 0.0
    queries, reach, even, spacing = 0, [], [], []
    for structure in structures:
        found = attention_weights(potential, structure)
        atom = found.query & (found.center >= 0)
        queries += int(atom.sum())
        shares = shares + _shares(found, atom)
        pair = np.isfinite(found.distance) & ~np.eye(found.distance.shape[-1], dtype=bool)
        distance, weight = found.distance[pair], found.weights[:, :, pair]
        distances.append(distance)
        others.append(weight)
        rows = np.broadcast_to(found.center[..., None], pair.shape)[pair]
        for atoms, values in ((reach, weight.sum(1)), (even, np.ones((1, len(distance))))):
            with np.errstate(invalid="ignore"):  # an atom that attends to nothing
                part = [
                    np.bincount(rows, v * distance, len(structure)) / np.bincount(rows, v, len(structure))
                    for v in values
                ]
            atoms.append(np.array(part))
        spacing.append(_spacing(structure))
    distance, weight = np.concatenate(distances), np.concatenate(others, -1)
    if not len(distance):
        raise ModelError("no two atoms of these structures attend to each other")
    edges = np.linspace(0.0, longest or float(distance.max()) * (1 + 1e-9), bins + 1)
    pairs, _ = np.histogram(distance, edges)
    sums = np.array([[np.histogram(distance, edges, weights=h)[0] for h in layer] for layer in weight])
    with np.errstate(invalid="ignore"):
        mean = sums / pairs
    to_self, to_rest, to_charge, to_spin = shares / max(queries, 1)
    lone = ~np.isfinite(np.concatenate(even, -1)[0])
    return AttentionProfile(
        kind=potential.config.kind,
        structures=len(structures),
        edges=edges,
        pairs=pairs.astype(float),
        mean=mean,
        to_self=to_self,
        to_rest=to_rest,
        to_charge=to_charge,
        to_spin=to_spin,
        radius=np.array([_radius(distance, layer.sum(0)) for layer in weight]),
        radius_even=_radius(distance, np.ones_like(distance)),
        exponent=np.array(
            [_exponent(0.5 * (edges[1:] + edges[:-1]), layer.mean(0), pairs) for layer in mean]
        ),
        reach=np.concatenate(reach, -1)[:, ~lone],
        reach_even=np.concatenate(even, -1)[0, ~lone],
        spacing=np.concatenate(spacing)[~lone],
    )


def _shares(found: AttentionWeights, atom: npt.NDArray[np.bool_]) -> Array:
    """Summed over atom queries: to itself, to rest, to charge, to spin ``(4, L, H)``."""
    itself = np.einsum("lhgtt->lhgt", found.weights)
    state = np.flatnonzero(found.center[0] < 0)
    zero = np.zeros(found.weights.shape[:2])
    tokens = [found.weights[..., t][:, :, atom].sum(-1) for t in state] or [zero, zero]
    return np.stack([itself[:, :, atom].sum(-1), found.rest[:, :, atom].sum(-1), *tokens])


def _spacing(structure: Structure, count: int = 4) -> Array:
    if len(structure) == 1:
        return np.full(1, np.nan)
    vector = structure.positions[:, None] - structure.positions
    if np.any(structure.pbc):  # pyright: ignore[reportArgumentType]
        from ase.geometry import find_mic

        pbc: Any = structure.pbc
        vector = find_mic(vector.reshape(-1, 3), structure.cell, pbc)[0].reshape(vector.shape)
    distance = np.sort(np.linalg.norm(vector, axis=-1), axis=-1)
    return distance[:, 1 : count + 1].mean(-1)


def _radius(distance: Array, weight: Array) -> float:
    order = np.argsort(distance)
    total = np.cumsum(weight[order])
    if not total[-1] > 0:
        return float("nan")
    return float(distance[order][np.searchsorted(total, _SHARE * total[-1])])


def _exponent(distance: Array, mean: Array, pairs: Array) -> float:
    used = (pairs > 0) & (np.nan_to_num(mean) > 0)
    if used.sum() < 2:
        return float("nan")
    slope, _ = np.polyfit(np.log(distance[used]), np.log(mean[used]), 1, w=np.sqrt(pairs[used]))
    return float(-slope)
