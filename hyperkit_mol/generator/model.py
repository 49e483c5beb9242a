"""The whole generator, prior and decoder, as it is sampled from and saved."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperkit_mol import __version__
from hyperkit_mol.chem.vocabulary import Vocabulary
from hyperkit_mol.generator.autoencoder import Autoencoder, Latent
from hyperkit_mol.generator.checkpoint import CheckpointError, ModelFiles, load_model_files, save_model_files
from hyperkit_mol.generator.config import RunConfig
from hyperkit_mol.generator.gan import LatentGenerator

__all__ = ["MoleculeGenerator", "WrappedNormalPrior"]


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

    def sample(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Coordinates at the origin, ``(count, 2 features)``."""
        noise = torch.randn(count, len(self.mean), generator=generator, device=self.mean.device)
        return self.mean + noise @ self.factor.T


class MoleculeGenerator(nn.Module):
    """Prior on the latents, then the decoder.

    Parameters
    ----------
    vocabulary : Vocabulary
    config : RunConfig
        ``config.prior`` decides where latents come from.
    """

    def __init__(self, vocabulary: Vocabulary, config: RunConfig) -> None:
        super().__init__()
        self.vocabulary, self.config = vocabulary, config
        self.info: dict[str, Any] = {}
        self.autoencoder = Autoencoder(vocabulary, config.model, variational=config.prior == "vae")
        space, features = self.autoencoder.space, self.autoencoder.latents.features
        self.gan = LatentGenerator(space, config.model.latent, config.gan) if config.prior == "gan" else None
        self.normal = WrappedNormalPrior(features) if config.prior == "wrapped-normal" else None

    @torch.no_grad()
    def sample_latents(self, count: int, generator: torch.Generator | None = None) -> Latent:
        """Latents from the prior."""
        latents = self.autoencoder.latents
        if self.gan is not None:
            return self.gan(self.gan.sample_noise(count, generator))
        if self.normal is not None:
            tree, graph = self.normal.sample(count, generator).chunk(2, -1)
            return Latent(latents.exp0(tree), latents.exp0(graph))
        shape = (2, count, latents.features)
        tree, graph = torch.randn(shape, generator=generator) * self.config.model.prior_std
        return Latent(latents.exp0(tree), latents.exp0(graph))

    def save(self, folder: str | Path) -> None:
        """Write a model folder, see :mod:`hyperkit_mol.generator.checkpoint`."""
        info = {
            "hyperkit": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            **self.info,
        }
        weights = {k: v.as_subclass(Tensor) for k, v in self.state_dict().items()}
        save_model_files(Path(folder), ModelFiles(self.config, self.vocabulary, weights, info))

    @classmethod
    def load(cls, folder: str | Path) -> MoleculeGenerator:
        """Read a model folder.

        Raises
        ------
        CheckpointError
            See :func:`~hyperkit_mol.generator.checkpoint.load_model_files`; also if the weights do not fit.
        """
        files = load_model_files(folder)
        model = cls(files.vocabulary, files.config)
        try:
            model.load_state_dict(files.weights)
        except RuntimeError as err:
            raise CheckpointError(f"{folder}: the weights do not fit the configuration ({err})") from err
        model.info = files.info
        return model.eval()
