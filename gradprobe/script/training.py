"""One training in a running script: a probe on its model, which goes with the model and follows its optimizers."""

from __future__ import annotations

import contextlib
import fnmatch
import gc
import sys
import weakref
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradprobe.measure.probe import GradientProbe
from gradprobe.measure.ranks import world_size
from gradprobe.measure.weight_gradients import parameter_ids
from gradprobe.network.hooks import GuardedHook
from gradprobe.network.layers import named_layers, unwrap
from gradprobe.record.history import GradientHistory
from gradprobe.script.advice.locate import Called, called_at, site_of, with_loss, with_step
from gradprobe.script.advice.site import Site
from gradprobe.script.births import Place
from gradprobe.script.execute import printable
from gradprobe.script.stop import Stopped


class FollowingProbe(GradientProbe):
    """A probe whose optimizers may be added and replaced while it is attached.

    Example:
        >>> import torch
        >>> net = nn.Linear(1, 1)
        >>> with FollowingProbe(net) as probe:
        ...     for optimizer in (torch.optim.SGD(net.parameters()), torch.optim.Adam(net.parameters())):
        ...         probe.follow(optimizer)
        ...         net(torch.ones(1, 1)).sum().backward()
        ...         optimizer.step()
        >>> probe.recorded
        2
    """

    def __init__(self, model: nn.Module, iterations: int = 50, layers: Sequence[str] = ()) -> None:
        super().__init__(model, iterations=iterations, layers=_of_this(model, layers) if layers else None)
        self.called = False
        self.called_at: Called | None = None
        self._followed: list[Optimizer] = []

    def _attach(self) -> None:
        super()._attach()
        root = unwrap(self.model)
        self._hooks.add(root.register_forward_pre_hook(GuardedHook(self._call, self._failed)))
        if hasattr(root, "training_step"):  # it is never called itself, but a part of it
            for part in root.children():
                self._hooks.add(part.register_forward_pre_hook(GuardedHook(self._call_of_part, self._failed)))

    def _call(self, *_: Any) -> None:
        self.called = True
        self._call_of_part(unwrap(self.model))

    def _call_of_part(self, part: nn.Module, *_: Any) -> None:
        """Note from where it is called: of the calls before the first step the last one that is differentiated."""
        if not self.recorded and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self.called_at = called_at(part, sys._getframe(1)) or self.called_at

    @property
    def attached(self) -> bool:
        """Whether the window is open."""
        return self._attached

    @property
    def passes(self) -> int:
        """How many backward passes there were in the window, whether or not an optimizer stepped."""
        return self._evidence.passes

    def follow(self, optimizer: Optimizer) -> None:
        """From now on this optimizer's steps end the iterations, not those of others of the same parameters."""
        if not self._attached or any(optimizer is own for own in self.optimizers):
            return
        parameters = parameter_ids(optimizer)
        self.optimizers = (*(own for own in self.optimizers if not parameters & parameter_ids(own)), optimizer)
        self._ownership.add(optimizer)
        self._stepped &= set(map(id, self.optimizers))
        if all(optimizer is not known for known in self._followed):
            self._followed.append(optimizer)
            self._hooks.add(optimizer.register_step_pre_hook(GuardedHook(self._before_step, self._failed)))
            self._hooks.add(optimizer.register_step_post_hook(GuardedHook(self._after_step, self._failed)))

    def leave(self, optimizer: Optimizer) -> None:
        """The steps of this optimizer end no iterations any more."""
        self.optimizers = tuple(own for own in self.optimizers if own is not optimizer)

    def _step_of(self, optimizer: Optimizer, skipped: bool = False) -> None:
        if any(optimizer is own for own in self.optimizers):  # one that was followed earlier still has its hook
            super()._step_of(optimizer, skipped)


def _of_this(model: nn.Module, layers: Sequence[str]) -> Sequence[str]:
    """The patterns that fit a layer of this model, as each of a script's models has its own; all if none does."""
    names = list(named_layers(model))
    return [pattern for pattern in layers if fnmatch.filter(names, pattern) or pattern in names] or layers


