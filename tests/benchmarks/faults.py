"""Kill it, fill its disk, take its rights away, run it twice at once: what is left must be whole.

::

    OMP_NUM_THREADS=1 python tests/benchmarks/faults.py --kills 50 --seed 0 --json faults.json

Every scenario runs once undisturbed. Then it is started again and again and killed by SIGKILL at moments
drawn uniformly from the time that the undisturbed run took, every other time the main process only (its
workers have to notice), until the given number of kills is reached. After each kill everything that lies on
the disk is read: a file under its final name must be whole, and a saved step must not be lost. At the end
one run is left alone, and its result compared with the undisturbed one. The other faults (full disk,
read-only folder, two processes on one cache) follow. Full disk and read-only folder need root, to mount a
small file system.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import yaml

from hyperkit_mol.chem.prepare import TreeDataset
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.moses.results import MosesReport
from hyperkit_mol.potentials.model_files import load_potential

SMALL = {
    "model": {
        "width": 32, "latent": 8, "site_width": 8, "encoder_layers": 1, "decoder_layers": 1, "heads": 2,
        "feed_forward": 32, "head_size": 64,
    },
    "autoencoder": {"batch_size": 32, "steps": 60, "warmup": 4, "validate_every": 20, "save_every": 5},
    "gan": {"noise": 8, "hidden": 16, "batch_size": 32, "steps": 30, "critic_steps": 1, "save_every": 5},
    "data": {"validation": 50, "max_bad": 0},
}  # fmt: skip


class Broken(AssertionError):
    """Something on the disk is not what it must be."""


@dataclass
class Scenario:
    """One kind of work.

    Attributes
    ----------
    name : str
    start : callable
        Command for a folder; it looks itself whether there is something to go on with.
    check : callable
        Reads everything in a folder after a kill; raises `Broken`. Returns the steps that are safely stored.
    result : callable
        A text that two equal results share.
    """

    name: str
    start: Callable[[Path], list[str]]
    check: Callable[[Path], int]
    result: Callable[[Path], str]


@dataclass
class Outcome:
    """What became of a scenario."""

    name: str
    kills: int = 0
    finished_before_kill: int = 0
    orphans: int = 0
    leftovers: int = 0
    undisturbed_seconds: float = 0.0
    same_result: bool = False
    errors: list[str] = field(default_factory=list)


def verb(*words: object) -> list[str]:
    """The command line of a verb."""
    return [sys.executable, "-m", "hyperkit_mol", *map(str, words)]


def environment(folder: Path) -> dict[str, str]:
    """A cache of its own beside the run."""
    return {**os.environ, "HYPERKIT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of tensors by name, bit for bit."""
    out = hashlib.sha256()
    for name in sorted(tensors):
        out.update(name.encode())
        out.update(tensors[name].detach().as_subclass(torch.Tensor).contiguous().numpy().tobytes())
    return out.hexdigest()


def check_caches(folder: Path) -> None:
    """Every file of prepared molecules can be read to its end."""
    for path in (folder / "cache").rglob("trees-*.arrow"):
        data = TreeDataset.load(path)
        data.tree(len(data) - 1)


def saved_steps(folder: Path) -> int:
    """Steps in all checkpoints of a run, each read as `--resume` reads it."""
    total = 0
    for path in folder.rglob("last.ckpt"):
        total += int(torch.load(path, map_location="cpu", weights_only=True)["step"])
    return total


