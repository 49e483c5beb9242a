"""Build wheel and sdist, install the wheel in fresh environments, use it there.

::

    python tests/benchmarks/release.py

Two environments: the wheel alone (no rdkit, no compiler), and with the extra ``mol``. Packages come from
wherever pip is set up to find them; the seconds are printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

GEOMETRY = """
import importlib.util, torch, geoopt, hyperkit
assert importlib.util.find_spec("rdkit") is None
from hyperkit import Lorentz
from hyperkit.nn import HKConv, LorentzLinear
m = Lorentz()
x = m.random_normal(20, 9)
y = HKConv(16, 4, num_kernels=4)(LorentzLinear(8, 16)(x), torch.randint(20, (2, 60)))
assert m.check_point_on_manifold(y), y
far = m.expmap0(torch.tensor([[0.0, 30.0, 0.0], [0.0, 0.0, 30.0]]))
assert abs(float(m.dist(far[0], far[1])) - 59.307) < 1e-2
print(hyperkit.__version__, hyperkit.__file__)
"""


def run(
    *words: object, cwd: Path | None = None, code: int = 0, environment: dict[str, str] | None = None
) -> str:
    """Output of a command that must end with `code`."""
    done = subprocess.run(
        [str(w) for w in words], cwd=cwd, capture_output=True, text=True, check=False, timeout=1500,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    if done.returncode != code:
        raise SystemExit(
            f"{' '.join(map(str, words))}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
    return done.stdout + done.stderr


def check_contents(wheel: Path, sdist: Path) -> None:
    """What must be in the files, and what must not."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for wanted in (
        "hyperkit/py.typed", "hyperkit_mol/py.typed", "hyperkit_mol/generator/presets/demo.yaml",
        "hyperkit_mol/doctor.py",
    ):  # fmt: skip
        if wanted not in names:
            raise SystemExit(f"{wheel.name} lacks {wanted}")
    strange = [n for n in names if n.startswith(("tests/", "docs/", "notebooks/"))]
    if strange:
        raise SystemExit(f"{wheel.name} has files that do not belong there: {strange[:5]}")
    with tarfile.open(sdist) as archive:
        files = archive.getnames()
    for wanted in ("pyproject.toml", "LICENSE", "README.md"):
        if not any(n.endswith(f"/{wanted}") for n in files):
            raise SystemExit(f"{sdist.name} lacks {wanted}")


def fresh(folder: Path, requirement: str, *more: str) -> Path:
    """A new environment with something installed; its bin folder."""
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    run(*pip, "-c", ROOT / "constraints.txt", requirement)
    if more:
        run(*pip, "--no-deps", *more)
    return folder / "bin"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--skip-mol", action="store_true", help="the environment without extras only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hyperkit-release-") as name:
        base = Path(name)
        begin = time.monotonic()
        source = base / "source"
        source.mkdir()
        # What is committed, not what lies around.
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x"], cwd=source, input=archive, check=True)
        run(sys.executable, "-m", "build", "--outdir", base / "dist", source)
        (wheel,), (sdist,) = (base / "dist").glob("*.whl"), (base / "dist").glob("*.tar.gz")
        check_contents(wheel, sdist)
        print(f"built {wheel.name} ({wheel.stat().st_size / 1024:.0f} KiB) and {sdist.name}: ", end="")
        print(f"{time.monotonic() - begin:.0f} s", flush=True)

        begin = time.monotonic()
        bin_ = fresh(base / "plain", str(wheel))
        print(run(bin_ / "python", "-c", GEOMETRY, cwd=base).strip())
        refused = run(bin_ / "hyperkit-mol", "train", cwd=base, code=1)
        assert "hyperkit[mol]" in refused, refused
        assert "Traceback" not in refused, refused
        assert "hyperkit[mol]" in run(bin_ / "hyperkit-mol", "doctor", cwd=base)
        print(f"without extras: {time.monotonic() - begin:.0f} s", flush=True)
        if options.skip_mol:
            return 0

        begin = time.monotonic()
        bin_ = fresh(base / "mol", f"{wheel}[mol]")
        program, home = bin_ / "hyperkit-mol", {"HYPERKIT_CACHE": str(base / "cache"), "OMP_NUM_THREADS": "1"}
        (base / "few.smi").write_text("CCO\nCCN\nc1ccccc1\nCC(=O)N\nCCC\nC1CC1C\nOCC#N\nCC(C)O\n" * 10)
        small = "model.width=16 model.latent=4 autoencoder.steps=4 autoencoder.batch_size=16 gan.steps=2 "
        small += "gan.noise=4 gan.hidden=16 gan.batch_size=8 data.validation=4"
        words = [w for pair in small.split() for w in ("--set", pair)]
        run(
            program,
            "train",
            "--data",
            "few.smi",
            "-c",
            "demo",
            "-o",
            "run",
            *words,
            cwd=base,
            environment=home,
        )
        run(program, "generate", "-m", "run/model", "-n", 50, "-o", "new.smi", cwd=base, environment=home)
        assert len((base / "new.smi").read_text().split()) == 50
        # The data packages are missing here: the verb and doctor both name the command, which then does it.
        command = "pip install --no-deps molsets==0.3.1 fcd_torch==1.0.7"
        assert command in run(program, "doctor", cwd=base, environment=home)
        chosen = ["--metrics", "valid,unique,IntDiv", "--reference", "few.smi"]
        assert command in run(program, "evaluate", "new.smi", *chosen, cwd=base, environment=home, code=1)
        run(bin_ / "python", "-m", *command.split())
        run(program, "evaluate", "new.smi", *chosen, cwd=base, environment=home)
        assert (base / "new.html").exists()
        print(
            f"with mol and the data packages, trained, sampled, evaluated: {time.monotonic() - begin:.0f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
