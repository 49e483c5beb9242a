"""Every bad input has a defined answer or a clear error; no metric is ever NaN."""

import gzip
import json
import math

import pytest
from moses_molecules import drawn

from hyperkit_mol.moses import evaluate
from hyperkit_mol.moses.report import evaluate_file, read_smiles

pytestmark = pytest.mark.moses


def defined(report) -> None:
    """Each metric is a finite number, or None with a reason; and the JSON is strict."""
    for name, value in report.metrics.items():
        assert (value is None) == (name in report.undefined)
        assert value is None or math.isfinite(value)
    json.dumps(report.to_dict(), allow_nan=False)


def test_no_valid_molecule():
    report = evaluate(["xx", "", None, "C1CC"], n_jobs=1)
    defined(report)
    assert report.metrics["valid"] == 0
    assert {name for name, value in report.metrics.items() if value is not None} == {"valid"}
    assert set(report.undefined.values()) == {"no valid molecule"}


def test_one_molecule():
    report = evaluate(["CCO"], n_jobs=1)
    defined(report)
    assert report.undefined == {
        "FCD/Test": "needs at least 2 valid molecules",
        "FCD/TestSF": "needs at least 2 valid molecules",
        "Scaf/Test": "no generated molecule has a scaffold with two rings or more",
        "Scaf/TestSF": "no generated molecule has a scaffold with two rings or more",
    }
    assert report.metrics["IntDiv"] == 0
    assert any("unique@1000 is over the 1 valid" in note for note in report.notes)


def test_duplicates_only():
    report = evaluate(["c1ccc2ccccc2c1"] * 50 + ["c1ccc2c(c1)cccc2"] * 50)
    defined(report)
    assert report.metrics["unique@1000"] == 0.01
    assert report.metrics["IntDiv"] == pytest.approx(0, abs=1e-12)
    assert report.counts == report.counts | {"total": 100, "valid": 100, "distinct": 1}


def test_a_million_lines(tmp_path, caplog):
    path = tmp_path / "million.smi"
    molecules = drawn("train", 200)
    path.write_text("\n".join(molecules[index % 200] for index in range(1_000_000)))
    report = evaluate_file(path, tmp_path).report
    defined(report)
    assert "1,000,000 molecules: MOSES compares 30,000" in caplog.text
    assert report.counts == report.counts | {"total": 1_000_000, "valid": 1_000_000, "distinct": 200}
    # Repeating a set changes no mean; only FCD's covariance is normalised by n - 1.
    once = evaluate(molecules)
    for name in ("SNN/Test", "Frag/Test", "IntDiv", "IntDiv2", "logP", "Filters"):
        assert report.metrics[name] == pytest.approx(once.metrics[name], abs=1e-7)
    assert report.metrics["unique@1000"] == 0.2


@pytest.mark.parametrize(
    ("smiles", "error", "match"),
    [
        ([], ValueError, "smiles is empty"),
        ("CCO", TypeError, "got one string"),
        (["CCO", 3], TypeError, r"smiles\[1\] must be a string or None, got int"),
    ],
)
def test_wrong_arguments(smiles, error, match):
    with pytest.raises(error, match=match):
        evaluate(smiles)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"metrics": ["FCD", "Beauty"]}, "unknown metric 'Beauty'; known are valid, unique@1000"),
        ({"metrics": []}, "no metric chosen"),
        ({"n_jobs": 0}, "n_jobs must be >= 1, got 0"),
        ({"unique_k": (0,)}, "unique_k must be >= 1, got 0"),
        ({"limit": 0}, "limit must be >= 1, got 0"),
    ],
)
def test_wrong_settings(settings, match):
    with pytest.raises(ValueError, match=match):
        evaluate(["CCO"], **settings)


def test_files(tmp_path):
    def file(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    assert read_smiles(file("a.smi", b"SMILES\nCCO name\n\nCCN\tx\r\n")) == ["CCO", "CCN"]
    assert read_smiles(file("a.csv", b'\xef\xbb\xbf"smiles",id\n"CCO",1\n')) == ["CCO"]
    assert read_smiles(file("a.smi.gz", gzip.compress(b"CCO\n"))) == ["CCO"]
    assert read_smiles(file("b.smi", "CCO\n".encode("utf-16"))) == ["CCO"]
    assert read_smiles(file("latin.smi", b"CCO\n\xe9\xff\x00\nCCN\n"))[::2] == ["CCO", "CCN"]
    for content in (b"", b"\n\n", b"smiles\n"):
        with pytest.raises(ValueError, match="no SMILES in it"):
            read_smiles(file("empty.smi", content))
    with pytest.raises(ValueError, match="damaged gzip file"):
        read_smiles(file("cut.smi.gz", gzip.compress(b"CCO\n" * 1000)[:-20]))
    with pytest.raises(FileNotFoundError):
        evaluate_file(tmp_path / "absent.smi")


def test_bytes_that_are_no_text_count_as_invalid(tmp_path):
    (tmp_path / "latin.smi").write_bytes(b"CCO\n\xe9\xff\nC\x00C\nCCN\n")
    report = evaluate_file(tmp_path / "latin.smi", tmp_path, metrics=["valid"], n_jobs=1).report
    assert report.metrics == {"valid": 0.5}


def test_failure_keeps_earlier_reports(tmp_path):
    (tmp_path / "a.smi").write_text("CCO\nCCN\n")
    done = evaluate_file(tmp_path / "a.smi", tmp_path / "out", metrics=["valid"], n_jobs=1)
    before = done.json.read_bytes(), done.html.read_bytes()
    (tmp_path / "a.smi").write_text("")
    with pytest.raises(ValueError, match="no SMILES"):
        evaluate_file(tmp_path / "a.smi", tmp_path / "out")
    assert (done.json.read_bytes(), done.html.read_bytes()) == before
