"""WordNet's mammals in the Lorentz model and the Poincaré ball: mean rank and MAP of the reconstruction.

``HYPERKIT_DATA=../shared/data python tests/benchmarks/wordnet.py`` trains on one thread and prints a table;
``--figure FILE`` also draws the two-dimensional Poincaré embedding. The task is that of Nickel and Kiela
(NeurIPS 2017): the transitive closure of the hypernym relation is embedded so that a noun's hypernyms are
nearer than all other nouns. Everything is seen in training: it measures capacity and optimisation, not
generalisation, and nothing is selected on it (one setting for all dimensions and models).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import geoopt
import numpy as np
import torch
from torch import Tensor

from hyperkit import Lorentz, PoincareBall
from hyperkit.optim import RiemannianAdam

BATCH, NEGATIVES, BURN_IN = 128, 50, 10


def closure() -> tuple[list[str], Tensor]:
    """Names of the nouns, and (noun, hypernym) pairs of the closure, ``(E, 2)``."""
    path = Path(os.environ["HYPERKIT_DATA"]) / "graphs" / "wordnet" / "wordnet_mammals.json"
    raw = json.loads(path.read_text())
    names = [node["label"] for node in raw["nodes"]]
    row = {node["id"]: i for i, node in enumerate(raw["nodes"])}
    pairs = torch.tensor([[row[e["source"]], row[e["target"]]] for e in raw["links"]])
    # The hypernym that all share must be the second: the file's direction is not relied on.
    top = names.index("mammal.n.01")
    if int((pairs[:, 0] == top).sum()) > int((pairs[:, 1] == top).sum()):
        pairs = pairs.flip(1)
    return names, pairs[pairs[:, 0] != pairs[:, 1]]


def scores(points: Tensor, manifold: Any, adjacency: Tensor) -> tuple[float, float]:
    """Mean rank and mean average precision of the hypernyms among all other nouns, by distance."""
    x = points.detach().double().as_subclass(Tensor)
    ranks, precisions = [], []
    for u in range(len(x)):
        mine = adjacency[u]
        if not bool(mine.any()):
            continue
        d = manifold.dist(x[u], x)
        d[u] = torch.inf
        order = torch.argsort(d)
        position = torch.nonzero(mine[order]).squeeze(-1) + 1
        count = torch.arange(1, len(position) + 1)
        ranks.append((position - count + 1).double())
        precisions.append(float((count / position).mean()))
    return float(torch.cat(ranks).mean()), float(np.mean(precisions))


def train(model: str, dim: int, pairs: Tensor, nodes: int, epochs: int, lr: float, seed: int) -> tuple:
    """Train one embedding in float32; returns the points, the manifold and the seconds."""
    torch.manual_seed(seed)
    manifold: Any = Lorentz() if model == "Lorentz" else PoincareBall()
    width = dim + 1 if model == "Lorentz" else dim
    start = manifold.random_normal(nodes, width, std=1e-2)
    table = geoopt.ManifoldParameter(start, manifold=manifold)  # type: ignore[call-arg]
    optimiser = RiemannianAdam([table], lr=lr)
    adjacency = torch.zeros(nodes, nodes, dtype=torch.bool)
    adjacency[pairs[:, 0], pairs[:, 1]] = True
    adjacency.fill_diagonal_(True)
    begin = time.process_time()
    for epoch in range(epochs):
        for group in optimiser.param_groups:
            done = (epoch - BURN_IN) / max(1, epochs - BURN_IN)
            group["lr"] = 0.1 * lr if epoch < BURN_IN else lr * (1.0 - 0.9 * done)
        for batch in torch.randperm(len(pairs)).split(BATCH):
            u, v = pairs[batch].T
            other = torch.randint(nodes, (len(u), NEGATIVES))
            d = manifold.dist(table[u].unsqueeze(1), table[torch.cat([v.unsqueeze(1), other], 1)])
            known = torch.zeros_like(d, dtype=torch.bool)
            known[:, 1:] = adjacency[u.unsqueeze(1), other]
            loss = torch.nn.functional.cross_entropy((-d).masked_fill(known, -torch.inf), torch.zeros_like(u))
            if not bool(loss.isfinite()):
                raise FloatingPointError(f"diverged in epoch {epoch}")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return table.detach(), manifold, time.process_time() - begin


def figure(path: Path, points: Tensor, names: list[str], pairs: Tensor) -> None:
    """The disk with the direct hypernym relations, main branches in colours."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import networkx as nx

    from hyperkit import plot

    graph = nx.DiGraph(pairs.tolist())
    direct = list(nx.transitive_reduction(graph).edges)
    branches = ("carnivore.n.01", "rodent.n.01", "primate.n.02", "bat.n.01", "ungulate.n.01", "cetacean.n.01")
    color = np.full(len(names), "#9aa0a6", dtype=object)
    fig, ax = plt.subplots(figsize=(6, 6))
    plot.disk(ax)
    for k, branch in enumerate(branches):
        if branch not in names:
            continue
        top = names.index(branch)
        color[[top, *nx.ancestors(graph, top)]] = f"C{k}"
    plot.tree(ax, torch.tensor(direct).T, points, nodes=False, linewidths=0.4, alpha=0.25)
    plot.points(ax, points, color=list(color), s=7)
    for name in (*branches, "mammal.n.01"):
        if name in names:
            x, y = points[names.index(name)].tolist()
            ax.annotate(name.split(".")[0], (x, y), fontsize=8, weight="bold")
    fig.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 5, 10])
    parser.add_argument("--models", nargs="+", default=["Lorentz", "Poincaré"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    names, pairs = closure()
    adjacency = torch.zeros(len(names), len(names), dtype=torch.bool)
    adjacency[pairs[:, 0], pairs[:, 1]] = True
    print(f"{len(names)} nouns, {len(pairs)} pairs, {args.epochs} epochs of {BATCH}, lr {args.lr}")
    print("| dimension | model | seed | mean rank | MAP | largest radius | CPU s |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    for dim in args.dims:
        for model in args.models:
            for seed in args.seeds:
                try:
                    x, m, seconds = train(model, dim, pairs, len(names), args.epochs, args.lr, seed)
                except FloatingPointError as error:
                    print(f"| {dim} | {model} | {seed} | {error} | | | |", flush=True)
                    continue
                rank, precision = scores(x, m, adjacency)
                far = float(m.dist0(x.as_subclass(Tensor)).max())
                row = f"| {dim} | {model} | {seed} | {rank:.2f} | {precision:.3f} | {far:.1f} |"
                print(f"{row} {seconds:.0f} |", flush=True)
                if args.figure and dim == 2 and model == args.models[-1] and seed == args.seeds[0]:
                    figure(args.figure, x, names, pairs)


if __name__ == "__main__":
    main()
