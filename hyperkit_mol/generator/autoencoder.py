"""The junction-tree autoencoder: two encoders, a posterior, one decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hyperkit.nn import geometry
from hyperkit_mol.chem.prepare import TreeDataset
from hyperkit_mol.chem.vocabulary import Vocabulary
from hyperkit_mol.generator.config import ModelConfig
from hyperkit_mol.generator.decoder import Decoder, DecoderLoss
from hyperkit_mol.generator.encoder import GraphEncoder, TreeEncoder
from hyperkit_mol.generator.latent import LatentSpace
from hyperkit_mol.generator.stream import batches_of

__all__ = ["Autoencoder", "AutoencoderLoss", "Latent"]


class Latent(NamedTuple):
    """Latents of a batch: of the motif tree and of the molecular graph, ``(B, latent)`` each."""

    tree: Tensor
    graph: Tensor


@dataclass
class AutoencoderLoss:
    """Losses of a batch: reconstruction per molecule, and the KL term (0 for point latents)."""

    reconstruction: DecoderLoss
    kl: Tensor

    def total(self, kl_weight: float) -> Tensor:
        """What is minimised, in nats per molecule."""
        return (self.reconstruction.label + self.reconstruction.site).mean() + kl_weight * self.kl.mean()


class Autoencoder(nn.Module):
    """Molecule -> (tree latent, graph latent) -> molecule.

    Parameters
    ----------
    vocabulary : Vocabulary
    cfg : ModelConfig
    variational : bool
        Wrapped-normal posteriors with a KL term in place of points.
    """

    def __init__(self, vocabulary: Vocabulary, cfg: ModelConfig, variational: bool = False) -> None:
        super().__init__()
        self.cfg, self.variational = cfg, variational
        self.space = space = geometry(cfg.geometry, cfg.curvature)
        self.latents = LatentSpace(space, cfg.latent)
        num_kinds = len(vocabulary.atom_kinds)
        self.tree_encoder = TreeEncoder(space, vocabulary.num_labels, int(vocabulary.atom_offset[-1]), cfg)
        self.graph_encoder = GraphEncoder(space, num_kinds, cfg)
        if variational:
            self.tree_scale = nn.Linear(space.ambient(cfg.latent), cfg.latent)
            self.graph_scale = nn.Linear(space.ambient(cfg.latent), cfg.latent)
            for scale in (self.tree_scale, self.graph_scale):
                nn.init.zeros_(scale.weight)
                nn.init.constant_(scale.bias, -2.0)
        self.join = space.Concat()
        self.joint = space.Linear(2 * self.latents.features, cfg.width)
        site_kind = torch.from_numpy(vocabulary.site_kind)
        self.decoder = Decoder(space, vocabulary.num_labels, site_kind, num_kinds, cfg)

    def encode(self, batch: dict[str, Tensor]) -> Latent:
        """Latent points (posterior means) of a batch."""
        return Latent(self.tree_encoder(batch), self.graph_encoder(batch))

    @torch.no_grad()
    def encode_all(
        self, data: TreeDataset, index: Any, progress: Callable[[int], None] | None = None
    ) -> Latent:
        """Latent points of molecules `index` of a data set, in that order.

        Parameters
        ----------
        data : TreeDataset
        index : array
            ``(N,)``.
        progress : callable, optional
            Called after each batch with the number of its molecules.
        """
        tree, graph = (torch.empty(len(index), self.space.ambient(self.latents.features)) for _ in range(2))
        for rows, batch in batches_of(data, index, 1024):
            where = torch.from_numpy(rows)
            tree[where], graph[where] = self.encode(batch)
            if progress is not None:
                progress(len(rows))
        return Latent(tree, graph)

    def condition(self, latent: Latent) -> Tensor:
        """Joint point that the decoder is conditioned on, ``(B, width)``."""
        return self.joint(self.join(latent.tree, latent.graph))

    def blur(self, latent: Latent, generator: torch.Generator | None = None) -> Latent:
        """Latents with the noise that the decoder is trained with.

        Point latents get wrapped-normal noise of fixed size: the decoder then knows what stands around a
        latent, which is where a prior's samples fall. A normal posterior has a width of its own, which is a
        function of its mean.
        """
        return self._posterior(latent, generator)[0]

    def _posterior(
        self, latent: Latent, generator: torch.Generator | None = None
    ) -> tuple[Latent, list[Tensor]]:
        """A sample of each posterior, and its log-density there."""
        found, log_q = [], []
        for k, point in enumerate(latent):
            if self.variational:
                scale = self.graph_scale if k else self.tree_scale
                std = nn.functional.softplus(scale(point)) + 1e-4
            elif self.cfg.latent_noise > 0:
                std = point.new_full((), self.cfg.latent_noise)
            else:
                found.append(point)
                continue
            sample, density = self.latents.wrapped_normal(point, std, generator)
            found.append(sample)
            log_q.append(density)
        return Latent(*found), log_q

    def sample_posterior(self, latent: Latent) -> tuple[Latent, Tensor]:
        """Latents with training noise, and the KL term per molecule (0 for point latents)."""
        kl = latent.tree.new_zeros(len(latent.tree))
        if not self.variational:
            return (self.blur(latent) if self.training else latent), kl
        sample, log_q = self._posterior(latent)
        for point, density in zip(sample, log_q, strict=True):
            kl = kl + density - self.latents.log_prob_at_origin(point, self.cfg.prior_std)
        return (sample if self.training else latent), kl

    def forward(self, batch: dict[str, Tensor]) -> AutoencoderLoss:
        """Losses of a batch."""
        latent, kl = self.sample_posterior(self.encode(batch))
        return AutoencoderLoss(self.decoder(batch, self.condition(latent)), kl)
