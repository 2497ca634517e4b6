"""Hooks that end with what they belong to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch


class Removable(Protocol):
    """What torch gives back when a hook is registered."""

    def remove(self) -> None: ...  # noqa: D102


class Hook:
    """A hook that only the original carries: copies and pickles of its module or optimizer hold a dead one.

    ``copy.deepcopy`` keeps a module's hooks, so an EMA copy would otherwise write into the original's record,
    and ``torch.save`` fails on a closure (design, fact 9).

    Example:
        >>> import copy
        >>> hook = Hook(print)
        >>> hook("called"), copy.deepcopy(hook)("called")
        called
        (None, None)
    """

    def __init__(self, call: Callable[..., Any] | None = None) -> None:
        self.call = call

    def __call__(self, *args: Any) -> Any:
        """Pass on what torch says, if this is the original."""
        return None if self.call is None else self.call(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


class Attached:
    """The hooks that are on at the moment; `remove` takes all of them off and may be called twice."""

    def __init__(self) -> None:
        self._hooks: list[Removable] = []

    def add(self, hook: Removable) -> None:
        """Remember a registered hook."""
        self._hooks.append(hook)

    def remove(self) -> None:
        """Take every hook off."""
        while self._hooks:
            self._hooks.pop().remove()


class Eager:
    """Compiled code runs eagerly until the last of these is removed: hooks do not run in it (design, fact 4)."""

    _count: ClassVar[int] = 0
    _stance: ClassVar[Any] = None

    def __init__(self) -> None:
        if not Eager._count:
            Eager._stance = torch.compiler.set_stance("force_eager")
        Eager._count += 1

    def remove(self) -> None:
        """Let compiled code run again, if this is the last."""
        Eager._count -= 1
        if not Eager._count:
            Eager._stance.__exit__(None, None, None)
