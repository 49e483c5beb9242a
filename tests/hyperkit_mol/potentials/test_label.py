"""Labelling files: the same output whatever happens on the way, and every failure told by its line."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("ase", reason="labelling needs ASE (the extra `potentials`)")

from hyperkit_mol.potentials import DataError, read_structures
from hyperkit_mol.potentials import _label_worker as worker
from hyperkit_mol.potentials.cli import app
from hyperkit_mol.potentials.label import LabelReport, LabelSettings, label_smiles, label_structures

MOLECULES = "CCO\nC1CC\nC/C=C\\C\n# a comment\n[CH3]\nC[O-] methoxide\n"


def settings(method: str = "springs", **more: object) -> LabelSettings:
    """Six frames of a molecule in four runs, by springs."""
    base: dict[str, object] = {"conformers": 2, "samples": 6, "temperatures": (300.0, 600.0)}
    base |= {"interval": 4, "equilibration": 4, "method": f"label_case:{method}"}
    return LabelSettings(**(base | more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four molecules and a line that is none."""
    path = tmp_path_factory.mktemp("label") / "molecules.smi"
    path.write_text(MOLECULES)
    return path


@pytest.fixture(scope="module")
def whole(source: Path) -> tuple[Path, LabelReport]:
    """What an undisturbed labelling in one process gives."""
    target = source.parent / "whole.extxyz"
    return target, label_smiles(source, target, settings(), jobs=1)


def test_output_is_a_training_file(whole: tuple[Path, LabelReport]) -> None:
    import ase.io

    target, report = whole
    read = read_structures(target)
    assert (report.frames, len(read), report.tasks) == (24, 24, 20)
    assert report.failed == ["line 2: C1CC: not a SMILES that RDKit can parse"]
    assert [s.charge for s in read] == [0] * 18 + [-1] * 6
    assert [s.spin for s in read] == [0] * 12 + [1] * 6 + [0] * 6
    frames = ase.io.read(target, index=":")
    assert [a.info["smiles"] for a in frames[::6]] == ["CCO", "C/C=C\\C", "[CH3]", "C[O-]"]
    # Six frames over four runs: 2, 2, 1, 1.
    assert [(a.info["conformer"], a.info["temperature"]) for a in frames[:6]] == [
        *[(0, 300.0)] * 2,
        *[(0, 600.0)] * 2,
        (1, 300.0),
        (1, 600.0),
    ]
    assert not target.with_name("whole.extxyz.parts").exists()


def test_number_of_processes_changes_nothing(
    source: Path, whole: tuple[Path, LabelReport], tmp_path: Path
) -> None:
    seen = []
    report = label_smiles(
        source, tmp_path / "two.xyz", settings(), jobs=2, progress=lambda *numbers: seen.append(numbers)
    )
    assert (tmp_path / "two.xyz").read_bytes() == whole[0].read_bytes()
    assert report.failed == whole[1].failed
    assert seen[0] == (0, 20, 0, 0)
    assert seen[-1] == (20, 20, 24, 4)
    assert [p.name for p in tmp_path.iterdir()] == ["two.xyz"]


def test_killed_at_any_moment_it_goes_on(
    source: Path, whole: tuple[Path, LabelReport], tmp_path: Path, running: Callable[[int], bool]
) -> None:
    target, parts = tmp_path / "out.xyz", tmp_path / "out.xyz.parts"
    code = (
        "import sys; sys.path[:0] = sys.argv[3:]\n"
        "from test_label import settings; from hyperkit_mol.potentials.label import label_smiles\n"
        "label_smiles(sys.argv[1], sys.argv[2], settings('slow'), jobs=2)"
    )
    here = [str(Path(__file__).parent), os.getcwd()]
    run = subprocess.Popen([sys.executable, "-c", code, str(source), str(target), *here])
    try:
        until = time.monotonic() + 120
        while len(worker.scan(parts)) < 3:
            assert run.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    children = [int(p.name.split("-")[0]) for p in parts.glob("*.shard")]
    before = set(worker.scan(parts))
    assert 3 <= len(before) < 20
    assert not target.exists()
    # A kill inside a write leaves a part of a record; so does a disk.
    shard = next(parts.glob("*.shard"))
    with shard.open("ab") as stream:
        stream.write(shard.read_bytes()[:150])
    with pytest.raises(DataError, match="unfinished labelling: go on with --resume"):
        label_smiles(source, target, settings("slow"))
    with pytest.raises(DataError, match=r"other settings: samples \(6 -> 7\), temperatures"):
        label_smiles(source, target, settings("slow", samples=7, temperatures=(300.0,)), resume=True)
    report = label_smiles(source, target, settings("slow"), jobs=2, resume=True)
    assert report.taken_over >= 3
    assert (report.frames, report.tasks) == (24, 20)
    name = b"label_case:slow"
    assert target.read_bytes() == whole[0].read_bytes().replace(b"label_case:springs", name)
    assert not parts.exists()
    until = time.monotonic() + 30
    while any(running(child) for child in children):  # they end with their parent, within half a second
        assert time.monotonic() < until
        time.sleep(0.1)
    again = label_smiles(source, target, settings("slow"), resume=True)
    assert (again.frames, again.taken_over) == (0, 20)
    with pytest.raises(DataError, match="exists; name another file"):
        label_smiles(source, target, settings("slow"))


