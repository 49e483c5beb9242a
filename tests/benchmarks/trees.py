"""How well a tree of 10,000 nodes fits: worst-case distortion against dimension and dtype.

``python tests/benchmarks/trees.py`` prints the table (minutes). The embedding is constructed, not trained
(Sarkar, GD 2011; Sala et al., ICML 2018): from the root on, each node is moved to the origin, its children
are laid on a sphere of one radius (the edge length) in directions far from each other and from the parent,
and moved back. The worst-case distortion is ``max(d/D)/min(d/D)`` over pairs of nodes, D being the tree's
distance; 1 is an isometry. It does not depend on the unit of length, so the edge length is free: long edges
make the geometry exact and the arithmetic hard.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from hyperkit.ops import lorentz as L
from hyperkit.ops import poincare as P

LENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0)


def recursive(nodes: int, seed: int) -> nx.Graph:
    """Each node hangs on one of the earlier nodes, all equally likely: depth and degrees grow as log N."""
    rng = np.random.default_rng(seed)
    return nx.Graph([(int(rng.integers(i)), i) for i in range(1, nodes)])


TREES: dict[str, Callable[[], nx.Graph]] = {
    "ternary, 9,841 nodes": lambda: nx.balanced_tree(3, 8),
    "random recursive, 10,000 nodes": lambda: recursive(10_000, 0),
}


def directions(count: int, dim: int) -> Tensor:
    """`count` unit vectors ``(count, dim)``, far apart: even on a circle, by repulsion elsewhere."""
    if dim == 2:
        angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
        return torch.stack([angle.cos(), angle.sin()], -1)
    g = torch.Generator().manual_seed(count * 100 + dim)
    u = torch.nn.functional.normalize(torch.randn(count, dim, dtype=torch.float64, generator=g), dim=-1)
    if count == 1:
        return u
    eye = torch.eye(count, dtype=torch.bool)
    for step in range(200):
        difference = u.unsqueeze(1) - u
        force = (difference / (difference.square().sum(-1, keepdim=True) + eye.unsqueeze(-1)) ** 1.5).sum(1)
        u = torch.nn.functional.normalize(u + 0.2 / count * 0.99**step * force, dim=-1)
    return u


def rotation_to(u: Tensor, target: Tensor) -> Tensor:
    """Orthogonal matrix that takes the unit vector u to the unit vector `target`, by two reflections."""
    eye = torch.eye(len(u), dtype=u.dtype)
    w = u + target
    if float(w.norm()) < 1e-8:
        w = eye[int(u.abs().argmin())] - u[int(u.abs().argmin())] * u
    w = w / w.norm()
    return (2 * torch.outer(w, w) - eye) @ (2 * torch.outer(u, u) - eye)


def embed(tree: nx.Graph, dim: int, length: float, dtype: torch.dtype) -> Tensor:
    """Lorentz points ``(N, dim + 1)``, calculated in `dtype` with the operations of hyperkit.

    Nodes are laid out one generation at a time: one batch of boosts for each depth of the tree.
    """
    root = _centre(tree)
    order = {node: i for i, node in enumerate(tree)}
    points = torch.zeros(len(order), dim + 1, dtype=dtype)
    points[:, 0] = 1.0
    sphere = {}
    layer = [(root, None)]
    while layer:
        centres, children, moves = [], [], []
        here = torch.stack([points[order[n]] for n, _ in layer])
        before = torch.stack([points[order[p if p is not None else n]] for n, p in layer])
        back = L.boost(before, here, inverse=True)[..., 1:].double()
        nexts = []
        for (node, parent), seen in zip(layer, back, strict=True):
            kids = [k for k in tree.neighbors(node) if k != parent]
            degree = len(kids) + (parent is not None)
            if not kids:
                continue
            if degree not in sphere:
                sphere[degree] = directions(degree, dim)
            u = sphere[degree]
            if parent is not None and float(seen.norm()) > 0:
                # The first direction is the parent's.
                u = (u @ rotation_to(u[0], seen / seen.norm()).T)[1:]
            else:
                u = u[len(u) - len(kids) :]
            centres += [order[node]] * len(kids)
            children += [order[k] for k in kids]
            moves.append(u)
            nexts += [(k, node) for k in kids]
        if children:
            v = torch.nn.functional.pad(length * torch.cat(moves), (1, 0)).to(dtype)
            points[children] = L.boost(L.expmap0(v), points[centres])
        layer = nexts
    return points


def _centre(tree: nx.Graph) -> int:
    """The middle of a longest path: the radius is least from there."""
    far = max(nx.single_source_shortest_path_length(tree, 0).items(), key=lambda t: t[1])[0]
    lengths = nx.single_source_shortest_path(tree, far)
    longest = max(lengths.values(), key=len)
    return longest[len(longest) // 2]


def tree_distances(tree: nx.Graph, sources: list[int]) -> np.ndarray:
    """Numbers of edges ``(len(sources), N)`` from some nodes to all."""
    from scipy.sparse.csgraph import shortest_path

    adjacency = nx.to_scipy_sparse_array(tree, dtype=np.float64, format="csr")
    return shortest_path(adjacency, unweighted=True, directed=False, indices=sources)


def distortion(dist: Callable[[Tensor, Tensor], Tensor], x: Tensor, sources: list[int], graph: np.ndarray):
    """``max(d/D)/min(d/D)`` over all pairs with a source; infinite where a distance is 0, NaN or infinite."""
    low, high = math.inf, 0.0
    for row, s in zip(graph, sources, strict=True):
        d = dist(x[s], x).double()
        other = torch.from_numpy(row > 0)
        ratio = d[other] / torch.from_numpy(row)[other]
        if not bool(ratio.isfinite().all()):
            return math.inf
        low, high = min(low, float(ratio.min())), max(high, float(ratio.max()))
    return high / low if low > 0 else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 5, 10])
    parser.add_argument("--sources", type=int, default=100, help="nodes from which all distances are taken")
    parser.add_argument("--trees", nargs="+", default=list(TREES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| tree | dimension | model | dtype | best edge length | radius | worst-case distortion |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in args.trees:
        tree = nx.convert_node_labels_to_integers(TREES[name]())
        rng = np.random.default_rng(0)
        nodes = sorted(rng.choice(tree.number_of_nodes(), args.sources, replace=False).tolist())
        graph = tree_distances(tree, nodes)
        for dim in args.dims:
            for dtype in (torch.float32, torch.float64):
                best: dict[str, tuple[float, float, float]] = {}
                for length in LENGTHS:
                    x = embed(tree, dim, length, dtype)
                    if not bool(x.isfinite().all()):
                        break
                    far = float(L.dist0(x).max())
                    found = {"Lorentz": distortion(L.dist, x, nodes, graph)}
                    found["Poincaré"] = distortion(P.dist, P.from_lorentz(x), nodes, graph)
                    for model, value in found.items():
                        best[model] = min(best.get(model, (math.inf, 0.0, 0.0)), (value, length, far))
                for model, (value, length, far) in best.items():
                    kind = str(dtype).removeprefix("torch.")
                    row = f"| {name} | {dim} | {model} | {kind} | {length:g} | {far:.0f} | {value:.3g} |"
                    print(row, flush=True)


if __name__ == "__main__":
    main()
