"""From SMILES to integer arrays, once, in parallel, into one Arrow file that is memory-mapped ever after."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import rdkit
from rdkit import rdBase

from hyperkit_mol.chem.fragment import Fragmenter, UnsupportedMolecule
from hyperkit_mol.chem.reading import BadInputError
from hyperkit_mol.chem.vocabulary import Vocabulary
from hyperkit_mol.files import replacing

__all__ = ["PreparationReport", "TreeDataset", "cpu_count", "follow_parent", "prepare"]

# Part of every cache key: raise it when a change here or in fragment.py changes the arrays.
CODE_VERSION = 1
_CHUNK = 2000
_UNREADABLE = "not a SMILES that RDKit can read"


def cpu_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@dataclass
class PreparationReport:
    """What became of the input.

    Attributes
    ----------
    read : int
        Molecules in the input.
    encoded : int
        Molecules in the prepared data.
    unreadable : int
        Lines that RDKit cannot parse; `unreadable_lines` names the first of them with their text.
    unsupported : dict
        Molecules without a motif tree, counted by reason (salts, explicit hydrogens, size).
    out_of_vocabulary : int
        Molecules with a motif that the vocabulary lacks.
    stereo_dropped : int
        Molecules whose stereochemistry was given up.
    """

    read: int = 0
    encoded: int = 0
    unreadable: int = 0
    unreadable_lines: list[tuple[int, str]] = field(default_factory=list)
    unsupported: dict[str, int] = field(default_factory=dict)
    out_of_vocabulary: int = 0
    stereo_dropped: int = 0

    def lines(self) -> Iterator[str]:
        """The report as sentences for a person."""
        yield f"{self.encoded:,} of {self.read:,} molecules encoded ({self.encoded / max(self.read, 1):.2%})"
        if self.unreadable:
            shown = "; ".join(f"line {n}: {text[:60]!r}" for n, text in self.unreadable_lines[:5])
            more = " ..." if self.unreadable > 5 else ""
            yield f"{self.unreadable:,} unreadable SMILES skipped ({shown}{more})"
        for reason, count in sorted(self.unsupported.items(), key=lambda kv: -kv[1]):
            yield f"{count:,} skipped: {reason}"
        if self.out_of_vocabulary:
            yield f"{self.out_of_vocabulary:,} skipped: a motif that the vocabulary lacks"
        if self.stereo_dropped:
            yield f"{self.stereo_dropped:,} encoded without their stereochemistry"


class TreeDataset:
    """Motif trees as flat arrays.

    Attributes
    ----------
    vocabulary : Vocabulary
    offsets : numpy.ndarray
        ``(molecules + 1,)``; nodes of molecule `i` are ``offsets[i]:offsets[i + 1]``, depth first.
    label, parent, site : numpy.ndarray
        For every node its label, the index of its parent within the molecule (-1 for the root) and the
        atom of the parent's motif that it is bonded to (-1 for the root).
    row : numpy.ndarray
        For every molecule its place in the input, from 0.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        offsets: npt.NDArray[Any],
        label: npt.NDArray[Any],
        parent: npt.NDArray[Any],
        site: npt.NDArray[Any],
        row: npt.NDArray[Any],
        report: PreparationReport,
    ) -> None:
        self.vocabulary = vocabulary
        self.offsets = offsets
        self.label = label
        self.parent = parent
        self.site = site
        self.row = row
        self.report = report

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Nodes of each molecule."""
        return np.diff(self.offsets)

    def tree(self, index: int) -> tuple[list[int], list[int], list[int]]:
        """Labels, parents and sites of one molecule."""
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.label[part].tolist(), self.parent[part].tolist(), self.site[part].tolist()

    # -- files ------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write to one Arrow file, by a temporary name and a rename."""
        offsets = pa.array(self.offsets.astype(np.int32))
        table = pa.table(
            {
                "row": pa.array(self.row.astype(np.int64)),
                "label": pa.ListArray.from_arrays(offsets, pa.array(self.label.astype(np.int32))),
                "parent": pa.ListArray.from_arrays(offsets, pa.array(self.parent.astype(np.int16))),
                "site": pa.ListArray.from_arrays(offsets, pa.array(self.site.astype(np.int16))),
            }
        ).replace_schema_metadata(
            {"vocabulary": self.vocabulary.to_json(), "report": json.dumps(asdict(self.report))}
        )
        with (
            replacing(path) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table.combine_chunks())

    @classmethod
    def load(cls, path: Path) -> TreeDataset:
        """Map what :meth:`save` wrote; nothing is read until it is used.

        Raises
        ------
        BadInputError
            If the file is damaged.
        """
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()
            meta = table.schema.metadata
            chunk = table.column("label").combine_chunks()
            vocabulary = Vocabulary.from_json(meta[b"vocabulary"].decode(), str(path))
            report = PreparationReport(**json.loads(meta[b"report"]))

            def values(name: str) -> npt.NDArray[Any]:
                return table.column(name).combine_chunks().values.to_numpy(zero_copy_only=True)

            return cls(
                vocabulary,
                chunk.offsets.to_numpy(zero_copy_only=True).astype(np.int64),
                values("label"),
                values("parent"),
                values("site"),
                table.column("row").to_numpy(),
                report,
            )
        except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as err:
            raise BadInputError(f"{path}: damaged prepared data ({err}); delete it to make it again") from err


