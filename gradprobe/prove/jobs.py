"""A job: a function without arguments that can be sent to another process, and what becomes of it there."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from gradprobe.tracebacks import in_a_line

Job = Callable[[], Any]


@dataclass(frozen=True)
class JobResult:
    """What a job returned, or why it failed, in a line; and the error itself, if it was raised in this process."""

    value: Any = None
    failure: str | None = None
    error: BaseException | None = field(default=None, compare=False, repr=False)


def attempt(job: Job) -> JobResult:
    """Run a job, once, in this process; if it raises, that is its result.

    Example:
        >>> attempt(lambda: int("x")).failure
        "ValueError: invalid literal for int() with base 10: 'x'..."
    """
    try:
        return JobResult(job())
    except (Exception, SystemExit) as error:
        return JobResult(failure=in_a_line(error), error=error)


def run_job(payload: bytes, paths: Sequence[str]) -> JobResult:
    """Run a job that came from another process, with the import path that it had there."""
    sys.path += [path for path in paths if path not in sys.path]
    return replace(attempt(lambda: pickle.loads(payload)()), error=None)  # which may not be sent back


def dumps(job: Job) -> bytes:
    """A job as bytes, with the functions and classes that another process could not import.

    Raises:
        TypeError: If it holds something that cannot be sent.
        ImportError: If cloudpickle is not installed.
    """
    cloudpickle = installed("cloudpickle", "parallel")
    try:
        payload: bytes = cloudpickle.dumps(job)
    except Exception as error:
        raise TypeError(
            f"this cannot be sent to another process: {error}. Give batches as a list or as a function that "
            "returns them, and keep open files and locks out of the model; or choose engine='serial'"
        ) from error
    return payload


def pickle_by_value(module: ModuleType) -> None:
    """Send the contents of a module with each job: no other process could import it."""
    installed("cloudpickle", "parallel").register_pickle_by_value(module)


def installed(name: str, extra: str) -> Any:
    """A module of an optional dependency.

    Raises:
        ImportError: If it is not installed; the message has the install line.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this needs {name}: pip install 'gradprobe[{extra}]'") from error
