"""Sparse matrices with a fixed pattern: adjacencies and bags of words, fast on one thread."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Pattern:
    """Where the entries of an ``(N, M)`` matrix are, by rows and by columns.

    Parameters
    ----------
    rows, cols : Tensor
        Places ``(E)``, int64, in any order; no place twice.
    shape : tuple of int
        N and M.

    Attributes
    ----------
    rows, cols : Tensor
        Places sorted by row, then column. All values are given and returned in this order.
    order : Tensor
        Where each of them was in what was given.
    """

    def __init__(self, rows: Tensor, cols: Tensor, shape: tuple[int, int]) -> None:
        if rows.shape != cols.shape or rows.ndim != 1:
            raise ValueError(f"rows and cols must be (E), got {tuple(rows.shape)} and {tuple(cols.shape)}")
        n, m = shape
        self.shape = (n, m)
        self.order = torch.argsort(rows * m + cols)
        self.rows, self.cols = rows[self.order], cols[self.order]
        self._crow = _offsets(self.rows, n)
        self._by_col = torch.argsort(self.cols, stable=True)
        self._ccol, self._row_of = _offsets(self.cols, m), self.rows[self._by_col]

    def matrix(self, values: Tensor) -> Tensor:
        """The matrix in torch's CSR form."""
        return _csr(self._crow, self.cols, values, self.shape)

    def transposed(self, values: Tensor) -> Tensor:
        """Its transpose in torch's CSR form."""
        return _csr(self._ccol, self._row_of, values[self._by_col], (self.shape[1], self.shape[0]))

    def matmul(self, values: Tensor, dense: Tensor) -> Tensor:
        """The matrix with these values ``(E)`` times ``(M, d)``; differentiable in both."""
        return _Product.apply(values, dense, self)

    def softmax(self, scores: Tensor) -> Tensor:
        """Softmax of ``(E, H)`` over the entries of each row."""
        n, heads = self.shape[0], scores.shape[1]
        index = self.rows.unsqueeze(-1).expand_as(scores)
        with torch.no_grad():
            top = scores.new_full((n, heads), -torch.inf).scatter_reduce(0, index, scores, "amax")
        weight = torch.exp(scores - top[self.rows])
        total = weight.new_zeros(n, heads).index_add(0, self.rows, weight)
        return weight / total[self.rows]


def _offsets(index: Tensor, size: int) -> Tensor:
    zero = index.new_zeros(1)
    return torch.cat([zero, torch.bincount(index, minlength=size).cumsum(0)])


def _csr(crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():  # torch says once in each process that CSR is in beta
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(crow, col, values, shape, check_invariants=False)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, dense: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(values, dense if values.requires_grad else None)
        ctx.pattern = pattern
        return pattern.matrix(values) @ dense

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):  # type: ignore[override]
        values, dense = ctx.saved_tensors
        pattern: Pattern = ctx.pattern
        by_values = by_dense = None
        if ctx.needs_input_grad[0]:
            by_values = (grad[pattern.rows] * dense[pattern.cols]).sum(-1)
        if ctx.needs_input_grad[1]:
            by_dense = pattern.transposed(values) @ grad
        return by_values, by_dense, None


