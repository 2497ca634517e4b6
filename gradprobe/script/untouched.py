"""Put back what a script's process has once: a report amid its training leaves no trace there."""

from __future__ import annotations

import contextlib
import gc
import locale
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from gradprobe.network.preserve import preserved

_OF_SYS = ("stdout", "stderr", "stdin", "excepthook", "displayhook")
# the filters count how often they were touched
_UPS = 3  # the beginning and the end of `catch_warnings`, and `simplefilter` in it
_OF_A_LOGGER = ("level", "disabled", "propagate", "handlers", "filters")


@dataclass(frozen=True)
class _Setting:
    """Something that a process has once: how it is read, as a value of its own, and how it is set."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Put back, whatever happens inside, everything that a process has once and a script's training may depend on.

    These are the random number generators of Python, NumPy and torch; matplotlib's settings; the filters of
    warnings; the locale; torch's number of threads, default dtype and gradient mode; the working directory and
    the environment; the loggers; NumPy's error handling and printing; the streams, the path and the hooks of
    ``sys``; what signals do; whether Python collects garbage. Libraries change these where nobody expects it: rich
    draws from Python's generator when it is imported.

    Only what has changed is written, so that a state that notes every write of it is left alone too. A warning
    that was shown once before is not shown again.

    Example:
        >>> import random
        >>> random.seed(1)
        >>> first = random.random()
        >>> random.seed(1)
        >>> with untouched():
        ...     _ = random.random(), os.chdir("/"), torch.set_num_threads(1)
        >>> random.random() == first
        True
    """
    settings = [*_SETTINGS, *_of_loggers()]
    if threading.current_thread() is threading.main_thread():
        settings += _of_signals()
    before = [(setting, setting.read()) for setting in settings]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_shown_once())
        stack.callback(_put_back, before)
        if (matplotlib := sys.modules.get("matplotlib")) is not None and hasattr(matplotlib, "rc_context"):
            stack.enter_context(matplotlib.rc_context())
        stack.enter_context(preserved(nn.Module()))
        yield


def _put_back(before: list[tuple[_Setting, Any]]) -> None:
    for setting, value in before:
        with contextlib.suppress(Exception):  # one that cannot be set must not keep the others from it
            if setting.read() != value:
                setting.write(value)


@contextlib.contextmanager
def _shown_once() -> Iterator[None]:
    """Let warnings that were shown stay so: Python forgets which ones, whenever anybody touches the filters."""
    version = _version_of_filters()
    shown = [registry for registry in _registries() if registry.get("version") == version]
    kept = [(registry, dict(registry)) for registry in shown]
    yield
    now = _version_of_filters() + _UPS
    for registry, entries in kept:
        registry.update(entries, version=now)


def _registries() -> Iterator[dict[Any, Any]]:
    """What each module has shown."""
    for module in list(sys.modules.values()):
        registry = getattr(module, "__dict__", {}).get("__warningregistry__")
        if isinstance(registry, dict):
            yield registry


def _version_of_filters() -> int:
    """How often the filters were touched before this call, which does so itself, `_UPS` times."""
    registry: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.warn_explicit("", UserWarning, "", 0, registry=registry)  # type: ignore[arg-type]
    return int(registry["version"]) - _UPS + 1


def _working_directory() -> str | None:
    """None where it was deleted."""
    with contextlib.suppress(OSError):
        return os.getcwd()  # noqa: PTH109 (as a text, which `os.chdir` takes back)
    return None


def _set_environment(values: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(values):
        del os.environ[name]
    os.environ.update(values)


def _set_filters(filters: list[Any]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]
    getattr(warnings, "_filters_mutated", lambda: None)()  # what was shown once may be counted anew


def _attribute(owner: Any, name: str) -> _Setting:
    return _Setting(lambda: getattr(owner, name, None), lambda value: setattr(owner, name, value))


def _contents(owner: Any, name: str) -> _Setting:
    """Of a list: what is in it, which is put back into the same list."""

    def write(items: list[Any]) -> None:
        getattr(owner, name)[:] = items

    return _Setting(lambda: list(getattr(owner, name)), write)


def _of_loggers() -> Iterator[_Setting]:
    """Level, handlers and filters of every logger that there is."""
    yield _attribute(logging.root.manager, "disable")
    loggers = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    for logger in (logging.root, *loggers):
        for name in _OF_A_LOGGER:
            is_list = isinstance(getattr(logger, name), list)
            yield _contents(logger, name) if is_list else _attribute(logger, name)


def _of_signals() -> Iterator[_Setting]:
    """What is called on each signal; only the main thread may set that, and only of those that Python knows."""
    for number in signal.valid_signals():
        if signal.getsignal(number) is not None:
            yield _Setting(
                lambda number=number: signal.getsignal(number),  # type: ignore[misc]
                lambda value, number=number: signal.signal(number, value),  # type: ignore[misc]
            )


_SETTINGS = (
    _Setting(lambda: list(warnings.filters), _set_filters),
    _attribute(warnings, "showwarning"),
    _Setting(lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)),
    _Setting(torch.get_num_threads, torch.set_num_threads),
    _Setting(torch.get_default_dtype, torch.set_default_dtype),
    _Setting(torch.is_grad_enabled, torch._C._set_grad_enabled),
    _Setting(_working_directory, os.chdir),
    _Setting(lambda: dict(os.environ), _set_environment),
    _Setting(np.geterr, lambda value: np.seterr(**value)),
    _Setting(np.get_printoptions, lambda value: np.set_printoptions(**value)),
    _Setting(gc.isenabled, lambda value: gc.enable() if value else gc.disable()),
    _Setting(sys.getrecursionlimit, sys.setrecursionlimit),
    *(_attribute(sys, name) for name in _OF_SYS),
    *(_contents(sys, name) for name in ("argv", "path")),
    _attribute(threading, "excepthook"),
)