def follow_parent() -> None:
    """In a worker process: end when the parent does, also when it was killed and could not say so."""
    parent = parent_process()
    if parent is not None:
        Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


# -- workers ------------------------------------------------------------------------------------------------

_fragmenter: Fragmenter | None = None
_silence: rdBase.BlockLogs | None = None  # RDKit is silent for as long as this lives


def _start_worker(max_atoms: int, keep_largest_fragment: bool) -> None:
    global _fragmenter, _silence
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    follow_parent()
    _silence = rdBase.BlockLogs()
    _fragmenter = Fragmenter(max_atoms, keep_largest_fragment)


@dataclass
class _Chunk:
    """Trees of one chunk; motifs are numbered in the order in which this chunk met them."""

    motifs: list[str]
    length: npt.NDArray[np.int16]  # nodes of each molecule; 0: see problems
    motif: npt.NDArray[np.int32]
    attach: npt.NDArray[np.int16]
    parent: npt.NDArray[np.int16]
    site: npt.NDArray[np.int16]
    problems: list[tuple[int, str]]


def _encode_chunk(smiles: Sequence[str]) -> _Chunk:
    assert _fragmenter is not None
    index: dict[str, int] = {}
    length, motif, attach, parent, site = [], [], [], [], []
    problems = []
    for i, text in enumerate(smiles):
        try:
            tree = _fragmenter.tree(text)
        except UnsupportedMolecule as err:
            problems.append((i, err.reason))
            length.append(0)
            continue
        length.append(len(tree))
        motif.extend([index.setdefault(s, len(index)) for s in tree.motifs])
        attach.extend(tree.attach)
        parent.extend(tree.parent)
        site.extend(tree.site)
    return _Chunk(
        list(index),
        np.array(length, np.int16),
        np.array(motif, np.int32),
        np.array(attach, np.int16),
        np.array(parent, np.int16),
        np.array(site, np.int16),
        problems,
    )


def _encode_all(
    smiles: Sequence[str],
    jobs: int,
    settings: tuple[int, bool],
    progress: Callable[[int, int], None] | None,
) -> list[_Chunk]:
    starts = range(0, len(smiles), _CHUNK)
    if jobs == 1 or len(smiles) <= _CHUNK:
        global _fragmenter
        _fragmenter = Fragmenter(*settings)
        chunks = []
        with rdBase.BlockLogs():
            for s in starts:
                chunks.append(_encode_chunk(smiles[s : s + _CHUNK]))
                if progress:
                    progress(min(s + _CHUNK, len(smiles)), len(smiles))
        return chunks
    found: dict[int, _Chunk] = {}
    # spawn: a fork of a process that has run torch inherits its threads' locks.
    pool = ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_start_worker, initargs=settings
    )
    try:
        waiting: dict[Future[_Chunk], int] = {}
        todo = iter(starts)
        done = 0
        while True:
            for s in todo:
                waiting[pool.submit(_encode_chunk, list(smiles[s : s + _CHUNK]))] = s
                if len(waiting) >= 4 * jobs:
                    break
            if not waiting:
                break
            ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ready:
                s = waiting.pop(future)
                found[s] = future.result()
                done += len(found[s].length)
            if progress:
                progress(done, len(smiles))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [found[s] for s in starts]


# -- the whole ----------------------------------------------------------------------------------------------


