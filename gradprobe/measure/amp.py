"""What a gradient scaler does (AMP): its scale, whether it divided gradients by it, and the steps it skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradprobe.measure.weight_gradients import parameter_ids

GradScaler = torch.amp.GradScaler


class LossScale:
    """The scale that is in the gradients of this iteration; kept up to date by a `ScalerListener`.

    Args:
        stepped: Called with an optimizer and True where a scaler let it step, False where the step was skipped.

    Attributes:
        value: The scale that a loss was multiplied by, or None.
        taken_out: The parameters, by `id`, whose gradients have been divided by it.
    """

    def __init__(self, stepped: Callable[[Optimizer, bool], None]) -> None:
        self.stepped = stepped
        self.clear()

    def clear(self) -> None:
        """Forget the scale: a new iteration begins."""
        self.value: Tensor | None = None
        self.taken_out: set[int] = set()

    def scaled(self, scale: Tensor) -> None:
        """A loss was multiplied by the scale."""
        self.value, self.taken_out = scale, set()

    def unscaled(self, optimizer: Optimizer) -> None:
        """The gradients of an optimizer's parameters were divided by it."""
        if self.value is not None:
            self.taken_out |= parameter_ids(optimizer)


_listeners: list[LossScale] = []
_originals: dict[str, Callable[..., Any]] = {}


class ScalerListener:
    """Keeps a `LossScale` up to date with what gradient scalers do, until `remove`.

    A skipped step can be seen nowhere else: the optimizer's hooks do not run (docs/facts.md, 5). So while there is
    a listener, the methods ``scale``, ``unscale_`` and ``step`` of the class are wrapped. They are put back when
    the last listener is removed.
    """

    def __init__(self, scale: LossScale) -> None:
        self._scale = scale
        if not _listeners:
            _wrap()
        _listeners.append(scale)

    def remove(self) -> None:
        """Take the listener off."""
        if self._scale in _listeners:
            _listeners.remove(self._scale)
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
