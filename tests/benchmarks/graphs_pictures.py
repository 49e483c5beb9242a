"""Draw Disease and Airport on the Poincaré disk, coloured by class: link prediction in two dimensions.

HYPERKIT_DATA=... python tests/benchmarks/graphs_pictures.py [--out docs/graphs] [--model hybonet]
                                                            [--epochs 400] [--seed 0]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection

from hyperkit.graphs import Graph, LinkTask, ModelSettings, TrainSettings, fit, load
from hyperkit.ops import lorentz as L

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44")
NAMES = {
    "disease": ("not infected", "infected"),
    "airport": ("class 0", "class 1", "class 2", "class 3"),
}


def draw(name: str, model: str, epochs: int, seed: int, out: Path) -> None:
    """Train on the links and write ``<name>-disk.png``."""
    data = load(name)
    assert isinstance(data, Graph)
    assert data.y is not None
    task = LinkTask(data, seed)
    options = {"layers": 1} if model == "hknet" else {"layers": 2}
    settings = TrainSettings(lr=0.01, weight_decay=0.0, epochs=epochs, patience=epochs, every=5)
    result = fit(task, ModelSettings(model, 2, options["layers"], 0.0), settings, seed)
    network = result.model
    with torch.no_grad():
        h = network.embed(task.x, task.graph)
        # Any isometry gives the same distances: the centroid of all nodes is put in the middle.
        centre = L.centroid(h, c=network.encoder.c)
        h = L.boost(h, centre, network.encoder.c, inverse=True)
        disk = L.to_poincare(h, network.encoder.c)
        links = task.split.train
        t = torch.linspace(0.0, 1.0, 12).view(1, -1)
        way = L.geodesic(t, h[links[0]].unsqueeze(1), h[links[1]].unsqueeze(1), network.encoder.c)
        arcs = L.to_poincare(way, network.encoder.c)
    fig, ax = plt.subplots(figsize=(6, 6), dpi=130)
    ax.add_patch(plt.Circle((0, 0), 1.0, fill=False, lw=0.8, color="#444444"))
    alpha = min(0.25, 300.0 / links.shape[1])  # many links make black otherwise
    ax.add_collection(LineCollection(list(arcs.numpy()), colors=(0, 0, 0, alpha), linewidths=0.4, zorder=1))
    for label, title in enumerate(NAMES[name]):
        own = disk[data.y == label]
        ax.scatter(
            own[:, 0], own[:, 1], s=5, lw=0, zorder=2, color=COLOURS[label], label=f"{title} ({len(own)})"
        )
    ax.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02), aspect="equal")
    ax.axis("off")
    ax.legend(loc="lower right", fontsize=7, frameon=False, markerscale=2)
    ax.set_title(f"{name}: {model}, 2 dimensions, test ROC AUC {result.test:.1f}", fontsize=9)
    fig.tight_layout()
    fig.savefig(out / f"{name}-disk.png")
    plt.close(fig)
    radius = torch.atanh(disk.norm(dim=1)) * 2
    print(f"{name}: test {result.test:.2f}, median radius by class", end=" ")
    print([round(float(radius[data.y == k].median()), 2) for k in range(data.num_classes)])
    degree = torch.bincount(links.flatten(), minlength=data.num_nodes).float()
    ranks = torch.stack([v.argsort().argsort().float() for v in (radius, degree)])
    nearer = (radius[links[0]] < radius[links[1]]).float().mean()
    print(f"  rank correlation of radius and degree {float(torch.corrcoef(ranks)[0, 1]):.2f}", end="; ")
    print(f"the first node of a link is nearer to the middle in {100 * float(nearer):.0f} %")


def main() -> None:
    """Both data sets."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=Path, default=Path("docs/graphs"))
    p.add_argument("--model", default="hybonet")
    p.add_argument("--epochs", type=int, default=400)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--dataset", nargs="+", default=["disease", "airport"])
    a = p.parse_args()
    torch.set_num_threads(1)
    a.out.mkdir(parents=True, exist_ok=True)
    for name in a.dataset:
        draw(name, a.model, a.epochs, a.seed, a.out)


if __name__ == "__main__":
    main()
