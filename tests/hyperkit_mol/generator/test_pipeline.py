"""Runs: resuming changes nothing, what is broken is named, what was there stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from generator_case import QUIET, losses, run, small_config, weights

from hyperkit_mol import runs
from hyperkit_mol.chem.reading import BadInputError
from hyperkit_mol.generator import lightning_modules
from hyperkit_mol.generator.checkpoint import CheckpointError
from hyperkit_mol.generator.config import PRESETS, ConfigError, load_config
from hyperkit_mol.generator.generate import generate
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.runs import RunError


def test_a_run_leaves_logs_checkpoints_and_a_model(finished: Path) -> None:
    for stage in ("autoencoder", "gan"):
        assert (finished / stage / "last.ckpt").is_file()
        assert list((finished / stage).glob("events.out.tfevents*"))
    rows = losses(finished, "autoencoder")
    assert [int(row["step"]) for row in rows] == sorted({int(row["step"]) for row in rows})
    assert any(row.get("val/reconstruction") for row in rows)
    assert yaml.safe_load((finished / "config.yaml").read_text())["prior"] == "gan"
    model = MoleculeGenerator.load(finished / "model")
    assert model.info["autoencoder_steps"] == 12
    assert model.info["gan_steps"] == 6


def test_the_same_seed_gives_the_same_run(finished: Path, tmp_path: Path, smiles_file: Path) -> None:
    again = run(small_config(data__source=str(smiles_file)), tmp_path / "again")
    one, two = weights(finished / "model"), weights(again)
    assert all(torch.equal(one[k], two[k]) for k in one)


class Stop(Exception):
    """Stands for whatever ends a run in the middle."""


@pytest.mark.parametrize(("module", "at"), [("AutoencoderTraining", 9), ("GANTraining", 3)])
def test_resuming_equals_never_having_stopped(
    finished: Path,
    tmp_path: Path,
    smiles_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    at: int,
) -> None:
    """Killed in the middle of a block, the run goes on from the last checkpoint to the same weights."""
    config = small_config(data__source=str(smiles_file))
    cls = getattr(lightning_modules, module)
    step = cls.training_step

    def fails(self, batch, index):  # type: ignore[no-untyped-def]
        if self.step == at:
            raise Stop
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(cls, "training_step", fails)
        with pytest.raises(Stop):
            run(config, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "model").exists()
    resumed = run(config, tmp_path / "stopped", resume=True)
    one, two = weights(finished / "model"), weights(resumed)
    assert all(torch.equal(one[k], two[k]) for k in one)
    for stage in ("autoencoder", "gan"):
        whole = {row["step"]: row for row in losses(finished, stage)}
        for row in losses(tmp_path / "stopped", stage):
            shared = {k: v for k, v in row.items() if v and k in whole[row["step"]]}
            assert shared == {k: whole[row["step"]][k] for k in shared}


def test_time_limit_then_resume(
    finished: Path, tmp_path: Path, smiles_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--max-time leaves a model that can be sampled; resuming without it reaches the whole run's end."""
    config = small_config(data__source=str(smiles_file))
    with monkeypatch.context() as patch:
        limit = runs.TimeLimit
        patch.setattr(limit, "__init__", lambda self, _: vars(self).update(until=0.0, struck=False))
        model = run(config, tmp_path / "short", max_seconds=1.0)
    assert MoleculeGenerator.load(model).info["autoencoder_steps"] < 12
    again = run(config, tmp_path / "short", resume=True)
    one, two = weights(finished / "model"), weights(again)
    auto = [k for k in one if k.startswith("autoencoder.")]
    assert all(torch.equal(one[k], two[k]) for k in auto)


@pytest.mark.parametrize("prior", ["wrapped-normal", "vae"])
def test_other_priors(tmp_path: Path, smiles_file: Path, prior: str) -> None:
    model = run(small_config(data__source=str(smiles_file), prior=prior), tmp_path / "run")
    report = generate(model, 50, tmp_path / "out.smi", console=QUIET)
    assert report.valid == report.written == 50


