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
        self.joint = space.Linear(2 * self.latents.features + (cfg.faded > 0), cfg.width)
        site_kind = torch.from_numpy(vocabulary.site_kind)
        label_mass = torch.from_numpy(vocabulary.label_mass).float()
        self.decoder = Decoder(space, label_mass, site_kind, num_kinds, cfg)

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

    def condition(self, latent: Latent, fade: float | Tensor = 0.0) -> Tensor:
        """Joint point that the decoder is conditioned on, ``(B, width)``; see :meth:`blur` for `fade`."""
        if not self.cfg.faded:
            return self.joint(self.join(latent.tree, latent.graph))
        told = torch.as_tensor(fade, dtype=latent.tree.dtype, device=latent.tree.device)
        told = self.space.lift(told.expand(len(latent.tree))[:, None])
        return self.joint(self.join(latent.tree, latent.graph, told))

    def blur(
        self, latent: Latent, generator: torch.Generator | None = None, fade: float | Tensor = 0.0
    ) -> Latent:
        r"""Latents with the noise that the decoder is trained with.

        Point latents get wrapped-normal noise of fixed size: the decoder then knows what stands around a
        latent, which is where a prior's samples fall. A normal posterior has a width of its own, which is a
        function of its mean.

        Faded by :math:`f`, the posterior's mean moves to :math:`1 - f` of its way from the origin and its
        width becomes :math:`\sqrt{(1-f)^2 \sigma^2 + (1 - (1-f)^2) p^2}`, `p` being ``prior_std``: at 1
        nothing of the molecule is left but the KL term's wrapped normal. What fades first are details that
        a prior would have to get right and a decoder can make up itself, as in the conditioning augmentation
        of cascaded diffusion (arXiv:2106.15282).

        Parameters
        ----------
        latent : Latent
            Posterior means, ``(B, latent)`` each.
        generator : torch.Generator, optional
        fade : float or Tensor
            From 0 to 1; one number or ``(B,)``.
        """
        return self._posterior(latent, generator, fade)[0]

    def _posterior(
        self, latent: Latent, generator: torch.Generator | None = None, fade: float | Tensor = 0.0
    ) -> tuple[Latent, list[Tensor]]:
        """A sample of each posterior, and its log-density there."""
        fading = isinstance(fade, Tensor) or fade > 0
        found, log_q = [], []
        for k, point in enumerate(latent):
            if self.variational:
                scale = self.graph_scale if k else self.tree_scale
                std = nn.functional.softplus(scale(point)) + 1e-4
            else:
                std = point.new_full((), self.cfg.latent_noise)
            if fading:
                keep = 1 - torch.as_tensor(fade, dtype=point.dtype, device=point.device)[..., None]
                point = self.latents.exp0(keep * self.latents.log0(point))
                std = torch.sqrt((keep * std).square() + (1 - keep.square()) * self.cfg.prior_std**2)
            elif not self.variational and self.cfg.latent_noise == 0:
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
        mean = self.encode(batch)
        latent, kl = self.sample_posterior(mean)
        fade: float | Tensor = 0.0
        if self.training and self.cfg.faded:
            # The others' loss is the autoencoder's own, and the KL term is always the whole posterior's.
            count, device = len(latent.tree), latent.tree.device
            chosen = torch.rand(count, device=device) < self.cfg.faded
            fade = torch.where(chosen, torch.rand(count, device=device), 0.0)
            faded = self.blur(mean, fade=fade)
            latent = Latent(*(torch.where(chosen[:, None], a, b) for a, b in zip(faded, latent, strict=True)))
        return AutoencoderLoss(self.decoder(batch, self.condition(latent, fade)), kl)