def make_scenarios(base: Path, smiles: list[str]) -> list[Scenario]:
    """All scenarios on data that is written into `base`."""
    molecules = base / "molecules.smi"
    molecules.write_text("\n".join(smiles[:400]) + "\n")
    many = base / "many.smi"
    many.write_text("\n".join(smiles[:8_000]) + "\n")
    reference = base / "reference.smi"
    reference.write_text("\n".join(smiles[400:2400]) + "\n")
    config = base / "small.yaml"
    config.write_text(yaml.safe_dump({**SMALL, "data": {**SMALL["data"], "source": str(molecules)}}))
    frames = base / "frames.xyz"
    write_frames(frames)

    def train(folder: Path) -> list[str]:
        again = (folder / "run" / "config.yaml").exists()
        words = ["--resume"] if again else ["-c", config]
        return verb("train", "-o", folder / "run", "--jobs", 1, *words)

    def check_train(folder: Path) -> int:
        check_caches(folder)
        if (folder / "run" / "model").exists():
            MoleculeGenerator.load(folder / "run" / "model")
        return saved_steps(folder / "run")

    def potential(folder: Path) -> list[str]:
        again = (folder / "run" / "config.yaml").exists()
        small = [
            x
            for pair in ("model.width=16", "model.layers=1", "training.save_every=5")
            for x in ("--set", pair)
        ]
        first = ["--data", frames, "--steps", 60, "--validation", 0.2, *small]
        return verb("potential", "train", "-o", folder / "run", *(["--resume"] if again else first))

    def check_potential(folder: Path) -> int:
        if (folder / "run" / "model").exists():
            load_potential(folder / "run" / "model")
        return saved_steps(folder / "run")

    model = base / "whole-training" / "run" / "model"

    def generate(folder: Path) -> list[str]:
        return verb(
            "generate", "-m", model, "-n", 2000, "--batch-size", 200, "--jobs", 2, "-o", folder / "new.smi"
        )

    def lines(path: Path, count: int) -> int:
        if path.exists() and (n := len(path.read_text().splitlines())) != count:
            raise Broken(f"{path.name} has {n} lines of {count}")
        return 0

    def prepare(folder: Path) -> list[str]:
        code = (
            "import sys; from pathlib import Path; from hyperkit_mol.chem.prepare import prepare\n"
            "if __name__ == '__main__':\n"
            "    text = Path(sys.argv[1]).read_text().split()\n"
            "    prepare(text, jobs=2, cache=Path(sys.argv[2]))\n"
        )
        script = folder / "prepare_it.py"
        script.write_text(code)
        return [sys.executable, str(script), str(many), str(folder / "cache")]

    def check_prepare(folder: Path) -> int:
        check_caches(folder)
        return 0

    def prepared(folder: Path) -> str:
        (path,) = (folder / "cache").glob("trees-*.arrow")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def evaluate(folder: Path) -> list[str]:
        chosen = "valid,unique,SNN,Frag,Scaf,IntDiv,Novelty"
        words = ["--metrics", chosen, "--reference", reference, "--train", reference]
        words += ["--jobs", 2, "-o", folder]
        return verb("evaluate", molecules, *words)

    def check_evaluate(folder: Path) -> int:
        if (folder / "molecules.json").exists():
            MosesReport.from_json(folder / "molecules.json")
        page = folder / "molecules.html"
        if page.exists() and not page.read_text().rstrip().endswith("</html>"):
            raise Broken("molecules.html is cut off")
        return 0

    def relax(folder: Path) -> list[str]:
        few = folder / "few.smi"
        few.write_text("CC(=O)O\nCO\nCCO\nC=O\nCC\nCOC\nCC=O\nOCC=O\n")
        potential_model = base / "whole-potential training" / "run" / "model"
        return verb(
            "potential", "relax", few, "--model", potential_model, "-o", folder / "out.sdf", "--max-steps", 30
        )

    def check_relax(folder: Path) -> int:
        path = folder / "out.sdf"
        if path.exists() and path.read_text().count("$$$$") == 0:
            raise Broken("out.sdf is cut off")
        return 0

    def sdf(folder: Path) -> str:
        return (folder / "out.sdf").read_text()

    return [
        Scenario("preprocessing", prepare, check_prepare, prepared),
        Scenario(
            "training", train, check_train,
            lambda folder: digest(MoleculeGenerator.load(folder / "run" / "model").state_dict()),
        ),
        Scenario(
            "sampling", generate, lambda f: lines(f / "new.smi", 2000), lambda f: (f / "new.smi").read_text()
        ),
        Scenario(
            "evaluation", evaluate, check_evaluate,
            lambda f: json.dumps(MosesReport.from_json(f / "molecules.json").metrics, sort_keys=True),
        ),
        Scenario(
            "potential training", potential, check_potential,
            lambda folder: digest(load_potential(folder / "run" / "model").state_dict()),
        ),
        Scenario("relaxation", relax, check_relax, sdf),
    ]  # fmt: skip


def write_frames(path: Path) -> None:
    """60 labelled displacements of acetic acid, by a pair potential that has nothing to do with chemistry."""
    import ase.io
    import numpy as np
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    rest = np.array(
        [[0, 0, 0], [1.5, 0.05, 0.1], [2.1, 1.1, 0], [2.15, -1.1, 0.25], [3.1, -0.95, 0.2],
         [-0.35, 0.98, 0.25], [-0.38, -0.7, 0.77], [-0.36, -0.32, -0.98]]
    )  # fmt: skip
    rng = np.random.default_rng(0)
    images = []
    for _ in range(60):
        x = rest + rng.normal(size=rest.shape) * 0.06
        e = x[:, None] - x[None]
        r = np.linalg.norm(e, axis=-1) + np.eye(len(x))
        off = ~np.eye(len(x), dtype=bool)
        energy = float(((r - 1.4) ** 2 * np.exp(-r))[off].sum() / 2)
        slope = (2 * (r - 1.4) - (r - 1.4) ** 2) * np.exp(-r)
        forces = -((slope / r * off)[..., None] * e).sum(1)
        atoms = Atoms([6, 6, 8, 8, 1, 1, 1, 1], x)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        images.append(atoms)
    ase.io.write(path, images, format="extxyz")


