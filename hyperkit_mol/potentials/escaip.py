"""EScAIP: attention over the neighbours of each atom (Qu and Krishnapriyan, arXiv:2410.24169)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from hyperkit_mol.potentials._attention import NeighborAttention
from hyperkit_mol.potentials._parts import by_parts
from hyperkit_mol.potentials._radial import CAP_START, RadialBasis, envelope, legendre, soft_cap
from hyperkit_mol.potentials.batch import CHARGES, SPINS, AtomicBatch
from hyperkit_mol.potentials.config import ModelConfig

__all__ = ["BackboneOutput", "EScAIP"]

# Numbers in an attention's largest tensors, (N, heads, degrees, M, M). Above the first a structure goes
# by parts of the second size, which takes a third more time.
_WHOLE, _PART = 1 << 23, 1 << 20


@dataclass(frozen=True, eq=False)
class BackboneOutput:
    """What a network says about each atom, before units.

    Parameters
    ----------
    atomic : Tensor
        ``(N,)``.
    presence : Tensor or None
        ``(N,)``: 0 for an atom without neighbours, near 1 in a molecule; None where it has no meaning.
    forces : Tensor or None
        ``(N, 3)`` of a direct head.
    """

    atomic: Tensor
    presence: Tensor | None = None
    forces: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Edges:
    """Of all atoms or of a part of them; what is None is computed where it is used."""

    neighbors: Tensor  # (N, M)
    direction: Tensor  # (N, M, 3)
    envelope: Tensor  # (N, M), 0 for padding
    basis: Tensor  # (N, M, R)
    legendre: tuple[Tensor, ...] | None = None  # (N, M, M) of each degree
    filters: tuple[Tensor, ...] | None = None  # (N, M, H) for the first edges and for each block

    def angles(self, degrees: int) -> tuple[Tensor, ...]:
        if self.legendre is not None:
            return self.legendre
        with torch.autocast(self.direction.device.type, enabled=False):
            return legendre(self.direction @ self.direction.mT, degrees)


def _feed_forward(width: int, factor: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, factor * width), nn.SiLU(), nn.Linear(factor * width, width)
    )


class _Block(nn.Module):
    """Messages from both ends, attention among them, edge and node feed-forward, in three steps.

    Only the middle one, :meth:`around`, is large; it needs an atom's own edges and nothing of other atoms'.
    Without `edges_out` the edges end here: the last block of a conservative model needs no edge features.
    """

    def __init__(self, cfg: ModelConfig, neighbors: float, edges_out: bool) -> None:
        super().__init__()
        w = cfg.width
        self.scale = max(neighbors, 1.0) ** -0.5
        self.norm = nn.LayerNorm(w)
        self.ends = nn.Linear(w, 2 * w)
        self.edge = nn.Linear(w, w, bias=False)
        self.attention = NeighborAttention(
            w, cfg.heads, cfg.degrees, cfg.radial, cfg.attention, cfg.curvature
        )
        self.gather = nn.Linear(w, w)
        self.node_forward = _feed_forward(w, cfg.feed_forward)
        self.edge_forward = _feed_forward(w, cfg.feed_forward) if edges_out else None

    def ends_of(self, node: Tensor) -> tuple[Tensor, Tensor]:
        """What each atom says as the one that looks around, and as a neighbour."""
        source, target = self.ends(self.norm(node)).chunk(2, -1)
        return source, target

    def around(
        self, source: Tensor, target: Tensor, edge: Tensor, filters: Tensor, e: _Edges
    ) -> tuple[Tensor, Tensor]:
        """Sums over the neighbours of the atoms of `e`, and their new edges; `target` is of all atoms."""
        n, m, w = edge.shape
        arrived = target.index_select(0, e.neighbors.reshape(-1)).view(n, m, w)
        message = nn.functional.silu(source.unsqueeze(1) + arrived + self.edge(edge)) * filters
        attended = self.attention(message, e.envelope, e.angles(self.attention.degrees), e.basis)
        # The message itself goes along: attention means over neighbours, an energy is a sum over them.
        total = ((message + attended) * e.envelope.unsqueeze(-1)).sum(1) * self.scale
        if self.edge_forward is not None:
            edge = edge + attended
            return total, edge + self.edge_forward(edge)
        return total, edge[:, :0]

    def close(self, node: Tensor, total: Tensor) -> Tensor:
        """The atoms' new state."""
        node = node + self.gather(total)
        return node + self.node_forward(node)


