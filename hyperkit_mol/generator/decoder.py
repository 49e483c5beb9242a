"""The decoder: depth first over the motif tree, attention over what has been built, both on the manifold.

A node is decoded in two moves. First its label, that is its motif and the atom by which it hangs on its
parent, from the state of the walk. Then its open sites, one child after the other, until "no more". Open
sites are filled depth first, so what comes next is always known and the walk ends when none is open.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hyperkit.nn import Geometry
from hyperkit_mol.chem.batch import RELATIONS, UNSEEN
from hyperkit_mol.generator.config import ModelConfig
from hyperkit_mol.generator.encoder import MAX_NODES, by_kind, by_row, table
from hyperkit_mol.generator.heads import LabelHead, SiteHead, segment_log_softmax

__all__ = ["Decoder", "DecoderLoss"]


@dataclass
class DecoderLoss:
    """Per molecule, ``(B,)`` each: negative log-likelihoods in nats, and whether greedy decoding is right."""

    label: Tensor
    site: Tensor
    label_right: Tensor
    exact: Tensor


class MassEmbedding(nn.Module):
    """Molar mass in g/mol -> tangent vector, by sines of periods from 4 to 2,048 g/mol; zero at first.

    Data sets are cut at a mass (MOSES at 250 and 350), and a sum over all that is built is what attention,
    which averages, finds hard to tell.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        rate = 2 * torch.pi / 2.0 ** torch.arange(2, 12)
        self.register_buffer("rate", rate, persistent=False)
        self.rate: Tensor
        self.out = nn.Linear(2 * len(rate), width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, mass: Tensor) -> Tensor:
        """``(*,)`` -> ``(*, width)``."""
        angle = mass[..., None] * self.rate
        return self.out(torch.cat([angle.sin(), angle.cos()], -1))


