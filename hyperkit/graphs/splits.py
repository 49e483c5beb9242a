"""Splits of nodes, graphs and links into training, validation and test sets that share nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Split(NamedTuple):
    """Indices of nodes or graphs; made by functions that check that no index is in two sets."""

    train: Tensor
    val: Tensor
    test: Tensor


def checked(train: Tensor, val: Tensor, test: Tensor, size: int) -> Split:
    """A split whose sets share no index.

    Parameters
    ----------
    train, val, test : Tensor
        Indices, int64, or boolean masks of length `size`.
    size : int
        Number of nodes or graphs.

    Raises
    ------
    ValueError
        If an index is in two sets, twice in one, or out of range, or a set is empty.
    """
    parts = []
    for name, part in (("train", train), ("val", val), ("test", test)):
        if part.dtype == torch.bool:
            if part.shape != (size,):
                raise ValueError(f"{name} must be a mask of length {size}, got shape {tuple(part.shape)}")
            part = part.nonzero().squeeze(-1)
        if len(part) == 0:
            raise ValueError(f"{name} must not be empty")
        parts.append(part.long())
    everything = torch.cat(parts)
    if int(everything.min()) < 0 or int(everything.max()) >= size:
        raise ValueError(
            f"indices must be 0 to {size - 1}, got {int(everything.min())} to {int(everything.max())}"
        )
    count = torch.bincount(everything, minlength=size)
    if int(count.max()) > 1:
        raise ValueError(
            f"a split must hold each index once, got {int((count > 1).sum())} of them more often"
        )
    return Split(*parts)


def random_split(y: Tensor, val: float, test: float, seed: int, *, stratified: bool = True) -> Split:
    """Random split, by default with the classes' shares in each set.

    Parameters
    ----------
    y : Tensor
        Classes ``(N)``.
    val, test : float
        Shares of the sets; the rest is for training.
    seed : int
        Of the shuffle.
    stratified : bool
        Cut each class by itself. Every node belongs to one class, so that it is drawn once.

    Raises
    ------
    ValueError
        If the shares leave nothing, or a set is empty.
    """
    if not (val > 0 and test > 0 and val + test < 1):
        raise ValueError(f"val and test must be > 0 and add up to less than 1, got {val} and {test}")
    rng = np.random.default_rng(seed)
    labels = y.numpy() if stratified else np.zeros(len(y), dtype=np.int64)
    parts: list[list[np.ndarray]] = [[], [], []]
    for label in np.unique(labels):
        order = rng.permutation(np.flatnonzero(labels == label))
        # Rounding in a random direction: a class of 3 nodes is not always absent from the small sets.
        a = int(val * len(order) + rng.random())
        b = int(test * len(order) + rng.random())
        for part, rows in zip(parts, (order[a + b :], order[:a], order[a : a + b]), strict=True):
            part.append(rows)
    train, val_rows, test_rows = (torch.from_numpy(np.sort(np.concatenate(p))) for p in parts)
    return checked(train, val_rows, test_rows, len(y))


def planetoid_split(test: Tensor, train: int, nodes: int, *, val: int = 500) -> Split:
    """The split of Yang et al. (ICML 2016): the first `train` nodes, the next `val`, and the test index."""
    first = torch.arange(train)
    return checked(first, torch.arange(train, train + val), test.sort().values, nodes)


def folds(y: Tensor, count: int, seed: int) -> list[Tensor]:
    """Test sets of a stratified cross-validation: `count` tensors of indices that share nothing."""
    if not 2 <= count <= len(y):
        raise ValueError(f"count must be 2 to {len(y)}, got {count}")
    rng = np.random.default_rng(seed)
    labels = y.numpy()
    order = np.concatenate([rng.permutation(np.flatnonzero(labels == v)) for v in np.unique(labels)])
    return [torch.from_numpy(np.sort(order[i::count])) for i in range(count)]


def fold_split(y: Tensor, test: Tensor, seed: int, *, val: float = 0.1) -> Split:
    """Split of one fold: the validation set is cut, stratified, from what is not tested."""
    rest = torch.ones(len(y), dtype=torch.bool)
    rest[test] = False
    rows = rest.nonzero().squeeze(-1)
    rng = np.random.default_rng(seed)
    chosen = []
    for label in torch.unique(y[rows]):
        own = rng.permutation(rows[y[rows] == label].numpy())
        chosen.append(own[: max(1, round(val * len(own)))])
    held = torch.from_numpy(np.sort(np.concatenate(chosen)))
    rest[held] = False
    return checked(rest, held, test, len(y))


class LinkSplit(NamedTuple):
    """Links of an undirected graph, each once as ``(2, E)`` with the smaller node first.

    Only `train` may be seen while training: it is the graph that messages run on, and the source of degrees.
    """

    train: Tensor
    val: Tensor
    val_negative: Tensor
    test: Tensor
    test_negative: Tensor


def undirected(edge_index: Tensor) -> Tensor:
    """Each pair once, smaller node first, sorted, without self-loops: ``(2, E)``."""
    low, high = edge_index.min(0).values, edge_index.max(0).values
    pairs = torch.stack([low, high])[:, low != high]
    return torch.unique(pairs, dim=1)


def both_directions(edge_index: Tensor, nodes: int | None = None) -> Tensor:
    """Both directions of each pair, sorted by target then source, without self-loops: ``(2, 2 E)``."""
    pairs = undirected(edge_index)
    n = int(pairs.max()) + 1 if nodes is None and pairs.numel() else (nodes or 0)
    source, target = torch.cat([pairs, pairs.flip(0)], 1)
    order = torch.argsort(target * n + source)
    return torch.stack([source[order], target[order]])


def _codes(pairs: Tensor, nodes: int) -> Tensor:
    return pairs[0] * nodes + pairs[1]


def sample_negatives(known: Tensor, nodes: int, count: int, generator: torch.Generator) -> Tensor:
    """Random pairs ``i < j`` that are not among the known links.

    Parameters
    ----------
    known : Tensor
        Links ``(2, E)``, smaller node first. In training these are the training links and no others: were
        the links of the test set left out as well, whatever is never drawn would be a link.
    nodes, count : int
        Numbers of nodes and of pairs wanted.
    generator : torch.Generator
        Source of the draws.

    Returns
    -------
    Tensor
        ``(2, count)``; a pair may come twice.

    Raises
    ------
    ValueError
        If there are no such pairs.
    """
    codes = _codes(known, nodes).sort().values
    if nodes * (nodes - 1) // 2 <= len(torch.unique(codes)):
        raise ValueError(f"known must leave pairs that are no links, got all of {nodes} nodes")
    found: list[Tensor] = []
    missing = count
    while missing > 0:
        draw = torch.randint(nodes, (2, missing + missing // 4 + 16), generator=generator)
        draw = torch.stack([draw.min(0).values, draw.max(0).values])
        code = _codes(draw, nodes)
        fresh = draw[0] != draw[1]
        if len(codes):
            place = torch.searchsorted(codes, code).clamp_(max=len(codes) - 1)
            fresh &= codes[place] != code
        draw = draw[:, fresh][:, :missing]
        found.append(draw)
        missing -= draw.shape[1]
    return torch.cat(found, 1)


def link_split(
    edge_index: Tensor, nodes: int, seed: int, *, val: float = 0.05, test: float = 0.10
) -> LinkSplit:
    """Split the links of a graph for link prediction.

    Both directions and repeated links are joined before anything is drawn, so that the reverse of a test link
    cannot stay in the training graph. Negatives of validation and test are pairs without a link anywhere in
    the graph, different from each other. Those of training are drawn by :func:`sample_negatives`.

    Parameters
    ----------
    edge_index : Tensor
        ``(2, E)``, one direction or both.
    nodes : int
        N.
    seed : int
        Of all draws.
    val, test : float
        Shares of the links (5 % and 10 % in HGCN).

    Raises
    ------
    ValueError
        If the shares leave nothing for a set.
    """
    pairs = undirected(edge_index)
    count = pairs.shape[1]
    n_val, n_test = int(val * count), int(test * count)
    if not (n_val > 0 and n_test > 0 and n_val + n_test < count):
        raise ValueError(f"val and test must leave links for each set, got {val} and {test} of {count} links")
    if count + n_val + n_test > nodes * (nodes - 1) // 2:
        raise ValueError(f"the graph must have {n_val + n_test} pairs without a link, got {nodes} nodes")
    generator = torch.Generator().manual_seed(seed)
    pairs = pairs[:, torch.randperm(count, generator=generator)]
    negative = pairs.new_empty(2, 0)
    while negative.shape[1] < n_val + n_test:
        more = sample_negatives(pairs, nodes, 2 * (n_val + n_test), generator)
        negative = torch.unique(torch.cat([negative, more], 1), dim=1)
    negative = negative[:, torch.randperm(negative.shape[1], generator=generator)]
    return LinkSplit(
        pairs[:, n_val + n_test :],
        pairs[:, :n_val],
        negative[:, :n_val],
        pairs[:, n_val : n_val + n_test],
        negative[:, n_val : n_val + n_test],
    )
