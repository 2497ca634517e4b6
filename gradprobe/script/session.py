"""Attach to what a running script trains: a probe for each model that its optimizers hold parameters of."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradprobe.measure.weight_gradients import parameter_ids
from gradprobe.network.hooks import Attached, GuardedHook
from gradprobe.network.layers import unwrap
from gradprobe.script.advice.site import Site
from gradprobe.script.advice.words import long_step, no_module
from gradprobe.script.births import Place
from gradprobe.script.closures import ClosureCalls
from gradprobe.script.frames import outer_optimizer, script_frames
from gradprobe.script.models import Kind, ids, kind_of, model_at_hand, owners
from gradprobe.script.stop import threads_remain
from gradprobe.script.training import Dropped, Training
from gradprobe.script.untouched import untouched

PATIENCE = 10  # windows that one model may be ahead before the others are no longer waited for
FEW = 3  # models of one kind that train together, and kinds that train one after the other, all of them recorded
COUNTED = 1000  # trainings without a record that are kept in mind one by one


class Session:
    """All that is attached to one run of a script.

    Of many trainings of one kind the first is recorded. Which are many: those that begin when the first has made
    a step already, and more than `FEW` that were built before it.

    Args:
        iterations: Length of each window.
        on_full: Called when all windows are full, after the step of the optimizer.
        stops: Whether ``on_full`` ends the script by an exception; it is called again where that is not enough.
        every: Record every training, and let the script train to its end.
        layers: Names or shell patterns of the layers to record; all of them if there is none.
        seed: The seed that the script has set by now.
        say: Gets a sentence that is for now, and not for the end.
        made: Where in the script a model was made.

    Attributes:
        trainings: Those that are recorded.
        others: Those of a kind that is known: they are counted, without a probe.
        more: How many others there are beyond these.
        refusals: What could not be recorded, and why.
        rank: The number of this process among those that train together.
    """

    def __init__(
        self,
        iterations: int,
        on_full: Callable[[], None],
        *,
        stops: bool = True,
        every: bool = False,
        layers: tuple[str, ...] = (),
        seed: Callable[[], int | None] = lambda: None,
        say: Callable[[str], None] = lambda sentence: None,
        made: Callable[[nn.Module], tuple[Place, ...]] = lambda model: (),
    ) -> None:
        self.trainings: list[Training] = []
        self.others: list[Training] = []
        self.more = 0
        self.refusals: list[str] = []
        # kept, because `is_first_rank` cannot say it without a process group: before it begins, or after its end
        self.rank = int(os.environ.get("RANK", 0))
        self._iterations, self._layers, self._on_full = iterations, layers, on_full
        self._stops, self._every, self._seed, self._say, self._made = stops, every, seed, say, made
        self._open = True
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._ending = False  # all is recorded: the script is being stopped, in all of its threads
        self._dropped = Dropped()
        self._kinds: dict[Kind, list[Training]] = {}
        self._looked: dict[int, int] = {}  # by number of a training: how many optimizers were built beside it
        self._of: weakref.WeakKeyDictionary[Optimizer, list[Training]] = weakref.WeakKeyDictionary()
        self._closures = ClosureCalls(self._step_is_long)
        self._outer: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # optimizers that step by others
        self._hooks, self._steps = Attached(), Attached()
        before, after = (GuardedHook(call, self._failed) for call in (self._before_step, self._after_step))
        self._steps.add(register_optimizer_step_pre_hook(before))
        self._steps.add(register_optimizer_step_post_hook(after))

    def optimizer_built(self, optimizer: Optimizer, frame: FrameType | None) -> None:
        """Find the models of an optimizer that was just built, and attach before the first forward pass."""
        self._stop_again()
        if self._is_active():
            try:
                with self._lock:
                    if self._open:
                        self._attach(optimizer, frame)
            except Exception as error:
                self._refuse(f"{type(optimizer).__name__}: {error}")

    def close(self, alone: bool = False) -> None:
        """Take all hooks off the models; nothing more is recorded."""
        with self._lock:
            self._open = False
            self._hooks.remove()
            self._dropped.conclude()
            for training in self.trainings:
                training.close(alone)

    def end(self) -> None:
        """Take the step hooks off as well, after the script: inside a step, torch is iterating over them."""
        self.close(alone=True)
        self._dropped.remove()
        if not (self._ending and self._stops and threads_remain()):
            self._steps.remove()

    def _stop_again(self) -> None:
        """Where the script trains on although it was stopped: it caught that, or trains in another thread."""
        if self._ending and self._stops and os.getpid() == self._process:
            self._on_full()

    def _is_active(self) -> bool:
        """Whether the session is open, and this process is its own, not one forked from it."""
        return self._open and os.getpid() == self._process

    def _attach(self, optimizer: Optimizer, frame: FrameType | None) -> None:
        if dist.is_available() and dist.is_initialized():
            self.rank = dist.get_rank()
        wanted = parameter_ids(optimizer)
        self._free_dropped(wanted)
        at_hand = model_at_hand(wanted, script_frames(frame))
        if at_hand is not None and self._known(at_hand, wanted) is None and self._is_other(at_hand, optimizer):
            return
        models, left = owners(optimizer)
        if left:
            self._refuse(no_module(type(optimizer).__name__, left, len(wanted)))
        outer = outer_optimizer(optimizer, frame)
        if outer is not None and models:
            self._outer.add(outer)
            for probe in filter(None, (one.probe for one in self.trainings)):
                probe.leave(outer)
        for model in models:
            try:
                training = self._training(model, optimizer)
            except (TypeError, ValueError) as error:
                # nobody wants to learn of a mistyped name when the training has ended
                self._refuse(f"{type(unwrap(model)).__name__}: {error}", at_once=bool(self._layers))
                continue
            if training is not None:
                self._follow(training, optimizer)
                training.locate(frame, self._made(unwrap(model)))

    def _training(self, model: nn.Module, optimizer: Optimizer) -> Training | None:
        """The training that has these parameters already, or a new one; None if it is not recorded."""
        known = self._known(model, parameter_ids(optimizer) & ids(model))
        if known is None:
            return None if self._is_other(model, optimizer) else self._begin(model, optimizer)
        if known.recorded or known.steps or known.model is unwrap(model):
            return known
        # the model is now part of another module
        known.leave()
        known.attach(model)
        for earlier in known.optimizers:
            known.add(earlier)
        return known

    def _known(self, model: nn.Module, shared: set[int]) -> Training | None:
        models = ((one, one.model) for one in self.trainings)
        alive = [(one, own) for one, own in models if own is not None]
        same = [one for one, own in alive if own is unwrap(model)]
        return next(iter(same), None) or next((one for one, own in alive if shared & ids(own)), None)

    def _begin(self, model: nn.Module, optimizer: Optimizer) -> Training:
        training = Training(self._count() + 1, self._iterations, self._dropped, self._layers)
        training.attach(model)
        self.trainings.append(training)
        self._kinds.setdefault(kind_of(model, optimizer), []).append(training)
        return training

    def _is_other(self, model: nn.Module, optimizer: Optimizer) -> bool:
        """Whether a training is one of many; then it is counted."""
        kind = self._kinds.get(kind_of(model, optimizer))
        begun = sum(any(one.steps for one in known) for known in self._kinds.values())
        if self._every or not (any(one.steps for one in kind) if kind else begun > FEW):
            return False
        training = Training(self._count() + 1, self._iterations, self._dropped)
        training.kind = type(unwrap(model)).__name__
        training.site = Site(kind[0].site.model if kind else None)
        self._count_other(training)
        self._follow(training, optimizer)
        return True

    def _count(self) -> int:
        return len(self.trainings) + len(self.others) + self.more

    def _count_other(self, training: Training) -> None:
        if len(self.others) < COUNTED:
            self.others.append(training)
        else:
            self.more += 1

    def _follow(self, training: Training, optimizer: Optimizer) -> None:
        known = self._of.setdefault(optimizer, [])
        if all(training is not one for one in known):
            known.append(training)
        training.add(optimizer)

    def _free_dropped(self, wanted: set[int]) -> None:
        """Free models that the script has dropped: they are in circles with the hooks on them.

        A model that is still there is looked at again when twice as many optimizers were built.
        """
        look = False
        for training in self.trainings:
            model = training.model
            if training.steps and training.is_open and not (model is not None and ids(model) & wanted):
                beside = self._looked[training.number] = self._looked.get(training.number, 0) + 1
                look = look or not beside & (beside - 1)
        if look:
            del model
            gc.collect()
        self._dropped.conclude()

    def _refuse(self, why: str, at_once: bool = False) -> None:
        if why not in self.refusals:
            self.refusals.append(why)
            if at_once:
                self._say(why)

    def _failed(self, error: Exception) -> None:
        self._refuse(f"gradprobe failed, and recorded no more from there ({type(error).__name__}: {error})")

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if not self._is_active() or optimizer in self._outer:
            return None
        trainings = self._of.get(optimizer, ())
        for training in trainings:
            if training.is_open and not training.steps:
                self._first_step(training, optimizer)
            training.note_rate(optimizer)
            probe = training.probe
            if probe is not None:
                probe.follow(optimizer)
        return self._closures.counted(optimizer, args, kwargs) if trainings else None

    def _first_step(self, training: Training, optimizer: Optimizer) -> None:
        training.seed = self._seed()
        training.locate_step(optimizer, sys._getframe(1))
        for known in self._kinds.values():
            waiting = [one for one in known if not one.steps and one is not training and one.model is not None]
            if training in known and len(waiting) >= FEW and not self._every:
                for other in waiting:
                    other.leave()
                    known.remove(other)
                    self.trainings.remove(other)
                    self._count_other(other)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        self._stop_again()
        if not self._is_active() or optimizer in self._outer:
            return
        with self._lock:
            for training in self._of.get(optimizer, ()):
                training.steps += 1
                training.calls = self._closures.calls(optimizer)
                probe = training.probe
                if probe is not None and probe.full:
                    del probe
                    with untouched():
                        training.close(alone=False)
                    gc.collect()  # probe and model are in circles, and Python may not look for them for long
            full = [training for training in self.trainings if training.full]
            ahead = any(training.steps >= PATIENCE * self._iterations for training in full)
            is_over = bool(full) and (ahead or not any(training.is_open for training in self.trainings))
            if not is_over or self._every or self._ending:
                return
            self._ending = True
            for training in self.trainings:
                training.close(alone=True)
        self._on_full()

    def _step_is_long(self, optimizer: Optimizer, calls: int) -> None:
        if self._is_active() and any(training.is_open for training in self._of.get(optimizer, ())):
            self._say(long_step(type(optimizer).__name__, calls))