def test_generate_writes_valid_molecules_and_replaces_whole_files_only(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.smi"
    report = generate(finished / "model", 120, out, seed=5, batch_size=50, console=QUIET)
    first = out.read_text()
    assert report.valid == report.written == len(first.splitlines()) == 120
    generate(finished / "model", 120, tmp_path / "twice.smi", seed=5, batch_size=50, console=QUIET)
    assert (tmp_path / "twice.smi").read_text() == first

    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("hyperkit_mol.generator.generate._count_valid", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(finished / "model", 120, out, seed=6, console=QUIET)
    assert out.read_text() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.smi", "twice.smi"]


@pytest.mark.slow
def test_processes_do_not_change_what_is_sampled(finished: Path, tmp_path: Path) -> None:
    for jobs in (1, 2):
        report = generate(
            finished / "model", 350, tmp_path / f"{jobs}.smi", batch_size=50, jobs=jobs, console=QUIET
        )
        assert report.written == report.valid == 350
    assert (tmp_path / "1.smi").read_text() == (tmp_path / "2.smi").read_text()


def test_a_failed_start_leaves_the_folder_free(tmp_path: Path, smiles_file: Path) -> None:
    (tmp_path / "bad.smi").write_text("nonsense\n")
    with pytest.raises(BadInputError):
        run(small_config(data__source=str(tmp_path / "bad.smi")), tmp_path / "run")
    with pytest.raises(RunError, match="holds no run to resume"):
        run(small_config(data__source=str(smiles_file)), tmp_path / "run", resume=True)
    run(small_config(data__source=str(smiles_file), prior="vae"), tmp_path / "run")


# -- what is refused ----------------------------------------------------------------------------------------


def test_an_existing_run_is_not_overwritten(finished: Path, smiles_file: Path) -> None:
    config = small_config(data__source=str(smiles_file))
    with pytest.raises(RunError, match=r"already holds a run.*--resume"):
        run(config, finished)
    with pytest.raises(RunError, match=r"another configuration: seed \(0 -> 3\)"):
        run(small_config(data__source=str(smiles_file), seed=3), finished, resume=True)


def test_read_only_folder(tmp_path: Path) -> None:
    """On a file system that is mounted read-only, since a test may run as root."""
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
    elif subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a file system here")
    try:
        with pytest.raises(RunError, match="cannot write there"):
            run(small_config(), tmp_path / "run")
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "-l", str(tmp_path)], check=False)
        else:
            tmp_path.chmod(0o700)


def test_output_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write there"):
        run(small_config(), tmp_path / "file" / "run")


def test_damaged_training_checkpoint_is_named(tmp_path: Path, smiles_file: Path) -> None:
    config = small_config(data__source=str(smiles_file))
    run(config, tmp_path / "run")
    file = tmp_path / "run" / "autoencoder" / "last.ckpt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"last.ckpt: damaged checkpoint .*delete it"):
        run(config, tmp_path / "run", resume=True)


def test_a_checkpoint_is_never_unpickled(tmp_path: Path, smiles_file: Path) -> None:
    config = small_config(data__source=str(smiles_file))
    run(config, tmp_path / "run")
    mark = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return os.system, (f"touch {mark}",)

    torch.save(
        {"step": 1, "state_dict": {}, "x": Malicious()}, tmp_path / "run" / "autoencoder" / "last.ckpt"
    )
    with pytest.raises(RunError, match="damaged checkpoint"):
        run(config, tmp_path / "run", resume=True)
    assert not mark.exists()


