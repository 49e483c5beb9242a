"""``python -m hyperkit.info``: versions, what computes, and why."""

from __future__ import annotations

import platform

import torch

from hyperkit._version import __version__
from hyperkit.ops import _fused


def info() -> dict[str, str]:
    """Versions and the state of the compiled kernels, as text by name."""
    lines = {
        "hyperkit": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}",
    }
    try:
        state = _fused.extension().load()
        lines["kernels"] = f"{'compiled' if state.active else 'eager PyTorch'} ({state.reason})"
        lines["backend"] = f"HYPERKIT_BACKEND={state.backend}"
    except (ModuleNotFoundError, RuntimeError, ValueError) as error:
        lines["kernels"] = f"none: {error}"
    lines["gpu"] = "none seen by torch"
    if torch.cuda.is_available():
        try:
            state = _fused.extension().load_gpu()
            how = f"{'compiled kernels' if state.active else 'eager PyTorch'} ({state.reason})"
        except (ModuleNotFoundError, RuntimeError, ValueError) as error:
            how = f"eager PyTorch ({error})"
        lines["gpu"] = f"{torch.cuda.get_device_name()}: {how}"
    return lines


def main() -> None:
    """Print :func:`info`."""
    for name, value in info().items():
        print(f"{name:9} {value}")


if __name__ == "__main__":
    main()
