"""Hooks that are not copied with their module, and that come off together."""

from __future__ import annotations

import functools
import importlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Protocol

import torch
from torch import nn
from torch.fx._symbolic_trace import is_fx_symbolic_tracing

_MODES = torch._C._TorchDispatchModeKey
_WITHOUT_VALUES = (_MODES.FAKE, _MODES.PROXY)
# what takes a hook for a part of the module that it is on: the module that owns the function, and its name
_READERS = (
    ("torch.jit._recursive", "create_script_module"),  # compiles it
    ("torch.cuda", "make_graphed_callables"),  # refuses the module
    ("torch.cuda.graphs", "make_graphed_callables"),
)
_REGISTRIES = ("_forward_hooks", "_forward_pre_hooks")

CAPTURED = "captured in a CUDA graph, which is replayed without Python: attach the probe to eager steps"


class Removable(Protocol):
    """What torch gives back when a hook is registered."""

    def remove(self) -> None: ...  # noqa: D102


class Hook:
    """A hook that only the original carries: a copy of its module or optimizer has none, a pickle one of Python's.

    ``copy.deepcopy`` keeps a module's hooks, so an EMA copy would otherwise write into the original's record,
    and ``torch.save`` fails on a closure (docs/facts.md, 9). Neither must a file that was saved in the window need
    gradprobe to be loaded.

    Example:
        >>> import copy
        >>> layer = nn.Linear(1, 1)
        >>> handle = layer.register_forward_hook(Hook(print))
        >>> len(layer._forward_hooks), len(copy.deepcopy(layer)._forward_hooks)
        (1, 0)
    """

    __slots__ = ("__weakref__", "call")

    def __init__(self, call: Callable[..., Any] | None = None) -> None:
        self.call = call

    def __call__(self, *args: Any) -> Any:
        """Pass the arguments on, if this is the original."""
        return None if self.call is None else self.call(*args)

    def __deepcopy__(self, memo: dict[Any, Any]) -> Hook:
        registry = next((value for value in reversed(memo.values()) if type(value) is OrderedDict), None)
        memo.setdefault(Hook, _Copied()).registries.append(registry)
        return Hook()

    def __reduce__(self) -> Any:
        return getattr, (nullcontext(), "__exit__")  # takes anything and does nothing


class _Copied:
    """Takes the dead hooks off a copy when it is complete: then nothing holds the memo, and so not this."""

    def __init__(self) -> None:
        self.registries: list[Any] = []

    def __del__(self) -> None:
        for registry in filter(None, self.registries):
            for key in [key for key, hook in registry.items() if type(hook) is Hook and hook.call is None]:
                del registry[key]


class GuardedHook(Hook):
    """A hook that cannot raise: what fails inside us must not end the training of a user.

    The error goes to ``failed``, and the hook returns None, as if it were not there. So it does where a network is
    only traced: the trace that the user wants has nothing of us in it.

    Args:
        call: What the hook does; a subclass may define `run` instead.
        failed: Gets the error if that raises; it may not raise itself.

    Example:
        >>> hook = GuardedHook(lambda: 1 / 0, lambda error: print(failure(error)))
        >>> hook()
        gradprobe failed here (ZeroDivisionError: division by zero); please report it
    """

    __slots__ = ("failed",)

    def __init__(self, call: Callable[..., Any] | None, failed: Callable[[Exception], None]) -> None:
        super().__init__(call)
        self.failed = failed

    def __call__(self, *args: Any) -> Any:
        """Pass the arguments on, if this is the original and there are values to look at."""
        try:
            return None if is_only_traced() else self.run(*args)
        except Exception as error:
            self.failed(error)
            return None

    def run(self, *args: Any) -> Any:
        """What the hook does."""
        return super().__call__(*args)


def failure(error: BaseException) -> str:
    """The reason that stands in a record where something in us went wrong.

    Example:
        >>> failure(KeyError("conv1"))
        "gradprobe failed here (KeyError: 'conv1'); please report it"
    """
    text = str(error).strip().partition("\n")[0]
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"gradprobe failed here ({what}); please report it"


def is_captured() -> bool:
    """Whether a CUDA graph is made of what runs at the moment: a hook in it would run once, and never again.

    Example:
        >>> is_captured()
        False
    """
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def is_only_traced() -> bool:
    """Whether what runs at the moment is traced for a compiler, an export or a graph, and trains nothing.

    Example:
        >>> class Net(nn.Module):
        ...     def forward(self, x):
        ...         print(is_only_traced())
        ...         return 2 * x
        >>> _ = torch.export.export(Net(), (torch.ones(1),)), Net()(torch.ones(1))
        True
        False
    """
    if torch.compiler.is_compiling() or torch._C._is_tracing() or is_fx_symbolic_tracing():
        return True
    # make_fx and fake tensors run on dispatch modes, as flop counters do, which see true values
    return bool(torch._C._len_torch_dispatch_stack()) and any(map(torch._C._get_dispatch_mode, _WITHOUT_VALUES))


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


class Hidden:
    """`GuardedHook` s are not seen by what takes hooks for a part of the network, until the last one is removed.

    ``torch.jit.script`` compiles the hooks of a module (docs/facts.md, 9), and no CUDA graph is made of one that
    has any. While one of those works on a module, our hooks are off it.

    Example:
        >>> import warnings
        >>> net = nn.Sequential(nn.Linear(2, 1))
        >>> _ = net.register_forward_hook(GuardedHook(print, print))
        >>> hidden = Hidden()
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # torch 2.13 prefers torch.export
        ...     script = torch.jit.script(net)
        >>> hidden.remove()
        >>> len(script._forward_hooks), len(net._forward_hooks)
        (0, 1)
    """

    _count: ClassVar[int] = 0
    _originals: ClassVar[dict[tuple[str, str], Any]] = {}

    def __init__(self) -> None:
        self._on = True
        Hidden._count += 1
        if Hidden._count == 1:
            for place, name in _READERS:
                original = getattr(importlib.import_module(place), name, None)
                if original is not None:
                    Hidden._originals[place, name] = original
                    setattr(sys.modules[place], name, _without_our_hooks(original))

    def remove(self) -> None:
        """Put the functions back, if this is the last."""
        Hidden._count -= self._on
        self._on = False
        if not Hidden._count:
            for (place, name), original in Hidden._originals.items():
                setattr(sys.modules[place], name, original)
            Hidden._originals.clear()


def _without_our_hooks(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        listed = [one for several in given if isinstance(several, (tuple, list)) for one in several]
        with _hooks_off(one for one in (*given, *listed) if isinstance(one, nn.Module)):
            return original(*args, **kwargs)

    return function


@contextmanager
def _hooks_off(roots: Iterable[nn.Module]) -> Iterator[None]:
    """Take our hooks off some modules and what is in them, and put them back in their places."""
    modules = {module for root in roots for module in root.modules()}
    registries = [vars(module)[name] for module in modules for name in _REGISTRIES]
    before = [(registry, dict(registry)) for registry in registries if _has_ours(registry)]
    for registry, hooks in before:
        for key, hook in hooks.items():
            if isinstance(hook, GuardedHook):
                del registry[key]
    try:
        yield
    finally:
        for registry, hooks in before:
            added = {key: hook for key, hook in registry.items() if key not in hooks}
            registry.clear()
            registry.update({**hooks, **added})


def _has_ours(registry: Mapping[int, Any]) -> bool:
    return any(isinstance(hook, GuardedHook) for hook in registry.values())