class Adjacency:
    """A graph as the layers want it: normalised once, with and without self-loops.

    Parameters
    ----------
    edge_index : Tensor
        ``(2, E)``: source, target; no self-loops, no pair twice.
    nodes : int
        N.
    degree : Tensor, optional
        Number of neighbours that each node has in the whole graph, ``(N)``, where `edge_index` is drawn from
        one (undirected): a row's neighbours then weigh ``degree / (number kept)`` times as much, so that
        `symmetric`, `mean` and `neighbours` keep their expectation.

    Attributes
    ----------
    edge_index : Tensor
        As given.
    loops : Pattern
        Rows are targets, columns sources, self-loops included.
    plain : Pattern
        The same without self-loops.
    symmetric : Tensor
        Values of ``D^(-1/2) (A + I) D^(-1/2)`` for `loops` (Kipf and Welling, ICLR 2017).
    mean : Tensor
        Values of ``D^(-1) (A + I)`` for `loops`.
    neighbours : Tensor
        Values of ``D^(-1) A`` for `plain`; rows without neighbours are zero.
    """

    def __init__(self, edge_index: Tensor, nodes: int, *, degree: Tensor | None = None) -> None:
        self.edge_index, self.nodes = edge_index, nodes
        source, target = edge_index
        own = torch.arange(nodes, device=edge_index.device)
        self.plain = Pattern(target, source, (nodes, nodes))
        self.loops = Pattern(torch.cat([target, own]), torch.cat([source, own]), (nodes, nodes))
        kept = torch.bincount(target, minlength=nodes).float()
        sent = torch.bincount(source, minlength=nodes).float()
        rows, cols = self.loops.rows, self.loops.cols
        self.neighbours = (1.0 / kept)[self.plain.rows]
        if degree is None:
            self._degree = kept
            self.mean = (1.0 / (kept + 1.0))[rows]
            self.symmetric = (kept + 1.0).rsqrt()[rows] * (sent + 1.0).rsqrt()[cols]
            return
        whole = self._degree = degree.to(kept.dtype)
        scale = torch.where(rows == cols, torch.ones_like(whole[rows]), (whole / kept)[rows])
        self.mean = (1.0 / (whole + 1.0))[rows] * scale
        self.symmetric = (whole + 1.0).rsqrt()[rows] * (whole + 1.0).rsqrt()[cols] * scale

    def edge_weight(self) -> Tensor:
        """``1/sqrt(deg_i deg_j)`` for each column of `edge_index`."""
        source, target = self.edge_index
        degree = self._degree.clamp(min=1.0)
        return (degree[source] * degree[target]).rsqrt()


class Features:
    """Features of nodes for the first layer of a network: sparse where few are not zero.

    Parameters
    ----------
    x : Tensor
        ``(N, F)``.
    sparse_below : float
        Share of entries that are not zero below which the sparse form is used.
    mean_square : Tensor, optional
        Mean squared norm of a row, by which the hyperbolic models scale what they lift; by default that of
        `x`. For a part of the data give that of the whole (of what is trained on), or else what a node gives
        depends on which others are in its batch.
    """

    def __init__(self, x: Tensor, *, sparse_below: float = 0.2, mean_square: Tensor | None = None) -> None:
        self.shape = tuple(x.shape)
        self.square = x.square().sum(1, keepdim=True)
        self.mean_square = self.square.mean() if mean_square is None else mean_square
        self.pattern: Pattern | None = None
        self.values = x
        # Below some tens of columns the dense product is the faster one whatever the density.
        if x.shape[1] >= 64 and float((x != 0).float().mean()) < sparse_below:
            rows, cols = x.nonzero(as_tuple=True)
            self.pattern = Pattern(rows, cols, (x.shape[0], x.shape[1]))
            self.values = x[self.pattern.rows, self.pattern.cols]

    def linear(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        dropout: float = 0.0,
        scale: Tensor | None = None,
    ) -> Tensor:
        """``dropout(scale x) weight^T + bias``: ``(N, O)``.

        Parameters
        ----------
        weight : Tensor
            ``(O, F)``.
        bias : Tensor, optional
            ``(O)``.
        dropout : float
            Share of entries dropped; 0 while not training.
        scale : Tensor, optional
            Factor of each row, ``(N, 1)``.
        """
        values = torch.nn.functional.dropout(self.values, dropout) if dropout else self.values
        if self.pattern is None:
            return torch.nn.functional.linear(values if scale is None else values * scale, weight, bias)
        out = self.pattern.matmul(values, weight.t())
        out = out if scale is None else out * scale
        return out if bias is None else out + bias
