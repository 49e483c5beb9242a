"""Probability on the latent manifold: wrapped normals and their densities, in both geometries."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hyperkit.nn import Geometry

__all__ = ["LatentSpace", "WrappedNormalPrior"]


class LatentSpace:
    """A latent manifold of `features` dimensions.

    Wrapped normal of Nagano et al. (arXiv:1902.02992): a tangent vector at the origin, transported to the
    mean, then the exponential map. In Euclidean space it is the normal distribution.
    """

    def __init__(self, space: Geometry, features: int) -> None:
        self.space, self.features = space, features
        self.curved = space.is_lorentz
        self.c = float(space.manifold.c) if self.curved else 0.0

    def _at_origin(self, vector: Tensor) -> Tensor:
        """Coordinates at the origin -> ambient tangent vector."""
        return torch.cat([torch.zeros_like(vector[..., :1]), vector], -1) if self.curved else vector

    def exp0(self, vector: Tensor) -> Tensor:
        """Exponential map at the origin of coordinates ``(*, features)``."""
        return self.space.lift(vector)

    def log0(self, point: Tensor) -> Tensor:
        """Coordinates ``(*, features)`` of the logarithmic map at the origin."""
        return self.space.logmap0(point)[..., 1:] if self.curved else point

    def _log_det(self, radius: Tensor) -> Tensor:
        """log of (sinh r / r)^(n-1) at unit curvature, by series near 0."""
        r2 = radius.square()
        # log(sinh r / r) = r + log1p(-exp(-2r)) - log(2r); the series' next term is below 1e-8 at 0.05.
        small = r2 / 6 - r2.square() / 180
        r = radius.clamp(min=0.05)
        return (self.features - 1) * torch.where(
            radius < 0.05, small, r + torch.log(-torch.expm1(-2 * r)) - torch.log(2 * r)
        )

    def _log_normal(self, vector: Tensor, std: Tensor) -> Tensor:
        std = std.expand(vector.shape)
        return (-0.5 * (vector / std).square() - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def _radius(self, vector: Tensor) -> Tensor:
        # The square root's derivative at 0 is infinite; the log-determinant is even in r and its own is 0.
        return torch.sqrt(self.c * vector.square().sum(-1) + 1e-12)

    def wrapped_normal(
        self, mean: Tensor, std: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Reparametrised sample around `mean` and its log-density there."""
        shape = (*mean.shape[:-1], self.features)
        vector = torch.randn(shape, generator=generator, device=mean.device, dtype=mean.dtype) * std
        log_q = self._log_normal(vector, std)
        if not self.curved:
            return mean + vector, log_q
        manifold = self.space.manifold
        sample = manifold.expmap(mean, manifold.transp0(mean, self._at_origin(vector)))
        return sample, log_q - self._log_det(self._radius(vector))

    def log_prob_at_origin(self, point: Tensor, std: float) -> Tensor:
        """Log-density of the wrapped normal of `std` at the origin."""
        vector = self.log0(point)
        log_p = self._log_normal(vector, vector.new_tensor(std))
        return log_p - self._log_det(self._radius(vector)) if self.curved else log_p


class WrappedNormalPrior(nn.Module):
    """A wrapped normal fitted to latents: full covariance in the tangent space at the origin.

    Both latents are fitted jointly, so that what the tree and the graph latent share is kept.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * features))
        self.register_buffer("factor", torch.eye(2 * features))
        self.mean: Tensor
        self.factor: Tensor

    def fit(self, vectors: Tensor) -> None:
        """Fit to the latents' coordinates at the origin, ``(N, 2 features)``."""
        vectors = vectors.double()
        self.mean.copy_(vectors.mean(0))
        centred = vectors - vectors.mean(0)
        cov = centred.T @ centred / max(1, len(vectors) - 1)
        # The ridge makes the factor exist where fewer molecules than dimensions were seen.
        cov += torch.eye(len(cov), dtype=cov.dtype) * (1e-6 * cov.diagonal().mean() + 1e-12)
        self.factor.copy_(torch.linalg.cholesky(cov))

    def forward(self, noise: Tensor) -> Tensor:
        """Standard normal noise ``(*, 2 features)`` -> coordinates at the origin of the same shape."""
        return self.mean + noise @ self.factor.T

    def sample(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Coordinates at the origin, ``(count, 2 features)``."""
        return self(torch.randn(count, len(self.mean), generator=generator, device=self.mean.device))