def descendants(pid: int) -> set[int]:
    """Processes below a process, by /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue
    found, front = set(), {pid}
    while front:
        front = {child for child, parent in parents.items() if parent in front} - found
        found |= front
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that still run (zombies do not)."""
    out = set()
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                out.add(pid)
        except OSError:
            continue
    return out


def run_whole(scenario: Scenario, folder: Path) -> tuple[float, str]:
    """Run to the end; seconds and result."""
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    done = subprocess.run(
        scenario.start(folder),
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    if done.returncode:
        raise Broken(f"{scenario.name} ended with {done.returncode}: {done.stderr[-1500:]}")
    scenario.check(folder)
    return time.monotonic() - begin, scenario.result(folder)


def kill_often(scenario: Scenario, base: Path, kills: int, rng: random.Random) -> Outcome:
    """The scenario killed `kills` times, then finished and compared."""
    out = Outcome(scenario.name)
    out.undisturbed_seconds, wanted = run_whole(scenario, base / f"whole-{scenario.name}")
    folder, saved = base / f"killed-{scenario.name}-0", 0
    folder.mkdir()
    span = out.undisturbed_seconds  # shorter when the machine has become less busy
    while out.kills < kills:
        begin = time.monotonic()
        process = subprocess.Popen(
            scenario.start(folder), env=environment(folder), stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            # Not in the first second, when Python itself starts: nothing of ours has begun.
            process.wait(rng.uniform(0.1, 1.0) * span)
            stderr = process.stderr.read().decode() if process.stderr else ""
            if process.returncode:
                out.errors.append(f"ended by itself with {process.returncode}: {stderr[-600:]}")
                break
            if scenario.result(folder) != wanted:
                out.errors.append("finished after kills with another result")
            out.finished_before_kill += 1
            span = min(span, time.monotonic() - begin)
            folder, saved = base / f"killed-{scenario.name}-{out.finished_before_kill}", 0
            folder.mkdir()
            continue
        except subprocess.TimeoutExpired:
            below = descendants(process.pid)
            if out.kills % 2:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
            out.kills += 1
        # A worker that is still importing looks for its parent when it has done so, however busy the machine.
        until = time.monotonic() + 15 + 2 * out.undisturbed_seconds
        while (left := alive(below)) and time.monotonic() < until:
            time.sleep(0.1)
        out.orphans += len(left)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        try:
            stored = scenario.check(folder)
            if stored < saved:
                out.errors.append(f"kill {out.kills}: {saved} steps were stored, {stored} are left")
            saved = stored
        except Exception as err:
            out.errors.append(f"kill {out.kills}: {type(err).__name__}: {err}")
    if not out.errors:
        out.same_result = run_whole(scenario, folder)[1] == wanted
    out.leftovers = sum(1 for p in folder.rglob(".*") if p.is_file())
    return out


# -- other faults -------------------------------------------------------------------------------------------


class Mounted:
    """A tmpfs for a while."""

    def __init__(self, folder: Path, options: str) -> None:
        self.folder, self.options = folder, options

    def __enter__(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", self.options, "tmpfs", str(self.folder)],
            check=True,
            capture_output=True,
        )
        return self.folder

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=False)


def complains(scenario: Scenario, folder: Path, expected: str, cache: Path | None = None) -> list[str]:
    """Run where it cannot work: one clear line, exit code 1, nothing half-written."""
    env = environment(folder)
    if cache is not None:
        env["HYPERKIT_CACHE"] = str(cache)
    done = subprocess.run(
        scenario.start(folder), env=env, capture_output=True, text=True, check=False, timeout=600
    )
    wrong = []
    if done.returncode != 1:
        wrong.append(f"exit code {done.returncode}")
    if "Traceback" in done.stderr and scenario.name != "preprocessing":
        wrong.append(f"a traceback: {done.stderr[-500:]}")
    if expected not in done.stderr.lower().replace("\n", " "):
        wrong.append(f"the message lacks {expected!r}: {done.stderr[-300:]}")
    try:
        scenario.check(folder)
    except Exception as err:
        wrong.append(f"left behind: {type(err).__name__}: {err}")
    return wrong


def full_disk(scenario: Scenario, base: Path, kilobytes: int) -> list[str]:
    """On a file system of a few kilobytes, data cached elsewhere."""
    with Mounted(base / f"small-{scenario.name}", f"size={kilobytes}k") as folder:
        return complains(scenario, folder, "no space left", base / f"whole-{scenario.name}" / "cache")


def read_only(scenario: Scenario, base: Path) -> list[str]:
    """Into a folder that cannot be written."""
    folder = base / f"ro-{scenario.name}"
    with Mounted(folder, "size=1m"):
        scenario.start(folder)  # what a command needs beside its data is written before
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True, capture_output=True)
        frozen = Scenario(scenario.name, lambda _: _frozen(scenario, folder), scenario.check, scenario.result)
        return complains(frozen, folder, "read-only", base / f"whole-{scenario.name}" / "cache")


