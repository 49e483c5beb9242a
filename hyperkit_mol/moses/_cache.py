"""A folder for what is computed once: written under a temporary name, then renamed into place.

Two processes that need the same file at once both compute it and the later rename wins; both files are
the same, and no reader ever sees half of one. A cache that cannot be written only costs time.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import platformdirs

T = TypeVar("T")
log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Folder of cached statistics: ``$HYPERKIT_CACHE`` or the user's cache folder of this platform.

    Where it cannot be written, a temporary folder of this process stands in, and the log says so.
    """
    root = os.environ.get("HYPERKIT_CACHE")
    return _writable((Path(root) if root else platformdirs.user_cache_path("hyperkit")) / "moses")


@lru_cache(maxsize=8)
def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        log.warning("cannot write to the cache %s (%s); reference statistics will not be kept", folder, error)
        stand_in = tempfile.mkdtemp(prefix="hyperkit-moses-")
        atexit.register(shutil.rmtree, stand_in, ignore_errors=True)
        return Path(stand_in)


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file, remembered while size and time stay the same."""
    stat = path.stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` with a temporary name in the folder of ``path``, then rename.

    The earlier file, if any, stays intact when ``write`` fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, in the same folder, so that the rename is atomic; it keeps the suffix, by which some
    # writers choose the format.
    temporary = path.with_name(f".{path.stem}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def cached(
    name: str, *, build: Callable[[], T], save: Callable[[T, Path], None], load: Callable[[Path], T]
) -> T:
    """Load ``name`` from the cache, or build and store it.

    A file that does not load (a disk that filled up, another version's) is built again.
    """
    path = cache_dir() / name
    if path.is_file():
        try:
            return load(path)
        except Exception as error:
            log.warning("cached file %s does not load (%s); computing it again", path, error)
    value = build()
    try:
        write_atomically(path, lambda temporary: save(value, temporary))
    except OSError as error:
        log.warning("cannot store %s (%s); it will be computed again next time", path, error)
    return value
