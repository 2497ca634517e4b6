"""The time that a training step spends inside the probe, by clocks around everything of it that torch calls."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

from timing import synchronize

from gradprobe.measure.output_gradients import Passes
from gradprobe.network.hooks import Hook


class Inside:
    """Adds up, while it is entered, the seconds inside the outermost call of any hook of gradprobe.

    Every hook is a `gradprobe.network.hooks.Hook`, or of a kind derived from it; autograd also calls one method at the end
    of a backward pass. What the clocks themselves take is in the sum, about a microsecond a call; what torch takes
    to come to a hook is not: only the ratio of whole steps shows that.

    Example:
        >>> with Inside() as inside:
        ...     Hook(time.sleep)(0.01)
        >>> inside.calls, round(inside.seconds, 2)
        (1, 0.01)
    """

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        self._depth = 0

    def __enter__(self) -> Inside:
        places = [(kind, "__call__") for kind in kinds(Hook) if "__call__" in vars(kind)]
        self._originals = [(kind, name, vars(kind)[name]) for kind, name in [*places, (Passes, "_end_of_pass")]]
        for kind, name, original in self._originals:
            setattr(kind, name, self.around(original))
        return self

    def __exit__(self, *_: object) -> None:
        for kind, name, original in self._originals:
            setattr(kind, name, original)

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call with clocks around it; an accelerator is waited for on both sides."""

        @functools.wraps(call)
        def clocked(*args: Any) -> Any:
            if self._depth:
                return call(*args)
            self._depth = 1
            synchronize()
            started = time.perf_counter()
            try:
                return call(*args)
            finally:
                synchronize()
                self.seconds += time.perf_counter() - started
                self.calls += 1
                self._depth = 0

        return clocked


def kinds(kind: type) -> Iterator[type]:
    """A class and all that are derived from it."""
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)
