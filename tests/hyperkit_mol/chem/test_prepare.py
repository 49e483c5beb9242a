"""Preparation: parallel equals serial, the cache is used, and what is skipped is counted."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from hyperkit_mol.chem.assemble import assemble_smiles
from hyperkit_mol.chem.prepare import TreeDataset, prepare
from hyperkit_mol.chem.reading import BadInputError
from hyperkit_mol.chem.vocabulary import Vocabulary, VocabularyError


def decoded(data: TreeDataset, index: int) -> str:
    v = data.vocabulary
    label, parent, site = data.tree(index)
    pairs = [v.labels[x] for x in label]
    return assemble_smiles([v.motifs[m] for m, _ in pairs], [a for _, a in pairs], parent, site)


def test_prepared_data_decode_to_the_input(moses_sample: list[str]) -> None:
    data = prepare(moses_sample, jobs=1)
    assert len(data) == len(moses_sample)
    assert [decoded(data, i) for i in range(300)] == [Chem.CanonSmiles(s) for s in moses_sample[:300]]


@pytest.mark.slow
def test_processes_do_not_change_the_result(moses_train: list[str]) -> None:
    sample = moses_train[:6001]
    one, two = prepare(sample, jobs=1), prepare(sample, jobs=2)
    assert one.vocabulary.digest == two.vocabulary.digest
    for name in ("offsets", "label", "parent", "site", "row"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_cache(tmp_path: Path, moses_sample: list[str]) -> None:
    calls: list[int] = []
    first = prepare(moses_sample, jobs=1, cache=tmp_path, progress=lambda done, _: calls.append(done))
    assert calls
    calls.clear()
    again = prepare(moses_sample, jobs=1, cache=tmp_path, progress=lambda done, _: calls.append(done))
    assert not calls
    assert again.report == first.report
    np.testing.assert_array_equal(first.label, again.label)
    assert len(list(tmp_path.iterdir())) == 1
    prepare(moses_sample, jobs=1, cache=tmp_path, min_count=2)
    assert len(list(tmp_path.iterdir())) == 2


def test_damaged_cache_is_named(tmp_path: Path, moses_sample: list[str]) -> None:
    prepare(moses_sample, jobs=1, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(BadInputError, match=rf"{file.name}: damaged prepared data .*delete it"):
        prepare(moses_sample, jobs=1, cache=tmp_path)


def test_what_is_skipped_is_counted() -> None:
    smiles = ["CCO", "nonsense", "CC.O", "C[C@H](N)O", "[2H]C", "CCN"]
    data = prepare(smiles, lines=[2, 3, 4, 5, 6, 7], jobs=1)
    report = data.report
    assert (report.read, report.encoded, report.unreadable, report.stereo_dropped) == (6, 3, 1, 1)
    assert report.unreadable_lines == [(3, "nonsense")]
    assert sum(report.unsupported.values()) == 2
    assert data.row.tolist() == [0, 3, 5]
    text = "\n".join(report.lines())
    assert "line 3: 'nonsense'" in text
    assert "salt or mixture" in text
    assert "without their stereochemistry" in text


def test_too_many_bad_lines_fail_and_name_them() -> None:
    with pytest.raises(BadInputError, match=r"2 of 4 SMILES cannot be parsed.*--max-bad 1(.|\n)*line 2: 'x'"):
        prepare(["CC", "x", "y", "CO"], jobs=1, max_bad=1)
    assert len(prepare(["CC", "x", "y", "CO"], jobs=1, max_bad=2)) == 2


def test_nothing_left() -> None:
    with pytest.raises(BadInputError, match="no molecule is left"):
        prepare(["CC.O", "[2H]C"], jobs=1)


def test_out_of_vocabulary_is_counted_not_silent() -> None:
    vocabulary = prepare(["CCO", "CCN"], jobs=1).vocabulary
    data = prepare(["CCO", "CCCl", "c1ccccc1"], vocabulary=vocabulary, jobs=1)
    assert (len(data), data.report.out_of_vocabulary) == (1, 2)
    assert "a motif that the vocabulary lacks" in "\n".join(data.report.lines())


def test_min_count() -> None:
    smiles = ["CCO"] * 5 + ["CCBr"]
    assert set(prepare(smiles, jobs=1, min_count=2).vocabulary.smiles) == {"C", "O"}
    with pytest.raises(VocabularyError, match="lower min_count"):
        Vocabulary.from_counts(Counter({("C", -1): 1}), min_count=9)


def test_vocabulary_file(tmp_path: Path, moses_sample: list[str]) -> None:
    vocabulary = prepare(moses_sample, jobs=1).vocabulary
    path = tmp_path / "vocabulary.json"
    vocabulary.save(path)
    assert Vocabulary.load(path).digest == vocabulary.digest
    path.write_text(path.read_text()[:100])
    with pytest.raises(VocabularyError, match="damaged vocabulary"):
        Vocabulary.load(path)


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path, running: Callable[[int], bool]) -> None:
    code = (
        "import os, signal, threading, time, multiprocessing as m\n"
        "from hyperkit_mol.chem.prepare import prepare\n"
        "def kill():\n"
        "    while not m.active_children(): time.sleep(0.05)\n"
        "    time.sleep(4)\n"
        "    pids = ' '.join(str(p.pid) for p in m.active_children())\n"
        f"    open({str(tmp_path / 'pids')!r}, 'w').write(pids)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=kill, daemon=True).start()\n"
        "    prepare(['CCc1ccccc1C(=O)N'] * 2_000_000, jobs=2)\n"
    )
    (tmp_path / "run.py").write_text(code)
    subprocess.run([sys.executable, str(tmp_path / "run.py")], check=False, timeout=120)
    pids = [int(p) for p in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.2)
