"""Collects the evidence of a window: told of steps by the probe, of passes by its own hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradprobe.measure.amp import LossScale
from gradprobe.measure.evidence.after_layers import Following, following
from gradprobe.measure.evidence.backward import BackwardListener, ThrownAway
from gradprobe.measure.evidence.graph_nodes import scale_of
from gradprobe.measure.evidence.loss_facts import LossFacts
from gradprobe.measure.evidence.loss_graph import uses_of_output
from gradprobe.measure.evidence.over_time import OverTime, is_looked_at
from gradprobe.measure.evidence.result import Collected, LayerSteps
from gradprobe.measure.evidence.sampling import is_sampled
from gradprobe.measure.evidence.signal import Signal
from gradprobe.measure.evidence.weights import WeightSamples
from gradprobe.measure.passes import leads_to
from gradprobe.measure.reduction.on_device import sent
from gradprobe.measure.reduction.values import is_immediate
from gradprobe.measure.weight_gradients import parameter_ids
from gradprobe.network.hooks import Attached, failure
from gradprobe.network.layers import frozen_fast_path_modules, unwrap
from gradprobe.record.evidence import Evidence

_MOST_PASSES = 64  # backward passes of one iteration that are looked at: it may never end
_FEW = 8  # parameters that show whether a backward pass was of this network


class EvidenceCollector:
    """Signal, updates, losses and the rest, in some iterations of a window, on the device.

    What fails in here ends the evidence, and neither the training nor the record of gradients.

    Args:
        model: The network.
        modules: Its layers by name.
        weights: Local names of each layer's parameters other than biases.
        scale: What gradient scalers multiply losses by.
        is_on: Whether anything is to be collected.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        weights: Mapping[str, Sequence[str]],
        scale: LossScale,
        is_on: bool,
    ) -> None:
        self._model, self._modules, self._scale = model, modules, scale
        self._is_on = is_on
        self._why: str | None = None
        self._over_time = OverTime(modules, self.failed)
        self._signal = Signal(modules, self._over_time.called)
        self._weights = WeightSamples(modules, weights)
        self._collected = Collected(self._weights.rows)
        self._loss, self._thrown_away = LossFacts(), ThrownAway()
        self._following: Following | None = None
        self._few: list[nn.Parameter] = []
        self._trained: set[int] = set()
        self._iteration = self._passes = 0
        self._is_sampled = False
        self._steps: LayerSteps | None = None
        self._stepped = torch.ones(0, dtype=torch.bool)
        self._left_over: Tensor | None = None
        self._arrived: Tensor | None = None
        self._held_by: dict[int, tuple[list[int], Tensor]] = {}
        self._before: dict[int, tuple[Tensor, list[int], LayerSteps]] = {}
        self._touched: list[tuple[int, int]] = []

    def attach(self, hooks: Attached) -> None:
        """Start to collect."""
        if not self._is_on:
            return
        try:
            self._begin()
            on_fast_path = frozen_fast_path_modules(unwrap(self._model))
            for name, module in self._modules.items():
                if module not in on_fast_path:
                    hooks.add(module.register_forward_hook(self._signal.hook(name, self.failed)))
            self._over_time.attach(hooks)
            hooks.add(BackwardListener(self))
        except Exception as error:
            self.failed(error)

    def _begin(self) -> None:
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._trained = set(map(id, trained))
        self._few = trained[:: max(1, len(trained) // _FEW)][:_FEW]
        self._weights.take()  # which finds out where they are
        self._collected.initial = self._weights.facts()
        self._stepped = torch.ones(len(self._weights.rows), dtype=torch.bool, device=self._weights.device)
        self._look(0)

    @property
    def passes(self) -> int:
        """How many backward passes there were that put a gradient into the network."""
        return len(self._collected.losses)

    def failed(self, error: Exception) -> None:
        """Something of ours failed: the evidence ends here."""
        self._is_on, self._why = False, failure(error)
        self._signal.is_on = self._over_time.is_on = False

    def _look(self, iteration: int) -> None:
        self._iteration, self._is_sampled, self._passes = iteration, is_sampled(iteration), 0
        self._signal.is_on = self._is_sampled
        self._over_time.is_on = self._is_sampled and is_looked_at(iteration)
        self._steps = LayerSteps(len(self._weights.rows), self._weights.device) if self._is_sampled else None
        self._arrived = None
        self._thrown_away.begin()

    # backward passes

    def before_backward(self, loss: Any) -> None:
        """A backward pass begins: of which loss, and what is left of earlier gradients."""
        if not self._is_on or not self._is_of_this_thread(loss):
            return
        self._touched = [_state(parameter) for parameter in self._few]
        self._passes += 1
        if self._passes > _MOST_PASSES:
            self._signal.is_on = False
            return
        if not self._is_sampled or not isinstance(loss, Tensor) or loss.grad_fn is None:
            return
        there = any(parameter.grad is not None for parameter in self._few)
        count = len(self._weights.rows)
        nothing = self._stepped.new_zeros(count)
        now = self._weights.norms(self._weights.take_gradients()) != 0 if there else nothing  # NaN is left too
        known = now if self._left_over is None else self._left_over
        self._left_over = torch.where(self._stepped, now, known & now)
        self._stepped = torch.zeros_like(self._stepped)
        if self._signal.nodes:
            is_cleared = not there or (is_immediate(now.device) and not bool(now.any()))
            self._thrown_away.before(loss, is_cleared, self._weights.take, self._trained)
            self._read_graph(loss)

    def _is_of_this_thread(self, loss: Any) -> bool:
        """Whether the network is used in this thread: it has run or been stepped here, or it is in this pass.

        If not, its own thread may be putting gradients into it at this moment, or clearing them: to read them now
        would give half of a gradient, or crash the process.
        """
        if not self._signal.is_used_here:
            node = loss.grad_fn if isinstance(loss, Tensor) else None
            self._signal.is_used_here = node is not None and leads_to(node, self._trained)
        return self._signal.is_used_here

    def _read_graph(self, loss: Tensor) -> None:
        uses = uses_of_output(loss.grad_fn, self._signal.nodes)
        self._thrown_away.kinds.add(tuple((use.layer, use.loss, *use.activations) for use in uses))
        for use in uses:
            self._loss.add(use)
        if uses:
            scale = self._scale.value
            by_scaler = 1.0 if scale is None or not is_immediate(scale.device) else float(scale)
            self._collected.loss_scales.append(scale_of(loss.grad_fn) / by_scaler)
            if self._following is None:
                self._following = following(loss.grad_fn, self._signal.nodes)
            self._note_modes()

    def _note_modes(self) -> None:
        root = unwrap(self._model)
        kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
        affected = [one for one in root.modules() if isinstance(one, kinds) and not one.training]
        self._collected.eval_mode.append(not root.training and any(getattr(one, "p", 1) for one in affected))

    def after_backward(self, loss: Any) -> None:
        """A backward pass has ended."""
        if not self._is_on or not self._signal.is_used_here:
            return
        self._collected.passes += 1
        counts = self._touched != [_state(parameter) for parameter in self._few]
        self._over_time.passed(self._scale.value, counts)
        if self._passes > _MOST_PASSES or not counts:
            return
        self._signal.nodes = {}
        if isinstance(loss, Tensor):
            scale = self._scale.value
            value = loss.detach().float().mean()
            self._collected.losses.append(
                (self._iteration, value if scale is None else value / scale.to(value.device))
            )
        if self._is_sampled:
            self._arrived = self._weights.norms(self._weights.take_gradients())
            self._collected.note_arrived(self._arrived)

    # steps

    def before_step(self, optimizer: Optimizer | None) -> None:
        """An optimizer is about to step, or any, where which one is not known.

        Args:
            optimizer: The optimizer.
        """
        if not self._is_on:
            return
        try:
            self._before_step(optimizer, _divided_by(optimizer, self._scale))
        except Exception as error:
            self.failed(error)

    def _before_step(self, optimizer: Optimizer | None, scale: Tensor | None) -> None:
        self._signal.is_used_here = True
        held = self._held(optimizer)
        self._stepped |= held
        if optimizer is None:
            self._moved(0, held)
        else:
            self._collected.note_optimizer(optimizer)
        if self._steps is None:
            return
        self._thrown_away.end()
        gradients = self._weights.take_gradients()
        norms = self._weights.norms(gradients)
        self._steps.found(held, norms, self._arrived, self._left_over, scale)
        self._collected.turn(self._weights, gradients, norms.square(), held)
        key = 0 if optimizer is None else id(optimizer)
        self._before[key] = self._weights.take(), self._weights.identities(), self._steps

    def _moved(self, optimizer: int, held: Tensor) -> None:
        """Compare the weights to what they were before the last step that was looked at."""
        if optimizer in self._before:
            before, parameters, steps = self._before.pop(optimizer)
            moved = self._weights.norms(self._weights.take() - before)
            same = sent(self._weights.same(parameters), self._weights.device)
            steps.moved(held & same, moved, self._weights.norms(before))

    def _held(self, optimizer: Optimizer | None) -> Tensor:
        count = len(self._weights.rows)
        if optimizer is None:
            return torch.ones(count, dtype=torch.bool, device=self._weights.device)
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        known = self._held_by.get(id(optimizer))
        if known is None or known[0] != sizes or self._is_sampled:
            held = self._weights.held_by(parameter_ids(optimizer))
            mask = sent(torch.tensor(held, dtype=torch.bool), self._weights.device)
            known = self._held_by[id(optimizer)] = sizes, mask
        return known[1]

    def after_step(self, optimizer: Optimizer) -> None:
        """An optimizer has stepped."""
        if not self._is_on or id(optimizer) not in self._before:
            return
        try:
            self._moved(id(optimizer), self._held(optimizer))
        except Exception as error:
            self.failed(error)

    def closed(self) -> None:
        """An iteration has ended; its last step may still be running."""
        if not self._is_on:
            return
        try:
            self._over_time.end()
            self._weights.let_go()
            if self._is_sampled and self._steps is not None:
                self._collected.add(self._iteration, self._signal.end(), self._steps)
            else:
                self._signal.drop()
            self._look(self._iteration + 1)
        except Exception as error:
            self.failed(error)

    def ended(self) -> None:
        """The window has ended: collect nothing more."""
        if not self._is_on:
            return
        try:
            self._collected.final = self._weights.facts()
            self._is_on = self._signal.is_on = self._over_time.is_on = False
            self._over_time.end()
            self._few, self._before, self._touched = [], {}, []  # the network is not kept alive by them
            self._weights.let_go(weights=True)
        except Exception as error:
            self.failed(error)

    def result(self, elements: Mapping[tuple[int, str], float]) -> Evidence | None:
        """What was collected so far, or None if nothing was. Waits for the device.

        Args:
            elements: Elements of what each layer returned, by iteration and layer.
        """
        if not self._collected.sampled and not self._collected.losses:
            return None
        return self._collected.result(
            self._signal,
            self._weights,
            self._loss,
            self._over_time,
            self._following,
            self._thrown_away,
            elements,
            self._why,
        )


def _divided_by(optimizer: Optimizer | None, scale: LossScale) -> Tensor | None:
    """What the gradients of an optimizer were divided by since the backward pass, if a gradient scaler did so."""
    if optimizer is None or scale.value is None:
        return None
    return scale.value if parameter_ids(optimizer) & scale.taken_out else None


def _state(parameter: nn.Parameter) -> tuple[int, int]:
    gradient = parameter.grad
    return (0, 0) if gradient is None else (id(gradient), gradient._version)
