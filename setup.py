"""Packages by name, and the compiled kernels on request.

``pip install .`` is pure Python and needs neither a compiler nor torch. With
``HYPERKIT_BUILD_EXT=1 pip install --no-build-isolation .`` the wheel holds the kernels' library.
"""

import importlib.util
import os
import sys
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

WITH_KERNELS = os.environ.get("HYPERKIT_BUILD_EXT") == "1"


class BuildKernels(build_py):
    """Copies the packages, then compiles the library into them."""

    def run(self) -> None:
        super().run()
        if not WITH_KERNELS or self.editable_mode:
            return
        path = Path(__file__).parent / "cuda_ext" / "build.py"
        spec = importlib.util.spec_from_file_location("hyperkit_ext_build", path)
        assert spec is not None
        assert spec.loader is not None
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        try:
            build.build(Path(self.build_lib).absolute() / "hyperkit" / "_ext" / "lib")
        except build.BuildError as error:
            # As an optional extension: the package is whole without it.
            print(f"hyperkit: kernels not built: {error}", file=sys.stderr)


class WithKernels(Distribution):
    """Marks the wheel as tied to the platform, but not to one Python version: the library knows no Python."""

    def has_ext_modules(self) -> bool:
        return WITH_KERNELS or super().has_ext_modules()


setup(
    packages=[*find_packages(include=["hyperkit*", "hyperkit_mol*"]), "hyperkit._ext"],
    package_dir={"hyperkit._ext": "cuda_ext"},
    cmdclass={"build_py": BuildKernels},
    distclass=WithKernels,
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if WITH_KERNELS else {},
)
