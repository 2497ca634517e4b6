"""Where calls that do not depend on each other run: here, in processes of their own, or on a Ray cluster.

A call is a function without arguments. Whatever the engine, the same function makes it, once more if it failed,
and what it comes to is kept in the order of the calls.
"""

from __future__ import annotations

import contextlib
import importlib
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from gradprobe.tracebacks import in_a_line

ENGINES = ("serial", "processes", "ray")
Job = Callable[[], Any]
OnDone = Callable[[int], None]
_CALL, _OUTCOME, _STDOUT, _STDERR = "call", "outcome", "stdout", "stderr"  # files between two processes
# the path first: the other process has to find the same modules as this one
_WORKER = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from gradprobe.prove.engines import work; work()"
)


@dataclass(frozen=True)
class JobResult:
    """What a call came to: its value, or why there is none."""

    value: Any = None
    failure: str | None = None


class Engine(ABC):
    """Something that makes calls."""

    @abstractmethod
    def run(self, calls: Sequence[Job], on_done: OnDone) -> list[JobResult]:
        """Make all of them; of each that is done the position is told.

        Raises:
            TypeError: A call cannot be sent to where it should run.
        """


class Serial(Engine):
    """One call after the other, in this process: what kills a call kills all."""

    def run(self, calls: Sequence[Job], on_done: OnDone) -> list[JobResult]:
        """See `Engine`."""
        outcomes = []
        for position, call in enumerate(calls):
            outcomes.append(_retried(partial(attempted, call)))
            on_done(position)
        return outcomes


class Elsewhere(Engine):
    """Several calls at a time, each where it can die alone; a thread waits for each.

    Args:
        jobs: How many at a time; None for all.
    """

    def __init__(self, jobs: int | None) -> None:
        self._jobs = jobs
        self._stopped = False

    def run(self, calls: Sequence[Job], on_done: OnDone) -> list[JobResult]:
        """See `Engine`."""
        with ThreadPoolExecutor(self._jobs or max(1, len(calls))) as pool:
            waiting = {pool.submit(self._made, call): position for position, call in enumerate(calls)}
            try:
                for future in as_completed(waiting):
                    future.result()  # raises if the call could not even be sent
                    on_done(waiting[future])
            except BaseException:  # Ctrl-C too: nothing may be left running
                self._stopped = True
                self.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in waiting]

    def _made(self, call: Job) -> JobResult:
        # as late as this: a call may hold much data, and not all of them are needed at once
        payload = dumps(call)
        return _retried(lambda: JobResult(failure="stopped") if self._stopped else self.attempt(payload))

    @abstractmethod
    def attempt(self, payload: bytes) -> JobResult:
        """Make a call, once."""

    @abstractmethod
    def stop(self) -> None:
        """End every call that runs."""


class Processes(Elsewhere):
    """A new process for each attempt: not a pool, which the death of one worker breaks for all.

    Example:
        >>> with Processes(jobs=1) as engine:
        ...     engine.run([lambda: 6 * 7, lambda: os._exit(3)], lambda position: None)
        [Outcome(value=42, failure=None), Outcome(value=None, failure='its process ended with exit code 3')]
    """

    def __init__(self, jobs: int | None) -> None:
        super().__init__(jobs or _cores())
        self._running: set[subprocess.Popen[bytes]] = set()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def attempt(self, payload: bytes) -> JobResult:
        """See `Elsewhere`."""
        with tempfile.TemporaryDirectory(prefix="gradprobe-") as folder:
            there = Path(folder)
            (there / _CALL).write_bytes(payload)
            with (there / _STDOUT).open("wb") as out, (there / _STDERR).open("wb") as err:
                code = self._run(folder, out, err)
            for name, stream in ((_STDOUT, sys.stdout), (_STDERR, sys.stderr)):
                if said := (there / name).read_text(errors="replace"):
                    stream.write(said)
            if (there / _OUTCOME).exists():
                outcome: JobResult = pickle.loads((there / _OUTCOME).read_bytes())
                return outcome
        return JobResult(failure=_died(code))

    def _run(self, folder: str, out: IO[bytes], err: IO[bytes]) -> int:
        paths = json.dumps([str(path) or str(Path.cwd()) for path in sys.path])
        command = [sys.executable, "-c", _WORKER, paths, folder]
        # its standard input stays open for as long as we live: see `work`
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err) as process:
            self._running.add(process)
            try:
                if self._stopped:  # between the question and the start
                    process.kill()
                return process.wait()
            finally:
                self._running.discard(process)

    def stop(self) -> None:
        """See `Elsewhere`."""
        for process in list(self._running):
            process.kill()


