"""Reference sets other than MOSES's, the cache under two processes, GuacaMol's scores."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from moses_molecules import drawn

from hyperkit_mol.moses import _custom, _guacamol, evaluate

pytestmark = pytest.mark.moses


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "moses"


def write(path, smiles):
    path.write_text("\n".join(smiles))
    return path


def test_reference_file_is_computed_once(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "mine.smi", ["SMILES", *drawn("test", 80), "not a molecule"])
    train = write(tmp_path / "train.smi", drawn("train", 5))
    smiles = [*drawn("train", 30), "xx"]
    report = evaluate(smiles, reference=path, n_jobs=1, train=train)
    assert list(report.metrics) == [
        "valid", "unique@1000", "unique@10000", "FCD/Test", "SNN/Test", "Frag/Test", "Scaf/Test",
        "IntDiv", "IntDiv2", "Filters", "logP", "SA", "QED", "weight", "Novelty",
    ]  # fmt: skip
    assert report.floor == {}
    assert report.counts["reference mine.smi"] == 80
    assert str(path) in report.data_hashes
    assert report.metrics["Novelty"] == pytest.approx(1 - len(set(drawn("train", 5)) & set(smiles)) / 30)
    stored = sorted(file.name for file in cache.iterdir())
    monkeypatch.setattr(_custom, "chemnet_moments", None)  # would be called to compute it again
    again = evaluate(smiles, reference=path, n_jobs=1, train=list(drawn("train", 5)))
    assert again.metrics == report.metrics
    assert sorted(file.name for file in cache.iterdir()) == stored
    assert "Novelty" not in evaluate(smiles, reference=path, n_jobs=1).metrics
    page = report.to_html(tmp_path / "a.html").read_text()
    assert "CharRNN" not in page
    assert "mine.smi" in page


def test_the_same_set_as_reference(tmp_path):
    path = write(tmp_path / "same.smi", drawn("test", 50))
    found = evaluate(drawn("test", 50), reference=path, n_jobs=1).metrics
    assert found["FCD/Test"] == pytest.approx(0, abs=1e-9)
    assert [found[name] for name in ("SNN/Test", "Frag/Test", "Scaf/Test")] == pytest.approx([1, 1, 1])
    assert [found[name] for name in ("logP", "SA", "QED", "weight")] == [0, 0, 0, 0]


def test_bad_references(tmp_path):
    with pytest.raises(ValueError, match="needs at least 2 valid molecules, has 1"):
        evaluate(["CCO"], reference=write(tmp_path / "one.smi", ["CCO", "xx"]), n_jobs=1)
    with pytest.raises(FileNotFoundError, match="give a file of SMILES, or 'moses'"):
        evaluate(["CCO"], reference="mooses", n_jobs=1)


def test_two_processes_share_an_empty_cache(tmp_path, cache):
    path = write(tmp_path / "reference.smi", drawn("test", 30))
    code = (
        "import json, sys; from hyperkit_mol.moses import evaluate; "
        "report = evaluate(['CCO', 'c1ccccc1'], reference=sys.argv[1], n_jobs=1); "
        "print(json.dumps(report.metrics))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env=dict(os.environ)
        )
        for _ in range(2)
    ]
    found = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert found[0] == found[1] == evaluate(["CCO", "c1ccccc1"], reference=path, n_jobs=1).metrics
    assert not [file for file in cache.iterdir() if file.name.startswith(".")]


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "reference.smi", drawn("test", 30))
    smiles = drawn("train", 5)
    expected = evaluate(smiles, reference=path, n_jobs=1).metrics
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path / "file"))  # no folder can be made below a file
    assert evaluate(smiles, reference=path, n_jobs=1).metrics == expected
    assert "cannot write to the cache" in caplog.text


def test_guacamol_scores(tmp_path, cache):
    path = write(tmp_path / "reference.smi", drawn("test", 120))
    same = evaluate(drawn("test", 120), reference=path, n_jobs=1, metrics=["GuacaMol", "FCD/Test"]).metrics
    assert same["GuacaMol/KL"] == pytest.approx(1, abs=1e-6)
    assert same["GuacaMol/FCD"] == pytest.approx(math.exp(-0.2 * same["FCD/Test"]))
    other = evaluate(
        [*drawn("train", 60), "C" * 20, "CO"], reference=path, n_jobs=1, metrics=["GuacaMol"]
    ).metrics
    assert 0.3 < other["GuacaMol/KL"] < 0.99
    lone = evaluate(["CCO"], reference=path, n_jobs=1, metrics=["GuacaMol"])
    assert lone.metrics == {"GuacaMol/KL": None, "GuacaMol/FCD": None}
    assert set(lone.undefined) == set(lone.metrics)


def test_guacamol_divergences():
    """Against the divergence of two normal distributions, which is known."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 4000), rng.normal(0.5, 1, 4000)
    assert _guacamol._continuous(first, second) == pytest.approx(0.125, abs=0.02)
    counts = np.repeat([0, 1], [600, 400]), np.repeat([0, 1], [300, 700])
    expected = 0.6 * math.log(0.6 / 0.3) + 0.4 * math.log(0.4 / 0.7)
    assert _guacamol._discrete(*counts) == pytest.approx(expected, rel=1e-6)
