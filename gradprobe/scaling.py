"""Seeing what a gradient scaler does (AMP): the scale, whether it was taken out, and steps that were skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

GradScaler = torch.amp.GradScaler


class Listener(Protocol):
    """What hears of a scaler's doings."""

    def scaled(self, scale: Tensor) -> None:
        """A loss was multiplied by the scale."""

    def unscaled(self, optimizer: Optimizer) -> None:
        """The gradients of an optimizer's parameters were divided by it."""

    def stepped(self, optimizer: Optimizer, called: bool) -> None:
        """The scaler let an optimizer step (``called``), or skipped it."""


_listeners: list[Listener] = []
_originals: dict[str, Callable[..., Any]] = {}


class Listening:
    """A listener that is being told; `remove` ends it.

    A skipped step is seen nowhere else: the optimizer's hooks do not run (design, fact 5). So while somebody
    listens, ``scale``, ``unscale_`` and ``step`` of the class are wrapped, and put back when the last one leaves.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        if not _listeners:
            _wrap()
        _listeners.append(listener)

    def remove(self) -> None:
        """Stop listening."""
        if self._listener in _listeners:
            _listeners.remove(self._listener)
            if not _listeners:
                _unwrap()


def _wrap() -> None:
    _originals.update({name: getattr(GradScaler, name) for name in ("scale", "unscale_", "step")})

    def scale(self: Any, outputs: Any) -> Any:
        result = _originals["scale"](self, outputs)
        if self.is_enabled() and self._scale is not None:
            for listener in tuple(_listeners):
                listener.scaled(self._scale.detach().clone())
        return result

    def unscale_(self: Any, optimizer: Optimizer) -> None:
        _originals["unscale_"](self, optimizer)
        if self.is_enabled():
            for listener in tuple(_listeners):
                listener.unscaled(optimizer)

    def step(self: Any, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        called: list[bool] = []
        hook = optimizer.register_step_pre_hook(lambda *_: called.append(True))
        try:
            result = _originals["step"](self, optimizer, *args, **kwargs)
        finally:
            hook.remove()
        if self.is_enabled():
            for listener in tuple(_listeners):
                listener.stepped(optimizer, bool(called))
        return result

    for wrapper in (scale, unscale_, step):
        setattr(GradScaler, wrapper.__name__, wrapper)


def _unwrap() -> None:
    for name, original in _originals.items():
        setattr(GradScaler, name, original)
    _originals.clear()
