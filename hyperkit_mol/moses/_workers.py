"""A pool of child processes that keep the order of the results and survive a molecule that kills RDKit."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any

from hyperkit_mol.moses._worker import make_job, receive, send


class WorkerDiedError(RuntimeError):
    """A worker process ended without an answer (killed, out of memory, a crash inside RDKit)."""


@dataclass(frozen=True)
class Job:
    """What a process builds once, ``module.factory(*arguments)``, and then calls with each payload.

    The module should not import torch, which would make a worker slow to start.
    """

    module: str
    factory: str
    arguments: tuple[Any, ...] = ()


class _Worker:
    """One child process, its two pipes and the jobs that it knows."""

    def __init__(self) -> None:
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        environment["OMP_NUM_THREADS"] = "1"  # the processes are the parallelism
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to: IO[bytes] = self._process.stdin
        self._from: IO[bytes] = self._process.stdout
        self._known: set[int] = set()

    def __call__(self, job: Job, payload: tuple[Any, ...]) -> Any:
        key = id(job)
        recipe = None if key in self._known else (job.module, job.factory, job.arguments)
        try:
            send(self._to, (key, recipe, payload))
            ok, value = receive(self._from)
        except (EOFError, BrokenPipeError):
            raise self._died() from None
        if not ok:
            raise RuntimeError(f"a worker process failed:\n{value}")
        self._known.add(key)
        return value

    def _died(self) -> WorkerDiedError:
        code = self._process.wait()
        self._errors.seek(0)
        tail = self._errors.read().decode(errors="replace").strip()[-2000:]
        return WorkerDiedError(f"a worker process ended with code {code}" + (f":\n{tail}" if tail else ""))

    def close(self) -> None:
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError):
                pipe.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def kill(self) -> None:
        self._process.kill()


class Pool:
    """Processes that run jobs over many payloads; started when first needed, kept until the pool closes.

    Parameters
    ----------
    n_jobs : int
        Processes; with 1 everything runs in this one.
    in_process : bool
        False: a child process even for a single job, for what must not be loaded into this one.
    """

    def __init__(self, n_jobs: int, *, in_process: bool = True) -> None:
        self.n_jobs = n_jobs
        self._in_process = in_process
        self._free: SimpleQueue[_Worker] = SimpleQueue()
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._stopped = False
        self._jobs: list[Job] = []  # kept alive, since workers know a job by its id

    def _run(self, job: Job, payload: tuple[Any, ...]) -> Any:
        worker = self._free.get()
        try:
            return worker(job, payload)
        except WorkerDiedError:
            if not self._stopped:
                worker = self._start()
            raise
        finally:
            self._free.put(worker)

    def _start(self) -> _Worker:
        worker = _Worker()
        with self._lock:
            self._workers.append(worker)
        return worker

    def map(
        self,
        job: Job,
        payloads: Sequence[tuple[Any, ...]],
        *,
        done: Callable[[int], None] | None = None,
        found: Callable[[int, Any], None] | None = None,
        on_death: Callable[[tuple[Any, ...], Callable[[tuple[Any, ...]], Any]], Any] | None = None,
    ) -> list[Any]:
        """Results in the order of the payloads.

        Parameters
        ----------
        job : Job
        payloads : sequence of tuple
        done : callable, optional
            Called in this thread with the index of each payload as it is finished.
        found : callable, optional
            The same with the result, too.
        on_death : callable, optional
            Called with a payload that killed its worker and with a function that runs another payload;
            what it returns becomes the result. Without it `WorkerDiedError` is raised.
        """
        results: list[Any] = [None] * len(payloads)
        if self.n_jobs == 1 and self._in_process:
            call = make_job(job.module, job.factory, job.arguments) if payloads else None
            for index, payload in enumerate(payloads):
                assert call is not None
                results[index] = call(*payload)
                if done is not None:
                    done(index)
                if found is not None:
                    found(index, results[index])
            return results

        def run(payload: tuple[Any, ...]) -> Any:
            return self._run(job, payload)

        def task(payload: tuple[Any, ...]) -> Any:
            try:
                return run(payload)
            except WorkerDiedError:
                if on_death is None or self._stopped:
                    raise
                return on_death(payload, run)

        self._jobs.append(job)
        for _ in range(min(self.n_jobs, len(payloads)) - len(self._workers)):
            self._free.put(self._start())
        executor = ThreadPoolExecutor(self.n_jobs)
        futures: dict[Future[Any], int] = {}
        try:
            for index, payload in enumerate(payloads):
                futures[executor.submit(task, payload)] = index
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                if done is not None:
                    done(futures[future])
                if found is not None:
                    found(futures[future], results[futures[future]])
        except BaseException:  # Ctrl-C too: the threads wait on pipes, which only the workers' end releases
            self._stopped = True
            for future in futures:
                future.cancel()
            for worker in self._workers:
                worker.kill()
            raise
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
        return results

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.close()
