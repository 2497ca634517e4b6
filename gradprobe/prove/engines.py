"""Where jobs that do not depend on each other run: here, in processes of their own, or on a Ray cluster.

Every engine tries a job that failed once more, and returns the results in the order of the jobs.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import IO, Any

from gradprobe.prove.jobs import Job, JobResult, attempt, dumps, installed, run_job

ENGINES = ("serial", "processes", "ray")
OnDone = Callable[[int], None]
_JOB, _RESULT, _STDOUT, _STDERR = "job", "result", "stdout", "stderr"  # files between two processes
# the path first: the other process has to find the same modules as this one
_WORKER = f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {__name__} import work; work()"


class Engine(ABC):
    """Something that runs jobs."""

    @abstractmethod
    def run(self, jobs: Sequence[Job], on_done: OnDone) -> list[JobResult]:
        """Run all of them; ``on_done`` is called with the position of each that is done.

        Raises:
            TypeError: If a job cannot be sent to where it should run.
        """


class Serial(Engine):
    """One job after the other, in this process: what kills a job kills all."""

    def run(self, jobs: Sequence[Job], on_done: OnDone) -> list[JobResult]:
        """See `Engine`."""
        results = []
        for position, job in enumerate(jobs):
            results.append(_retried(partial(attempt, job)))
            on_done(position)
        return results


class Elsewhere(Engine):
    """Several jobs at a time, each where it can die alone; a thread waits for each.

    Args:
        workers: How many at a time; None for all.
    """

    def __init__(self, workers: int | None) -> None:
        self._workers = workers
        self._stopped = False

    def run(self, jobs: Sequence[Job], on_done: OnDone) -> list[JobResult]:
        """See `Engine`."""
        with ThreadPoolExecutor(self._workers or max(1, len(jobs))) as pool:
            positions = {pool.submit(self._send, job): position for position, job in enumerate(jobs)}
            try:
                for future in as_completed(positions):
                    future.result()  # raises if the job could not even be sent
                    on_done(positions[future])
            except BaseException:  # Ctrl-C too: nothing may be left running
                self._stopped = True
                self.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in positions]

    def _send(self, job: Job) -> JobResult:
        # only now: a job may hold much data, and not all of them are needed at once
        payload = dumps(job)
        return _retried(lambda: JobResult(failure="stopped") if self._stopped else self.attempt(payload))

    @abstractmethod
    def attempt(self, payload: bytes) -> JobResult:
        """Run a job, once."""

    @abstractmethod
    def stop(self) -> None:
        """End every job that runs."""


class Processes(Elsewhere):
    """A new process for each attempt: not a pool, which the death of one worker breaks for all.

    Args:
        workers: How many at a time; None for one on each core.

    Example:
        >>> with Processes(workers=1) as engine:
        ...     engine.run([lambda: 6 * 7, lambda: os._exit(3)], lambda position: None)
        [JobResult(value=42, failure=None), JobResult(value=None, failure='its process ended with exit code 3')]
    """

    def __init__(self, workers: int | None) -> None:
        super().__init__(workers or _cores())
        self._running: set[subprocess.Popen[bytes]] = set()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def attempt(self, payload: bytes) -> JobResult:
        """See `Elsewhere`."""
        with tempfile.TemporaryDirectory(prefix="gradprobe-") as name:
            folder = Path(name)
            (folder / _JOB).write_bytes(payload)
            with (folder / _STDOUT).open("wb") as out, (folder / _STDERR).open("wb") as err:
                code = self._run_worker(folder, out, err)
            for file, stream in ((_STDOUT, sys.stdout), (_STDERR, sys.stderr)):
                stream.write((folder / file).read_text(errors="replace"))
            if (folder / _RESULT).exists():
                result: JobResult = pickle.loads((folder / _RESULT).read_bytes())
                return result
        return JobResult(failure=_cause_of_death(code))

    def _run_worker(self, folder: Path, out: IO[bytes], err: IO[bytes]) -> int:
        paths = json.dumps([str(path) or str(Path.cwd()) for path in sys.path])
        command = [sys.executable, "-c", _WORKER, paths, str(folder)]
        # its standard input stays open for as long as we live: see `work`
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err) as process:
            self._running.add(process)
            try:
                if self._stopped:  # since `_send` looked
                    process.kill()
                return process.wait()
            finally:
                self._running.discard(process)

    def stop(self) -> None:
        """See `Elsewhere`."""
        for process in list(self._running):
            process.kill()


def work() -> None:
    """What a process of `Processes` does: run the job in the folder it was started with and write the result."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = Path(sys.argv[2])
    result = run_job((folder / _JOB).read_bytes(), ())
    unfinished = folder / f"{_RESULT}.partial"
    unfinished.write_bytes(pickle.dumps(result))
    unfinished.replace(folder / _RESULT)


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing is ever written there: it returns when the process at the other end has died
    os._exit(1)


