"""Bad input by the thousand: every reader answers with a result or with its own error, nothing else.

::

    OMP_NUM_THREADS=1 python tests/benchmarks/fuzz.py --runs 100000 --engine atheris --json fuzz.json

Engines: ``atheris`` (coverage-guided, `pip install atheris`; a process for each target, with libFuzzer's
limits of time and memory) and ``mutate`` (changes of good inputs: flipped bits, cuts, splices, repeated
parts, tokens of the format). An input fails when another exception than the documented one appears, when it
takes more than `--timeout` seconds, when a decoded molecule is not valid, when an encoded one does not come
back, when a pickle is executed, or when memory grows by more than `--leak` MiB over the second half of the
runs. Failing inputs are kept in `--keep`.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from fuzz_targets import TARGETS, Target, work_folder


class Hang(BaseException):
    """An input took too long; not an Exception, so that no reader takes it for a defect of the file."""


def mutated(rng: random.Random, target: Target) -> bytes:
    """A changed seed."""
    data = bytearray(rng.choice(target.seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        kind = rng.randrange(8)
        at = rng.randrange(len(data) + 1)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[min(at, len(data) - 1)] = rng.randrange(256)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + rng.choice((1, 2, 4, 16, 64))]
        elif kind == 4 and target.tokens:
            data[at:at] = rng.choice(target.tokens)
        elif kind == 5 and target.tokens:
            token = rng.choice(target.tokens)
            data[at : at + len(token)] = token
        elif kind == 6:
            other = rng.choice(target.seeds)
            begin = rng.randrange(len(other) + 1)
            data[at:at] = other[begin : begin + rng.randrange(64)]
        else:
            data[at:at] = data[at : at + rng.randrange(32)] * rng.choice((1, 2, 30))
    return bytes(data)


def resident() -> float:
    """MiB of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def run_mutations(
    target: Target, runs: int, seed: int, timeout: int, leak: float, keep: Path
) -> dict[str, object]:
    """The built-in engine; a record of what was found."""

    def too_long(*_: object) -> None:
        raise Hang(f"took more than {timeout} s")

    signal.signal(signal.SIGALRM, too_long)
    rng = random.Random(seed)
    kinds: dict[str, int] = {}
    begin, half, slowest, accepted = time.monotonic(), 0.0, 0.0, 0
    for number in range(runs):
        data = mutated(rng, target)
        start = time.monotonic()
        signal.alarm(timeout)
        try:
            accepted += target.call(data)
        except (Exception, Hang) as err:
            where = traceback.extract_tb(err.__traceback__)[-1]
            kind = f"{type(err).__name__} at {Path(where.filename).name}:{where.lineno}"
            kinds[kind] = kinds.get(kind, 0) + 1
            if kinds[kind] == 1:
                keep.mkdir(parents=True, exist_ok=True)
                file = keep / f"{target.name.replace(' ', '-')}-{len(kinds)}"
                file.write_bytes(data)
                print(f"  {kind}: {str(err)[:300]}  ({file})", flush=True)
        finally:
            signal.alarm(0)
        if time.monotonic() - start > max(slowest, 1.0):
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{target.name.replace(' ', '-')}-slowest").write_bytes(data)
        slowest = max(slowest, time.monotonic() - start)
        if number == runs // 2:
            half = resident()
    growth = resident() - half
    if growth > leak:
        kinds[f"memory grew by {growth:.0f} MiB over the second half"] = 1
    return {
        "target": target.name, "engine": "mutate", "runs": runs, "accepted": accepted,
        "seconds": round(time.monotonic() - begin, 1),
        "slowest_ms": round(1e3 * slowest, 1), "growth_MiB": round(growth, 1), "findings": kinds,
    }  # fmt: skip


_INSTRUMENTED = ["hyperkit_mol", "ase", "yaml"]
_CHILD = """
import sys
import atheris
sys.path.insert(0, {folder!r})
with atheris.instrument_imports(include={packages!r}):
    import fuzz_targets
    target = fuzz_targets.TARGETS[{name!r}]()
calls = 0
def one(data):
    target.call(data)
atheris.Setup(sys.argv, one)
atheris.Fuzz()
"""


def run_atheris(name: str, runs: int, seed: int, timeout: int, keep: Path) -> dict[str, object]:
    """Coverage-guided, in a process of its own; starts again after each finding until all runs are spent."""
    folder = work_folder()
    corpus = folder / "corpus"
    corpus.mkdir()
    target = TARGETS[name]()
    for k, seed_input in enumerate(target.seeds):
        (corpus / f"seed-{k}").write_bytes(seed_input)
    words = folder / "words"
    words.write_text(
        "".join('"' + "".join(f"\\x{b:02x}" for b in t) + '"\n' for t in sorted(set(target.tokens)))
    )
    script = folder / "child.py"
    script.write_text(_CHILD.format(folder=str(Path(__file__).parent), name=name, packages=_INSTRUMENTED))
    findings: dict[str, int] = {}
    begin, left, coverage = time.monotonic(), runs, 0
    keep.mkdir(parents=True, exist_ok=True)
    while left > 0 and len(findings) < 20:
        command = [
            sys.executable, str(script), str(corpus), f"-runs={left}", f"-seed={seed}", f"-timeout={timeout}",
            "-rss_limit_mb=6000", "-max_len=4096", f"-artifact_prefix={keep}/{name}-", f"-dict={words}",
        ]  # fmt: skip
        if not target.tokens:
            command.pop()
        done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
        executed = [int(x) for x in re.findall(r"^#(\d+)\s", done.stderr, re.M)]
        coverage = max([coverage, *(int(x) for x in re.findall(r"cov: (\d+)", done.stderr))])
        finished = re.search(r"^Done (\d+) runs", done.stderr, re.M)
        spent = int(finished[1]) if finished else max([1, *executed])
        left -= spent
        if done.returncode:
            lines = [x for x in done.stderr.splitlines() if "Error" in x or "Failure" in x or "ERROR" in x]
            kind = (lines[0] if lines else done.stderr[-300:])[:200]
            findings[kind] = findings.get(kind, 0) + 1
            print(f"  {kind}", flush=True)
            seed += 1
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "target": target.name, "engine": "atheris", "runs": runs - max(left, 0),
        "seconds": round(time.monotonic() - begin, 1), "coverage": coverage, "findings": findings,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each target")
    parser.add_argument("--only", nargs="*", choices=sorted(TARGETS))
    parser.add_argument("--engine", choices=("mutate", "atheris"), default="mutate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=int, default=20, help="seconds for one input")
    parser.add_argument("--leak", type=float, default=50.0, help="MiB")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.only or TARGETS:
        if options.engine == "atheris":
            row = run_atheris(name, options.runs, options.seed, options.timeout, options.keep)
        else:
            target = TARGETS[name]()
            row = run_mutations(
                target, options.runs, options.seed, options.timeout, options.leak, options.keep
            )
        print(json.dumps(row), flush=True)
        rows.append(row)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    return int(any(row["findings"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