def _key(smiles: Sequence[str], vocabulary: Vocabulary | None, settings: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for text in smiles:
        digest.update(text.encode("utf-8", "replace"))
        digest.update(b"\n")
    words = {
        "code": CODE_VERSION,
        "rdkit": rdkit.__version__,
        "vocabulary": vocabulary.digest if vocabulary else None,
        **settings,
    }
    digest.update(json.dumps(words, sort_keys=True).encode())
    return digest.hexdigest()[:24]


def prepare(
    smiles: Sequence[str],
    *,
    lines: Sequence[int] | None = None,
    vocabulary: Vocabulary | None = None,
    min_count: int = 1,
    max_atoms: int = 96,
    keep_largest_fragment: bool = False,
    max_bad: int | None = 100,
    jobs: int | None = None,
    cache: Path | None = None,
    source: str = "the input",
    progress: Callable[[int, int], None] | None = None,
) -> TreeDataset:
    """Encode molecules as motif trees, or map the cached result of an earlier call.

    Parameters
    ----------
    smiles : sequence of str
    lines : sequence of int, optional
        Line number of each SMILES in its file, for messages; counted from 1 if left out.
    vocabulary : Vocabulary, optional
        Encode with this one. If left out, one is made from `smiles`.
    min_count : int
        A motif seen less often is left out of a new vocabulary, and its molecules with it (counted).
    max_atoms : int
        Heavy atoms above which a molecule is skipped (counted).
    keep_largest_fragment : bool
        Of salts and mixtures keep the largest fragment instead of skipping them.
    max_bad : int or None
        Fail if more lines than this cannot be parsed; None accepts any number.
    jobs : int, optional
        Processes; all processors if left out.
    cache : Path, optional
        Folder for the prepared file.
    source : str
        What to call the input in messages.
    progress : callable, optional
        Called with ``(done, total)``.

    Returns
    -------
    TreeDataset

    Raises
    ------
    BadInputError
        If too many lines are bad or nothing is left.
    """
    path = None
    if cache is not None:
        settings = {
            "min_count": min_count,
            "max_atoms": max_atoms,
            "keep_largest_fragment": keep_largest_fragment,
        }
        cache.mkdir(parents=True, exist_ok=True)
        path = cache / f"trees-{_key(smiles, vocabulary, settings)}.arrow"
        if path.exists():
            data = TreeDataset.load(path)
            _check_bad(data.report, max_bad, source)
            return data
    report = PreparationReport(read=len(smiles))
    chunks = _encode_all(smiles, jobs or cpu_count(), (max_atoms, keep_largest_fragment), progress)

    unsupported: Counter[str] = Counter()
    for number, chunk in enumerate(chunks):
        for i, reason in chunk.problems:
            if reason == _UNREADABLE:
                report.unreadable += 1
                row = number * _CHUNK + i
                if len(report.unreadable_lines) < 20:
                    report.unreadable_lines.append((lines[row] if lines else row + 1, smiles[row][:200]))
            else:
                unsupported[reason] += 1
    report.unsupported = dict(unsupported)
    _check_bad(report, max_bad, source)

    if vocabulary is None:
        counts: Counter[tuple[str, int]] = Counter()
        for chunk in chunks:
            pairs, k = np.unique(np.stack([chunk.motif, chunk.attach]), axis=1, return_counts=True)
            for (m, a), times in zip(pairs.T.tolist(), k.tolist(), strict=True):
                counts[(chunk.motifs[m], a)] += times
        if not counts:
            raise BadInputError(f"{source}: no molecule is left. " + "; ".join(report.lines()))
        vocabulary = Vocabulary.from_counts(counts, min_count)

    parts: dict[str, list[npt.NDArray[Any]]] = {
        "length": [],
        "label": [],
        "parent": [],
        "site": [],
        "row": [],
    }
    for number, chunk in enumerate(chunks):
        label = _labels(chunk, vocabulary)
        length = chunk.length.astype(np.int64)
        owner = np.repeat(np.arange(len(length)), length)
        keep = (length > 0) & (np.bincount(owner[label < 0], minlength=len(length)) == 0)
        report.out_of_vocabulary += int((length > 0).sum() - keep.sum())
        nodes = keep[owner]
        parts["length"].append(length[keep])
        parts["label"].append(label[nodes])
        parts["parent"].append(chunk.parent[nodes])
        parts["site"].append(chunk.site[nodes])
        parts["row"].append(np.flatnonzero(keep) + number * _CHUNK)
    flat = {k: np.concatenate(v) if v else np.zeros(0, np.int64) for k, v in parts.items()}
    report.encoded = len(flat["length"])
    report.stereo_dropped = sum(
        1 for i in flat["row"].tolist() if "@" in smiles[i] or "/" in smiles[i] or "\\" in smiles[i]
    )
    if report.encoded == 0:
        raise BadInputError(f"{source}: no molecule is left. " + "; ".join(report.lines()))
    offsets = np.concatenate([[0], np.cumsum(flat["length"])])
    data = TreeDataset(vocabulary, offsets, flat["label"], flat["parent"], flat["site"], flat["row"], report)
    if path is not None:
        data.save(path)
    return data


def _check_bad(report: PreparationReport, max_bad: int | None, source: str) -> None:
    if max_bad is not None and report.unreadable > max_bad:
        shown = "\n".join(f"  line {n}: {text[:80]!r}" for n, text in report.unreadable_lines[:10])
        raise BadInputError(
            f"{source}: {report.unreadable:,} of {report.read:,} SMILES cannot be parsed, more than "
            f"--max-bad {max_bad} allows:\n{shown}"
        )


def _labels(chunk: _Chunk, vocabulary: Vocabulary) -> npt.NDArray[np.int32]:
    """Labels of a chunk's nodes, -1 where the vocabulary lacks one."""
    if not len(chunk.motif):
        return np.zeros(0, np.int32)
    motif = np.array([-1 if (m := vocabulary.motif_id(s)) is None else m for s in chunk.motifs], np.int64)
    width = int(vocabulary.motif_size.max()) + 1  # attach -1 .. size - 1
    table = np.full(len(vocabulary) * width, -1, np.int32)
    table[vocabulary.label_motif * width + vocabulary.label_attach + 1] = np.arange(vocabulary.num_labels)
    own = motif[chunk.motif]
    attach = chunk.attach.astype(np.int64) + 1
    known = (own >= 0) & (attach < width)
    return np.where(known, table[np.where(known, own * width + attach, 0)], -1).astype(np.int32)