class Training:
    """A training that was seen, and what is known of its place in the script.

    While the window is open the probe belongs to the hooks on the model: if the script drops the model, both are
    freed, and what was recorded until then is kept. Afterwards nothing of the model is held.

    Args:
        number: Which of the script's trainings this is, from 1.
        iterations: Length of the window.
        dropped: Where it is concluded if the script drops the model.
        layers: Names or shell patterns of the layers to record; all of them if there is none.

    Attributes:
        site: Names and lines.
        kind: The name of the model's class.
        steps: How often an optimizer of the model stepped, in the window and after it.
        calls: How often the closure of the last step was called; 0 without one.
        seed: The seed at the first step, if the script set it.
        recorded: Iterations that were recorded when the window was closed.
        history: The record, once it is closed.
        is_open: Whether there is a probe on the model.
    """

    def __init__(self, number: int, iterations: int, dropped: Dropped, layers: Sequence[str] = ()) -> None:
        self.number, self.iterations, self._layers = number, iterations, layers
        self._dropped = dropped
        self.site = Site()
        self.kind = ""
        self.steps = self.calls = self.recorded = 0
        self.seed: int | None = None
        self._rates: list[float] = []
        self.history: GradientHistory | None = None
        self.is_open = False
        self.optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._probe: weakref.ref[FollowingProbe] | None = None
        self._model: weakref.ref[nn.Module] | None = None
        self._ranks = 1

    @property
    def probe(self) -> FollowingProbe | None:
        """The probe while the window is open."""
        return self._probe() if self._probe is not None else None

    @property
    def model(self) -> nn.Module | None:
        """The bare model, if it is still there."""
        return self._model() if self._model is not None else None

    @property
    def full(self) -> bool:
        """Whether the whole window was recorded."""
        return not self.is_open and self.recorded >= self.iterations

    def attach(self, model: nn.Module) -> None:
        """Open the window.

        Raises:
            TypeError: If the model cannot be recorded.
            ValueError: Likewise.
        """
        probe = FollowingProbe(model, self.iterations, self._layers)
        probe.__enter__()
        # the hooks hold the probe, and the probe this: a model that is dropped takes all of them with it
        vars(probe)["kept"] = _LastWords(self, probe, self._dropped)
        self._probe, self._model = weakref.ref(probe), weakref.ref(unwrap(model))
        self.kind = type(unwrap(model)).__name__
        self.is_open = True
        self._ranks = world_size()

    def add(self, optimizer: Optimizer) -> None:
        """Follow one more optimizer of this model."""
        self.optimizers.add(optimizer)
        if self.probe is not None:
            self.probe.follow(optimizer)

    def locate(self, frame: FrameType | None, made: Sequence[Place] = ()) -> None:
        """Read names and lines from the frames of the script, where an optimizer is being built.

        Args:
            frame: Where.
            made: Where the model was made, if that is known.
        """
        model = self.model
        if model is not None and self.site.model is None:
            found = site_of(model, frame, made)
            self.site = found if self.site.optimizer is None or found.model is not None else self.site

    def locate_step(self, optimizer: Optimizer, frame: FrameType | None) -> None:
        """Read from the frames where the loss is computed, at the first step, and the model's name.

        A model that builds its optimizer itself has none yet when it does.
        """
        model = self.model
        if model is not None and self.site.step is None and not self.site.loop:
            self.site = replace(self.site, model=self.site.model or site_of(model, frame, ()).model)
            self.site = with_step(self.site, model, optimizer, frame)

    def note_rate(self, optimizer: Optimizer) -> None:
        """Keep the learning rate of a step in the window: the first one and the newest."""
        rate = optimizer.param_groups[0].get("lr")
        if self.is_open and rate is not None:
            self._rates[1:] = [float(rate)]

    def close(self, alone: bool) -> None:
        """Take the hooks off and keep the record; ``alone`` without the other ranks, which may not do the same."""
        probe = self.probe
        if probe is not None:
            self.conclude(probe, alone)

    def conclude(self, probe: FollowingProbe, alone: bool) -> None:
        """The same with the probe in hand."""
        if not self.is_open:
            return
        kept_alone = False
        if probe.attached:
            group_ended = self._ranks > 1 and world_size() == 1
            if alone or group_ended:
                probe.__exit__(Stopped, None, None)
                kept_alone = self._ranks > 1
            else:
                probe.detach()
        self.recorded = probe.recorded
        if self.recorded or probe.passes:
            self.history = self._history_of(probe, kept_alone)
        probe.detach()  # a hook that torch was calling at that moment
        vars(probe).pop("kept", None)
        self._probe = None
        self.is_open = False

    def leave(self) -> None:
        """Close the window as if there had been none."""
        probe, self._probe, self.is_open = self.probe, None, False
        if probe is not None:
            vars(probe).pop("kept", None)
            probe.__exit__(Stopped, None, None)

    def _history_of(self, probe: FollowingProbe, kept_alone: bool) -> GradientHistory:
        """The record, with the conditions that are known from the script."""
        history = probe.history
        if probe.called_at is not None and not self.site.loss:
            self.site = with_loss(self.site, probe.called_at)
        if not probe.called:
            self.site = replace(self.site, part=_called_part(history))
        known: dict[str, Any] = {"seed": self.seed, "loss": self.site.function}
        if len({float(f"{rate:.4g}") for rate in self._rates}) > 1:
            known["learning_rates"] = [float(f"{rate:.4g}") for rate in self._rates]
        if kept_alone:
            known["ranks"] = "this rank's own numbers: the script ended before the window was full"
        return replace(history, conditions={**history.conditions, **known})


