"""Graphs as lists of pairs (neighbour, centre): edge lists, padded neighbours, PyG-like objects."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """R pairs of nodes; with `width` they are the N rows of a padded table, one after another."""

    source: Tensor
    """The neighbour, ``(R)``."""
    target: Tensor
    """The centre, ``(R)``."""
    weight: Tensor | None
    """>= 0, ``(R, 1)``; 0 for padding."""
    nodes: int
    width: int | None

    def sum(self, values: Tensor) -> Tensor:
        """Add ``(R, D)`` up over the pairs of a centre: ``(N, D)``."""
        if self.width is not None:
            return values.view(self.nodes, self.width, values.shape[-1]).sum(1)
        out = values.new_zeros(self.nodes, values.shape[-1])
        return out.index_add(0, self.target, values)

    def max(self, values: Tensor) -> Tensor:
        """Largest of ``(R)`` over the pairs of a centre: ``(N)``; ``-inf`` without any."""
        lowest = values.new_full((self.nodes,), -torch.inf)
        if self.width is not None:
            rows = values.view(self.nodes, self.width)
            return rows.amax(1) if self.width else lowest
        return lowest.scatter_reduce(0, self.target, values, "amax")


def unpack(
    data: Any, edge_index: Tensor | None, neighbors: Tensor | None, edge_weight: Tensor | None
) -> tuple[Any, Any, Any]:
    """``(x, edge_index, edge_weight)`` of an object with these attributes, such as PyG's ``Data``.

    The other arguments are those given beside it: a graph given twice is refused, a weight wins over that of
    the object.

    Raises
    ------
    TypeError
        If `x` or `edge_index` is missing.
    ValueError
        If the graph is given twice.
    """
    x, edges = getattr(data, "x", None), getattr(data, "edge_index", None)
    if not isinstance(x, Tensor) or edges is None:
        raise TypeError(
            f"x must be a tensor, or an object with x and edge_index (PyG's Data), got {type(data).__name__}"
        )
    if edge_index is not None or neighbors is not None:
        raise ValueError("x already holds edge_index: give it alone, or give x as a tensor")
    return x, edges, getattr(data, "edge_weight", None) if edge_weight is None else edge_weight


def pairs(
    x: Tensor,
    edge_index: Tensor | None,
    neighbors: Tensor | None,
    mask: Tensor | None,
    edge_weight: Tensor | None,
    self_loop: bool,
) -> Pairs:
    """Bring either form of a graph to pairs; arguments as in :meth:`hyperkit.nn.HKConv.forward`."""
    if x.ndim != 2:
        raise ValueError(f"x must have shape (N, D), got {tuple(x.shape)}")
    if (edge_index is None) == (neighbors is None):
        raise ValueError("give either edge_index or neighbors, and not both")
    n = x.shape[0]
    if edge_index is not None:
        if mask is not None:
            raise ValueError("mask belongs to neighbors; with edge_index leave edges out instead")
        return _from_edges(edge_index, edge_weight, n, self_loop, x.dtype)
    assert neighbors is not None
    return _from_table(neighbors, mask, edge_weight, n, self_loop, x.dtype)


def _from_edges(
    edge_index: Tensor, edge_weight: Tensor | None, n: int, self_loop: bool, dtype: torch.dtype
) -> Pairs:
    _integers("edge_index", edge_index)
    if edge_index.ndim != 2 or edge_index.shape[0] != 2:
        raise ValueError(f"edge_index must have shape (2, E), got {tuple(edge_index.shape)}")
    _in_range("edge_index", edge_index, n)
    edge_index = edge_index.long()
    weight = None
    if edge_weight is not None:
        _weights(edge_weight, edge_index.shape[1:])
        weight = edge_weight.to(dtype).unsqueeze(-1)
    if self_loop:
        own = torch.arange(n, device=edge_index.device, dtype=edge_index.dtype)
        edge_index = torch.cat([edge_index, own.expand(2, n)], 1)
        if weight is not None:
            weight = torch.cat([weight, weight.new_ones(n, 1)])
    return Pairs(edge_index[0], edge_index[1], weight, n, None)


def _from_table(
    neighbors: Tensor,
    mask: Tensor | None,
    edge_weight: Tensor | None,
    n: int,
    self_loop: bool,
    dtype: torch.dtype,
) -> Pairs:
    _integers("neighbors", neighbors)
    if neighbors.ndim != 2 or neighbors.shape[0] != n:
        raise ValueError(f"neighbors must have shape (N, M) with N={n}, got {tuple(neighbors.shape)}")
    if mask is None:
        mask = neighbors >= 0
    elif mask.dtype != torch.bool:
        raise TypeError(f"mask must be boolean (True = a neighbour), got {mask.dtype}")
    elif mask.shape != neighbors.shape:
        raise ValueError(
            f"mask must have the shape of neighbors {tuple(neighbors.shape)}, got {tuple(mask.shape)}"
        )
    own = torch.arange(n, device=neighbors.device).unsqueeze(-1)
    # Padding reads the node itself, with weight 0: its relative feature is the origin, which is finite, and
    # leaves the centroid and the gradient alone.
    neighbors = torch.where(mask, neighbors, own)
    _in_range("neighbors", neighbors, n)
    weight = mask.to(dtype)
    if edge_weight is not None:
        _weights(edge_weight, neighbors.shape)
        weight = weight * edge_weight.to(dtype)
    if self_loop:
        neighbors = torch.cat([neighbors, own], 1)
        weight = torch.cat([weight, weight.new_ones(n, 1)], 1)
    width = neighbors.shape[1]
    target = own.expand(n, width).reshape(-1)
    return Pairs(neighbors.reshape(-1), target, weight.reshape(-1, 1), n, width)


def _integers(name: str, index: Tensor) -> None:
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
        got = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"{name} must be a tensor of int64 or int32, got {got}")


def _readable(t: Tensor) -> bool:
    """Whether values can be looked at for free: not while compiling, not on a device that would wait."""
    return t.device.type == "cpu" and not torch.compiler.is_compiling() and t.numel() > 0


def _in_range(name: str, index: Tensor, n: int) -> None:
    if not _readable(index):
        return
    low, high = (int(v) for v in torch.aminmax(index))
    if low < 0 or high >= n:
        raise ValueError(f"{name} must name nodes 0 to {n - 1}, got values from {low} to {high}")


def _weights(edge_weight: Tensor, shape: torch.Size) -> None:
    if not edge_weight.is_floating_point():
        raise TypeError(f"edge_weight must be floating point, got {edge_weight.dtype}")
    if edge_weight.shape != shape:
        raise ValueError(f"edge_weight must have shape {tuple(shape)}, got {tuple(edge_weight.shape)}")
    if _readable(edge_weight) and not bool((edge_weight >= 0).all()):
        raise ValueError(f"edge_weight must be >= 0, got {float(edge_weight.min())}")
