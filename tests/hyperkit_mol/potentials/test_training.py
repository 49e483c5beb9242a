"""Training, resuming, model folders and the verbs of the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from potential_case import acid, build
from rich.console import Console
from typer.testing import CliRunner

from hyperkit_mol.potentials import DataError, ModelError, load_config, load_potential, save_potential
from hyperkit_mol.potentials.cli import app
from hyperkit_mol.potentials.config import MODELS, PRESETS, ConfigError
from hyperkit_mol.potentials.errors import TrainingError
from hyperkit_mol.potentials.pipeline import evaluate, train
from hyperkit_mol.runs import RunError

pytest.importorskip("ase", reason="training needs ASE (the extra `potentials`)")
pytest.importorskip("vesin", reason="training needs vesin (the extra `potentials`)")

SMALL: dict[str, Any] = {
    "model.width": 16,
    "model.layers": 1,
    "model.heads": 2,
    "training.batch_size": 4,
    "training.warmup": 2,
    "training.save_every": 4,
    "training.validate_every": 4,
    "training.lr": 0.01,
    "data.validation": 8,
}
QUIET = Console(quiet=True)


def config(data: Path, model: str = "escaip", **settings: Any) -> Any:
    return load_config("small", model, SMALL | {"data.train": str(data), "training.steps": 12} | settings)


def losses(folder: Path) -> dict[int, dict[str, str]]:
    with (folder / "metrics.csv").open() as stream:
        return {int(row["step"]): row for row in csv.DictReader(stream)}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_potential(folder / "model").state_dict()


@pytest.mark.parametrize("model", MODELS)
def test_resume_goes_on_to_the_same_bits(
    extxyz: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = config(extxyz, model)
    train(whole, tmp_path / "whole", console=QUIET)

    from hyperkit_mol.potentials.training import PotentialTraining

    step = PotentialTraining.training_step

    def interrupted(self: PotentialTraining, batch: Any, index: int) -> Any:
        if self.step == 10:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(PotentialTraining, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(whole, tmp_path / "parts", console=QUIET)
    assert torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)["step"] == 8
    monkeypatch.setattr(PotentialTraining, "training_step", step)
    train(whole, tmp_path / "parts", resume=True, console=QUIET)

    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    # A third call has nothing to do and must not spoil anything.
    before = json.loads((tmp_path / "parts" / "model" / "potential.json").read_text())["info"]["metrics"]
    train(whole, tmp_path / "parts", resume=True, console=QUIET)
    assert all(torch.equal(v, b[k]) for k, v in weights(tmp_path / "parts").items())
    after = json.loads((tmp_path / "parts" / "model" / "potential.json").read_text())["info"]["metrics"]
    assert before == after


@pytest.mark.parametrize("settings", [{}, {"model.forces": "direct"}, {"model.attention": "lorentz"}])
def test_it_learns(extxyz: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    steps = {"training.steps": 150, "training.save_every": 50, "training.validate_every": 150}
    found = train(config(extxyz, **steps, **settings), tmp_path / "run", console=QUIET)
    read = evaluate(found.model, extxyz)
    # Zero forces would give 490 meV/Å, the mean energy of the frames about 300 meV.
    assert read.structures == 43
    assert read.force_rmse < 200
    assert read.energy_rmse < 200


def test_the_transformer_learns(extxyz: Path, tmp_path: Path) -> None:
    steps = {"training.steps": 150, "training.save_every": 150, "training.rotate": False}
    found = train(config(extxyz, "transformer", **steps), tmp_path / "run", console=QUIET)
    assert evaluate(found.model, extxyz).force_rmse < 400


def test_float64_and_least_squares(extxyz: Path, tmp_path: Path, frames: list[Any]) -> None:
    import ase.io

    path = tmp_path / "only.xyz"
    ase.io.write(path, ase.io.read(extxyz, index="3:"), format="extxyz")
    found = train(
        config(path, **{"training.dtype": "float64", "training.steps": 2}), tmp_path / "run", console=QUIET
    )
    model = load_potential(found.model)
    assert model.dtype == torch.float64
    assert model.normalization.shift == pytest.approx(0.0, abs=1e-6)


def test_max_time_stops_and_saves(extxyz: Path, tmp_path: Path) -> None:
    long = config(extxyz, **{"training.steps": 100_000})
    found = train(long, tmp_path / "run", max_seconds=2.0, console=QUIET)
    steps = load_potential(found.model).info["steps"]
    assert 0 < steps < 100_000
    assert "val/force_rmse" in found.metrics


def test_a_folder_with_another_run_is_left_alone(extxyz: Path, tmp_path: Path) -> None:
    one = config(extxyz, **{"training.steps": 2})
    with pytest.raises(RunError, match="no run to resume"):
        train(one, tmp_path / "run", resume=True, console=QUIET)
    train(one, tmp_path / "run", console=QUIET)
    with pytest.raises(RunError, match="already holds a run"):
        train(one, tmp_path / "run", console=QUIET)
    with pytest.raises(RunError, match=r"another configuration: training.steps \(2 -> 3\)"):
        train(config(extxyz, **{"training.steps": 3}), tmp_path / "run", resume=True, console=QUIET)
    (tmp_path / "run" / "last.ckpt").write_bytes(b"x" * 100)
    with pytest.raises(RunError, match="damaged checkpoint"):
        train(one, tmp_path / "run", resume=True, console=QUIET)


def test_a_loss_that_is_not_finite_stops_the_run(extxyz: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss became .*lower training\.lr"):
        train(config(extxyz, **{"training.lr": 1e20, "training.steps": 20}), tmp_path / "run", console=QUIET)


def test_elements_only_in_validation_are_refused(extxyz: Path, tmp_path: Path) -> None:
    import ase.io
    from ase import Atoms

    strange = Atoms("SiH", [[0, 0, 0], [1.5, 0, 0]], info={"energy": 0.0})
    strange.arrays["forces"] = np.zeros((2, 3))
    ase.io.write(tmp_path / "held.xyz", strange, format="extxyz")
    settings = config(extxyz, **{"data.validation": str(tmp_path / "held.xyz")})
    with pytest.raises(ModelError, match="does not know Si"):
        train(settings, tmp_path / "run", console=QUIET)


def test_a_mistake_does_not_occupy_the_folder(extxyz: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data"):
        train(load_config(), tmp_path / "run", console=QUIET)
    with pytest.raises(DataError, match="no such file"):
        train(config(tmp_path / "typo.xyz"), tmp_path / "run", console=QUIET)
    assert list((tmp_path / "run").iterdir()) == []
    train(config(extxyz, **{"training.steps": 1}), tmp_path / "run", console=QUIET)


# ---- model folders ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_a_saved_model_is_the_same(tmp_path: Path, kind: str) -> None:
    model = build(kind=kind)
    save_potential(tmp_path / "m", model, {"note": "hello"})
    again = load_potential(tmp_path / "m")
    e, f = model(model.prepare([acid()])), again(again.prepare([acid()]))
    assert torch.equal(e.energy, f.energy)
    assert torch.equal(e.forces, f.forces)
    assert again.info == {"note": "hello"}
    assert again.normalization == model.normalization
    assert load_potential(tmp_path / "m", dtype=torch.float32).dtype == torch.float32
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_bad_model_folders(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    with pytest.raises(ModelError, match="no such model folder"):
        load_potential(folder)
    save_potential(folder, build())
    document = (folder / "potential.json").read_text()
    for text, message in (
        (document.replace("hyperkit-potential/1", "other/9"), "format 'other/9'"),
        (document[:50], "damaged"),
        (document.replace('"width": 16', '"width": 32'), "belong to another model"),
    ):
        (folder / "potential.json").write_text(text)
        with pytest.raises(ModelError, match=message):
            load_potential(folder)
    (folder / "potential.json").write_text(document)
    (folder / "weights.safetensors").write_bytes(b"0" * 64)
    with pytest.raises(ModelError, match="truncated or damaged"):
        load_potential(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"weights\.safetensors is missing"):
        load_potential(folder)


# ---- configuration and command line ---------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_load(preset: str, model: str) -> None:
    assert load_config(preset, model).model.kind == model


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.witdh": 3}, "model.witdh: no such key; known here: attention"),
        ({"model.heads": 5}, "heads must divide width"),
        ({"model.degrees": 5}, "degrees must divide width/heads"),
        ({"training.lr": -1}, "training.lr: .*greater than 0, got -1"),
        ({"model.kind": "gnn"}, "model.kind"),
    ],
)
def test_wrong_settings_are_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("small", overrides=overrides)


def test_unknown_preset_and_model() -> None:
    with pytest.raises(ConfigError, match="neither a preset"):
        load_config("huge")
    with pytest.raises(ConfigError, match="model must be one of escaip, transformer"):
        load_config("small", "mace")


def test_verbs(extxyz: Path, tmp_path: Path) -> None:
    run, settings = CliRunner(), [f"--set={k}={v}" for k, v in SMALL.items()]
    arguments = ["train", "--data", str(extxyz), "-o", str(tmp_path / "run"), "--steps", "4", *settings]
    first = run.invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "isolated atoms" in first.output
    assert "meV/Å" in first.output
    again = run.invoke(app, arguments)
    assert again.exit_code == 1
    resumed = run.invoke(app, ["train", "-o", str(tmp_path / "run"), "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert "already done" in resumed.output

    figures = tmp_path / "figures.json"
    model = str(tmp_path / "run" / "model")
    found = run.invoke(app, ["evaluate", model, str(extxyz), "-o", str(figures)])
    assert found.exit_code == 0, found.output
    assert json.loads(figures.read_text())[str(extxyz)]["structures"] == 43

    smiles = tmp_path / "molecules.smi"
    smiles.write_text("CC(=O)O\nnot-a-smiles\nCCl\n")
    found = run.invoke(
        app, ["relax", str(smiles), "--model", model, "-o", str(tmp_path / "out.sdf"), "--max-steps", "3"]
    )
    assert found.exit_code == 0, found.output
    assert "1 relaxed structures" in found.output
    assert "line 2" in found.output
    assert "does not know Cl" in found.output