def test_a_shard_cut_anywhere_gives_whole_records_only(tmp_path: Path) -> None:
    shard = worker.Shard(tmp_path)
    for number in range(3):
        shard.append(number, 1, [f"line {number}: β"], f"1\nframe {number}\nH 0 0 0\n")
    content = shard.path.read_bytes()
    ends = [r.offset + r.length for r in worker.scan(tmp_path).values()]
    assert ends[-1] == len(content)
    for cut in range(len(content)):
        shard.path.write_bytes(content[:cut])
        found = worker.scan(tmp_path)
        assert len(found) == sum(end <= cut for end in ends)
        for number, record in found.items():
            text = content[record.offset : record.offset + record.length]
            assert text == f"1\nframe {number}\nH 0 0 0\n".encode()
            assert record.failed == (f"line {number}: β",)


def test_a_flipped_bit_costs_its_record(tmp_path: Path) -> None:
    shard = worker.Shard(tmp_path)
    for number in range(2):
        shard.append(number, 1, [], "1\n\nH 0 0 0\n")
    content = bytearray(shard.path.read_bytes())
    content[-3] ^= 1
    shard.path.write_bytes(content)
    assert list(worker.scan(tmp_path)) == [0]


def test_a_full_disk_leaves_whole_records_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = worker.Shard(tmp_path)
    shard.append(0, 1, [], "1\n\nH 0 0 0\n")
    with monkeypatch.context() as patch:

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            shard.append(1, 1, [], "1\n\nHe 0 0 0\n")
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        work = worker.make(str(tmp_path), settings(), os.getppid())
        outcome = work(worker.Task(1, "line 1", "C", (0, 0, 300.0, 1, 0)))
        assert (outcome.errno, outcome.strerror) == (errno.ENOSPC, "No space left on device")
    shard.append(2, 1, [], "1\n\nLi 0 0 0\n")
    assert sorted(worker.scan(tmp_path)) == [0, 2]


