"""An autoencoder that is taken over from another run; one run to a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from generator_case import QUIET, losses, run, small_config, weights

from hyperkit_mol.generator import lightning_modules
from hyperkit_mol.generator.checkpoint import load_model_files
from hyperkit_mol.generator.config import ConfigError, load_config
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.generator.pipeline import load_data
from hyperkit_mol.generator.sampling import Sampler
from hyperkit_mol.generator.stream import batches_of
from hyperkit_mol.generator.takeover import take_autoencoder
from hyperkit_mol.runs import RunError, sole_owner


def test_a_prior_is_trained_on_the_autoencoder_of_another_run(
    finished: Path, smiles_file: Path, tmp_path: Path
) -> None:
    """From the model folder, and from the checkpoint of a run that has no model yet."""
    unfinished = tmp_path / "unfinished"
    (unfinished / "autoencoder").mkdir(parents=True)
    checkpoint = finished / "autoencoder" / "last.ckpt"
    (unfinished / "autoencoder" / "last.ckpt").write_bytes(checkpoint.read_bytes())
    whole = {k: v for k, v in weights(finished / "model").items() if k.startswith("autoencoder.")}
    for number, source in enumerate((finished / "model", finished, unfinished)):
        config = small_config(
            data__source=str(smiles_file), autoencoder_from=str(source), prior="wrapped-normal"
        )
        output = tmp_path / f"second-{number}"
        model = run(config, output)
        assert not (output / "autoencoder").exists()
        assert all(torch.equal(v, whole[k]) for k, v in weights(model).items() if k in whole)
        assert weights(model)["normal.mean"].abs().sum() > 0
        assert MoleculeGenerator.load(model).info["autoencoder_steps"] == 12


def test_finetuning_gives_a_point_autoencoder_a_normal_posterior(
    finished: Path, smiles_file: Path, tmp_path: Path
) -> None:
    config = small_config(
        data__source=str(smiles_file),
        autoencoder_from=str(finished),
        finetune=True,
        model__posterior="normal",
        model__kl_weight=0.5,
        autoencoder__kl_warmup=8,
        autoencoder__lr=1e-3,
    )
    output = tmp_path / "tuned"
    model = run(config, output)
    loaded = MoleculeGenerator.load(model)
    assert loaded.autoencoder.variational
    assert loaded.info["autoencoder_steps"] == 24
    # The widths moved from where they all begin.
    assert loaded.autoencoder.tree_scale.weight.detach().abs().sum() > 0
    rows = [row for row in losses(output, "autoencoder") if row["val/kl"]]
    assert len(rows) == 3
    assert all(float(row["val/kl"]) > 0 for row in rows)


def test_finetuning_tells_a_decoder_the_mass(finished: Path, smiles_file: Path, tmp_path: Path) -> None:
    """Before the first step nothing has changed; afterwards the mass counts."""
    source = MoleculeGenerator.load(finished / "model")
    config = small_config(
        data__source=str(smiles_file), autoencoder_from=str(finished), finetune=True, model__mass=True
    )
    fresh = MoleculeGenerator(source.vocabulary, config).eval()
    take_autoencoder(fresh, finished)
    latent = source.sample_latents(20, torch.Generator().manual_seed(0))
    trees = [Sampler(m).decode(latent, torch.Generator().manual_seed(0)).label for m in (source, fresh)]
    assert (trees[0] == trees[1]).all()
    tuned = MoleculeGenerator.load(run(config, tmp_path / "tuned"))
    assert tuned.autoencoder.decoder.mass.out.weight.abs().max() > 0  # type: ignore[union-attr]


def test_finetuning_makes_a_decoder_deeper(finished: Path, smiles_file: Path, tmp_path: Path) -> None:
    """Before the first step the likelihoods are nearly the same; a block of full weight would change them."""
    source = MoleculeGenerator.load(finished / "model")
    layers = source.config.model.decoder_layers + 2
    config = small_config(
        data__source=str(smiles_file),
        autoencoder_from=str(finished),
        finetune=True,
        model__decoder_layers=layers,
    )
    fresh = MoleculeGenerator(source.vocabulary, config).eval()
    take_autoencoder(fresh, finished)
    data = load_data(config, QUIET, 1, tmp_path / "cache")
    ((_, batch),) = batches_of(data, np.arange(40), 40)
    with torch.no_grad():
        old, new = (m.autoencoder(batch).reconstruction.label for m in (source, fresh))
        torch.testing.assert_close(new, old, rtol=0.1, atol=0)
        for name, weight in fresh.named_parameters():
            if name.endswith("log_weight") and f".blocks.{layers - 1}." in name:
                weight.fill_(0.0)
        full = fresh.autoencoder(batch).reconstruction.label
    assert ((full - old).abs() / old).max() > 0.3
    tuned = MoleculeGenerator.load(run(config, tmp_path / "tuned"))
    assert len(tuned.autoencoder.decoder.blocks) == layers
    assert tuned.info["autoencoder_steps"] == 24


def test_tables_stored_in_half_precision(finished: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("hyperkit_mol.generator.model._TABLE", 1000)
    source = MoleculeGenerator.load(finished / "model")
    source.save(tmp_path / "half", half_tables=True)
    stored = load_model_files(tmp_path / "half").weights
    assert {torch.float16, torch.float32} <= {v.dtype for v in stored.values()}
    back = MoleculeGenerator.load(tmp_path / "half")
    for name, value in back.state_dict().items():
        assert value.dtype == source.state_dict()[name].dtype
        torch.testing.assert_close(value, source.state_dict()[name], rtol=5e-4, atol=1e-7)
    size = [(f / "weights.safetensors").stat().st_size for f in (finished / "model", tmp_path / "half")]
    assert size[1] < 0.8 * size[0]
    # A run can begin from it.
    take_autoencoder(MoleculeGenerator(back.vocabulary, back.config), tmp_path / "half")


def test_the_weight_of_the_kl_term_rises(data, tmp_path: Path) -> None:
    config = small_config(model__posterior="normal", model__kl_weight=0.2, autoencoder__kl_warmup=4)
    model = MoleculeGenerator(data.vocabulary, config)
    stage = lightning_modules.AutoencoderTraining(model.autoencoder, config, data, [0], [0])  # type: ignore[arg-type]
    found = []
    for step in (0, 1, 3, 100):
        stage.step = step
        found.append(stage.kl_weight)
    assert found == pytest.approx([0.05, 0.1, 0.2, 0.2])
    point = MoleculeGenerator(data.vocabulary, small_config())
    stage = lightning_modules.AutoencoderTraining(point.autoencoder, config, data, [0], [0])  # type: ignore[arg-type]
    assert stage.kl_weight == 0.0


def test_an_autoencoder_that_does_not_fit_is_refused(
    finished: Path, smiles_file: Path, tmp_path: Path, moses_sample: list[str]
) -> None:
    other = tmp_path / "other.smi"
    other.write_text("\n".join(moses_sample[900:1300]) + "\n")
    broken = tmp_path / "broken"
    (broken / "autoencoder").mkdir(parents=True)
    (broken / "autoencoder" / "last.ckpt").write_bytes(b"not a checkpoint")
    cases = (
        ({"autoencoder_from": str(tmp_path / "nothing")}, "neither a model folder nor a run"),
        ({"autoencoder_from": str(broken)}, "damaged checkpoint"),
        ({"autoencoder_from": str(finished), "model__width": 48}, "does not fit the configuration"),
        ({"autoencoder_from": str(finished), "data__source": str(other)}, "another vocabulary"),
    )
    for number, (changes, said) in enumerate(cases):
        config = small_config(**({"data__source": str(smiles_file)} | changes))
        with pytest.raises(RunError, match=said):
            run(config, tmp_path / f"refused-{number}")


def test_steps_of_earlier_runs_are_counted(finished: Path, smiles_file: Path, tmp_path: Path) -> None:
    """Also where the run that was gone on with is itself not finished yet."""
    config = small_config(data__source=str(smiles_file), autoencoder_from=str(finished), finetune=True)
    output = tmp_path / "second"
    run(config, output)
    (output / "model" / "model.json").unlink()  # only its checkpoint is left
    third = small_config(data__source=str(smiles_file), autoencoder_from=str(output), prior="wrapped-normal")
    assert MoleculeGenerator.load(run(third, tmp_path / "third")).info["autoencoder_steps"] == 24


def test_finetune_needs_something_to_go_on_from() -> None:
    with pytest.raises(ConfigError, match="finetune needs autoencoder_from"):
        load_config("demo", {"finetune": True})


def test_one_process_to_a_folder(tmp_path: Path) -> None:
    """The lock is another process's until that ends, however it ends."""
    folder = tmp_path / "run"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom hyperkit_mol.runs import sole_owner\n"
        f"with sole_owner(Path({str(folder)!r})):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="another process is training there"), sole_owner(folder):
            pass
    finally:
        other.kill()
        other.wait()
    with sole_owner(folder):
        assert (folder / ".lock").exists()
    assert list(folder.iterdir()) == []
    with sole_owner(folder), pytest.raises(RunError, match="another process"), sole_owner(folder):
        pass


def test_a_run_does_not_start_where_another_goes_on(smiles_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with sole_owner(output), pytest.raises(RunError, match="another process"):
        run(small_config(data__source=str(smiles_file)), output)
    run(small_config(data__source=str(smiles_file), prior="wrapped-normal"), output)
    assert not (output / ".lock").exists()