def test_model_folders_that_cannot_be_used(finished: Path, tmp_path: Path) -> None:
    import shutil

    def copy(name: str) -> Path:
        return Path(shutil.copytree(finished / "model", tmp_path / name))

    with pytest.raises(CheckpointError, match="no such model folder"):
        MoleculeGenerator.load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="is a file"):
        MoleculeGenerator.load(finished / "model" / "model.json")
    with pytest.raises(CheckpointError, match=r"weights.safetensors is missing"):
        MoleculeGenerator.load(tmp_path)
    truncated = copy("truncated")
    file = truncated / "weights.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        MoleculeGenerator.load(truncated)
    other = copy("other")
    text = (other / "vocabulary.json").read_text()
    (other / "vocabulary.json").write_text(text.replace('"label_counts":[', '"label_counts":[1'))
    with pytest.raises(CheckpointError, match="another vocabulary"):
        MoleculeGenerator.load(other)
    damaged = copy("damaged")
    (damaged / "model.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"model.json: damaged"):
        MoleculeGenerator.load(damaged)
    misfit = copy("misfit")
    (misfit / "model.json").write_text(
        (misfit / "model.json").read_text().replace('"width": 32', '"width": 64')
    )
    with pytest.raises(CheckpointError, match="do not fit"):
        MoleculeGenerator.load(misfit)


def test_full_disk(finished: Path, tmp_path: Path, smiles_file: Path) -> None:
    """On a file system of 256 KiB the run ends with a message, and the earlier file stays."""
    small = tmp_path / "small"
    small.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("cannot mount a small file system here")
    try:
        (small / "out.smi").write_text("CC\n")
        (small / "fill").write_bytes(b"x" * 230_000)
        with pytest.raises(OSError, match="No space left"):
            generate(finished / "model", 4000, small / "out.smi", console=QUIET)
        assert (small / "out.smi").read_text() == "CC\n"
        assert sorted(p.name for p in small.iterdir()) == ["fill", "out.smi"]
        with pytest.raises((OSError, RunError), match=r"No space left"):
            run(small_config(data__source=str(smiles_file)), small / "run", cache=tmp_path / "cache")
        assert not (small / "run" / "model").exists()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


# -- configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name: str) -> None:
    assert load_config(name).model.width % load_config(name).model.heads == 0


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("model: {widht: 3}", r"model.widht: no such key; known here: .*width"),
        ("sed: 1", r"sed: no such key; known here: .*seed"),
        ("model: {width: -3}", r"model.width: .*greater than or equal to 8, got -3"),
        ("model: {curvature: .inf}", "model.curvature: .*finite number, got inf"),
        ("model: {width: 33, heads: 2}", "heads must divide width"),
        ("prior: flow", "prior: .*'gan', 'wrapped-normal' or 'vae'"),
        ("- a\n- b", "expected settings"),
        ("a: [", "not YAML"),
        ("preset: best", "preset must be one of demo"),
    ],
)
def test_wrong_configuration_is_named(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_config(path)


def test_config_file_from_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("preset: demo\nmodel: {width: 64}\nseed: 4\n")
    config = load_config(path, {"gan.steps": 7})
    assert (config.model.width, config.seed, config.gan.steps) == (64, 4, 7)
    assert config.model.latent == load_config("demo").model.latent
    with pytest.raises(ConfigError, match="neither a preset"):
        load_config(tmp_path / "none.yaml")


# -- the command line ---------------------------------------------------------------------------------------


def cli(*words: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hyperkit_mol", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "holds no SMILES"),
        ("CC\nnonsense\n", "line 2: 'nonsense'"),
        ("CC.O\n[Na+].[Cl-]\n", "no molecule is left. .*salt or mixture"),
    ],
)
def test_bad_files_end_with_a_message(tmp_path: Path, content: str, match: str) -> None:
    import re

    (tmp_path / "x.smi").write_text(content)
    found = cli("train", "--data", tmp_path / "x.smi", "-o", tmp_path / "run", "--max-bad", 0)
    assert found.returncode == 1
    assert re.search(match, found.stderr), found.stderr
    assert "Traceback" not in found.stderr + found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["--help"], ["train", "--help"], ["generate", "--help"], ["evaluate", "--help"]]
)
def test_help_has_an_example(words: list[str]) -> None:
    found = cli(*words)
    assert found.returncode == 0
    assert words == ["--help"] or "Example" in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["generate", "-m", "/nowhere", "-o", "{}/x.smi"], "no such model folder"),
        (["generate", "-n", "0", "-o", "{}/x.smi"], "count must be >= 1"),
        (["train", "-o", "{}/r", "--max-time", "soon"], "--max-time must be a duration"),
        (["train", "-o", "{}/r", "-c", "best"], "neither a preset"),
        (["train", "-o", "{}/r", "--set", "model.widht=3"], "model.widht: no such key"),
        (["evaluate", "{}/none.smi"], "No such file"),
    ],
)
def test_mistakes_get_one_line_and_exit_1(tmp_path: Path, words: list[str], match: str) -> None:
    found = cli(*(w.format(tmp_path) for w in words))
    assert found.returncode == 1
    assert match in found.stderr
    assert "Traceback" not in found.stderr + found.stdout
    assert not (tmp_path / "x.smi").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["Preparing", "autoencoder/metrics.csv", "gan/metrics.csv", "sampling"])
