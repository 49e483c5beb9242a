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
from hyperkit_mol.generator.latent import WrappedNormalPrior

__all__ = ["MoleculeGenerator"]

_TABLE = 2**16  # numbers of a tensor that is stored as a table


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
        variational = config.prior == "vae" or config.model.posterior == "normal"
        self.autoencoder = Autoencoder(vocabulary, config.model, variational=variational)
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

    def save(self, folder: str | Path, *, half_tables: bool = False) -> None:
        """Write a model folder, see :mod:`hyperkit_mol.generator.checkpoint`.

        Parameters
        ----------
        folder : str or Path
        half_tables : bool
            Store tensors of 65,536 numbers and more, mostly the tables of motifs and sites, in float16:
            about half the size, for a relative error of 5e-4 at most. They are float32 again when loaded.
        """
        info = {
            "hyperkit": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            **self.info,
        }
        weights = {k: v.as_subclass(Tensor) for k, v in self.state_dict().items()}
        if half_tables:
            for key, weight in weights.items():
                if weight.numel() >= _TABLE and weight.dtype == torch.float32:
                    weights[key] = weight.half()
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
