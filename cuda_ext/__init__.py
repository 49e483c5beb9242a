"""Compiled kernels of hyperkit, loaded on first use; ``hyperkit`` works the same without them.

``HYPERKIT_BACKEND`` chooses: ``auto`` (the default: the library if it was built; on a GPU its code, or else
NVRTC's), ``ext`` (the library or an error), ``nvrtc`` (GPU kernels compiled at run time; what runs on the CPU
stays eager), ``eager`` (PyTorch only).
"""

from __future__ import annotations

import functools
import logging
import os
from typing import NamedTuple

BACKENDS = ("auto", "ext", "nvrtc", "eager")
_log = logging.getLogger("hyperkit")


class State(NamedTuple):
    """What was decided at the first use, for the CPU or for GPUs.

    Attributes
    ----------
    active : bool
        Whether the operators are there.
    backend : str
        The value of ``HYPERKIT_BACKEND``.
    reason : str
        Why, in one line.
    """

    active: bool
    backend: str
    reason: str


def backend() -> str:
    """The backend asked for.

    Raises
    ------
    ValueError
        If ``HYPERKIT_BACKEND`` is none of those accepted.
    """
    wanted = os.environ.get("HYPERKIT_BACKEND", "auto")
    if wanted not in BACKENDS:
        raise ValueError(f"HYPERKIT_BACKEND must be one of {list(BACKENDS)}, got {wanted!r}")
    return wanted


@functools.cache
def load() -> State:
    """Load the library once and say in one log line what is used from now on.

    Raises
    ------
    ValueError
        If ``HYPERKIT_BACKEND`` is unknown.
    RuntimeError
        If it is ``ext`` and there is no library, or it cannot be loaded.
    """
    wanted = backend()
    state = State(False, wanted, f"HYPERKIT_BACKEND={wanted}")
    if wanted in ("auto", "ext"):
        state = _load(wanted)
        if wanted == "ext" and not state.active:
            raise RuntimeError(f"HYPERKIT_BACKEND=ext, but {state.reason}")
    _log.info("kernels: %s (%s)", "compiled" if state.active else "eager PyTorch", state.reason)
    return state


@functools.cache
def load_gpu() -> State:
    """The same for tensors on a GPU, at the first one: the library's code, NVRTC's, or PyTorch.

    Raises
    ------
    ValueError, RuntimeError
        As :func:`load`; also if the backend is ``ext`` and the library has no code for this GPU.
    """
    state = _load_gpu(backend())
    _log.info("GPU kernels: %s (%s)", "compiled" if state.active else "eager PyTorch", state.reason)
    return state


def _load(wanted: str) -> State:
    from . import build

    path = build.find_library()
    if path is None:
        return State(False, wanted, "not built for these sources: python -m hyperkit._ext build")
    import torch

    try:
        torch.ops.load_library(path)
        from . import ops

        ops.register()
    except (OSError, RuntimeError, AttributeError) as error:
        return State(False, wanted, f"{path.name} could not be loaded: {error}")
    name = ("SSE2", "AVX2", "AVX-512")[torch.ops.hyperkit_ext.isa()]
    return State(True, wanted, f"{path.name}, {name}")


def _load_gpu(wanted: str) -> State:
    import torch

    if wanted == "eager":
        return State(False, wanted, "HYPERKIT_BACKEND=eager")
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return State(False, wanted, "no CUDA device")
    from . import ops

    try:
        how = ops.prepare_gpu(torch.device("cuda", torch.cuda.current_device()), wanted)
        ops.register_gpu(defined=load().active)
    except (OSError, RuntimeError, AttributeError) as error:
        if wanted == "ext":
            raise RuntimeError(f"HYPERKIT_BACKEND=ext, but {error}") from error
        return State(False, wanted, str(error))
    return State(True, wanted, how)