class Dropped:
    """Models that the script has dropped before their window was full: their records are kept, and they are freed.

    Python finds them when it looks for objects in circles. It must not be disturbed in that (torch aborts the
    process), so that they are concluded right afterwards.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Training, FollowingProbe]] = []
        gc.callbacks.append(self._after_collection)

    def add(self, training: Training, probe: FollowingProbe) -> None:
        """A model is about to be freed, with its probe."""
        self._waiting.append((training, probe))

    def conclude(self) -> None:
        """Keep the records of those that wait, and free them."""
        while self._waiting:
            training, probe = self._waiting.pop()
            try:
                training.conclude(probe, alone=True)
            finally:
                vars(probe).clear()  # it is in circles, and Python may not look for them again for long

    def remove(self) -> None:
        """Look for none any more."""
        if self._after_collection in gc.callbacks:
            gc.callbacks.remove(self._after_collection)

    def _after_collection(self, phase: str, _: object) -> None:
        # Python may be amid anything: an error here would be printed into the script's output
        if phase == "stop" and self._waiting:
            with contextlib.suppress(Exception):
                self.conclude()


class _LastWords:
    """What a probe has to say when it is about to be freed with its model."""

    def __init__(self, training: Training, probe: FollowingProbe, dropped: Dropped) -> None:
        self._training, self._probe, self._dropped = training, probe, dropped

    def __del__(self) -> None:
        if self._training.is_open and not sys.is_finalizing():
            self._dropped.add(self._training, self._probe)


def _called_part(history: GradientHistory) -> str:
    """Of a model that is itself never called: the name of the one part that has all points, else ""."""
    parts = {point.name.partition(".")[0] for point in history.points}
    return parts.pop() if len(parts) == 1 else ""


def shown_name(training: Training) -> str:
    """What the script calls the model, else the name of its class."""
    return printable((training.site.model or training.kind).removeprefix("self."))


def names(trainings: Sequence[Training]) -> list[str]:
    """A name for each, with a number from the second of the same name on."""
    counts: dict[str, int] = {}
    given = []
    for training in trainings:
        name = shown_name(training)
        counts[name] = counts.get(name, 0) + 1
        given.append(name if counts[name] == 1 else f"{name}-{counts[name]}")
    return given
