"""Neighbour sampling: small graphs around a few nodes of one that is too large to train on whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hyperkit.graphs._sparse import Adjacency


class Sample(NamedTuple):
    """A graph around some nodes."""

    nodes: Tensor
    """Its nodes ``(n)`` as numbered in the whole graph, those asked for first."""
    edge_index: Tensor
    """``(2, e)``, numbered by `nodes`."""
    degree: Tensor
    """Number of neighbours that each node has in the whole graph, ``(n)``."""

    def adjacency(self) -> Adjacency:
        """The graph as the models take it, weighted so that sums over neighbours keep their expectation."""
        return Adjacency(self.edge_index, len(self.nodes), degree=self.degree)


class NeighborSampler:
    """Draw the neighbourhoods of some nodes (Hamilton et al., GraphSAGE, NeurIPS 2017).

    From each node that is asked for some neighbours are drawn, from each of these some of theirs, and so on.
    A node's neighbours are drawn once, uniformly and without replacement, so that each of its `deg` edges is
    kept with probability ``min(1, size/deg)`` and a mean over those kept has the expectation of the mean over
    all. With as many steps as a network has layers and all neighbours (``-1``), the nodes asked for get the
    values of the whole graph.

    Parameters
    ----------
    edge_index : Tensor
        ``(2, E)``: source, target; no self-loops, no pair twice, both directions of an undirected graph.
    num_nodes : int
        N.
    sizes : sequence of int
        Neighbours of a node in each step, >= 1, or -1 for all.

    Raises
    ------
    ValueError
        If a size is neither, or there is none.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.graphs import NeighborSampler
    >>> star = torch.tensor([[1, 2, 3, 4], [0, 0, 0, 0]])
    >>> sampler = NeighborSampler(star, 5, [2])
    >>> sample = sampler(torch.tensor([0]), torch.Generator().manual_seed(0))
    >>> len(sample.nodes), sample.edge_index[1].tolist(), int(sample.degree[0])
    (3, [0, 0], 4)
    """

    def __init__(self, edge_index: Tensor, num_nodes: int, sizes: Sequence[int]) -> None:
        if not sizes or any(s != -1 and s < 1 for s in sizes):
            raise ValueError(f"sizes must be >= 1, or -1 for all, and at least one, got {list(sizes)}")
        self.sizes, self.num_nodes = tuple(sizes), num_nodes
        target, order = torch.sort(edge_index[1], stable=True)
        self._source = edge_index[0][order]
        self._begin = torch.searchsorted(target, torch.arange(num_nodes + 1, device=target.device))
        self._place = torch.full((num_nodes,), -1, dtype=torch.int64, device=target.device)

    def __call__(self, seeds: Tensor, generator: torch.Generator) -> Sample:
        """Draw a graph around `seeds`.

        Parameters
        ----------
        seeds : Tensor
            Nodes ``(B)``, none twice.
        generator : torch.Generator
            Source of the draws: the same state gives the same graph.
        """
        place = self._place  # of nodes found, -1 elsewhere; set back below, so that a draw costs no O(N)
        found, count = [seeds], len(seeds)
        place[seeds] = torch.arange(count, device=seeds.device)
        if int((place[seeds] != torch.arange(count, device=seeds.device)).sum()):
            place[seeds] = -1
            raise ValueError("seeds must not hold a node twice")
        edges: list[Tensor] = []
        first = 0
        for size in self.sizes:
            frontier = found[-1]
            source, of = self._draw(frontier, size, generator)
            fresh = torch.unique(source[place[source] < 0])
            place[fresh] = torch.arange(count, count + len(fresh), device=seeds.device)
            edges.append(torch.stack([place[source], of + first]))
            first, count = count, count + len(fresh)
            found.append(fresh)
        nodes = torch.cat(found)
        place[nodes] = -1
        return Sample(nodes, torch.cat(edges, 1), self._begin[nodes + 1] - self._begin[nodes])

    def _draw(self, nodes: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Neighbours drawn, and which of `nodes` each belongs to."""
        begin, degree = self._begin[nodes], self._begin[nodes + 1] - self._begin[nodes]
        of = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), degree)
        offset = torch.arange(len(of), device=nodes.device) - (degree.cumsum(0) - degree)[of]
        edge = begin[of] + offset
        if size != -1:
            # The first `size` of each node's edges in a random order: sorted by a random key, then by node.
            key = torch.rand(len(of), generator=generator, dtype=torch.float64, device=nodes.device)
            by_key = torch.argsort(key)
            order = by_key[torch.argsort(of[by_key], stable=True)]
            kept = order[offset < size]  # `of` is sorted: place t of the order belongs to node of[t]
            kept = kept.sort().values
            edge, of = edge[kept], of[kept]
        return self._source[edge], of
