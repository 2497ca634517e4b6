"""How often an optimizer's step calls its closure: such a step may be a whole training."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

LONG = 50  # calls; LBFGS with its default settings makes at most 25 in a step


class ClosureCalls:
    """Counts the calls of the closures of optimizers.

    Args:
        is_long: Called once, with the optimizer and the number of calls, when a step has made `LONG` calls.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)])
        >>> counts = ClosureCalls(print)
        >>> (_, closure), _ = counts.counted(optimizer, (optimizer, lambda: 3.0), {})
        >>> closure(), closure(), counts.calls(optimizer)
        (3.0, 3.0, 2)
    """

    def __init__(self, is_long: Callable[[Optimizer, int], None]) -> None:
        self._is_long = is_long
        self._was_long = False
        self._calls: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()

    def counted(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The arguments of a step, optimizer included, with a closure that counts; None if there is no closure."""
        self._calls.pop(optimizer, None)
        if len(args) > 1 and callable(args[1]):
            return (args[0], self._counting(optimizer, args[1]), *args[2:]), kwargs
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._counting(optimizer, kwargs["closure"])}
        return None

    def calls(self, optimizer: Optimizer) -> int:
        """How often the newest step has called its closure; 0 without one."""
        return self._calls.get(optimizer, 0)

    def _counting(self, optimizer: Optimizer, closure: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = closure(*args, **kwargs)
            calls = self._calls[optimizer] = self._calls.get(optimizer, 0) + 1
            if calls >= LONG and not self._was_long:
                self._was_long = True
                with contextlib.suppress(Exception):  # standard error may be closed
                    self._is_long(optimizer, calls)
            return result

        return call
