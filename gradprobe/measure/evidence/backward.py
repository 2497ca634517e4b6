"""Calls an object before and after each call of ``torch.autograd.backward``, which ``loss.backward()`` is."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch

from gradprobe.network.hooks import GuardedHook


class AroundBackward(Protocol):
    """An object to call before and after each backward pass."""

    def before_backward(self, loss: Any) -> None: ...  # noqa: D102
    def after_backward(self, loss: Any) -> None: ...  # noqa: D102
    def failed(self, error: Exception) -> None: ...  # noqa: D102


# weakly, as the listeners of gradient scalers: a probe must go with the model that its hooks are on
_listeners: weakref.WeakSet[Any] = weakref.WeakSet()
_originals: list[Callable[..., Any]] = []  # kept: whoever has taken our function meanwhile still calls it


class BackwardListener:
    """Tells an object of backward passes, until `remove`.

    The loss is seen nowhere else: the engine does not say where a pass began. While there is a listener, the
    function is wrapped; it is put back when the last one is removed.

    Example:
        >>> class Prints:
        ...     def before_backward(self, loss): print("before", loss.item())
        ...     def after_backward(self, loss): print("after")
        ...     def failed(self, error): raise error
        >>> prints = Prints()
        >>> listener = BackwardListener(prints)
        >>> torch.ones(1, requires_grad=True).sum().backward()
        before 1.0
        after
        >>> listener.remove()
        >>> torch.ones(1, requires_grad=True).sum().backward()
    """

    def __init__(self, listener: AroundBackward) -> None:
        self._listener = listener
        if not _listeners and not _is_wrapped():
            _originals[:] = [torch.autograd.backward]
            torch.autograd.backward = _backward
        _listeners.add(listener)

    def remove(self) -> None:
        """Take the listener off."""
        _listeners.discard(self._listener)
        if not _listeners and torch.autograd.backward is _backward:
            torch.autograd.backward = _originals[0]


def _is_wrapped() -> bool:
    """Whether ours is called already: itself, or by another wrapper that was put around it."""
    wrapper: Any = torch.autograd.backward
    while wrapper is not None and wrapper is not _backward:
        wrapper = getattr(wrapper, "__wrapped__", None)
    return wrapper is _backward


def _backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
    original = _originals[0]
    if torch._C._current_graph_task_id() != -1:  # inside another pass, as checkpointing runs it
        return original(tensors, *args, **kwargs)
    loss = tensors if isinstance(tensors, torch.Tensor) else next(iter(tensors), None)
    listeners = tuple(_listeners)
    for listener in listeners:
        GuardedHook(listener.before_backward, listener.failed)(loss)
    result = original(tensors, *args, **kwargs)
    for listener in listeners:
        GuardedHook(listener.after_backward, listener.failed)(loss)
    return result