class Ray(Elsewhere):
    """A task on a Ray cluster that is running already, for each attempt.

    Args:
        jobs: How many at a time; None leaves that to the cluster.
        gpus: How many accelerators each one needs.

    Raises:
        ImportError: Ray is not installed; the message has the install line.
        ConnectionError: No cluster is running.
    """

    def __init__(self, jobs: int | None, gpus: float = 0) -> None:
        super().__init__(jobs)
        self._ray = _installed("ray", "ray")
        self._gpus = gpus
        self._running: set[Any] = set()

    def __enter__(self) -> Ray:
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._connect()
        # tried again by us: then it is the same for all engines
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
            outcome: JobResult = self._ray.get(task)
            return outcome
        except self._ray.exceptions.RayError as error:
            return JobResult(failure=f"its worker on the cluster died ({type(error).__name__})")
        finally:
            self._running.discard(task)

    def stop(self) -> None:
        """See `Elsewhere`."""
        for task in list(self._running):
            self._ray.cancel(task, force=True)


@contextlib.contextmanager
def open_engine(engine: str, jobs: int | None = None, gpus: float = 0) -> Iterator[Engine]:
    """An engine by its name, out of `ENGINES`.

    Args:
        engine: Its name.
        jobs: How many calls at a time: by default one for each core, on Ray as many as the cluster takes.
        gpus: How many accelerators a call needs, for Ray.

    Raises:
        ValueError: There is no such engine, or jobs are out of range or for an engine that has none.
        ImportError: What it needs is not installed; the message has the install line.
        ConnectionError: No Ray cluster is running.

    Example:
        >>> with open_engine("serial") as serial:
        ...     serial.run([lambda: 6 * 7, lambda: 1 / 0], lambda position: None)[0]
        Outcome(value=42, failure=None)
    """
    check(engine, jobs)
    if engine == "serial":
        yield Serial()
        return
    _installed("cloudpickle", "parallel")
    with Processes(jobs) if engine == "processes" else Ray(jobs, gpus) as made:
        yield made


def check(engine: str, jobs: int | None) -> None:
    """Raise the sentence for an engine that does not exist, or jobs that it cannot have."""
    if engine not in ENGINES:
        raise ValueError(f"expected an engine out of {list(ENGINES)}, got {engine!r}")
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise ValueError(f"expected a number of jobs of at least 1, got {jobs!r}")
    if jobs is not None and engine == "serial":
        raise ValueError("engine='serial' does one thing after the other: for jobs= choose 'processes' or 'ray'")


def _retried(attempt: Callable[[], JobResult]) -> JobResult:
    """An attempt, and where it failed another."""
    first = attempt()
    return first if first.failure is None else attempt()


def attempted(call: Job) -> JobResult:
    """Make a call, once, in this process; what it raises is its outcome.

    Example:
        >>> attempted(lambda: int("x")).failure
        "ValueError: invalid literal for int() with base 10: 'x'..."
    """
    try:
        return JobResult(call())
    except (Exception, SystemExit) as error:
        return JobResult(failure=in_a_line(error))


def run_job(payload: bytes, paths: Sequence[str]) -> JobResult:
    """Make a call that came from another process, with the import path that it had there."""
    sys.path += [path for path in paths if path not in sys.path]
    return attempted(lambda: pickle.loads(payload)())


def work() -> None:
    """What a process of `Processes` does: the call in the folder that it is given; the outcome goes beside it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = Path(sys.argv[2])
    outcome = run_job((folder / _CALL).read_bytes(), ())
    unfinished = folder / f"{_OUTCOME}.partial"
    unfinished.write_bytes(pickle.dumps(outcome))
    unfinished.replace(folder / _OUTCOME)


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing is ever written there: it returns when whoever holds the other end has died
    os._exit(1)


def dumps(call: Job) -> bytes:
    """A call as bytes, with the functions and classes that another process could not import."""
    cloudpickle = _installed("cloudpickle", "parallel")
    try:
        payload: bytes = cloudpickle.dumps(call)
    except Exception as error:
        raise TypeError(
            f"this cannot be sent to another process: {error}. Give batches as a list or as a function that "
            "returns them, and keep open files and locks out of the model; or choose engine='serial'"
        ) from error
    return payload


def pickle_by_value(module: ModuleType) -> None:
    """Send what is in a module with each call: no other process could import it."""
    _installed("cloudpickle", "parallel").register_pickle_by_value(module)


def _installed(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this needs {name}: pip install 'gradprobe[{extra}]'") from error


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _died(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"its process was killed ({name})" + (", often for want of memory" if name == "SIGKILL" else "")
