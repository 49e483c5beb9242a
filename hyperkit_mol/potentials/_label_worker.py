"""What a labelling process does: one task at a time, its result appended to a shard file of its own.

A record is a line of JSON (task, frames, failures, length, checksum) and the frames as extended XYZ. A
process that is killed leaves at most one record without its end, which is not counted.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Outcome", "Record", "Shard", "Task", "make", "scan"]


@dataclass(frozen=True)
class Task:
    """One run of a molecule, or some given geometries.

    Parameters
    ----------
    number : int
        Its place in the output.
    name : str
        What messages call it, such as ``line 3``.
    smiles : str, optional
    run : tuple
        Index of the molecule, conformer, temperature, number of frames, and the first of them to be kept: the
        others before it are sampled for those that follow.
    geometries : tuple of dict, optional
        ``name``, ``numbers``, ``positions``, ``cell``, ``pbc``, ``charge``, ``spin``.
    """

    number: int
    name: str
    smiles: str | None = None
    run: tuple[int, int, float, int, int] = (0, 0, 0.0, 0, 0)
    geometries: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What the parent is told: numbers, or the error of a disk that takes nothing more."""

    frames: int = 0
    failed: int = 0
    errno: int | None = None
    strerror: str = ""


@dataclass(frozen=True)
class Record:
    """Where a finished task's frames lie."""

    path: Path
    offset: int
    length: int
    frames: int
    failed: tuple[str, ...]


class Shard:
    """A file that grows by whole records."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.shard"

    def append(self, number: int, frames: int, failed: list[str], text: str) -> None:
        """Add a finished task; what an error leaves behind is cut off again."""
        body = text.encode()
        head = {
            "task": number,
            "frames": frames,
            "failed": failed,
            "bytes": len(body),
            "crc": zlib.crc32(body),
        }
        with self.path.open("ab") as stream:
            begin = stream.tell()
            try:
                stream.write(json.dumps(head).encode() + b"\n" + body)
                stream.flush()
                os.fsync(stream.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(stream.fileno(), begin)
                # The stream still holds what it could not write: a new file for what comes next.
                self.path = self.path.with_name(f"{os.getpid()}-{uuid.uuid4().hex[:8]}.shard")
                raise


def scan(folder: Path) -> dict[int, Record]:
    """Finished tasks in a folder of shards, by number; what is cut off or damaged is passed over."""
    found: dict[int, Record] = {}
    for path in sorted(folder.glob("*.shard")):
        for number, record in _records(path):
            found.setdefault(number, record)
    return found


def _records(path: Path) -> Iterator[tuple[int, Record]]:
    with path.open("rb") as stream:
        while line := stream.readline():
            try:
                head = json.loads(line)
                body = stream.read(head["bytes"])
                if not line.endswith(b"\n") or len(body) < head["bytes"] or zlib.crc32(body) != head["crc"]:
                    return
                record = Record(
                    path, stream.tell() - len(body), len(body), head["frames"], tuple(head["failed"])
                )
            except (ValueError, KeyError, TypeError):  # nothing after it can be trusted to be a beginning
                return
            yield head["task"], record


def make(folder: str, settings: Any, parent: int) -> Callable[[Task], Outcome]:
    """The function that a process of the pool runs."""
    # Before the method is loaded: it asks once, and two threads make GFN2-xTB 40 times slower, not faster.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    shard = Shard(Path(folder))

    def work(task: Task) -> Outcome:
        frames, failed = _frames(task, settings)
        text = _text(frames)
        try:
            shard.append(task.number, len(frames), failed, text)
        except OSError as err:
            return Outcome(errno=err.errno or 0, strerror=err.strerror or str(err))
        return Outcome(len(frames), len(failed))

    return work


def _follow(parent: int) -> None:
    # A parent that was killed cannot end its processes; --resume must not find them still at work.
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _text(frames: list[Any]) -> str:
    import ase.io

    buffer = io.StringIO()
    for atoms in frames:  # ASE's reader takes a backslash, as in C/C=C\C, for the beginning of an escape
        if "smiles" in atoms.info:
            atoms.info["smiles"] = atoms.info["smiles"].replace("\\", "\\\\")
    if frames:
        ase.io.write(buffer, frames, format="extxyz")
    return buffer.getvalue()


def _frames(task: Task, settings: Any) -> tuple[list[Any], list[str]]:
    from hyperkit_mol.potentials.errors import StructureError
    from hyperkit_mol.potentials.sampling import relabelled, sample_molecule

    if task.smiles is None:
        return _given(task, settings)
    index, conformer, temperature, count, first = task.run
    again = settings.sampler != settings.method
    name = f"{task.name}: {task.smiles}, conformer {conformer}, {temperature:g} K"
    found: list[Any] = []
    failed: list[str] = []
    try:
        sampled = sample_molecule(task.smiles, settings, conformer, temperature, count, index)
        for k, atoms in enumerate(sampled):
            if k < first:
                continue
            if not again:
                found.append(atoms)
                continue
            try:
                found.append(relabelled(atoms, settings))
            except Exception as err:  # the geometries go on without this label
                failed.append(f"{name}, frame {k}: {_said(err)}")
    except Exception as err:  # whatever a method raises where it does not converge
        text = _said(err)
        if isinstance(err, StructureError) and task.smiles in text:  # about the molecule, not about this run
            return [], [f"{task.name}: {text}"]
        # Each part of a run that is cut says the same; one line is left of them.
        kept = f" ({len(found)} frames before that are kept)" if found and not again else ""
        failed.append(f"{name}: {text}{kept}")
    return found, failed


def _said(err: Exception) -> str:
    """What an exception says, in one line."""
    return " ".join(str(err).split()) or type(err).__name__


def _given(task: Task, settings: Any) -> tuple[list[Any], list[str]]:
    from ase import Atoms

    from hyperkit_mol.potentials.sampling import calculator, labelled, unpaired_electrons

    found, failed = [], []
    for g in task.geometries:
        unpaired = unpaired_electrons(np.asarray(g["numbers"]), g["charge"], g["spin"])
        atoms = Atoms(g["numbers"], g["positions"], cell=g["cell"], pbc=g["pbc"])
        atoms.info = {"charge": g["charge"], "spin": unpaired, "source": g["name"]}
        atoms.info["method"] = settings.called(settings.method)
        try:
            atoms.calc = calculator(settings.method, g["charge"], unpaired, settings.dft)
            found.append(labelled(atoms))
        except Exception as err:
            failed.append(f"{g['name']}: {_said(err)}")
    return found, failed