def _frozen(scenario: Scenario, folder: Path) -> list[str]:
    # The command alone: its helper files are there already and cannot be written again.
    real = Path.write_text
    try:
        Path.write_text = lambda *_, **__: 0  # type: ignore[method-assign,assignment]
        return scenario.start(folder)
    finally:
        Path.write_text = real  # type: ignore[method-assign]


def two_at_once(scenario: Scenario, base: Path, rounds: int) -> list[str]:
    """Two processes that begin together on one empty cache; both must end well, with the same result."""
    wrong = []
    wanted = scenario.result(base / f"whole-{scenario.name}")
    for k in range(rounds):
        cache = base / f"shared-{scenario.name}-{k}"
        folders = [base / f"pair-{scenario.name}-{k}-{side}" for side in "ab"]
        running = []
        for folder in folders:
            folder.mkdir()
            command = scenario.start(folder)
            if scenario.name == "preprocessing":
                command[-1] = str(cache / "cache")
            running.append(
                subprocess.Popen(
                    command, env=environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                )
            )
        for folder, process in zip(folders, running, strict=True):
            _, stderr = process.communicate(timeout=900)
            if process.returncode:
                wrong.append(f"round {k}: {stderr.decode()[-400:]}")
                continue
            found = scenario.result(cache if scenario.name == "preprocessing" else folder)
            if found != wanted:
                wrong.append(f"round {k}: another result")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="kills for each kind of work")
    parser.add_argument("--only", nargs="*", help="these kinds of work")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of two processes on one cache")
    parser.add_argument("--json", type=Path, help="write the outcome here")
    parser.add_argument("--folder", type=Path, help="work here and keep it")
    options = parser.parse_args()

    from hyperkit_mol.moses.data import load_split

    smiles = random.Random(options.seed).sample(load_split("train"), 8_000)
    base = options.folder or Path(tempfile.mkdtemp(prefix="hyperkit-faults-"))
    base.mkdir(parents=True, exist_ok=True)
    report: dict[str, object] = {"seed": options.seed, "kills": []}
    bad = 0
    try:
        scenarios = make_scenarios(base, smiles)
        for number, scenario in enumerate(scenarios):
            if options.only and scenario.name not in options.only:
                # Sampling and relaxation need a model.
                needed = {"training": "sampling", "potential training": "relaxation"}
                if needed.get(scenario.name) in options.only:
                    run_whole(scenario, base / f"whole-{scenario.name}")
                continue
            begin = time.monotonic()
            found = kill_often(scenario, base, options.kills, random.Random(options.seed * 1000 + number))
            report["kills"].append(asdict(found))  # type: ignore[union-attr]
            good = found.same_result and not found.errors and not found.orphans
            bad += not good
            print(
                f"{'ok ' if good else 'BAD'} {found.name}: {found.kills} kills, finished "
                f"{found.finished_before_kill} times in between, same result {found.same_result}, "
                f"orphans {found.orphans}, temporary files left "
                f"{found.leftovers}; {time.monotonic() - begin:.0f} s",
                flush=True,
            )
            for line in found.errors:
                print(f"    {line}", flush=True)
            others: dict[str, list[str]] = {}
            if os.geteuid() == 0:
                small = {
                    "sampling": 64,
                    "training": 64,
                    "potential training": 64,
                    "evaluation": 16,
                    "relaxation": 4,
                }
                if scenario.name in small:
                    others["full disk"] = full_disk(scenario, base, small[scenario.name])
                    others["read-only folder"] = read_only(scenario, base)
            if scenario.name in ("preprocessing", "evaluation"):
                others["two processes, one cache"] = two_at_once(scenario, base, options.rounds)
            for fault, wrong in others.items():
                bad += bool(wrong)
                print(f"{'BAD' if wrong else 'ok '} {scenario.name}: {fault}", flush=True)
                for line in wrong:
                    print(f"    {line}", flush=True)
            report[scenario.name] = others
    finally:
        if options.json:
            options.json.write_text(json.dumps(report, indent=1))
        if not options.folder:
            shutil.rmtree(base, ignore_errors=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
