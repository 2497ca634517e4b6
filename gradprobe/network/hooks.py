"""Hooks that are not copied with their module, and that come off together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import torch


class Removable(Protocol):
    """What torch gives back when a hook is registered."""

    def remove(self) -> None: ...  # noqa: D102


class Hook:
    """A hook that only the original carries: copies and pickles of its module or optimizer hold a dead one.

    ``copy.deepcopy`` keeps a module's hooks, so an EMA copy would otherwise write into the original's record,
    and ``torch.save`` fails on a closure (docs/facts.md, 9).

    Example:
        >>> import copy
        >>> hook = Hook(print)
        >>> hook("called"), copy.deepcopy(hook)("called")
        called
        (None, None)
    """

    __slots__ = ("__weakref__", "call")

    def __init__(self, call: Callable[..., Any] | None = None) -> None:
        self.call = call

    def __call__(self, *args: Any) -> Any:
        """Pass the arguments on, if this is the original."""
        return None if self.call is None else self.call(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


class GuardedHook(Hook):
    """A hook that cannot raise: what fails inside us must not end the training of a user.

    The error goes to ``failed``, and the hook returns None, as if it were not there.

    Args:
        call: What the hook does; a subclass may define `run` instead.
        failed: Gets the error if that raises; it may not raise itself.

    Example:
        >>> hook = GuardedHook(lambda: 1 / 0, lambda error: print("noted:", error))
        >>> hook()
        noted: division by zero
    """

    __slots__ = ("failed",)

    def __init__(self, call: Callable[..., Any] | None, failed: Callable[[Exception], None]) -> None:
        super().__init__(call)
        self.failed = failed

    def __call__(self, *args: Any) -> Any:
        """Pass the arguments on, if this is the original."""
        try:
            return self.run(*args)
        except Exception as error:
            self.failed(error)
            return None

    def run(self, *args: Any) -> Any:
        """What the hook does."""
        return super().__call__(*args)


class Attached:
    """The hooks that are on at the moment; `remove` takes them off and may be called twice."""

    def __init__(self) -> None:
        self._hooks: list[Removable] = []

    def add(self, hook: Removable) -> None:
        """Remember a registered hook."""
        self._hooks.append(hook)

    def remove(self, *, inside: Mapping[int, Any] | None = None) -> None:
        """Take every hook off.

        Args:
            inside: The registry of hooks that torch is iterating over at this moment. One of ours in it stays
                until the next call if others follow it: torch would not get to those.
        """
        followed_by_others = set(list(inside or ())[:-1])
        staying = []
        while self._hooks:
            hook = self._hooks.pop()
            if getattr(hook, "id", None) in followed_by_others:
                staying.append(hook)
            else:
                hook.remove()
        self._hooks = staying


class Eager:
    """Compiled code runs eagerly until the last of these is removed: hooks do not run in it (docs/facts.md, 4)."""

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
