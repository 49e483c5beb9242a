"""GPU kernels compiled at run time: NVRTC and the driver through ctypes, cubins kept in a cache.

For a machine with a GPU and no nvcc. NVRTC comes as a Python package (``nvidia-cuda-nvrtc``), also inside
CUDA builds of torch; compiling needs no GPU. The headers are those that g++ and nvcc read.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import build
from .launching import pack

LOCK_SECONDS = 60.0
"""How long a process waits for another one's compilation before it does its own."""
_MAX_SHARED = 48 * 1024
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class NvrtcError(RuntimeError):
    """NVRTC or the driver is missing or refused; the message names the call."""


def _library() -> ctypes.CDLL:
    """libnvrtc, with its builtins loaded first (it looks for them by name)."""
    folders: list[Path] = []
    for name in ("nvidia.cu13", "nvidia.cuda_nvrtc"):
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            continue
        folders += [Path(p) / "lib" for p in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        found = sorted(folder.glob("libnvrtc.so*"))
        if found:
            for builtins in sorted(folder.glob("libnvrtc-builtins.so*")):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(found[-1]))
    for name in ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise NvrtcError("NVRTC not found: pip install nvidia-cuda-nvrtc")


def compile_cubin(architecture: int) -> bytes:
    """Compile all kernels for one compute capability, such as 90; needs no GPU.

    Raises
    ------
    NvrtcError
        If NVRTC is missing, or with its log if it fails.
    """
    lib = _library()
    headers = {p.name: p.read_bytes() for p in sorted(build.SOURCES.iterdir()) if p.suffix in (".h", ".cuh")}
    names = (ctypes.c_char_p * len(headers))(*(n.encode() for n in headers))
    texts = (ctypes.c_char_p * len(headers))(*headers.values())
    program = ctypes.c_void_p()

    def check(code: int, call: str) -> None:
        if code:
            size = ctypes.c_size_t()
            lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(max(1, size.value))
            lib.nvrtcGetProgramLog(program, log)
            raise NvrtcError(f"{call} failed with {code}: {log.value.decode(errors='replace')[:4000]}")

    source = b'#include "kernels.cuh"\n'
    check(
        lib.nvrtcCreateProgram(ctypes.byref(program), source, b"hyperkit.cu", len(headers), texts, names),
        "nvrtcCreateProgram",
    )
    try:
        options = [f"--gpu-architecture=sm_{architecture}".encode(), b"--std=c++17"]
        array = (ctypes.c_char_p * len(options))(*options)
        check(lib.nvrtcCompileProgram(program, len(options), array), "nvrtcCompileProgram")
        size = ctypes.c_size_t()
        check(lib.nvrtcGetCUBINSize(program, ctypes.byref(size)), "nvrtcGetCUBINSize")
        cubin = ctypes.create_string_buffer(size.value)
        check(lib.nvrtcGetCUBIN(program, cubin), "nvrtcGetCUBIN")
        return cubin.raw
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))


def cubin(architecture: int, folder: Path | None = None, *, wait: float = LOCK_SECONDS) -> bytes:
    """The cubin of the present sources, from the cache or compiled into it.

    One process compiles while others wait, but not for ever: a lock older than `wait` seconds is passed over
    (its owner may have died), and a folder that cannot be written only costs the cache.
    """
    folder = build.cache_folder() if folder is None else folder
    path = folder / f"hyperkit-{build.source_hash()}-sm{architecture}.cubin"
    lock = path.with_suffix(".lock")
    held = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + wait
        while not path.is_file():
            try:
                os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                held = True
                break
            except FileExistsError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
        if path.is_file():
            return path.read_bytes()
    except OSError:
        return compile_cubin(architecture)
    try:
        data = compile_cubin(architecture)
        try:
            handle, temporary = tempfile.mkstemp(dir=folder, suffix=".part")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except OSError:
            pass
        return data
    finally:
        if held:
            lock.unlink(missing_ok=True)


class Launcher:
    """Kernels of one device, launched through the driver in the device's primary context (which torch uses).

    Parameters
    ----------
    device : int
        Its number.
    architecture : int, optional
        Compute capability; the device's own by default.
    driver : str
        The driver's library; the tests put a fake one here.
    folder : Path, optional
        Cache of cubins.

    Raises
    ------
    NvrtcError
        If there is no driver, no device, or a call fails.
    """

    def __init__(
        self,
        device: int = 0,
        *,
        architecture: int | None = None,
        driver: str = "libcuda.so.1",
        folder: Path | None = None,
    ) -> None:
        try:
            self._driver = ctypes.CDLL(driver)
        except OSError as error:
            raise NvrtcError(f"no CUDA driver: {error}") from error
        self._call("cuInit", 0)
        handle, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(handle), device)
        if architecture is None:
            major, minor = ctypes.c_int(), ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, handle)
            self._call("cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, handle)
            architecture = 10 * major.value + minor.value
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), handle)
        image = cubin(architecture, folder)
        self._enter()
        self._module = ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(self._module), image)
        self._functions: dict[str, ctypes.c_void_p] = {}
        self._allowed: dict[str, int] = {}

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            raise NvrtcError(f"{name} failed with {code}")

    def _enter(self) -> None:
        """Make the context this thread's, as autograd's threads may have none."""
        now = ctypes.c_void_p()
        self._call("cuCtxGetCurrent", ctypes.byref(now))
        if now.value != self._context.value:
            self._call("cuCtxSetCurrent", self._context)

    def _function(self, name: str) -> ctypes.c_void_p:
        if name not in self._functions:
            function = ctypes.c_void_p()
            self._call("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
            self._functions[name] = function
        return self._functions[name]

    def launch(
        self, name: str, arguments: Sequence[Any], *, grid: int, warps: int, shared: int, stream: int
    ) -> None:
        """Launch a kernel.

        Parameters
        ----------
        name : str
            Such as ``"hk_row_kernel"``.
        arguments : sequence of ctypes values
            In the kernel's order; structs by value.
        grid, warps : int
            Blocks, warps in a block.
        shared : int
            Bytes of dynamic shared memory.
        stream : int
            ``cudaStream_t``.

        Raises
        ------
        NvrtcError
            If the driver refuses, for instance more shared memory than a block may have.
        """
        self._enter()
        function = self._function(name)
        if shared > max(_MAX_SHARED, self._allowed.get(name, 0)):
            self._call("cuFuncSetAttribute", function, _DYNAMIC_SHARED, shared)
            self._allowed[name] = shared
        self._call(
            "cuLaunchKernel", function, grid, 1, 1, 32 * warps, 1, 1, shared, ctypes.c_void_p(stream),
            pack(arguments), None,
        )  # fmt: skip
