"""Where data files are looked for, and what is said when one is missing."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.request
from pathlib import Path

from hyperkit.graphs._checksums import CHECKSUMS

ENVIRONMENT = "HYPERKIT_DATA"


def data_folder(root: str | Path | None = None) -> Path:
    """The folder that holds the data sets' folders.

    Parameters
    ----------
    root : str or Path, optional
        By default the environment variable ``HYPERKIT_DATA``, else ``hyperkit/graphs`` in the user's cache
        folder. A folder with a folder ``graphs`` in it stands for the latter.
    """
    if root is None:
        root = os.environ.get(ENVIRONMENT) or None
    if root is None:
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return Path(cache) / "hyperkit" / "graphs"
    path = Path(root).expanduser()
    return path / "graphs" if (path / "graphs").is_dir() else path


class Folder:
    """Files below a data folder, fetched from `mirror` where they are missing and their checksum is known.

    Parameters
    ----------
    root : str or Path, optional
        See :func:`data_folder`.
    mirror : str, optional
        Address of a copy of the data folder; ``<mirror>/<path>`` is fetched. Nothing is fetched without it.
    verify : bool
        Compare the files that are there with the known checksums, too.
    """

    def __init__(
        self, root: str | Path | None = None, mirror: str | None = None, verify: bool = False
    ) -> None:
        self.root, self.mirror, self.verify = data_folder(root), mirror, verify

    def has(self, path: str) -> bool:
        """Whether a file is there."""
        return (self.root / path).is_file()

    def file(self, path: str) -> Path:
        """A file that exists.

        Parameters
        ----------
        path : str
            Relative to the data folder, with slashes.

        Raises
        ------
        FileNotFoundError
            If it is neither there nor to be fetched; says where to put it.
        ValueError
            If its checksum is not the known one (after fetching, or with `verify`).
        """
        target = self.root / path
        if not target.is_file():
            if self.mirror is None:
                raise FileNotFoundError(
                    f"{path} is missing: put it at {target}, or name the data folder by root= or the "
                    f"environment variable {ENVIRONMENT}, or name an address that has a copy by mirror="
                )
            self._fetch(path, target)
        elif self.verify and path in CHECKSUMS and digest(target.read_bytes()) != CHECKSUMS[path]:
            raise ValueError(f"{target} has another checksum than the file that hyperkit was tested with")
        return target

    def _fetch(self, path: str, target: Path) -> None:
        known = CHECKSUMS.get(path)
        if known is None:
            raise FileNotFoundError(
                f"{path} is missing and is not fetched, since its checksum is not known: put it at {target}"
            )
        assert self.mirror is not None
        with urllib.request.urlopen(f"{self.mirror.rstrip('/')}/{path}", timeout=60) as reply:
            content = reply.read()
        if digest(content) != known:
            raise ValueError(f"what {self.mirror} has as {path} has another checksum than {known}; not kept")
        target.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when whole, so that a broken-off download never looks like a file.
        handle, name = tempfile.mkstemp(dir=target.parent)
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        os.replace(name, target)


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
