"""Encoders: hyperbolic message passing on the motif tree and on the molecular graph, centroid readout."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyperkit.nn import Geometry
from hyperkit_mol.chem.batch import BOND_TYPES, TREE_EDGE_TYPES
from hyperkit_mol.generator.config import ModelConfig

__all__ = ["GraphEncoder", "TreeEncoder", "by_kind", "by_row", "table"]

MAX_NODES = 64  # positions and depths beyond share the last embedding


def table(rows: int, width: int, std: float = 0.1) -> nn.Embedding:
    """Euclidean embedding, small enough that its lift stays near the origin at first."""
    embedding = nn.Embedding(rows, width)
    nn.init.normal_(embedding.weight, std=std)
    return embedding


def by_kind(weight: Tensor, kind: Tensor) -> Tensor:
    """``weight[..., kind]`` for few kinds and many entries, as a product with one-hot rows.

    The backward pass of indexing adds entry by entry what has the same kind: on a GPU that took most of a
    training step.

    Parameters
    ----------
    weight : Tensor
        ``(*, kinds)``.
    kind : Tensor
        Integers from 0 to ``kinds - 1`` of any shape.

    Returns
    -------
    Tensor
        ``(*, *kind.shape)``.
    """
    one_hot = torch.arange(weight.shape[-1], device=kind.device)[:, None] == kind.flatten()
    return (weight @ one_hot.to(weight.dtype)).unflatten(-1, kind.shape)


def by_row(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]`` for rows ``(N, d)`` and an index of any shape, by the call whose gradient is fast."""
    return x.index_select(0, index.flatten()).unflatten(0, index.shape)


class MessagePassing(nn.Module):
    """Layers of typed, weighted neighbourhood centroids with a residual.

    An edge's weight is positive and learned per type and layer; 0 is no edge.
    """

    def __init__(self, space: Geometry, features: int, layers: int, edge_types: int, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            space.GraphConv(features, features, activation="relu" if i else None, dropout=dropout)
            for i in range(layers)
        )
        self.residuals = nn.ModuleList(space.Residual() for _ in range(layers))
        self.edge = nn.Parameter(torch.zeros(layers, edge_types - 1))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        weights = by_kind(F.pad(F.softplus(self.edge), (1, 0)), edges)
        for conv, residual, weight in zip(self.convs, self.residuals, weights, strict=True):
            x = residual(x, conv(x, weight))
        return x


class TreeEncoder(nn.Module):
    """Motif tree -> one point.

    The tree is in canonical order, so a node's position in it is a property of the molecule: embedding it
    keeps the readout invariant to how the input was written, and makes the centroid invertible.
    """

    def __init__(self, space: Geometry, num_labels: int, num_sites: int, cfg: ModelConfig) -> None:
        super().__init__()
        d, out = cfg.width, cfg.latent
        self.space = space
        self.label = table(num_labels, d)
        self.slot = table(num_sites + 1, cfg.site_width)
        self.from_slot = nn.Linear(cfg.site_width, d, bias=False)
        self.position = table(MAX_NODES, d)
        self.above = table(MAX_NODES, d)
        self.lift = space.Lift()
        self.passing = MessagePassing(space, d, cfg.encoder_layers, TREE_EDGE_TYPES, cfg.dropout)
        self.size = table(MAX_NODES, d)
        self.join = space.Concat()
        self.out = space.Linear(3 * d, out)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Batch -> ``(B, latent)``."""
        features = (
            self.label(batch["label"])
            + self.from_slot(self.slot(batch["slot"]))
            + self.position(batch["position"].clamp(max=MAX_NODES - 1))
            + self.above(batch["parent"].clamp(max=MAX_NODES - 1))
        )
        x = self.passing(self.lift(features), batch["tree_edges"])
        # From rows to molecules, which a packed row has several of.
        root, size = batch["root"][:, None], batch["size"][:, None]
        number = torch.arange(x.shape[1], device=x.device)
        mask = number < size
        nodes = by_row(x.flatten(0, 1), root + torch.where(mask, number, 0))
        told = self.lift(self.size(size[:, 0].clamp(max=MAX_NODES - 1)))
        return self.out(self.join(self.space.centroid(nodes, mask=mask), nodes[:, 0], told))


class GraphEncoder(nn.Module):
    """Molecular graph -> one point: atoms as nodes, bonds by type."""

    def __init__(self, space: Geometry, num_kinds: int, cfg: ModelConfig) -> None:
        super().__init__()
        d, out = cfg.width, cfg.latent
        self.space = space
        self.kind = table(num_kinds, d, 0.3)
        self.attachments = table(8, d, 0.3)
        self.lift = space.Lift()
        self.passing = MessagePassing(space, d, cfg.encoder_layers, BOND_TYPES, cfg.dropout)
        self.out = space.Linear(d, out)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Batch -> ``(B, latent)``."""
        features = self.kind(batch["atom_kind"]) + self.attachments(batch["atom_attachments"].clamp(max=7))
        x = self.passing(self.lift(features), batch["bonds"])
        return self.out(self.space.centroid(x, mask=batch["atom_mask"]))
