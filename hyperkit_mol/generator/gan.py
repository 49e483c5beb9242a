"""The latent GAN of arXiv:2201.12825: WGAN with a Riemannian gradient penalty along geodesics."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from hyperkit.nn import Geometry
from hyperkit_mol.generator.autoencoder import Latent
from hyperkit_mol.generator.config import GANConfig
from hyperkit_mol.generator.latent import WrappedNormalPrior

__all__ = ["LatentCritic", "LatentGenerator", "gradient_penalty"]


def _tower(space: Geometry, sizes: list[int], dropout: float) -> nn.Sequential:
    return nn.Sequential(
        *(
            space.Linear(a, b, activation="relu" if i else None, dropout=dropout)
            for i, (a, b) in enumerate(itertools.pairwise(sizes))
        )
    )


class LatentGenerator(nn.Module):
    """Noise -> a tree latent and a graph latent.

    With ``cfg.base == "normal"`` the noise first becomes a sample of the wrapped normal fitted to the
    latents, and the towers move it by a weighted Lorentzian sum. The generator then starts with the latents'
    mean and covariance right, and only what a normal distribution misses is left to learn.
    """

    def __init__(self, space: Geometry, latent: int, cfg: GANConfig) -> None:
        super().__init__()
        self.space = space
        self.noise, self.latent = cfg.noise, latent
        self.normal = WrappedNormalPrior(latent) if cfg.base == "normal" else None
        hidden = [cfg.hidden] * (cfg.depth - 1)
        width = self.noise
        if self.normal is not None:
            self.join = space.Concat()
            self.tree_move, self.graph_move = space.Residual(weight=0.1), space.Residual(weight=0.1)
            width += 2 * latent
        self.trunk = _tower(space, [width, *hidden[:1]], 0.0)
        sizes = [hidden[0] if hidden else width, *hidden[1:], latent]
        self.tree = _tower(space, sizes, 0.0)
        self.graph = _tower(space, sizes, 0.0)

    def sample_noise(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal noise, ``(count, noise)``, with ``2 latent`` more columns for the fitted normal."""
        device = next(self.parameters()).device
        width = self.noise + (2 * self.latent if self.normal is not None else 0)
        return torch.randn(count, width, generator=generator, device=device)

    def forward(self, noise: Tensor) -> Latent:
        """Noise -> latents."""
        # Unit standard deviation would put all noise at radius sqrt(n), where HLinear saturates.
        free = self.space.lift(noise[:, : self.noise] / self.noise**0.5)
        if self.normal is None:
            x = self.trunk(free)
            return Latent(self.tree(x), self.graph(x))
        tree, graph = (self.space.lift(v) for v in self.normal(noise[:, self.noise :]).chunk(2, -1))
        x = self.trunk(self.join(free, tree, graph))
        return Latent(self.tree_move(tree, self.tree(x)), self.graph_move(graph, self.graph(x)))


class LatentCritic(nn.Module):
    """Latents -> a score, joint over the two latents as in the paper (the released code has two critics)."""

    def __init__(self, space: Geometry, latent: int, cfg: GANConfig) -> None:
        super().__init__()
        width, hidden = latent, cfg.hidden
        depth = max(1, cfg.depth - 1)
        self.tree = _tower(space, [width, *[hidden] * depth], cfg.dropout)
        self.graph = _tower(space, [width, *[hidden] * depth], cfg.dropout)
        self.join = space.Concat()
        self.head = space.Linear(2 * hidden, hidden, activation="relu")
        self.out = space.MLR(hidden, 1)

    def forward(self, latent: Latent) -> Tensor:
        """Scores, ``(B,)``."""
        return self.out(self.head(self.join(self.tree(latent.tree), self.graph(latent.graph))))[:, 0]


def gradient_penalty(space: Geometry, critic: nn.Module, real: Latent, fake: Latent) -> Tensor:
    r"""Mean of :math:`(\|\nabla D(\hat x)\| - 1)^2` at points on the geodesics from real to fake.

    The gradient is the Riemannian one on the product of the two latent manifolds (Proposition 3.1).
    """
    t = torch.rand(len(real.tree), device=real.tree.device)
    middle = Latent(
        *(space.geodesic(t, a, b).detach().requires_grad_() for a, b in zip(real, fake, strict=True))
    )
    score = critic(middle).sum()
    grads = torch.autograd.grad(score, list(middle), create_graph=True)
    squared = sum(space.riemannian_grad_norm(x, g).square() for x, g in zip(middle, grads, strict=True))
    assert isinstance(squared, Tensor)
    return ((squared + 1e-12).sqrt() - 1).square().mean()
