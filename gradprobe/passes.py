"""Gradients of outputs as they come by: which backward pass they belong to, and what adds up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.magnitude import PartialSumError, Tally
from gradprobe.window import Slot


class Passes:
    """Collects the gradients of one iteration's outputs.

    ``backward()`` and ``torch.autograd.grad`` both let a gradient come by, but only the first is that of the
    loss where both occur: a gradient penalty is a part of the loss. So the second counts only in iterations
    without the first. A pass that keeps the graph may be followed by another one through the same output:
    their gradients add up before they are measured.

    Args:
        model: Its parameters tell the passes apart.
        every: Measure all statistics, or the mean alone.
    """

    def __init__(self, model: nn.Module, *, every: bool) -> None:
        self._model = model
        self._every = every
        self._paused = False
        self.backward: dict[Slot, Tally] = {}
        self._other: dict[Slot, Tally] = {}
        self._held: list[_Output] = []
        self._task: int | None = None
        self._is_backward = False
        self._count = 0
        self.micro_batches = 1
        self.refused: dict[Slot, str] = {}

    def tap(self, slot: Slot) -> Any:
        """A tensor hook for one output of a layer."""
        return _Output(self, slot)

    def tallies(self) -> dict[Slot, Tally]:
        """End the iteration: its tallies; the next one begins empty."""
        for output in self._held:
            output.flush()
        found = self.backward or self._other
        if self._count:
            self.micro_batches = max(self.micro_batches, self._count)
        self.clear()
        return found

    def clear(self) -> None:
        """Forget what has been collected in this iteration."""
        self.backward, self._other, self._held, self._count = {}, {}, [], 0

    def pause(self) -> None:
        """Ignore what comes by until `resume`: an optimizer evaluates its closure again."""
        self._paused = True

    def resume(self) -> None:
        """Collect again."""
        self._paused = False

    def arrived(self, output: _Output, gradient: Tensor) -> None:
        """A gradient of an output came by."""
        if self._paused:
            return
        keeps = torch._C._autograd._get_current_graph_task_keep_graph()
        if keeps and self._belongs_to_backward():
            if output.held is None:
                self._held.append(output)
            output.held = gradient.detach().clone() if output.held is None else output.held + gradient.detach()
            return
        total = gradient.detach() if output.held is None else output.held + gradient.detach()
        if output.held is not None:
            output.held = None
            self._held.remove(output)
        tallies = self.backward if self._belongs_to_backward() else self._other
        self.measure(tallies, output.slot, total)

    def measure(self, tallies: dict[Slot, Tally], slot: Slot, gradient: Tensor) -> None:
        """Add a gradient to its layer's tally; one that cannot be measured is refused, and training goes on."""
        if not gradient.numel():
            self.refused[slot] = "its output had no elements"
        try:
            with torch.no_grad():
                tallies.setdefault(slot, Tally()).add(gradient, every=self._every)
        except (PartialSumError, RuntimeError, NotImplementedError) as error:
            tallies.pop(slot, None)
            self.refused[slot] = str(error).splitlines()[0]

    def _belongs_to_backward(self) -> bool:
        """Whether the running pass accumulates into parameters, as ``backward()`` does and ``grad`` does not."""
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task = task
            self._is_backward = self._accumulates()
            self._count += self._is_backward
        return self._is_backward

    def _accumulates(self) -> bool:
        trainable = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        try:
            nodes = (torch.autograd.graph.get_gradient_edge(parameter).node for parameter in trainable)
            if any(map(torch._C._will_engine_execute_node, nodes)):
                return True
        except (RuntimeError, AttributeError):  # in autograd.grad of such a parameter, or in torch.func
            return False
        # wholly frozen, as a discriminator in the generator's turn: then only a pass that is to be differentiated
        # itself, as a gradient penalty is, can be told from backward()
        return not trainable and not torch.is_grad_enabled()


class _Output:
    """One output of one call of a layer: a hook that holds a gradient only while another may be added to it."""

    def __init__(self, passes: Passes, slot: Slot) -> None:
        self.passes = passes
        self.slot = slot
        self.held: Tensor | None = None

    def __call__(self, gradient: Tensor | None) -> None:
        if gradient is not None:  # a node with several outputs has none for those that the loss does not depend on
            self.passes.arrived(self, gradient)

    def flush(self) -> None:
        if self.held is not None:
            self.passes.measure(self.passes.backward, self.slot, self.held)
            self.held = None
