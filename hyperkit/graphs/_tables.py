"""Between edge lists and tables of padded neighbours."""

from __future__ import annotations

import torch
from torch import Tensor


def pad_neighbors(
    edge_index: Tensor, num_nodes: int, max_neighbors: int | None = None
) -> tuple[Tensor, Tensor]:
    """Table of neighbours for an edge list.

    Parameters
    ----------
    edge_index : Tensor
        ``(2, E)``: neighbours (source) and the nodes whose neighbours they are (target).
    num_nodes : int
        N.
    max_neighbors : int, optional
        Keep the first ones (in the order of the edges) of a node that has more; by default the table is as
        wide as the largest number of neighbours.

    Returns
    -------
    neighbors, mask : Tensor
        Both ``(N, M)``: row n names the neighbours of node n in the order of the edges, -1 where there are no
        more; the mask is True at neighbours.

    Raises
    ------
    ValueError
        If a shape or number does not fit, or an index is out of range.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.graphs import pad_neighbors
    >>> pad_neighbors(torch.tensor([[1, 2, 0], [0, 0, 1]]), num_nodes=3)[0].tolist()
    [[1, 2], [0, -1], [-1, -1]]
    """
    if edge_index.ndim != 2 or edge_index.shape[0] != 2:
        raise ValueError(f"edge_index must have shape (2, E), got {tuple(edge_index.shape)}")
    if edge_index.is_floating_point() or edge_index.dtype == torch.bool:
        raise TypeError(f"edge_index must hold integers, got {edge_index.dtype}")
    if max_neighbors is not None and max_neighbors < 0:
        raise ValueError(f"max_neighbors must be >= 0, got {max_neighbors}")
    if edge_index.numel() and (int(edge_index.min()) < 0 or int(edge_index.max()) >= num_nodes):
        raise ValueError(
            f"edge_index must name nodes 0 to {num_nodes - 1}, "
            f"got values from {int(edge_index.min())} to {int(edge_index.max())}"
        )
    source, target = edge_index.long()
    count = torch.bincount(target, minlength=num_nodes)
    order = torch.argsort(target, stable=True)
    source, target = source[order], target[order]
    place = torch.arange(len(target), device=target.device) - (count.cumsum(0) - count)[target]
    width = int(count.max()) if len(target) else 0
    if max_neighbors is not None and max_neighbors < width:
        width = max_neighbors
        kept = place < width
        source, target, place = source[kept], target[kept], place[kept]
    neighbors = torch.full((num_nodes, width), -1, dtype=torch.int64, device=source.device)
    neighbors[target, place] = source
    return neighbors, neighbors >= 0


def edges_from_neighbors(neighbors: Tensor, mask: Tensor | None = None) -> Tensor:
    """Edge list of a table of neighbours, the inverse of :func:`pad_neighbors`.

    Parameters
    ----------
    neighbors : Tensor
        ``(N, M)``; without a mask negative entries are padding.
    mask : Tensor, optional
        Boolean ``(N, M)``, True at neighbours.

    Returns
    -------
    Tensor
        ``(2, E)``, sorted by target.
    """
    if neighbors.ndim != 2:
        raise ValueError(f"neighbors must have shape (N, M), got {tuple(neighbors.shape)}")
    if mask is None:
        mask = neighbors >= 0
    elif mask.shape != neighbors.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be boolean of shape {tuple(neighbors.shape)}, got {mask.dtype} {tuple(mask.shape)}"
        )
    target = torch.arange(neighbors.shape[0], device=neighbors.device).unsqueeze(-1).expand_as(neighbors)
    return torch.stack([neighbors[mask].long(), target[mask]])