def test_ctrl_c(tmp_path: Path, moses_train: list[str], finished: Path, stage: str) -> None:
    """An interrupt at any stage ends with a message, code 130 and no half-written file."""
    data = tmp_path / "molecules.smi"
    data.write_text("\n".join(moses_train[: 60_000 if stage == "Preparing" else 400]))
    out = tmp_path / "run"
    words: list[object] = ["train", "--data", data, "-c", "demo", "-o", out, "--jobs", 1]
    words += [
        "--set",
        "gan.steps=100000",
        "--set",
        "autoencoder.validate_every=10",
        "--set",
        "gan.save_every=10",
    ]
    steps = 100_000 if stage.startswith("auto") else 20
    words += ["--set", f"autoencoder.steps={steps}", "--set", "autoencoder.save_every=10"]
    if stage == "sampling":
        out.mkdir()
        (out / "old.smi").write_text("CC\n")
        words = ["generate", "-m", finished / "model", "-n", 1_000_000, "-o", out / "old.smi"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HYPERKIT_CACHE": str(tmp_path / "cache"),
        "COLUMNS": "200",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "hyperkit_mol", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        begin = time.monotonic()
        while time.monotonic() - begin < 120:
            if stage == "Preparing":
                begun = (tmp_path / "cache").exists()  # made when encoding begins
            elif stage == "sampling":
                begun = any(p.name.startswith(".old") and p.stat().st_size > 20_000 for p in out.iterdir())
            else:
                begun = (out / stage).exists() and (out / stage).stat().st_size > 300
            if begun:
                break
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, (stdout, stderr)
    assert "stopped" in stderr
    assert "Traceback" not in stderr
    assert not (out / "model").exists()
    assert not [p for p in out.rglob(".*") if p.is_file()]
    if stage == "sampling":
        assert (out / "old.smi").read_text() == "CC\n"


@pytest.mark.slow
def test_two_processes(tmp_path: Path, smiles_file: Path) -> None:
    """``--devices 2`` takes the steps of one process: each sees half of a batch; the GAN goes on in one.

    Without the posterior's noise, which is each process's own.
    """
    path = tmp_path / "config.yaml"
    config = small_config(data__source=str(smiles_file), model__latent_noise=0.0)
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    found = cli("train", "-c", path, "-o", tmp_path / "run", "--devices", 2, "--jobs", 1, timeout=200)
    assert found.returncode == 0, found.stderr
    model = MoleculeGenerator.load(tmp_path / "run" / "model")
    assert model.info["autoencoder_steps"] == 12
    assert model.info["gan_steps"] == 6
    run(config, tmp_path / "one")
    several, one = (
        {
            int(r["step"]): float(r["val/loss"])
            for r in losses(tmp_path / name, "autoencoder")
            if r.get("val/loss")
        }
        for name in ("run", "one")
    )
    assert list(several) == [4, 8, 12]
    assert several == pytest.approx(one, rel=1e-4)
    assert one[12] < 0.99 * one[4]


@pytest.mark.parametrize("smiles", [["C"], ["C", "O", "N"], ["CC", "c1ccccc1"] * 6])
def test_the_smallest_data_sets(tmp_path: Path, smiles: list[str]) -> None:
    """One molecule, single atoms only, fewer molecules than a batch."""
    file = tmp_path / "few.smi"
    file.write_text("\n".join(smiles))
    model = run(small_config(data__source=str(file)), tmp_path / "run")
    report = generate(model, 20, tmp_path / "out.smi", console=QUIET)
    assert report.valid == 20
    assert set((tmp_path / "out.smi").read_text().split())
