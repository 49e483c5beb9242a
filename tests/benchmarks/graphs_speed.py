"""Speed of HKNet on graphs: an epoch against GAT of the same width, and growth with the number of edges.

``epoch`` trains HKNet (one convolution), HyboNet's layers, GCN and GAT of one width on a data set, taking
turns; figures are process seconds of one thread, the least over the rounds, so that a busy machine does not
blur the ratios. GAT is ours (gather, softmax over the edges of a node, index_add), which is what PyG's does;
if PyG is installed its GATConv is timed beside it. HKNet is timed with the compiled kernels, where they are
built, and without.

``growth`` does one forward and backward pass of HKConv on random graphs of 10^4 to 10^6 edges and more, each
in a process of its own, and gives process seconds and the peak of resident memory over what is resident
before the pass: graph and nodes are not counted (Linux).

    python tests/benchmarks/graphs_speed.py epoch [--dataset cora airport] [--hidden 16] [--rounds 5]
    python tests/benchmarks/graphs_speed.py growth [--edges 10000 100000 1000000] [--kernels 4] [--hidden 16]
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from hyperkit.graphs import Graph, GraphNetwork, ModelSettings, NodeTask, load
from hyperkit.nn import HKConv, geometry
from hyperkit.ops import _fused
from hyperkit.optim import RiemannianAdam


def _pyg_gat(task: NodeTask, hidden: int) -> nn.Module | None:
    try:
        from torch_geometric.nn import GATConv  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = GATConv(task.in_features, hidden // 8, heads=8, dropout=0.5)
            self.last = GATConv(hidden, task.num_classes, heads=1, dropout=0.5)

        def forward(self, x, graph):  # type: ignore[no-untyped-def]
            dense = x.pattern.matrix(x.values).to_dense() if x.pattern is not None else x.values
            h = nn.functional.elu(self.first(nn.functional.dropout(dense, 0.5), graph.edge_index))
            return self.last(nn.functional.dropout(h, 0.5), graph.edge_index)

    return Net()


def epoch(dataset: str, hidden: int, kernels: int, rounds: int) -> None:
    """Time steps of training."""
    data = load(dataset)
    assert isinstance(data, Graph)
    task = NodeTask(data, data.splits[0])
    networks: dict[str, nn.Module] = {}
    for name, options in {
        "gcn": {},
        "gat": {"heads": 8},
        "hybonet": {},
        "hknet-paper": {"kernels": kernels},
        "hknet": {"kernels": kernels},
        "hknet eager": {"kernels": kernels},
    }.items():
        settings = ModelSettings(name.split()[0], hidden, 2, 0.5, options)
        networks[name] = GraphNetwork(settings, "nc", task.in_features, task.num_classes)
    pyg = _pyg_gat(task, hidden)
    if pyg is not None:
        networks["gat (PyG)"] = pyg
    rows = task.split.train
    best = dict.fromkeys(networks, float("inf"))
    optimisers = {k: RiemannianAdam(v.parameters(), lr=0.01) for k, v in networks.items()}
    for turn in range(rounds + 1):
        for name, net in networks.items():
            began = time.process_time()
            with _fused.disabled() if name.endswith("eager") else contextlib.nullcontext():
                for _ in range(3):
                    optimisers[name].zero_grad()
                    nn.functional.cross_entropy(net(task.x, task.graph)[rows], task.y[rows]).backward()
                    optimisers[name].step()
            if turn:  # the first turn warms up
                best[name] = min(best[name], (time.process_time() - began) / 3)
    print("compiled kernels:", "on" if _fused.active() else "off")
    print(f"{dataset}: {data.num_nodes} nodes, {data.edge_index.shape[1]} edges, width {hidden}, K={kernels}")
    for name, seconds in best.items():
        print(f"  {name:<12} {1e3 * seconds:8.1f} ms   {seconds / best['gat']:.2f} x GAT")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def one(edges: int, hidden: int, kernels: int) -> None:
    """One pass on a random graph with ten edges a node; prints seconds and MiB."""
    nodes = max(2, edges // 10)
    g = torch.Generator().manual_seed(0)
    index = torch.randint(nodes, (2, edges), generator=g)
    conv = HKConv(hidden, hidden, kernels, empty="self")
    x = geometry("lorentz").random_normal(nodes, features=hidden, generator=g).requires_grad_()
    small = torch.randint(nodes, (2, 100), generator=g)
    conv(x, small).sum().backward()  # what is loaded once
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before, began = pages * resource.getpagesize() / 2**20, time.process_time()
    conv(x, index).sum().backward()
    print(f"{time.process_time() - began:.3f} {_peak() - before:.0f}")


def growth(sizes: list[int], hidden: int, kernels: int, eager: bool) -> None:
    """Each size in a process of its own."""
    print("compiled kernels:", "on" if _fused.active() and not eager else "off")
    print(f"HKConv, width {hidden}, K={kernels}, ten edges a node, forward and backward, one thread")
    for edges in sizes:
        command = [sys.executable, __file__, "one", "--edges", str(edges)]
        command += ["--hidden", str(hidden), "--kernels", str(kernels)]
        command += ["--eager"] if eager else []
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        seconds, mib = float(out[0]), float(out[1])
        each = 1e6 * seconds / edges
        print(f"  {edges:>9} edges {seconds:9.3f} s  {each:6.2f} us an edge {mib:7.0f} MiB", flush=True)


def main() -> None:
    """Run one of the measurements."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["epoch", "growth", "one"])
    p.add_argument("--dataset", nargs="+", default=["cora", "airport"])
    p.add_argument("--edges", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    p.add_argument("--hidden", type=int, default=16)
    p.add_argument("--kernels", type=int, default=4)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--eager", action="store_true", help="growth without the compiled kernels")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.what == "epoch":
        for dataset in a.dataset:
            epoch(dataset, a.hidden, a.kernels, a.rounds)
    elif a.what == "growth":
        growth(a.edges, a.hidden, a.kernels, a.eager)
    else:
        with _fused.disabled() if a.eager else contextlib.nullcontext():
            one(a.edges[0], a.hidden, a.kernels)


if __name__ == "__main__":
    main()
