"""k nearest neighbours in hyperbolic distance, in blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperkit._checks import Curvature, curvature, lorentz_points
from hyperkit.graphs._tables import edges_from_neighbors
from hyperkit.ops import lorentz as ops

# Candidates taken by the fast lower bounds beyond the k asked for.
_SPARE = 8


def knn(
    x: Tensor,
    k: int,
    *,
    c: Curvature = 1.0,
    queries: Tensor | None = None,
    batch: Tensor | None = None,
    loop: bool = False,
    block: int = 2048,
) -> tuple[Tensor, Tensor]:
    """The k nearest points of the Lorentz model to each point.

    Blocks of queries meet blocks of points: memory is of the order of ``block^2``, never N x N. The cosh of a
    distance is an inner product; summed in float64 and less its largest possible rounding error, it is a
    lower bound. The ``k + 8`` points of the lowest bounds are ordered by their exact distances
    (:func:`hyperkit.ops.lorentz.dist`); a query whose k-th distance is not below the bounds of all other
    points (it happens far from the origin, and with many points at one place) is done again with exact
    distances to all. So the result is that of exact distances at any radius.

    Parameters
    ----------
    x : Tensor
        Points ``(N, d + 1)``. For the Poincaré ball give ``poincare.to_lorentz(x, c)``.
    k : int
        Number of neighbours, >= 1.
    c : float or Tensor
        Curvature, > 0.
    queries : Tensor, optional
        Points ``(Q, d + 1)`` whose neighbours among `x` are wanted; by default `x` itself.
    batch : Tensor, optional
        Graph of each point, ``(N)``, sorted (as in PyG): neighbours come from the same graph. Not with
        `queries`.
    loop : bool
        Whether a point may be its own neighbour. No meaning with `queries`.
    block : int
        Points in a block, >= 1.

    Returns
    -------
    neighbors : Tensor
        int64 ``(Q, k)``, nearest first; of points at one distance the one of lower index first. -1 where a
        graph has fewer points.
    distances : Tensor
        ``(Q, k)``, differentiable; infinite where there is no neighbour.

    Raises
    ------
    ValueError
        If there are fewer than k points to choose from (without `batch`), or an argument does not fit.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.graphs import knn
    >>> from hyperkit.ops import lorentz
    >>> x = lorentz.from_space(torch.tensor([[0.0], [1.0], [3.0], [3.5]]))
    >>> knn(x, 1)[0].flatten().tolist()
    [1, 0, 3, 2]
    """
    c = curvature(c)
    (x,) = lorentz_points(c, x=x)
    if x.ndim != 2:
        raise ValueError(f"x must have shape (N, d + 1), got {tuple(x.shape)}")
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    if block < 1:
        raise ValueError(f"block must be >= 1, got {block}")
    own = queries is None
    if queries is None:
        queries = x
    elif batch is not None:
        raise ValueError("batch has no meaning with queries: call knn for each graph")
    else:
        x, queries = lorentz_points(c, x=x, queries=queries)
        if queries.ndim != 2:
            raise ValueError(f"queries must have shape (Q, d + 1), got {tuple(queries.shape)}")
    n = x.shape[0]
    if batch is not None:
        _check_batch(batch, n)
    else:
        most = n - 1 if own and not loop else n
        if k > most:
            raise ValueError(f"k must be at most {most}, the number of points to choose from, got {k}")

    with torch.no_grad():
        fixed = c.detach().double() if isinstance(c, Tensor) else c
        rows = [
            _block_of_queries(x, queries[i : i + block], i, k, fixed, batch, own and not loop, block)
            for i in range(0, queries.shape[0], block)
        ]
        neighbors = torch.cat(rows) if rows else torch.empty(0, k, dtype=torch.int64, device=x.device)
    # Once more with gradients, and for the pairs that were chosen only.
    there = neighbors >= 0
    other = x[torch.where(there, neighbors, torch.zeros_like(neighbors))]
    distances = ops.dist(queries.unsqueeze(1), other, c)
    return neighbors, torch.where(there, distances, torch.full_like(distances, torch.inf))


def knn_graph(
    x: Tensor,
    k: int,
    *,
    c: Curvature = 1.0,
    batch: Tensor | None = None,
    loop: bool = False,
    block: int = 2048,
) -> Tensor:
    """The k nearest neighbours as an edge list from neighbour to point, as PyG's ``knn_graph`` has it.

    Parameters
    ----------
    x, k, c, batch, loop, block
        As in :func:`knn`.

    Returns
    -------
    Tensor
        ``(2, E)``, sorted by target.
    """
    return edges_from_neighbors(knn(x, k, c=c, batch=batch, loop=loop, block=block)[0])


def _check_batch(batch: Tensor, n: int) -> None:
    if batch.shape != (n,):
        raise ValueError(f"batch must have shape ({n},), got {tuple(batch.shape)}")
    if n > 1 and not bool((batch[1:] >= batch[:-1]).all()):
        raise ValueError("batch must be sorted: the points of a graph stand together")


def _block_of_queries(
    x: Tensor, q: Tensor, start: int, k: int, c: Curvature, batch: Tensor | None, no_loop: bool, block: int
) -> Tensor:
    """Neighbours ``(Q, k)`` of one block of queries, the rows `start` and on."""
    first, last = 0, x.shape[0]
    graphs = None
    if batch is not None:
        graphs = batch[start : start + len(q)]
        first = int(torch.searchsorted(batch, graphs[0]))
        last = int(torch.searchsorted(batch, graphs[-1], right=True))
    q, rows = q.double(), torch.arange(start, start + len(q), device=x.device)

    def bar(d: Tensor, i: int, of: Tensor) -> Tensor:
        """Put what may not be a neighbour at infinity; columns from i on, queries `of` of this block."""
        columns = torch.arange(i, i + d.shape[1], device=d.device)
        if no_loop:
            d = d.masked_fill(rows[of].unsqueeze(1) == columns, torch.inf)
        if batch is not None and graphs is not None:
            d = d.masked_fill(graphs[of].unsqueeze(1) != batch[columns], torch.inf)
        return d

    everyone = torch.arange(len(q), device=x.device)
    bound = q.new_empty(len(q), 0)
    index = torch.empty(len(q), 0, dtype=torch.int64, device=x.device)
    for i in range(first, last, block):
        d = bar(_lower_bound(q, x[i : min(i + block, last)].double(), c), i, everyone)
        bound = torch.cat([bound, d], 1)
        index = torch.cat([index, torch.arange(i, i + d.shape[1], device=x.device).expand(len(q), -1)], 1)
        if bound.shape[1] > k + _SPARE:
            bound, chosen = bound.topk(k + _SPARE, dim=1, largest=False)
            index = index.gather(1, chosen)
    exact = ops.haversine(q[:, None, 1:], x[index, 1:].double(), c).squeeze(-1)
    exact = exact.masked_fill(bound == torch.inf, torch.inf)
    out, kth = _nearest(exact, index, k)
    if index.shape[1] == k + _SPARE and last - first > k + _SPARE:
        last_bound = bound.amax(1)  # of all points left out, too; infinite if none of them may be a neighbour
        unsure = ((kth >= last_bound) & (last_bound < torch.inf)).nonzero().flatten()
        # Pieces that hold the differences of about 2^20 numbers at a time.
        step = max(1, (1 << 20) // max(1, (last - first) * x.shape[1]))
        for some in unsure.split(step):
            d = ops.haversine(q[some, None, 1:], x[first:last, 1:].double(), c).squeeze(-1)
            columns = torch.arange(first, last, device=x.device).expand(len(some), -1)
            out[some] = _nearest(bar(d, first, some), columns, k)[0]
    return out


def _nearest(s: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Indices ``(Q, k)`` in order, -1 where there are none, and the k-th value ``(Q)``."""
    index, order = index.sort(1)  # two sorts, the second one stable: equal distances by index
    s, order = s.gather(1, order).sort(dim=1, stable=True)
    index = index.gather(1, order).masked_fill(s == torch.inf, -1)[:, :k]
    missing = max(0, k - index.shape[1])
    kth = s[:, k - 1] if not missing else s.new_full((len(s),), torch.inf)
    return torch.nn.functional.pad(index, (0, missing), value=-1), kth


def _lower_bound(q: Tensor, x: Tensor, c: Curvature) -> Tensor:
    """Lower bound ``(Q, N)`` of ``sinh^2(sqrt(c) d/2) = (c x_0 y_0 - c x_s.y_s - 1)/2``, in float64.

    A sum of d products is off by at most ``d eps`` times the sum of their sizes, here at most
    ``c x_0 y_0`` for the space part (Cauchy-Schwarz); the time part adds a few more roundings of that size.
    """
    qs, xs = q[:, 1:], x[:, 1:]
    tq, tx = ((1.0 + c * (s * s).sum(-1, keepdim=True)).sqrt() for s in (qs, xs))
    eps = (2 * x.shape[1] + 8) * torch.finfo(torch.float64).eps
    return 0.5 * ((tq * (1.0 - eps)) @ tx.T - c * (qs @ xs.T) - 1.0)
