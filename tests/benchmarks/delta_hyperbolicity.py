"""Gromov's delta of the graph data sets: how tree-like they are.

``HYPERKIT_DATA=../shared/data python tests/benchmarks/delta_hyperbolicity.py`` prints the table. For four
nodes let the sums of opposite distances be ``a >= b >= c``; their delta is ``(a - b)/2``: 0 for every four
nodes of a tree, and for a graph the largest of all (Gromov, 1987; the four-point form). The largest connected
component is taken. There are N^4/24 quadruples, so the largest delta is searched: the best of a uniform
sample and of a sample of pairs of far pairs are improved by exchanging one node at a time for the best of all
nodes. The result is a lower bound; the mean is that of the uniform sample.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, shortest_path

from hyperkit.graphs import load

NAMES = (
    "disease",
    "wordnet",
    "airport",
    "texas",
    "cornell",
    "chameleon-filtered",
    "cora",
    "citeseer",
    "actor",
)


def distances(edge_index: np.ndarray, nodes: int) -> np.ndarray:
    """Numbers of edges between all nodes of the largest component, int16."""
    weight = np.ones(edge_index.shape[1], dtype=np.float32)
    adjacency = coo_array((weight, tuple(edge_index)), shape=(nodes, nodes)).tocsr()
    label = connected_components(adjacency, directed=False)[1]
    keep = np.flatnonzero(label == np.bincount(label).argmax())
    adjacency = adjacency[keep][:, keep]
    rows = [
        shortest_path(adjacency, directed=False, unweighted=True, indices=part).astype(np.int16)
        for part in np.array_split(np.arange(len(keep)), max(1, len(keep) // 500))
    ]
    return np.concatenate(rows)


def twice_delta(d: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Twice the delta of quadruples ``(*, 4)``: an integer."""
    w, x, y, z = np.moveaxis(q, -1, 0)
    sums = np.stack([d[w, x] + d[y, z], d[w, y] + d[x, z], d[w, z] + d[x, y]])
    sums.sort(axis=0)
    return sums[2] - sums[1]


def climb(d: np.ndarray, q: np.ndarray) -> int:
    """Exchange one node of a quadruple for the best of all nodes until nothing gets better."""
    best, everyone = int(twice_delta(d, q)), np.arange(len(d))
    while True:
        before = best
        for k in range(4):
            many = np.tile(q, (len(d), 1))
            many[:, k] = everyone
            found = twice_delta(d, many)
            if found.max() > best:
                best, q = int(found.max()), many[int(found.argmax())]
        if best == before:
            return best


def measure(d: np.ndarray, samples: int, starts: int, seed: int = 0) -> tuple[float, float]:
    """Largest delta found, and the mean of the uniform sample."""
    rng = np.random.default_rng(seed)
    n = len(d)
    uniform = rng.integers(n, size=(samples, 4))
    found = twice_delta(d, uniform)
    # Far pairs: each node with the node that is farthest from it.
    far = np.stack([np.arange(n), d.argmax(1)], 1)
    far = far[np.argsort(-d[far[:, 0], far[:, 1]], kind="stable")[: max(50, n // 10)]]
    both = np.concatenate([far[rng.integers(len(far), size=samples // 4)] for _ in range(2)], 1)
    again = twice_delta(d, both)
    candidates = np.concatenate(
        [uniform[np.argsort(-found)[: starts // 2]], both[np.argsort(-again)[: starts // 2]]]
    )
    best = max(climb(d, q) for q in candidates)
    return best / 2, float(found.mean()) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--starts", type=int, default=40)
    args = parser.parse_args()
    print("| graph | nodes | diameter | delta | 2 delta/diameter | mean delta |\n|---|---|---|---|---|---|")
    for name in args.names:
        graph = load(name)
        d = distances(graph.edge_index.numpy(), graph.num_nodes)  # type: ignore[union-attr]
        worst, mean = measure(d, args.samples, args.starts)
        size = int(d.max())
        print(f"| {name} | {len(d)} | {size} | {worst:g} | {2 * worst / size:.2f} | {mean:.3f} |", flush=True)


if __name__ == "__main__":
    main()
