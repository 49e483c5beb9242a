"""The other end of `_workers.Pool`: reads jobs from standard input, writes results to standard output.

Started as ``python -P _worker.py``. A plain child process in place of multiprocessing: it needs no
``if __name__ == "__main__"`` in the caller's script, works from notebooks and standard input, and never
forks a process that already runs torch's threads.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import IO, Any

_HEADER = struct.Struct("<Q")


def send(stream: IO[bytes], value: Any) -> None:
    """Write one pickled value with its length before it."""
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_HEADER.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one value; EOFError when the other side is gone."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise EOFError("the other process closed the pipe")
    (length,) = _HEADER.unpack(header)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError("the other process closed the pipe")
    return pickle.loads(data)


def make_job(module: str, factory: str, arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """``factory(*arguments)`` of a module."""
    return getattr(importlib.import_module(module), factory)(*arguments)


def _without_packages() -> None:
    """Let ``hyperkit_mol.moses.*`` be imported without the packages' own imports (torch)."""
    folder = Path(__file__).parent
    for name, path in (("hyperkit_mol", folder.parent), ("hyperkit_mol.moses", folder)):
        package = ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package


def main() -> None:
    """Serve jobs until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    source = sys.stdin.buffer
    # Keep the pipe for results alone: what libraries print must not land between two of them.
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        jobs: dict[int, Callable[..., Any]] = {}
        while True:
            key, recipe, payload = receive(source)
            try:
                if recipe is not None:
                    jobs[key] = make_job(*recipe)
                answer = (True, jobs[key](*payload))
            except Exception:
                answer = (False, traceback.format_exc())
            send(sink, answer)
    except (EOFError, BrokenPipeError):
        return


if __name__ == "__main__":
    _without_packages()
    main()
