"""Speed of HKNet on graphs: an epoch against GAT of the same width, and growth with the number of edges.

``epoch`` trains HKNet (one convolution), HyboNet's layers, GCN and GAT of one width on a data set, taking
turns; figures are process seconds of one thread, the least over the rounds, so that a busy machine does not
blur the ratios. GAT is ours (gather, softmax over the edges of a node, index_add), which is what PyG's does;
if PyG is installed its GATConv is timed beside it, on dense features as in PyG's examples (ours are sparse).
HKNet is timed with the compiled kernels, where they are built, and without.

``growth`` does one forward and backward pass of HKConv on random graphs of 10^4 to 10^7 edges, each in a
process of its own, and gives process seconds and the peak of resident memory over what is resident before the
pass: graph and nodes are not counted (Linux). The peak is set back before the pass, and malloc is told to
give freed memory back at once: what building the graph once held would otherwise hide part of what the pass
needs.
``--blocks`` sends the edges through in blocks (:class:`hyperkit.graphs.EdgeBlocks`), ``--sample`` does a step
on the sampled neighbourhoods of 1,024 nodes (:class:`hyperkit.graphs.NeighborSampler`) instead.

    python tests/benchmarks/graphs_speed.py epoch [--dataset cora airport] [--hidden 16] [--rounds 5]
    python tests/benchmarks/graphs_speed.py growth [--edges 10000 100000 1000000] [--kernels 4] [--hidden 16]
        [--eager] [--blocks 1000000 | --sample 10 10]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from hyperkit.graphs import EdgeBlocks, Graph, GraphNetwork, ModelSettings, NeighborSampler, NodeTask, load
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
            x = task.x  # PyG's own examples keep bags of words dense
            self.dense = x.values if x.pattern is None else x.pattern.matrix(x.values).to_dense()

        def forward(self, x, graph):  # type: ignore[no-untyped-def]
            dense = self.dense
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


def _resident(what: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024.0


def one(edges: int, hidden: int, kernels: int, blocks: int, sample: list[int]) -> None:
    """One pass on a random graph with ten edges a node; prints seconds of preparation and pass, and MiB."""
    nodes = max(2, edges // 10)
    g = torch.Generator().manual_seed(0)
    index = torch.randint(nodes, (2, edges), generator=g)
    conv = HKConv(hidden, hidden, kernels, empty="self")
    x = geometry("lorentz").random_normal(nodes, features=hidden, generator=g).requires_grad_()
    small = torch.randint(2, (2, 100), generator=g)
    conv(x[:2], small).sum().backward()  # what is loaded once
    x.grad = None
    began = time.process_time()
    made = EdgeBlocks(index, nodes, max_edges=blocks) if blocks else None
    sampler = NeighborSampler(index, nodes, sample) if sample else None
    if made is not None or sampler is not None:
        del index  # both hold the graph in their own order
    ready = time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    before, start = _resident("VmRSS"), time.process_time()
    if sampler is not None:
        part = sampler(torch.randperm(nodes, generator=g)[:1024], g)
        h = x[part.nodes]
        for _ in sample:
            h = conv(h, part.edge_index)
        h[:1024].sum().backward()
    elif made is not None:
        made(conv, x).sum().backward()
    else:
        conv(x, index).sum().backward()
    print(f"{ready - began:.3f} {time.process_time() - start:.3f} {_resident('VmHWM') - before:.0f}")


def growth(a: argparse.Namespace) -> None:
    """Each size in a process of its own."""
    way = f"blocks of {a.blocks} edges" if a.blocks else f"sampled {a.sample}" if a.sample else "whole graph"
    print("compiled kernels:", "on" if _fused.active() and not a.eager else "off")
    print(
        f"HKConv, width {a.hidden}, K={a.kernels}, ten edges a node, forward and backward, one thread, {way}"
    )
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    for edges in a.edges:
        command = [sys.executable, __file__, "one", "--edges", str(edges)]
        command += ["--hidden", str(a.hidden), "--kernels", str(a.kernels), "--blocks", str(a.blocks)]
        command += ["--sample", *map(str, a.sample)] if a.sample else []
        command += ["--eager"] if a.eager else []
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        before, seconds, mib = (float(v) for v in done.stdout.split())
        print(f"  {edges:>9} edges {seconds:9.3f} s (before it {before:.3f} s) {mib:7.0f} MiB", flush=True)


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
    p.add_argument("--blocks", type=int, default=0, help="growth with blocks of so many edges")
    p.add_argument("--sample", type=int, nargs="+", default=[], help="growth with sampled neighbourhoods")
    p.add_argument("--eager", action="store_true", help="growth without the compiled kernels")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.what == "epoch":
        for dataset in a.dataset:
            epoch(dataset, a.hidden, a.kernels, a.rounds)
    elif a.what == "growth":
        growth(a)
    else:
        with _fused.disabled() if a.eager else contextlib.nullcontext():
            one(a.edges[0], a.hidden, a.kernels, a.blocks, a.sample)


if __name__ == "__main__":
    main()
