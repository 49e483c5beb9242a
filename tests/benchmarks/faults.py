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
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fault_cases import Broken, Scenario, environment, make_scenarios


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
                    "labelling": 8,
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
