"""Attach to what a running script trains: a probe for each model that its optimizers hold parameters of."""

from __future__ import annotations

import functools
import os
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradprobe.measure.ranks import world_size
from gradprobe.measure.weight_gradients import parameter_ids
from gradprobe.network.hooks import Attached
from gradprobe.network.layers import unwrap
from gradprobe.record.history import GradientHistory
from gradprobe.script.execute import Stopped
from gradprobe.script.frames import (
    current_line,
    file_name,
    names_of,
    outer_optimizer,
    script_frames,
    site_of,
    source,
)
from gradprobe.script.models import owners
from gradprobe.script.probe import FollowingProbe
from gradprobe.script.source import Site, loss_at

PATIENCE = 10  # windows that one model may be ahead before the others are no longer waited for
_UNSEEDED = 67280421310721  # torch.initial_seed() if torch.manual_seed was not called


class Attachment:
    """A probe on one of a script's models, and what is known of the model's place in the script.

    Attributes:
        probe: The probe; its window may be closed.
        site: Names and lines.
        steps: How often an optimizer of the model stepped, in the window and after it.
    """

    def __init__(self, model: nn.Module, iterations: int) -> None:
        self.model = model
        self.probe = FollowingProbe(model, iterations)
        self.probe.__enter__()
        self.ranks = world_size()
        self.site = Site()
        self.steps = 0
        self.optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._history: GradientHistory | None = None
        self._alone = False

    @property
    def history(self) -> GradientHistory:
        """The record, with the conditions that are known from the script."""
        if self._history is not None:
            return self._history
        history = self.probe.history
        seed, loss = torch.initial_seed(), self.site.loss
        known: dict[str, Any] = {"seed": None if seed == _UNSEEDED else seed, "loss": loss and loss.function}
        if self._alone:
            known["ranks"] = "this rank's own numbers: the script ended before the window was full"
        return replace(history, conditions={**history.conditions, **known})

    def add(self, optimizer: Optimizer) -> None:
        """Follow one more optimizer of this model."""
        self.optimizers.add(optimizer)
        self.probe.follow(optimizer)

    def locate(self, frame: FrameType | None, step: bool) -> None:
        """Read names and lines from the frames of the script, at an optimizer's construction or step."""
        frames = list(script_frames(frame))
        site = self.site
        if site.model is None:
            site = site_of(self.model, frames) or site
        if frames and not step and site.optimizer is None:
            site = replace(site, optimizer=current_line(frames[0]))
        if frames and step and site.loss is None:
            here = frames[0]
            loss = loss_at(source(here), file_name(here), here.f_lineno, names_of(self.model, here))
            site = replace(site, loss=loss)
        self.site = site

    def close(self, alone: bool) -> None:
        """Take the hooks off and keep the record; ``alone`` without the other ranks, which may not do the same."""
        if self.probe.attached:
            group_ended = self.ranks > 1 and world_size() == 1
            if alone or group_ended:
                self.probe.__exit__(Stopped, None, None)
                self._alone = self.ranks > 1
            else:
                self.probe.detach()
        if self.probe.recorded and self._history is None:
            part = "" if self.probe.called else _called_part(self.probe)
            self.site = replace(self.site, part=part)
            self._history = self.history