class Decoder(nn.Module):
    """Lorentz transformer over the depth-first walk, with the paper's distance heads."""

    def __init__(
        self, space: Geometry, label_mass: Tensor, site_kind: Tensor, num_kinds: int, cfg: ModelConfig
    ) -> None:
        super().__init__()
        d, num_labels = cfg.width, len(label_mass)
        self.space, self.num_labels = space, num_labels
        self.register_buffer("label_mass", label_mass, persistent=False)
        self.label_mass: Tensor
        self.mass = MassEmbedding(d) if cfg.mass else None
        self.sites = SiteHead(space, d, cfg.site_width, site_kind, num_kinds)
        inner = cfg.site_width
        self.label = table(num_labels + 1, d)  # the last one begins the walk
        self.from_slot = nn.Linear(inner, d, bias=False)
        self.from_children = nn.Linear(inner, d, bias=False)
        self.position = table(MAX_NODES, d)
        self.depth = table(MAX_NODES, d)
        self.pending = table(MAX_NODES, d)
        self.lift = space.Lift()
        self.join = space.Concat()
        self.enter = space.Linear(2 * d, d)
        self.blocks = nn.ModuleList(
            space.TransformerBlock(d, cfg.heads, cfg.feed_forward, dropout=cfg.dropout)
            for _ in range(cfg.decoder_layers)
        )
        self.relation = nn.Parameter(torch.zeros(cfg.decoder_layers, cfg.heads, len(RELATIONS)))
        self.leave = space.Linear(2 * d, d, activation="relu")
        self.labels = LabelHead(space, d, num_labels, cfg.head_size)
        self.node = space.Linear(2 * d, d, activation="relu")

    def inputs(
        self,
        z: Tensor,
        label: Tensor,
        slot: Tensor,
        children: Tensor,
        depth: Tensor,
        pending: Tensor,
        at: Tensor,
        mass: Tensor,
    ) -> Tensor:
        """What enters the walk at each position.

        Parameters
        ----------
        z : (B, T, width)
            Joint latent of each position.
        label : (B, T)
            Label decoded just before; `num_labels` at the beginning.
        slot : (B, T)
            Site to be filled (`num_sites` for the root).
        children : (B, T, site features)
            Sum over the sites at which the node decoded just before takes children.
        depth, pending : (B, T)
            Depth of the slot, number of open slots.
        at : (B, T) or what is broadcast to it
            Which node of its molecule.
        mass : (B, T)
            Molar mass of what is built, g/mol.
        """
        most = MAX_NODES - 1
        features = (
            self.label(label)
            + self.from_slot(self.sites.embed(slot))
            + self.from_children(children)
            + self.depth(depth.clamp(max=most))
            + self.pending(pending.clamp(max=most))
            + self.position(at.clamp(max=most))
        )
        if self.mass is not None:
            features = features + self.mass(mass)
        return self.enter(self.join(self.lift(features), z))

    def biases(self, relation: Tensor) -> Tensor:
        """Attention bias of every layer by relation, ``(layers, B, heads, T, S)``; unseen: -infinity."""
        bias = by_kind(self.relation, relation).transpose(1, 2)
        return bias.masked_fill((relation == UNSEEN)[:, None], -torch.inf)

    def forward(self, batch: dict[str, Tensor], z: Tensor) -> DecoderLoss:
        """Teacher-forced losses of a batch given its joint latents."""
        label, slot, mask = batch["label"], batch["slot"], batch["node_mask"]
        position, molecule = batch["position"], batch["molecule"]
        begins = position == 0  # nothing of this molecule has been decoded yet
        before = F.pad(label[:, :-1], (1, 0))
        taken = batch["children"].to(z.dtype) @ self.sites.embed(slot)
        taken = F.pad(taken[:, :-1], (0, 0, 1, 0)) * ~begins[..., None]
        own = self.label_mass[label]
        mass = own.cumsum(1) - own
        mass = mass - mass.flatten()[batch["root"]][molecule]
        z = by_row(z, molecule)
        x = self.inputs(
            z,
            torch.where(begins, self.num_labels, before),
            slot,
            taken,
            batch["depth"],
            batch["pending"].clamp(min=0),
            position,
            mass,
        )
        for block, bias in zip(self.blocks, self.biases(batch["relation"]), strict=True):
            x = block(x, bias=bias)

        size, molecule = batch["size"], molecule[mask]
        x, label, mass = x[mask], label[mask], (mass + own)[mask]  # with the node itself
        log_prob, right = self.labels(self.leave(self.join(x, z[mask])), label)
        flat = torch.cumsum(mask.flatten(), 0) - 1
        row_node, pair_row = flat[batch["row_node"]], batch["pair_row"]
        scores = self.sites(
            self.state(x, label, mass),
            row_node,
            batch["row_previous"],
            batch["row_count"],
            pair_row,
            batch["pair_site"],
        )
        rows = len(row_node)
        log_site = segment_log_softmax(scores, pair_row, rows)
        wanted = log_site[batch["row_target"]]
        top = scores.new_full((rows,), -torch.inf).scatter_reduce(0, pair_row, log_site.detach(), "amax")
        owner = molecule[row_node]
        zero = z.new_zeros(len(size))
        wrong = zero.index_add(0, molecule, (~right).to(z.dtype))
        wrong_site = zero.index_add(0, owner, (wanted.detach() < top).to(z.dtype))
        return DecoderLoss(
            label=zero.index_add(0, molecule, -log_prob),
            site=zero.index_add(0, owner, -wanted),
            label_right=1 - wrong / size,
            exact=((wrong == 0) & (wrong_site == 0)).to(z.dtype),
        )

    def state(self, x: Tensor, label: Tensor, mass: Tensor) -> Tensor:
        """State of a node once its label is known, ``(M, width)``; `mass` is that of all with the node."""
        features = self.label(label)
        if self.mass is not None:
            features = features + self.mass(mass)
        return self.node(self.join(x, self.lift(features)))
