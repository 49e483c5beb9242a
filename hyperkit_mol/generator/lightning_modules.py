"""The two Lightning modules: autoencoder, then latent GAN. Every step is a function of (seed, step)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import lightning as L
import numpy.typing as npt
import torch
from torch import Tensor

from hyperkit.optim import RiemannianAdam
from hyperkit_mol.chem.prepare import TreeDataset, cpu_count
from hyperkit_mol.generator.autoencoder import Autoencoder, Latent
from hyperkit_mol.generator.config import RunConfig
from hyperkit_mol.generator.gan import LatentCritic, LatentGenerator, gradient_penalty
from hyperkit_mol.generator.latent import LatentSpace
from hyperkit_mol.generator.stream import BatchStream, batches_of

__all__ = ["AutoencoderTraining", "GANTraining"]

_VALIDATION_BATCH = 512


class _SteppedModule(L.LightningModule):
    """A module whose randomness and data depend on its own count of finished steps only.

    A Lightning epoch is one block of ``save_every`` steps, so that checkpoints fall between epochs.
    """

    def __init__(self, seed: int, steps: int, block: int) -> None:
        super().__init__()
        self.seed, self.steps, self.block = seed, steps, min(block, steps)
        self.step = 0

    @property
    def blocks(self) -> int:
        """Lightning epochs of the whole training."""
        return math.ceil(self.steps / self.block)

    @property
    def block_end(self) -> int:
        """Step at which the current block ends."""
        return min(self.steps, (self.step // self.block + 1) * self.block)

    def seed_step(self) -> None:
        """Seed torch for the step that is about to run."""
        torch.manual_seed((self.seed * 1_000_003 + self.step) * 64 + self.global_rank)

    def on_train_batch_end(self, *_: Any) -> None:
        self.step += 1

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["step"] = self.step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.step = checkpoint["step"]


class _Counted(Iterable[Any]):
    """The rest of a block, begun where the module stands when it is iterated."""

    def __init__(self, module: _SteppedModule, stream: BatchStream | None) -> None:
        self.module, self.stream = module, stream
        self.length = module.block_end - module.step // module.block * module.block

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        begin, end = self.module.step, self.module.block_end
        if self.stream is None:
            return iter(range(begin, end))
        on_cpu = self.module.device.type == "cpu"  # where all processors are busy with the model itself
        workers = 0 if on_cpu else (cpu_count() - 1) // self.module.trainer.num_devices
        return self.stream.section(begin, end, max(0, min(8, workers)))


class _Validation(Iterable[Any]):
    """The validation molecules, by size; not a list, which Lightning would take for several data sets."""

    def __init__(self, data: TreeDataset, index: npt.NDArray[Any]) -> None:
        self.data, self.index = data, index

    def __len__(self) -> int:
        return math.ceil(len(self.index) / _VALIDATION_BATCH)

    def __iter__(self) -> Any:
        return (batch for _, batch in batches_of(self.data, self.index, _VALIDATION_BATCH))


class AutoencoderTraining(_SteppedModule):
    """Trains the autoencoder by teacher forcing."""

    def __init__(
        self,
        model: Autoencoder,
        config: RunConfig,
        data: TreeDataset,
        train: npt.NDArray[Any],
        held: npt.NDArray[Any],
    ) -> None:
        cfg = config.autoencoder
        super().__init__(config.seed, cfg.steps, cfg.save_every)
        self.model, self.config, self.data = model, config, data
        self.train_index, self.held_index = train, held
        self.before = 0  # steps that the autoencoder was trained for in an earlier run
        self._stream: BatchStream | None = None

    @property
    def kl_weight(self) -> float:
        """Weight of the KL term at this step."""
        if not self.model.variational:
            return 0.0
        rise = self.config.autoencoder.kl_warmup
        return self.config.model.kl_weight * min(1.0, (self.step + 1) / rise if rise else 1.0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["vocabulary"] = self.data.vocabulary.digest
        checkpoint["before"] = self.before

    def train_dataloader(self) -> Any:
        if self._stream is None:
            self._stream = BatchStream(
                self.data,
                self.train_index,
                batch_size=self.config.autoencoder.batch_size,
                seed=self.seed,
                rank=self.global_rank,
                world=self.trainer.world_size,
                by_size=self.config.autoencoder.by_size,
            )
        return _Counted(self, self._stream)

    def val_dataloader(self) -> Any:
        return _Validation(self.data, self.held_index)

    def configure_optimizers(self) -> Any:
        cfg = self.config.autoencoder
        optimizer = RiemannianAdam(self.model.parameters(), lr=cfg.lr, betas=cfg.betas)

        def factor(step: int) -> float:
            if step < cfg.warmup:
                return (step + 1) / cfg.warmup
            part = min(1.0, (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup))
            return cfg.final_lr + (1 - cfg.final_lr) * 0.5 * (1 + math.cos(math.pi * part))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, _: int) -> Any:
        return {k: v.to(device, non_blocking=True) for k, v in batch.items()}

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        self.seed_step()
        found = self.model(batch)
        loss = found.total(self.kl_weight)
        self._report("train", found, loss, len(batch["size"]))
        return loss

    def on_validation_start(self) -> None:
        torch.manual_seed(self.seed)

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        found = self.model(batch)
        self._report("val", found, found.total(self.kl_weight), len(batch["size"]))

    def _report(self, stage: str, found: Any, loss: Tensor, count: int) -> None:
        values = {
            "loss": loss.detach(),
            "label_nll": found.reconstruction.label.detach().mean(),
            "site_nll": found.reconstruction.site.detach().mean(),
            "label_accuracy": found.reconstruction.label_right.mean(),
            "reconstruction": found.reconstruction.exact.mean(),
        }
        if self.model.variational:
            values["kl"] = found.kl.detach().mean()
        named = {f"{stage}/{k}": v for k, v in values.items()}
        self.log_dict(named | {"step": float(self.step)}, batch_size=count, sync_dist=stage == "val")


class GANTraining(_SteppedModule):
    """Trains the latent GAN; one step is ``critic_steps`` critic updates and one generator update."""

    def __init__(
        self, generator: LatentGenerator, autoencoder: Autoencoder, real: Latent, config: RunConfig
    ) -> None:
        cfg = config.gan
        super().__init__(config.seed + 7919, cfg.steps, cfg.save_every)
        self.automatic_optimization = False
        self.config, self.real = config, real
        self.generator = generator
        # A bound method, not the module: the autoencoder is no part of this training's checkpoint.
        self._blur = partial(autoencoder.blur, fade=config.fade)
        self.latents = LatentSpace(generator.space, config.model.latent)
        if generator.normal is not None:
            torch.manual_seed(self.seed)
            fitted = self._real(torch.arange(len(real.tree)))
            generator.normal.fit(torch.cat([self.latents.log0(x) for x in fitted], -1))
        self.average = copy.deepcopy(generator).requires_grad_(False)
        self.critic = LatentCritic(generator.space, config.model.latent, cfg)

    def train_dataloader(self) -> Any:
        return _Counted(self, None)

    def configure_optimizers(self) -> Any:
        cfg = self.config.gan

        def adam(module: torch.nn.Module) -> RiemannianAdam:
            return RiemannianAdam(module.parameters(), lr=cfg.lr, betas=cfg.betas)

        return [adam(self.critic), adam(self.generator)]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, _: int) -> Any:
        return batch

    def _real(self, rows: Tensor) -> Latent:
        """Latents with the noise that the decoder was trained with.

        Points alone lie on a thin shell, which a generator meets only slowly; with the noise they fill
        space, and the decoder reads them as well.
        """
        with torch.no_grad():
            return self._blur(Latent(*(x[rows].to(self.device) for x in self.real)))

    def training_step(self, batch: Any, _: int) -> None:
        cfg, space = self.config.gan, self.generator.space
        self.seed_step()
        critic_opt, generator_opt = self.optimizers()  # pyright: ignore[reportGeneralTypeIssues]
        # Set from the step, not by a scheduler, whose state would have to be resumed as well.
        left = (self.steps - self.step) / max(1.0, cfg.decay * self.steps)
        for optimizer in (critic_opt, generator_opt):
            for group in optimizer.param_groups:
                group["lr"] = cfg.lr * min(1.0, left)
        gap = penalty = torch.zeros(())
        for _ in range(cfg.critic_steps):
            rows = torch.randint(len(self.real.tree), (cfg.batch_size,))
            real = self._real(rows)
            with torch.no_grad():
                fake = self.generator(self.generator.sample_noise(cfg.batch_size))
            gap = self.critic(real).mean() - self.critic(fake).mean()
            penalty = gradient_penalty(space, self.critic, real, fake)
            critic_opt.zero_grad()
            self.manual_backward(cfg.penalty * penalty - gap)
            critic_opt.step()
        self.critic.requires_grad_(False)
        fake = self.generator(self.generator.sample_noise(cfg.batch_size))
        loss = -self.critic(fake).mean()
        generator_opt.zero_grad()
        self.manual_backward(loss)
        generator_opt.step()
        self.critic.requires_grad_(True)
        # The average starts as the mean of what there is: with a fixed decay it would remember its start.
        decay = min(cfg.ema, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        self.log_dict(
            {
                "gan/wasserstein": gap.detach(),
                "gan/penalty": penalty.detach(),
                "gan/generator": loss.detach(),
                "step": float(self.step),
            }
        )