class Session:
    """All that is attached to one run of a script.

    Args:
        iterations: Length of each window.
        on_full: Called when all windows are full, after the step of the optimizer.

    Attributes:
        attachments: One for each model.
        refusals: What could not be recorded, and why.
        rank: The number of this process among those that train together.
    """

    def __init__(self, iterations: int, on_full: Callable[[], None]) -> None:
        self.attachments: list[Attachment] = []
        self.refusals: list[str] = []
        # kept, because `is_first_rank` cannot say it without a process group: before it begins, or after its end
        self.rank = int(os.environ.get("RANK", 0))
        self._iterations = iterations
        self._on_full = on_full
        self._open = True
        self._process = os.getpid()
        self._outer: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # optimizers that step by others
        self._hooks, self._steps = Attached(), Attached()
        self._steps.add(register_optimizer_step_pre_hook(self._before_step))
        self._steps.add(register_optimizer_step_post_hook(self._after_step))
        for owner in (nn.Module, Optimizer):
            self._hooks.add(_CallHook(owner, "zero_grad", self._zeroed))

    def optimizer_built(self, optimizer: Optimizer, frame: FrameType | None) -> None:
        """Find the models of an optimizer that was just built, and attach before the first forward pass."""
        if self._is_active():
            try:
                self._attach(optimizer, frame)
            except Exception as error:
                self._refuse(f"{type(optimizer).__name__}: {error}")

    def close(self, alone: bool = False) -> None:
        """Take all hooks off the models; nothing more is recorded."""
        self._open = False
        self._hooks.remove()
        for attachment in self.attachments:
            attachment.close(alone)

    def end(self) -> None:
        """Take the step hooks off as well, after the script: inside a step, torch is iterating over them."""
        self.close(alone=True)
        self._steps.remove()

    def _is_active(self) -> bool:
        """Whether the session is open, and this process is its own, not one forked from it."""
        return self._open and os.getpid() == self._process

    def _attach(self, optimizer: Optimizer, frame: FrameType | None) -> None:
        if dist.is_available() and dist.is_initialized():
            self.rank = dist.get_rank()
        models, left = owners(optimizer)
        if left:
            which = "its parameters belong" if not models else f"{left} of its parameters belong"
            self._refuse(f"{type(optimizer).__name__}: {which} to no module")
        outer = outer_optimizer(optimizer, frame)
        if outer is not None and models:
            self._outer.add(outer)
            for attachment in self.attachments:
                attachment.probe.leave(outer)
        for model in models:
            try:
                attachment = self._attachment(model, optimizer)
            except (TypeError, ValueError) as error:
                self._refuse(f"{type(unwrap(model)).__name__}: {error}")
                continue
            attachment.add(optimizer)
            attachment.locate(frame, step=False)

    def _attachment(self, model: nn.Module, optimizer: Optimizer) -> Attachment:
        """The attachment that has these parameters already, or a new one."""
        shared = parameter_ids(optimizer) & _ids(model)
        known = next((one for one in self.attachments if shared & _ids(one.model)), None)
        if known is not None and (known.probe.recorded or unwrap(known.model) is unwrap(model)):
            return known
        if known is None:
            self.attachments.append(Attachment(model, self._iterations))
            return self.attachments[-1]
        # the model is now part of another module
        known.probe.__exit__(Stopped, None, None)
        new = Attachment(model, self._iterations)
        for earlier in known.optimizers:
            new.add(earlier)
        self.attachments[self.attachments.index(known)] = new
        return new

    def _refuse(self, why: str) -> None:
        if why not in self.refusals:
            self.refusals.append(why)

    def _attachments_of(self, optimizer: Optimizer) -> list[Attachment]:
        return [one for one in self.attachments if optimizer in one.optimizers]

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        if self._is_active() and optimizer not in self._outer:
            for attachment in self._attachments_of(optimizer):
                if not attachment.steps:
                    attachment.locate(sys._getframe(1), step=True)
                attachment.probe.follow(optimizer)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        if not self._is_active() or optimizer in self._outer:
            return
        for attachment in self._attachments_of(optimizer):
            attachment.steps += 1
            if attachment.probe.full:
                attachment.close(alone=False)
        full = [attachment for attachment in self.attachments if attachment.probe.full]
        ahead = any(attachment.steps >= PATIENCE * self._iterations for attachment in full)
        if full and (ahead or len(full) == len(self.attachments)):
            for attachment in self.attachments:
                attachment.close(alone=True)
            self._on_full()

    def _zeroed(self, owner: Any) -> None:
        if self._is_active():
            parameters = _ids(owner) if isinstance(owner, nn.Module) else parameter_ids(owner)
            for attachment in self.attachments:
                attachment.probe.zeroed(parameters)


class _CallHook:
    """Has a function called with the object before each call of a method; `remove` puts the method back."""

    def __init__(self, owner: type, name: str, before: Callable[[Any], None]) -> None:
        self._owner, self._name = owner, name
        self._original = original = vars(owner)[name]

        @functools.wraps(original)
        def method(this: Any, *args: Any, **kwargs: Any) -> Any:
            before(this)
            return original(this, *args, **kwargs)

        setattr(owner, name, method)

    def remove(self) -> None:
        setattr(self._owner, self._name, self._original)


def _ids(model: nn.Module) -> set[int]:
    return set(map(id, model.parameters()))


def _called_part(probe: FollowingProbe) -> str:
    """Of a model that is itself never called: the name of the one part that has all points, else ""."""
    parts = {point.name.partition(".")[0] for point in probe.history.points}
    return parts.pop() if len(parts) == 1 else ""