class EScAIP(nn.Module):
    """Efficiently scaled attention interatomic potential.

    Inputs are atomic numbers, distances and angles only (radial functions; Legendre polynomials of the angle
    between two neighbours; bond-orientational order of each atom), so that energies do not change under
    rotation, reflection, translation or exchange of equal atoms. Every sum over neighbours is weighted by the
    envelope, the bond-orientational order included, so that the energy is smooth where a neighbour enters.

    It follows the paper's second public version in splitting queries and keys over degrees. It differs in
    this: radial functions are few and shared by all blocks; a direct force is a sum of unit vectors times
    scalars and turns with the molecule (the paper breaks that on purpose); the softmax has a place to rest.

    Parameters
    ----------
    config : ModelConfig
    elements : list of int
        Atomic numbers that the model knows.
    neighbors : float
        Mean number of neighbours in the training set; scales the sums.
    """

    lookup: Tensor

    def __init__(self, config: ModelConfig, elements: list[int], neighbors: float) -> None:
        super().__init__()
        self.config = config
        w, kinds = config.width, len(elements)
        lookup = torch.full((119,), -1)
        lookup[torch.tensor(elements)] = torch.arange(kinds)
        self.register_buffer("lookup", lookup, persistent=False)
        self.radial = RadialBasis(config.radial_basis, config.radial, config.cutoff)
        self.element = nn.Embedding(kinds, w)
        self.charge, self.spin = nn.Embedding(len(CHARGES), w), nn.Embedding(len(SPINS), w)
        nn.init.zeros_(self.charge.weight)
        nn.init.zeros_(self.spin.weight)
        self.order = nn.Linear(config.degrees, w)
        self.pair = nn.Embedding(kinds * kinds, w)
        self.filters = nn.Linear(config.radial, (config.layers + 1) * w)
        direct = config.forces == "direct"
        self.blocks = nn.ModuleList(
            _Block(config, neighbors, direct or k + 1 < config.layers) for k in range(config.layers)
        )
        self.energy = nn.Sequential(
            nn.Linear((config.layers + 1) * w, w), nn.SiLU(), nn.Linear(w, 1, bias=False)
        )
        self.force = (
            nn.Sequential(nn.LayerNorm(w), nn.Linear(w, w), nn.SiLU(), nn.Linear(w, 1)) if direct else None
        )

    def readouts(self) -> list[nn.Linear]:
        """The last layers, of the energy and of direct forces: what they give is in units of the scale."""
        heads = [self.energy] if self.force is None else [self.energy, self.force]
        return [cast(nn.Linear, head[-1]) for head in heads]

    def layout(self, batch: AtomicBatch) -> tuple[Tensor, ...]:
        """Nothing: the network reads only what the batch holds."""
        del batch
        return ()

    def forward(self, batch: AtomicBatch, layout: tuple[Tensor, ...] | None = None) -> BackboneOutput:
        """Energies (and direct forces) of the atoms of `batch`.

        With a `layout` nothing depends on the batch's numbers but by arithmetic, so that this can be traced;
        without one, neighbours beyond the cap are cut away, which saves time. In evaluation mode a large
        system goes by parts of its atoms, so that memory is not the sum of all that the blocks compute.
        """
        # Distances and angles in full precision, whatever the rest is computed in.
        with torch.autocast(batch.positions.device.type, enabled=False):
            e = self._edges(batch, cut=layout is None)
        n, m = e.neighbors.shape
        large = n * m**2 * self.config.heads * self.config.degrees > _WHOLE
        rows = self.rows(m) if large and layout is None and not self.training else None
        if rows is None:
            filters = self.filters(e.basis).view(n, m, -1, self.config.width).unbind(2)
            e = replace(e, legendre=e.angles(self.config.degrees), filters=filters)
        kind = self.lookup[batch.numbers]
        pair = kind.unsqueeze(1) * self.element.num_embeddings + kind[e.neighbors]
        order, edge = self._of_edges(self._begin, rows, e, [pair], [], [self.pair, self.filters])
        state = self.charge(batch.charge - CHARGES[0]) + self.spin(batch.spin)
        node = self.element(kind) + self.order(order) + state[batch.index]
        readouts = [node]
        for k, block in enumerate(cast("list[_Block]", self.blocks)):
            around = partial(self._around, k + 1, block)
            source, target = block.ends_of(node)
            total, edge = self._of_edges(around, rows, e, [source, edge], [target], [block, self.filters])
            node = block.close(node, total)
            readouts.append(node)
        atomic = self.energy(torch.cat(readouts, -1)).squeeze(-1)
        forces = None
        if self.force is not None:
            strength = self.force(edge).squeeze(-1) * e.envelope
            forces = (strength.unsqueeze(-1) * e.direction).sum(1)
        return BackboneOutput(atomic, 1.0 - torch.exp(-e.envelope.sum(1)), forces)

    def rows(self, width: int) -> int:
        """Atoms with `width` neighbours each that are worth computing at once."""
        return max(1, _PART // (self.config.heads * self.config.degrees * max(1, width) ** 2))

    def _of_edges(
        self,
        function: Callable[..., tuple[Tensor, Tensor]],
        rows: int | None,
        e: _Edges,
        cut: Sequence[Tensor],
        whole: Sequence[Tensor],
        modules: Sequence[nn.Module],
    ) -> tuple[Tensor, Tensor]:
        """`function` of edges, of what belongs to the same atoms (`cut`), and of all atoms (`whole`)."""
        if rows is None:
            return function(e, *cut, *whole)

        def some(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            neighbors, direction, envelope, basis, *others = tensors
            return function(_Edges(neighbors, direction, envelope, basis), *others)

        own = (e.neighbors, e.direction, e.envelope, e.basis)
        parameters = [p for module in modules for p in module.parameters()]
        first, second = by_parts(some, rows, [*own, *cut], whole, parameters)
        return first, second

    def _begin(self, e: _Edges, pair: Tensor) -> tuple[Tensor, Tensor]:
        # Bond-orientational order, sum_jk u_j u_k P_l(cos theta_jk), without its root, whose slope at 0 is
        # infinite.
        total = e.envelope.sum(1)
        u = e.envelope
        angles = e.angles(self.config.degrees)
        order = torch.stack([((p @ u.unsqueeze(-1)).squeeze(-1) * u).sum(1) for p in angles], -1)
        return order / (1.0 + total).square().unsqueeze(-1), self.pair(pair) * self._filter(e, 0)

    def _around(
        self, k: int, block: _Block, e: _Edges, source: Tensor, edge: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        return block.around(source, target, edge, self._filter(e, k), e)

    def _filter(self, e: _Edges, k: int) -> Tensor:
        if e.filters is not None:
            return e.filters[k]
        rows = slice(k * self.config.width, (k + 1) * self.config.width)
        return nn.functional.linear(e.basis, self.filters.weight[rows], self.filters.bias[rows])

    def _edges(self, batch: AtomicBatch, cut: bool) -> _Edges:
        cfg = self.config
        neighbors, mask = batch.neighbors, batch.neighbor_mask
        n, m = neighbors.shape
        other = batch.positions.index_select(0, neighbors.reshape(-1)).view(n, m, 3)
        shift = torch.einsum("nmi,nij->nmj", batch.shifts, batch.cell[batch.index])
        vector = other - batch.positions.unsqueeze(1) + shift
        # Padding stands at the cutoff, where its envelope is 0 and a direction exists.
        far = torch.zeros_like(vector)
        far[..., 0] = cfg.cutoff
        vector = torch.where(mask.unsqueeze(-1), vector, far)
        distance = vector.square().sum(-1).sqrt()
        weight = envelope(distance, cfg.cutoff) * mask
        # Ranks are below m, so that a shorter list cannot reach where the cap begins to fade. The width of a
        # batch must not matter otherwise: it is another structure's, often.
        if cfg.max_neighbors is not None and m - 1 > CAP_START * cfg.max_neighbors:
            weight = weight * soft_cap(distance, weight, cfg.max_neighbors)
            if cut:
                # Exactly 0 from here on, so that leaving the rest out changes nothing.
                used = (weight.detach() > 0).any(0).nonzero()
                kept = int(used.max()) + 1 if len(used) else 1
                neighbors, vector = neighbors[:, :kept], vector[:, :kept]
                distance, weight = distance[:, :kept], weight[:, :kept]
        direction = vector / distance.unsqueeze(-1)
        return _Edges(neighbors, direction, weight, self.radial(distance))
