"""A graph layer over one block of edges at a time: memory of a block, values and gradients of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Block(NamedTuple):
    low: int
    high: int  # targets are the nodes low to high - 1
    nodes: Tensor  # whose rows the block reads, its targets first
    edge_index: Tensor  # numbered by `nodes`
    edge_weight: Tensor | None


class EdgeBlocks:
    """Run a graph layer over blocks of edges, for graphs whose edges do not fit through it at once.

    Edges are sorted by target once; a block holds all edges of a range of targets. A call runs the layer on
    one block after another and keeps nothing but the output; on the way back each block is run again, with
    the same dropout, and its gradient added up. Beside the graph, the nodes and the output, memory is that of
    one block, for about one and a half times the time of a step. Values and gradients are those of the whole
    graph to rounding, for any layer whose output at a node depends on its own row and on those of its
    neighbours (every graph layer of ``hyperkit.nn``).

    Parameters
    ----------
    edge_index : Tensor
        ``(2, E)``: source, target. Not copied where it is sorted by target.
    num_nodes : int
        N.
    edge_weight : Tensor, optional
        ``(E)``, handed to the layer; gets no gradient.
    max_edges : int
        Edges in a block, >= 1; a node with more is a block of its own.

    Raises
    ------
    ValueError
        If a shape or a number does not fit, or an index is out of range.

    Examples
    --------
    >>> import torch
    >>> from hyperkit.graphs import EdgeBlocks
    >>> from hyperkit.nn import HKConv, geometry
    >>> x = geometry("lorentz").random_normal(100, features=8)
    >>> edges = torch.randint(100, (2, 1000))
    >>> conv, blocks = HKConv(8, 8, num_kernels=4), EdgeBlocks(edges, 100, max_edges=200)
    >>> len(blocks) >= 5
    True
    >>> torch.allclose(blocks(conv, x), conv(x, edges), atol=1e-5)
    True
    """

    def __init__(
        self,
        edge_index: Tensor,
        num_nodes: int,
        *,
        edge_weight: Tensor | None = None,
        max_edges: int = 1_000_000,
    ) -> None:
        if edge_index.ndim != 2 or edge_index.shape[0] != 2:
            raise ValueError(f"edge_index must have shape (2, E), got {tuple(edge_index.shape)}")
        if max_edges < 1:
            raise ValueError(f"max_edges must be >= 1, got {max_edges}")
        if edge_index.numel() and not 0 <= int(edge_index.min()) <= int(edge_index.max()) < num_nodes:
            raise ValueError(
                f"edge_index must name nodes 0 to {num_nodes - 1}, "
                f"got values from {int(edge_index.min())} to {int(edge_index.max())}"
            )
        if edge_weight is not None and edge_weight.shape != edge_index.shape[1:]:
            raise ValueError(
                f"edge_weight must have shape ({edge_index.shape[1]},), got {tuple(edge_weight.shape)}"
            )
        source, target = edge_index
        if not bool((target[1:] >= target[:-1]).all()):
            target, order = torch.sort(target, stable=True)
            source = source[order]
            edge_weight = None if edge_weight is None else edge_weight[order]
        self.num_nodes, self._source = num_nodes, source
        self._weight = None if edge_weight is None else edge_weight.detach()
        self._begin = torch.searchsorted(target, torch.arange(num_nodes + 1, device=target.device))
        self._cuts = [0]
        while self._cuts[-1] < num_nodes:
            low = self._cuts[-1]
            last = self._begin[low] + max_edges
            high = int(torch.searchsorted(self._begin, last, right=True)) - 1
            self._cuts.append(min(max(high, low + 1), num_nodes))

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self._cuts) - 1

    def _blocks(self) -> Iterator[_Block]:
        for low, high in zip(self._cuts[:-1], self._cuts[1:], strict=True):
            first, last = int(self._begin[low]), int(self._begin[high])
            source = self._source[first:last]
            count = self._begin[low + 1 : high + 1] - self._begin[low:high]
            own = torch.arange(high - low, device=source.device)
            inside = (source >= low) & (source < high)
            outside = torch.unique(source[~inside])
            place = torch.where(inside, source - low, high - low + torch.searchsorted(outside, source))
            yield _Block(
                low,
                high,
                torch.cat([own + low, outside]),
                torch.stack([place, torch.repeat_interleave(own, count)]),
                None if self._weight is None else self._weight[first:last],
            )

    def __call__(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Output of ``layer(x, edge_index=..., edge_weight=...)`` on the whole graph.

        Parameters
        ----------
        layer : nn.Module
            A graph layer; no `edge_weight` is handed to it where none was given. One that counts over nodes
            (a batch norm) is none.
        x : Tensor
            Nodes ``(N, D)``.

        Returns
        -------
        Tensor
            ``(N, D')``. Its gradient reaches `x` and the layer's parameters; it has no second derivative.
        """
        if x.shape[0] != self.num_nodes:
            raise ValueError(f"x must have {self.num_nodes} rows, got {x.shape[0]}")
        parameters = [p for p in layer.parameters() if p.requires_grad]
        return _InBlocks.apply(x, self, layer, *parameters)


def _run(layer: Callable[..., Tensor], x: Tensor, block: _Block) -> Tensor:
    options = {} if block.edge_weight is None else {"edge_weight": block.edge_weight}
    return layer(x, edge_index=block.edge_index, **options)[: block.high - block.low]


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: EdgeBlocks, layer: nn.Module, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(x, *parameters)
        ctx.blocks, ctx.layer = blocks, layer
        ctx.devices = [x.device] if x.is_cuda else []
        # Blocks are run in the same order on the way back: one state is enough for the same dropout.
        ctx.state = torch.get_rng_state()
        ctx.cuda_state = torch.cuda.get_rng_state(x.device) if x.is_cuda else None
        out: Tensor | None = None
        for block in blocks._blocks():
            part = _run(layer, x[block.nodes], block)
            if out is None:
                out = part.new_empty(blocks.num_nodes, *part.shape[1:])
            out[block.low : block.high] = part
        assert out is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):  # type: ignore[override]
        x, *parameters = ctx.saved_tensors
        by_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        sums: list[Tensor | None] = [None] * len(parameters)
        with torch.random.fork_rng(devices=ctx.devices), torch.enable_grad():
            torch.set_rng_state(ctx.state)
            if ctx.cuda_state is not None:
                torch.cuda.set_rng_state(ctx.cuda_state, x.device)
            for block in ctx.blocks._blocks():
                rows = x[block.nodes].detach().requires_grad_(by_x is not None)
                part = _run(ctx.layer, rows, block)
                wanted = [*parameters] if by_x is None else [rows, *parameters]
                found = list(
                    torch.autograd.grad(part, wanted, grad[block.low : block.high], allow_unused=True)
                )
                if by_x is not None:
                    by_x.index_add_(0, block.nodes, found.pop(0))
                for i, g in enumerate(found):
                    old = sums[i]
                    sums[i] = g if old is None else old if g is None else old.add_(g)
        return by_x, None, None, *sums
