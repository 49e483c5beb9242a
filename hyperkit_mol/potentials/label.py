"""Labelled structures for those who have none: from SMILES, or of given geometries, by GFN2-xTB or DFT.

Every process takes one run at a time (a conformer at a temperature) and appends what it found to a file of
its own beside the output. Killed at any moment, a labelling goes on from the runs that were complete; the
output depends on the input, the settings and the seed, and on nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hyperkit_mol.chem.reading import read_smiles_file
from hyperkit_mol.files import replacing
from hyperkit_mol.moses._workers import Job, Pool, WorkerDiedError
from hyperkit_mol.potentials._label_worker import Outcome, Record, Shard, Task, scan
from hyperkit_mol.potentials.dft import DFTSettings
from hyperkit_mol.potentials.errors import DataError
from hyperkit_mol.potentials.sampling import LabelSettings, check_method

__all__ = ["LabelReport", "LabelSettings", "label_smiles", "label_structures"]

_CHUNK = {"dft": 1}  # given geometries in one task, by method; 25 of others


@dataclass
class LabelReport:
    """What became of a labelling.

    Parameters
    ----------
    frames : int
        Labelled frames in the output.
    tasks : int
        Runs (or parts of a file of geometries).
    taken_over : int
        Of these, how many an earlier, interrupted labelling had finished.
    failed : list of str
        A line for each run or geometry that was left out or cut short.
    seconds : float
    """

    frames: int = 0
    tasks: int = 0
    taken_over: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0


Progress = Callable[[int, int, int, int], None]


def label_smiles(
    source: str | Path,
    target: str | Path,
    settings: LabelSettings | None = None,
    *,
    jobs: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> LabelReport:
    """Sample and label geometries of every molecule of a SMILES file.

    Parameters
    ----------
    source : str or Path
        SMILES, CSV or TSV file, gzipped or not.
    target : str or Path
        Extended XYZ file to write: energies in eV, forces in eV/Å, charge and number of unpaired electrons as
        ``spin``. It appears when all is done; what is finished before lies in ``target.parts``.
    settings : LabelSettings, optional
    jobs : int, optional
        Processes of one thread; all processors if left out. It does not change the result.
    resume : bool
        Go on with an interrupted labelling. If `target` is there already, nothing is done.
    progress : callable, optional
        Called with runs done, runs in all, frames and failures.

    Raises
    ------
    BadInputError
        If `source` cannot be read.
    DataError
        If `target` exists, another labelling was begun there, or no frame at all could be labelled.
    RunError
        If another process is labelling into `target`.
    ImportError
        If the method is not installed.
    """
    settings = settings or LabelSettings()
    file = read_smiles_file(source)
    tasks, runs = [], settings.runs()
    for index, (line, smiles) in enumerate(zip(file.lines, file.smiles, strict=True)):
        for conformer, temperature, frames in runs:
            for first, end in settings.parts(frames):
                run = (index, conformer, temperature, end, first)
                tasks.append(Task(len(tasks), f"line {line}", smiles, run))
    content = "\n".join(f"{line} {smiles}" for line, smiles in zip(file.lines, file.smiles, strict=True))
    words = {"input": _digest(content.encode()), **asdict(settings)}
    return _label(tasks, Path(target), settings, words, jobs, resume, progress)


def label_structures(
    source: str | Path,
    target: str | Path,
    method: str = "gfn2",
    *,
    dft: DFTSettings | None = None,
    jobs: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> LabelReport:
    """Label the geometries of a file anew, leaving their labels aside.

    Parameters
    ----------
    source : str or Path
        See :func:`~hyperkit_mol.potentials.read_structures`; its charges and spins are used, where a spin may
        be a number of unpaired electrons or a multiplicity
        (:func:`~hyperkit_mol.potentials.sampling.unpaired_electrons`).
    target, jobs, resume, progress
        See :func:`label_smiles`.
    method : str
        See :class:`LabelSettings`.
    dft : DFTSettings, optional
        Level of theory of method ``dft``.

    Raises
    ------
    DataError, StructureError, RunError, ImportError
        See :func:`label_smiles` and :func:`~hyperkit_mol.potentials.read_structures`.
    """
    from hyperkit_mol.potentials.data import read_structures

    settings = LabelSettings(method=method, dft=dft or DFTSettings())
    size = _CHUNK.get(method, 25)
    names = ("name", "numbers", "positions", "cell", "pbc", "charge", "spin")
    read = [{n: getattr(s, n) for n in names} for s in read_structures(source, labels=False)]
    tasks = [
        Task(k // size, f"frames {k}", geometries=tuple(read[k : k + size]))
        for k in range(0, len(read), size)
    ]
    words: dict[str, Any] = {"input": _digest(Path(source).read_bytes()), "method": method}
    if method == "dft":
        words["dft"] = asdict(settings.dft)
    # Nothing is sampled here.
    settings = replace(settings, sample_with=method)
    return _label(tasks, Path(target), settings, words, jobs, resume, progress)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _label(
    tasks: Sequence[Task],
    target: Path,
    settings: LabelSettings,
    words: dict[str, Any],
    jobs: int | None,
    resume: bool,
    progress: Progress | None,
) -> LabelReport:
    from hyperkit_mol.chem.prepare import cpu_count
    from hyperkit_mol.runs import sole_owner

    if jobs is not None and jobs < 1:
        raise DataError(f"jobs must be >= 1, got {jobs}")
    begin = time.monotonic()
    parts = target.with_name(f"{target.name}.parts")
    if target.exists() and not parts.exists():
        if resume:
            return LabelReport(tasks=len(tasks), taken_over=len(tasks))
        raise DataError(f"{target} exists; name another file, or delete it")
    methods = {settings.method, settings.sampler}
    for method in sorted(methods):
        check_method(method, settings.dft)
    packages = ["ase", "rdkit", "tblite"] + ["pyscf", "pyscf-dispersion"] * ("dft" in methods)
    words |= {name: _version(name) for name in packages}
    with sole_owner(parts, "labelling"):
        _claim(parts, json.loads(json.dumps(words)), resume)
        done = scan(parts)
        todo = [t for t in tasks if t.number not in done]
        report = LabelReport(tasks=len(tasks), taken_over=len(tasks) - len(todo))
        _work(todo, parts, settings, jobs or cpu_count(), report, done, progress)
        _assemble(scan(parts), tasks, target, report)
        shutil.rmtree(parts, ignore_errors=True)
    report.seconds = time.monotonic() - begin
    return report


def _claim(parts: Path, words: dict[str, Any], resume: bool) -> None:
    """Make the folder this labelling's, or check that it is."""
    path = parts / "settings.json"
    parts.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        if resume and any(parts.glob("*.shard")):
            raise DataError(f"{parts}: settings.json is missing; delete the folder to begin anew")
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(words, indent=1))
        return
    if not resume:
        raise DataError(f"{parts} holds an unfinished labelling: go on with --resume, or delete the folder")
    try:
        stored = json.loads(path.read_text())
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise DataError(f"{path}: damaged; delete the folder to begin anew")
    if stored != words:
        changed = ", ".join(
            f"{k} ({stored.get(k)!r} -> {words.get(k)!r})"
            for k in sorted({*stored, *words})
            if stored.get(k) != words.get(k)
        )
        raise DataError(f"{parts} was begun with other settings: {changed}. Use them again, or delete it")


