"""The latent GAN of arXiv:2201.12825: WGAN with a Riemannian gradient penalty along geodesics."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from hyperkit.nn import Geometry
from hyperkit_mol.generator.autoencoder import Latent
from hyperkit_mol.generator.config import GANConfig

__all__ = ["LatentCritic", "LatentGenerator", "gradient_penalty"]


def _tower(space: Geometry, sizes: list[int], dropout: float) -> nn.Sequential:
    return nn.Sequential(
        *(
            space.Linear(a, b, activation="relu" if i else None, dropout=dropout)
            for i, (a, b) in enumerate(itertools.pairwise(sizes))
        )
    )


class LatentGenerator(nn.Module):
    """Noise from the wrapped normal -> a tree latent and a graph latent."""

    def __init__(self, space: Geometry, latent: int, cfg: GANConfig) -> None:
        super().__init__()
        self.space = space
        self.noise = cfg.noise
        hidden = [cfg.hidden] * (cfg.depth - 1)
        self.trunk = _tower(space, [self.noise, *hidden[:1]], 0.0)
        sizes = [hidden[0] if hidden else self.noise, *hidden[1:], latent]
        self.tree = _tower(space, sizes, 0.0)
        self.graph = _tower(space, sizes, 0.0)

    def sample_noise(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Wrapped-normal noise at the origin, ``(count, noise)``."""
        device = next(self.parameters()).device
        vector = torch.randn(count, self.noise, generator=generator, device=device)
        # Unit standard deviation would put all noise at radius sqrt(n), where HLinear saturates.
        return self.space.lift(vector / self.noise**0.5)

    def forward(self, noise: Tensor) -> Latent:
        """Noise -> latents."""
        x = self.trunk(noise)
        return Latent(self.tree(x), self.graph(x))


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
