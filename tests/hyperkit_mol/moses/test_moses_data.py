"""Reading the installed packages without executing them."""

import importlib.metadata
import io
import pickle
import subprocess
import sys

import pytest

from hyperkit_mol.moses import MosesNotInstalledError, _cache, _compat, evaluate, load_split
from hyperkit_mol.moses.data import chemnet_weights, data_hashes, reference_stats

COMMAND = "pip install --no-deps molsets==0.3.1 fcd_torch==1.0.7"


@pytest.mark.moses
def test_splits_have_the_published_sizes():
    sizes = {split: len(load_split(split)) for split in ("train", "test", "test_scaffolds")}
    assert sizes == {"train": 1_584_663, "test": 176_074, "test_scaffolds": 176_225}
    with pytest.raises(ValueError, match="split must be one of train, test, test_scaffolds, got 'dev'"):
        load_split("dev")  # type: ignore[arg-type]


@pytest.mark.moses
def test_statistics_and_hashes():
    stats = reference_stats("test")
    assert set(stats) == {"FCD", "SNN", "Frag", "Scaf", "logP", "SA", "QED", "weight"}
    assert stats["SNN"]["fps"].shape == (176_074, 1024)
    assert len(data_hashes()) == 9
    assert chemnet_weights().is_file()


@pytest.mark.moses
def test_nothing_of_the_packages_is_imported():
    code = (
        "import sys; from hyperkit_mol.moses import evaluate, load_split; load_split('test'); "
        "evaluate(['CCO', 'CCN'], n_jobs=1); "
        "sys.exit(bool({'moses', 'fcd_torch', 'pomegranate', 'moses.metrics'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("call", [lambda: load_split("train"), lambda: evaluate(["C"]), chemnet_weights])
def test_absent_packages_give_the_command(monkeypatch, call):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(MosesNotInstalledError) as caught:
        call()
    assert COMMAND in str(caught.value)


def test_data_files_cannot_run_code():
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    with pytest.raises(pickle.UnpicklingError, match=r"refused to load builtins\.print"):
        _compat._DataUnpickler(io.BytesIO(pickle.dumps(Evil()))).load()


def test_cache_survives_a_damaged_file_and_a_failed_write(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERKIT_CACHE", str(tmp_path))

    def get(value):
        return _cache.cached(
            "x.txt",
            build=lambda: value,
            save=lambda text, path: path.write_text(text),
            load=lambda path: str(int(path.read_text())),
        )

    assert get("1") == "1"
    assert get("2") == "1"  # from the cache
    (tmp_path / "moses" / "x.txt").write_text("damaged")
    assert get("3") == "3"

    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        _cache.write_atomically(tmp_path / "moses" / "x.txt", fail)
    assert get("4") == "3"
    assert [path.name for path in (tmp_path / "moses").iterdir()] == ["x.txt"]
