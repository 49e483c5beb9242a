"""The Lightning callback: it logs, chooses checkpoints, and leaves training as it was."""

import json

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from moses_molecules import drawn
from torch.utils.data import DataLoader

from hyperkit_mol.moses.callback import MosesCallback

pytestmark = pytest.mark.moses


class Tiny(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.losses = []

    def training_step(self, batch, _):
        loss = (self.layer(batch) - torch.rand(1)).square().mean()
        self.losses.append(float(loss))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def sample(module, n):
    assert not module.training
    assert not torch.is_grad_enabled()
    torch.rand(100)  # sampling draws random numbers
    return [*drawn("train", n - 1), "not a molecule"]


def fit(tmp_path, callbacks):
    pl.seed_everything(1, verbose=False)
    module = Tiny()
    trainer = pl.Trainer(
        max_epochs=2, callbacks=callbacks, accelerator="cpu", logger=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=bool(callbacks),
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.ones(8, 1), batch_size=4))
    return trainer, module


def test_callback(tmp_path):
    callback = MosesCallback(
        sample, n=20, every_n_epochs=2, metrics=["valid", "unique", "SNN/Test"], out_dir=tmp_path / "moses"
    )
    best = ModelCheckpoint(dirpath=tmp_path, monitor="moses/SNN/Test", mode="max", every_n_epochs=2)
    trainer, module = fit(tmp_path, [callback, best])
    assert callback.report is not None
    assert trainer.callback_metrics["moses/valid"] == pytest.approx(0.95)
    assert best.best_model_score == pytest.approx(callback.report.metrics["SNN/Test"], abs=1e-6)
    names = sorted(path.name for path in (tmp_path / "moses").iterdir())
    assert names == ["moses-epoch=1.html", "moses-epoch=1.json"]
    assert json.loads((tmp_path / "moses" / names[1]).read_text())["source"] == "epoch 1"
    assert module.training
    _, alone = fit(tmp_path, [])
    assert module.losses == alone.losses


def test_callback_without_valid_molecules(tmp_path):
    callback = MosesCallback(lambda module, n: ["xx"] * n, n=3, metrics=["valid", "FCD/Test"], n_jobs=1)
    trainer, _ = fit(tmp_path, [callback])
    assert trainer.callback_metrics["moses/valid"] == 0
    assert "moses/FCD/Test" not in trainer.callback_metrics
    with pytest.raises(ValueError, match="n must be >= 1, got 0"):
        MosesCallback(sample, n=0)
