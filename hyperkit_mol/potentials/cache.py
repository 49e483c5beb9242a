"""Parsed structures on disk: one Arrow file for each file read, memory-mapped ever after."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs

from hyperkit_mol.files import replacing
from hyperkit_mol.potentials.batch import Structure
from hyperkit_mol.potentials.errors import DataWarning

__all__ = ["MIN_BYTES", "StructureCache", "cache_folder"]

# Part of every name: raise it when reading a file gives other structures, or the columns change.
CODE_VERSION = 1
# Smaller files are parsed again in less time than anybody notices, and small runs leave nothing behind.
MIN_BYTES = 2_000_000


def cache_folder() -> Path:
    """Folder for parsed structures (``HYPERKIT_CACHE`` overrides the user's cache folder)."""
    return Path(os.environ.get("HYPERKIT_CACHE") or platformdirs.user_cache_dir("hyperkit")) / "structures"


class StructureCache:
    """The parsed copy of one file, valid for its present size and time of change.

    Parameters
    ----------
    path : Path
        The file that is read.
    settings : dict
        Whatever else decides the structures (keys, units); plain values.
    folder : Path, optional
        :func:`cache_folder` if left out.
    """

    def __init__(self, path: Path, settings: dict[str, Any], folder: Path | None = None) -> None:
        self.source, self.settings = path.resolve(), settings
        self.folder = folder or cache_folder()
        self._stamp = self._now()
        place = _digest(str(self.source))
        self._older = f"{place}-*.arrow"
        self._same = f"{place}-{_digest(self._stamp)}-"
        self.path = self.folder / f"{self._same}{_digest([CODE_VERSION, settings])}.arrow"

    def _now(self) -> list[int]:
        found = self.source.stat()
        return [found.st_size, found.st_mtime_ns]

    def load(self) -> list[Structure] | None:
        """The structures; None where there is no copy, or a damaged one, which is removed.

        Their arrays are read-only views of the file: nothing but the labels' bookkeeping is held in memory.
        """
        if not self.path.is_file():
            return None
        try:
            return _read(self.path)
        except Exception:  # whatever is wrong with it, parsing the file again is the answer
            with suppress(OSError):
                self.path.unlink()
            return None

    def save(self, structures: Sequence[Structure]) -> None:
        """Write the copy, by a temporary name and a rename, and remove copies of the file's earlier versions.

        A disk that is full or cannot be written gives a :class:`DataWarning`, nothing worse; a file that
        changed while it was read is not kept.
        """
        try:
            if self._now() != self._stamp:
                return
            with replacing(self.path) as temporary:
                _write(temporary, structures)
            for old in self.folder.glob(self._older):
                if not old.name.startswith(self._same):
                    with suppress(OSError):
                        old.unlink()
        except OSError as err:
            warnings.warn(
                f"{self.source.name}: no parsed copy is kept in {self.folder} ({err.strerror or err}); "
                "it will be parsed again next time",
                DataWarning,
                stacklevel=2,
            )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _write(path: Path, structures: Sequence[Structure]) -> None:
    import pyarrow as pa

    def joined(field: str, dtype: type) -> npt.NDArray[Any]:
        parts = [np.asarray(a, dtype).ravel() for s in structures if (a := getattr(s, field)) is not None]
        return np.concatenate(parts) if parts else np.zeros(0, dtype)

    def scalar(field: str, dtype: type) -> npt.NDArray[Any]:
        return np.array([getattr(s, field) for s in structures], dtype)

    names = [s.name.encode() for s in structures]
    arrays = {
        "atoms": np.array([len(s) for s in structures], np.int64),
        "forced": np.array([s.forces is not None for s in structures], np.uint8),
        "energetic": np.array([s.energy is not None for s in structures], np.uint8),
        "energy": np.array([0.0 if s.energy is None else s.energy for s in structures]),
        "charge": scalar("charge", np.int64),
        "spin": scalar("spin", np.int64),
        "numbers": joined("numbers", np.int64),
        "positions": joined("positions", np.float64),
        "forces": joined("forces", np.float64),
        "cell": joined("cell", np.float64),
        "pbc": joined("pbc", np.uint8),
        "name": np.frombuffer(b"\0".join(names), np.uint8),
    }
    # One row, a list a column: columns of different lengths lie in one file, each in one piece.
    columns = {k: pa.LargeListArray.from_arrays([0, len(v)], pa.array(v)) for k, v in arrays.items()}
    table = pa.table(columns).replace_schema_metadata({k: str(zlib.crc32(v)) for k, v in arrays.items()})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _read(path: Path) -> list[Structure]:
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()
    found: dict[str, npt.NDArray[Any]] = {}
    for name in table.column_names:
        found[name] = table.column(name).chunk(0).values.to_numpy(zero_copy_only=True)
        if str(zlib.crc32(found[name].data)).encode() != table.schema.metadata[name.encode()]:
            raise ValueError(f"{name} is damaged")
    atoms, names = found["atoms"], found["name"].tobytes().decode().split("\0")
    ends = np.cumsum(atoms)
    forced = np.cumsum(atoms * found["forced"])
    positions, forces = found["positions"].reshape(-1, 3), found["forces"].reshape(-1, 3)
    cells, pbc = found["cell"].reshape(-1, 3, 3), found["pbc"].view(np.bool_).reshape(-1, 3)
    out = []
    for k, n in enumerate(atoms.tolist()):
        rows = slice(int(ends[k]) - n, int(ends[k]))
        force_rows = slice(int(forced[k]) - n, int(forced[k]))
        out.append(
            Structure(
                positions[rows],
                found["numbers"][rows],
                cells[k],
                pbc[k],
                int(found["charge"][k]),
                int(found["spin"][k]),
                float(found["energy"][k]) if found["energetic"][k] else None,
                forces[force_rows] if found["forced"][k] else None,
                name=names[k],
            )
        )
    return out