class Ray(Elsewhere):
    """A task on a Ray cluster that is running already, for each attempt.

    Args:
        workers: How many at a time; None leaves that to the cluster.
        gpus: How many accelerators each one needs.

    Raises:
        ImportError: If Ray is not installed; the message has the install line.
        ConnectionError: If no cluster is running.
    """

    def __init__(self, workers: int | None, gpus: float = 0) -> None:
        super().__init__(workers)
        self._ray = installed("ray", "ray")
        self._gpus = gpus
        self._running: set[Any] = set()

    def __enter__(self) -> Ray:
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._connect()
        # no retries by Ray: `_retried` does the same on all engines
        options = {"num_cpus": 1, "num_gpus": self._gpus, "max_retries": 0}
        self._remote = self._ray.remote(**options)(run_job)
        return self

    def _connect(self) -> None:
        address = os.environ.get("RAY_ADDRESS", "auto")
        try:
            self._ray.init(address=address, logging_level="warning")
        except (ConnectionError, RuntimeError) as error:
            raise ConnectionError(
                f"no Ray cluster is running (asked for {address!r}): start one on this machine with "
                "`ray start --head`, or set RAY_ADDRESS to that of yours"
            ) from error

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self._ray.shutdown()

    def attempt(self, payload: bytes) -> JobResult:
        """See `Elsewhere`."""
        task = self._remote.remote(payload, sys.path)
        self._running.add(task)
        try:
            result: JobResult = self._ray.get(task)
            return result
        except self._ray.exceptions.RayError as error:
            return JobResult(failure=f"its worker on the cluster died ({type(error).__name__})")
        finally:
            self._running.discard(task)

    def stop(self) -> None:
        """See `Elsewhere`."""
        for task in list(self._running):
            self._ray.cancel(task, force=True)


@contextlib.contextmanager
def open_engine(name: str, workers: int | None = None, gpus: float = 0) -> Iterator[Engine]:
    """An engine by its name in `ENGINES`.

    Args:
        name: Its name.
        workers: How many jobs at a time: by default one for each core, on Ray as many as the cluster takes.
        gpus: How many accelerators a job needs, for Ray.

    Raises:
        ValueError: If there is no such engine, or it cannot have that many workers.
        ImportError: If what it needs is not installed; the message has the install line.
        ConnectionError: If no Ray cluster is running.

    Example:
        >>> with open_engine("serial") as serial:
        ...     serial.run([lambda: 6 * 7, lambda: 1 / 0], lambda position: None)[0]
        JobResult(value=42, failure=None)
    """
    _check(name, workers)
    if name == "serial":
        yield Serial()
        return
    installed("cloudpickle", "parallel")
    with Processes(workers) if name == "processes" else Ray(workers, gpus) as engine:
        yield engine


def _check(engine: str, jobs: int | None) -> None:
    """Raise ValueError if there is no such engine, or it cannot run that many jobs at a time."""
    if engine not in ENGINES:
        raise ValueError(f"expected an engine out of {list(ENGINES)}, got {engine!r}")
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise ValueError(f"expected a number of jobs of at least 1, got {jobs!r}")
    if jobs is not None and engine == "serial":
        raise ValueError("engine='serial' does one thing after the other: for jobs= choose 'processes' or 'ray'")


def _retried(run_once: Callable[[], JobResult]) -> JobResult:
    """A job's result; that of a second attempt where the first failed."""
    first = run_once()
    return first if first.failure is None else run_once()


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cause_of_death(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"its process was killed ({name})" + (", often for want of memory" if name == "SIGKILL" else "")