def _work(
    todo: Sequence[Task],
    parts: Path,
    settings: LabelSettings,
    jobs: int,
    report: LabelReport,
    done: dict[int, Record],
    progress: Progress | None,
) -> None:
    finished, frames = report.taken_over, sum(r.frames for r in done.values())
    failed = sum(len(r.failed) for r in done.values())

    def tell() -> None:
        if progress is not None:
            progress(finished, report.tasks, frames, failed)

    def found(_: int, outcome: Outcome) -> None:
        nonlocal finished, frames, failed
        if outcome.errno is not None:
            raise OSError(outcome.errno, outcome.strerror, str(parts))
        finished, frames, failed = finished + 1, frames + outcome.frames, failed + outcome.failed
        tell()

    def on_death(payload: tuple[Any, ...], run: Callable[[tuple[Any, ...]], Any]) -> Outcome:
        task: Task = payload[0]
        try:
            return run(payload)  # it may have been killed by accident
        except WorkerDiedError as err:
            text = f"{task.name}: {task.smiles or 'geometries'}: its process died twice ({err})"
            Shard(parts).append(task.number, 0, [" ".join(text.split())], "")
            return Outcome(failed=1)

    tell()
    if not todo:
        return
    job = Job("hyperkit_mol.potentials._label_worker", "make", (str(parts), settings, os.getpid()))
    with Pool(min(jobs, len(todo)), in_process=False) as pool:
        pool.map(job, [(t,) for t in todo], found=found, on_death=on_death)


def _assemble(done: dict[int, Record], tasks: Sequence[Task], target: Path, report: LabelReport) -> None:
    """One file of all frames, in the order of the tasks."""
    records = [done[t.number] for t in tasks]
    report.frames = sum(r.frames for r in records)
    # What is wrong with a molecule is said by each of its runs.
    report.failed = list(dict.fromkeys(line for r in records for line in r.failed))
    if not report.frames:
        shown = "\n".join(f"  {line}" for line in report.failed[:10])
        shutil.rmtree(target.with_name(f"{target.name}.parts"), ignore_errors=True)
        raise DataError(f"no frame could be labelled, so {target} was not written:\n{shown}")
    with replacing(target) as temporary, temporary.open("wb") as sink:
        for record in records:
            with record.path.open("rb") as stream:
                stream.seek(record.offset)
                sink.write(stream.read(record.length))
