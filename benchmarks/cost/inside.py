"""The time that a training step spends inside the probe, by clocks around everything of it that torch calls."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.cost.timing import synchronize
from gradprobe.network.hooks import Hook


class Inside:
    """Adds up, while it is entered, the seconds inside the outermost call of any hook of gradprobe.

    Every hook is a `gradprobe.network.hooks.Hook` or an instance of a subclass, and so is what autograd calls at
    the end of a backward pass. The time of the clocks themselves is included, about a microsecond a call. The time
    that torch takes to reach a hook is not: only the ratio of whole steps shows it.

    Example:
        >>> with Inside() as inside:
        ...     Hook(time.sleep)(0.01)
        >>> inside.calls, round(inside.seconds, 2)
        (1, 0.01)
    """

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        self._entered = False

    def __enter__(self) -> Inside:
        calls = [(kind, "__call__") for kind in subclasses(Hook) if "__call__" in vars(kind)]
        self._originals = [(kind, name, vars(kind)[name]) for kind, name in calls]
        for kind, name, original in self._originals:
            setattr(kind, name, self.clocked(original))
        return self

    def __exit__(self, *_: object) -> None:
        for kind, name, original in self._originals:
            setattr(kind, name, original)

    def clocked(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call with clocks around it; an accelerator is waited for before and after."""

        @functools.wraps(call)
        def wrapper(*args: Any) -> Any:
            if self._entered:
                return call(*args)
            self._entered = True
            synchronize()
            started = time.perf_counter()
            try:
                return call(*args)
            finally:
                synchronize()
                self.seconds += time.perf_counter() - started
                self.calls += 1
                self._entered = False

        return wrapper


def seconds_inside(step: Callable[[], object]) -> float:
    """Seconds inside the probe in one step."""
    with Inside() as inside:
        step()
    return inside.seconds


def subclasses(kind: type) -> Iterator[type]:
    """A class and all that are derived from it."""
    yield kind
    for derived in kind.__subclasses__():
        yield from subclasses(derived)
