"""What a gradient scaler does (AMP): its scale, whether it divided gradients by it, and the steps it skipped."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Set
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradprobe.measure.accumulator import Key
from gradprobe.measure.weight_gradients import parameter_ids
from gradprobe.network.hooks import GuardedHook
from gradprobe.network.tensors import tensors

GradScaler = torch.amp.GradScaler


class LossScale:
    """What gradient scalers have done in this iteration; kept up to date by a `ScalerListener`.

    There may be several scalers, as for the two losses of a GAN. Each scaled loss notes in which backward pass it
    is used, so that the scale of a pass is that of its own loss.

    Args:
        stepped: Called with an optimizer and True where a scaler let it step, False where the step was skipped.
        failed: Gets what a hook of ours raised.

    Attributes:
        first: The first scale of the window, or None.
        value: The scale that a loss was multiplied by the last time, or None.
    """

    def __init__(
        self, stepped: Callable[[Optimizer, bool], None], failed: Callable[[Exception], None] = lambda error: None
    ) -> None:
        self.stepped = stepped
        self.first: Tensor | None = None
        self.failed = failed
        self._heard: set[int] = set()
        self._of_pass: dict[int, Tensor] = {}
        self._scales: dict[int, tuple[tuple[int, int], Tensor]] = {}
        self.clear()

    def clear(self) -> None:
        """Forget what was done: a new iteration begins."""
        self.value: Tensor | None = None
        self._taken_out: dict[int, set[int]] = {}  # by scaler
        self._of_optimizer: dict[int, Tensor] = {}

    @property
    def taken_out(self) -> set[int]:
        """The parameters, by `id`, whose gradients have been divided by a scale."""
        return set().union(*self._taken_out.values())

    def scaled(self, scaler: object, scale: Tensor, losses: Any) -> None:
        """A scaler has multiplied losses by its scale."""
        scale = self.value = self._kept(scaler, scale)
        self.first = scale if self.first is None else self.first
        self._taken_out.pop(id(scaler), None)
        self._heard.add(id(scaler))
        for loss in tensors(losses):
            if loss.requires_grad:
                loss.register_hook(GuardedHook(partial(self._used, scale), self.failed))

    def _used(self, scale: Tensor, gradient: Tensor) -> None:
        self._of_pass[torch._C._current_graph_task_id()] = scale

    def of_pass(self, task: int) -> Tensor | None:
        """The scale in the backward pass that the engine gives this number, once it is over."""
        return self._of_pass.pop(task, None)

    def divisor(
        self,
        optimizer: Optimizer | None,
        all_in: Callable[[Set[int]], Set[Key]],
        in_passes: Callable[[str, Tensor], Tensor],
    ) -> Callable[[str], Tensor | float]:
        """What the weights' gradients of a layer have to be divided by, as they stand.

        Args:
            optimizer: The one that is about to use them, if that is known.
            all_in: Gives the keys all of whose gradients are of some parameters.
            in_passes: Gives the scale of the passes that a layer's gradient is of, or else the one that it gets.
        """
        kernel = getattr(optimizer, "grad_scale", None)
        if kernel is not None:  # divided only inside the kernel (docs/facts.md, 5)
            by = kernel.detach().clone()
            return lambda name: by
        value = self.value
        if value is None:
            return lambda name: 1.0
        taken_out = {name for name, _ in all_in(self.taken_out)}
        return lambda name: 1.0 if name in taken_out else in_passes(name, value)

    def unscaled(self, scaler: object, optimizer: Optimizer, scale: Tensor) -> None:
        """The gradients of an optimizer's parameters were divided by a scale."""
        self._taken_out.setdefault(id(scaler), set()).update(parameter_ids(optimizer))
        if id(scaler) not in self._heard:
            self._of_optimizer[id(optimizer)] = self._kept(scaler, scale)

    def _kept(self, scaler: object, scale: Tensor) -> Tensor:
        """A copy of a scale, the same as long as it stays the same: the scaler changes it in place."""
        state = id(scale), scale._version
        if self._scales.get(id(scaler), ((0, 0), scale))[0] != state:
            self._scales[id(scaler)] = state, scale.detach().clone()
        return self._scales[id(scaler)][1]

    def of_optimizer(self, optimizer: Optimizer) -> Tensor | None:
        """What its parameters' gradients were divided by, by a scaler that was not heard to scale a loss."""
        return self._of_optimizer.get(id(optimizer))


# weakly: a probe must go with the model that its hooks are on, and this lives as long as the process
_listeners: weakref.WeakSet[LossScale] = weakref.WeakSet()
_originals: dict[str, Callable[..., Any]] = {}


class ScalerListener:
    """Keeps a `LossScale` up to date with what gradient scalers do, until `remove`.

    A skipped step can be seen nowhere else: the optimizer's hooks do not run (docs/facts.md, 5). So while there is
    a listener, the methods ``scale``, ``unscale_`` and ``step`` of the class are wrapped. They are put back when
    the last listener is removed.
    """

    def __init__(self, scale: LossScale) -> None:
        self._scale = scale
        if not _originals:
            _wrap()
        _listeners.add(scale)

    def remove(self) -> None:
        """Take the listener off."""
        _listeners.discard(self._scale)
        if not _listeners:
            _unwrap()


def _wrap() -> None:
    _originals.update({name: getattr(GradScaler, name) for name in ("scale", "unscale_", "step")})

    def multiplied(self: Any, outputs: Any) -> Any:
        result = _originals["scale"](self, outputs)
        if self.is_enabled() and self._scale is not None:
            _tell(lambda listener: listener.scaled(self, self._scale, result))
        return result

    def divided(self: Any, optimizer: Optimizer) -> None:
        _originals["unscale_"](self, optimizer)
        if self.is_enabled():
            _tell(lambda listener: listener.unscaled(self, optimizer, self._scale))

    def step(self: Any, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        called: list[bool] = []
        hook = optimizer.register_step_pre_hook(GuardedHook(lambda *_: called.append(True), _failed))
        try:
            result = _originals["step"](self, optimizer, *args, **kwargs)
        finally:
            hook.remove()
        if self.is_enabled():
            _tell(lambda listener: listener.stepped(optimizer, bool(called)))
        return result

    for name, wrapper in {"scale": multiplied, "unscale_": divided, "step": step}.items():
        setattr(GradScaler, name, wrapper)


def _tell(what: Callable[[LossScale], None]) -> None:
    for listener in tuple(_listeners):
        GuardedHook(what, listener.failed)(listener)


def _failed(error: Exception) -> None:
    for listener in tuple(_listeners):
        listener.failed(error)


def _unwrap() -> None:
    for name, original in _originals.items():
        setattr(GradScaler, name, original)
    _originals.clear()
