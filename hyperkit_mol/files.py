"""Files and folders that are whole or not there."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "replacing_folder"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; renamed to `path` at the end, removed after an error.

    Its folder is made. An interrupt or a full disk leaves an earlier file as it was.

    Examples
    --------
    >>> from hyperkit_mol.files import replacing
    >>> with replacing("/tmp/hyperkit-example.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> open("/tmp/hyperkit-example.txt").read()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """The same for a folder: an empty one to fill, which takes the place of an earlier one when complete."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    new, old = (folder.with_name(f".{folder.name}.{kind}-{mark}") for kind in ("new", "old"))
    try:
        new.mkdir()
        yield new
        for file in new.iterdir():
            file.chmod(0o644)  # safetensors leaves its files to the owner alone
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