def test_the_parent_raises_what_the_disk_said(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperkit_mol.potentials import label

    def full(self: object, job: object, payloads: list[object], *, found: object, on_death: object) -> None:
        found(0, worker.Outcome(errno=errno.ENOSPC, strerror="No space left on device"))  # type: ignore[operator]

    monkeypatch.setattr(label.Pool, "map", full)
    with pytest.raises(OSError, match="No space left") as caught:
        label_smiles(source, tmp_path / "out.xyz", settings())
    assert caught.value.filename == str(tmp_path / "out.xyz.parts")


def test_crashes_and_failures_cost_one_molecule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in.smi"
    source.write_text("CO\nC[O-]\nC\n")
    few = {"conformers": 1, "samples": 1, "temperatures": (300.0,)}
    report = label_smiles(source, tmp_path / "a.xyz", settings("crash", **few), jobs=1)
    assert report.frames == 2
    assert len(report.failed) == 1
    assert report.failed[0].startswith("line 2: C[O-]: its process died twice")
    source.write_text("CO\n[CH3]\n")
    report = label_smiles(source, tmp_path / "b.xyz", settings("unconverged", **few), jobs=1)
    assert report.frames == 1
    assert report.failed == ["line 2: [CH3], conformer 0, 300 K: SCF not converged in 250 cycles"]
    monkeypatch.setenv("LABEL_CASE_MARK", str(tmp_path / "mark"))
    report = label_smiles(source, tmp_path / "c.xyz", settings("crash_once", **few), jobs=1)
    assert (report.frames, report.failed) == (2, [])


def test_nothing_that_can_be_labelled(tmp_path: Path) -> None:
    (tmp_path / "in.smi").write_text("C1CC\nnonsense\n")
    with pytest.raises(
        DataError, match=r"no frame could be labelled(.|\n)*line 1: C1CC(.|\n)*line 2: nonsense"
    ):
        label_smiles(tmp_path / "in.smi", tmp_path / "out.xyz", settings(), jobs=1)
    assert [p.name for p in tmp_path.iterdir()] == ["in.smi"]


def test_given_geometries_keep_theirs_and_lose_their_labels(extxyz: Path, tmp_path: Path) -> None:
    report = label_structures(extxyz, tmp_path / "out.xyz", "label_case:springs", jobs=1)
    before, after = read_structures(extxyz), read_structures(tmp_path / "out.xyz")
    assert report.frames == len(after) == 43
    assert report.tasks == 2
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(old.positions, new.positions)
        assert new.energy == -len(old)  # springs are at rest in what they see first
        assert new.spin == int(old.numbers.sum()) % 2
    with pytest.raises(DataError, match="no such file"):
        label_structures(tmp_path / "none.xyz", tmp_path / "x.xyz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a file of SMILES, or geometries by --structures"),
        (["in.smi", "--structures", "in.smi"], "give a file of SMILES, or geometries"),
        (["in.smi", "--method", "pbe"], "method must be gfn2, gfn1, dft, or module:function"),
        (["in.smi", "--sampling", "mc"], "sampling must be md or normal-modes, got 'mc'"),
        (["in.smi", "--temperature", "-5"], "temperature must be > 0"),
        (["in.smi", "--method", "label_case:springs", "-j", "0"], "jobs must be >= 1, got 0"),
        (["none.smi"], "no such file"),
        (["in.smi", "--basis", "sto-3g"], "functional, basis and dispersion are settings of method dft"),
        (["in.smi", "--method", "dft", "--dispersion", "d2"], "dispersion must be d3bj, d3zero, d4, none"),
        (["--structures", "in.smi", "--sample-with", "gfn2"], "--sample-with is for SMILES"),
    ],
)
def test_command_line_says_what_is_wrong(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.smi").write_text("C\n")
    found = CliRunner().invoke(app, ["label", *arguments])
    assert found.exit_code == 1
    assert message in " ".join(found.output.split())
    assert [p.name for p in tmp_path.iterdir()] == ["in.smi"]


def test_gfn2_by_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("tblite", reason="GFN2-xTB needs tblite")
    import ase.io
    from ase.build import molecule

    ase.io.write(tmp_path / "water.xyz", molecule("H2O"), format="extxyz")
    target = tmp_path / "out.xyz"
    found = CliRunner().invoke(app, ["label", "--structures", str(tmp_path / "water.xyz"), "-o", str(target)])
    assert found.exit_code == 0, found.output
    (s,) = read_structures(target)
    # tblite's documentation gives this energy and these forces for ASE's water.
    assert s.energy == pytest.approx(-137.96777594361677, abs=1e-4)
    assert s.forces is not None
    np.testing.assert_allclose(s.forces[0], [0, 0, -0.749527168], atol=1e-4)
    (tmp_path / "in.smi").write_text("O\nC1CC\n")
    target = tmp_path / "md.xyz"
    options = ["--samples", "2", "--conformers", "1", "--interval", "5", "--jobs", "1"]
    found = CliRunner().invoke(app, ["label", str(tmp_path / "in.smi"), "-o", str(target), *options])
    assert found.exit_code == 0, found.output
    assert "left out, line 2: C1CC: not a SMILES" in found.output
    assert "2 labelled frames written to" in found.output
    for frame in read_structures(target):
        assert -138.0 < (frame.energy or 0) < -137.0
    found = CliRunner().invoke(app, ["label", str(tmp_path / "in.smi"), "-o", str(target), "--resume"])
    assert "is complete already" in found.output
