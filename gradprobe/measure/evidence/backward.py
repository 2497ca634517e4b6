"""Calls an object before and after each ``loss.backward()``, and counts passes whose gradients are thrown away."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Set
from typing import Any, Protocol

import torch
from torch import Tensor

from gradprobe.measure.evidence.graph_nodes import leads_elsewhere
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


class ThrownAway:
    """Counts the iterations in which all backward passes but the last are cleared before the next one begins.

    Each pass has to be of the same loss, nothing but the network's own parameters may need a gradient, and the
    weights must stay as they are: of several tasks, or of an attack, the gradients are read in between.

    Example:
        >>> away, weights, parameter = ThrownAway(), torch.ones(2), torch.nn.Parameter(torch.ones(2))
        >>> loss = parameter.sum()
        >>> for number in range(3):
        ...     away.before(loss, number > 0, lambda: weights, {id(parameter)})
        ...     away.kinds.add("mse")
        >>> away.end()
        >>> away.result()
        {'passes': 3, 'share': 1.0}
    """

    def __init__(self) -> None:
        self._found: list[tuple[int, Tensor | None]] = []
        self.begin()

    def begin(self) -> None:
        """An iteration begins."""
        self._passes = self._cleared = 0
        self._weights: Tensor | None = None
        self._moved: Tensor | None = None
        self._is_read = False
        self.kinds: set[Hashable] = set()

    def before(self, loss: Tensor, is_cleared: bool, take: Callable[[], Tensor], own: Set[int]) -> None:
        """A backward pass is about to begin.

        Args:
            loss: Of what.
            is_cleared: Whether the gradients of the pass before it are gone.
            take: Gives a sample of the weights.
            own: The `id` of each parameter of the network.
        """
        self._passes += 1
        if not is_cleared or self._passes == 1:
            return
        self._cleared += 1
        self._is_read = self._is_read or leads_elsewhere(loss.grad_fn, own)
        weights = take()
        if self._weights is not None:
            moved = (weights != self._weights).any()
            self._moved = moved if self._moved is None else self._moved | moved
        self._weights = weights

    def end(self) -> None:
        """A step uses what is left."""
        is_found = self._passes > 2 and self._cleared == self._passes - 1 and len(self.kinds) == 1
        if is_found and not self._is_read:
            self._found.append((self._passes, self._moved))
        elif self._passes:
            self._found.append((self._passes, None))
        self.begin()

    def result(self) -> dict[str, float] | None:
        """The number of passes, and the share of the iterations. Waits for the device."""
        found = [passes for passes, moved in self._found if moved is not None and not bool(moved)]
        return {"passes": found[0], "share": len(found) / len(self._found)} if found else None
