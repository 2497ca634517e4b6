"""Gradients of outputs as they come by: tapped, told apart by backward pass, added up where they have to be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.measure.accumulator import Accumulator, Key, ReducedGradients
from gradprobe.measure.ranks import active_ddp_wrapper, averaged_over
from gradprobe.measure.reduction import Reducer
from gradprobe.network.hooks import Attached, Hook
from gradprobe.network.tensors import base_of_full_view, first_tensor

CAPTURED = "captured in a CUDA graph, which is replayed without Python: attach the probe to eager steps"


def is_captured() -> bool:
    """Whether a CUDA graph is made of what runs at the moment: a hook in it would run once, and never again.

    Example:
        >>> is_captured()
        False
    """
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


class OutputGradients:
    """Collects the gradients of one iteration's outputs.

    ``backward()`` and ``torch.autograd.grad`` both let a gradient come by, but only the first is that of the
    loss where both occur: a gradient penalty is a part of the loss. So the second counts only in iterations
    without the first. A pass that keeps the graph may be followed by another one through the same output:
    their gradients add up before they are measured.

    Args:
        model: Its parameters tell the passes apart.
        reducer: Reduces them.
        refused: Where to say what could not be measured, and why.
        hooks: Where to put a hook that torch would not let go of by itself.

    Attributes:
        count: Backward passes since what came by was taken.
        micro_batches: How many backward passes an iteration had, at most.
    """

    def __init__(self, model: nn.Module, reducer: Reducer, refused: dict[Key, str], hooks: Attached) -> None:
        self._model = model
        self._refused = refused
        self.hooks = hooks
        self._averaged: int | None = None
        self._paused = False
        self.backward = Accumulator(reducer, refused)
        self._other = Accumulator(reducer, refused)
        self._held: list[_Output] = []
        self._task: int | None = None
        self._is_backward = False
        self._is_transformed = False  # by torch.func
        self.count = 0
        self.micro_batches = 1

    @property
    def averaged(self) -> int:
        """Over how many ranks the loss is averaged; 1 before the first output."""
        return self._averaged or 1

    def tap(self, tensor: Tensor, slot: Key) -> None:
        """Collect the gradient of an output of a layer."""
        self._averaged = self._averaged or averaged_over(active_ddp_wrapper(self._model))
        tensor = base_of_full_view(tensor)
        handle = tensor.register_hook(_Output(self, slot))
        if tensor.is_leaf:  # a parameter handed out as it is would keep the hook for good
            self.hooks.add(handle)

    def refuse(self, slots: Iterable[Key], why: str) -> None:
        """Say why these are not measured."""
        self._refused.update(dict.fromkeys(slots, why))

    def take(self) -> list[ReducedGradients]:
        """What came by since the last time."""
        for output in self._held:
            output.flush()
        found = (self.backward or self._other).take()
        if self.count:
            self.micro_batches = max(self.micro_batches, self.count)
        self.clear()
        return found

    def clear(self) -> None:
        """Forget what has been collected since."""
        self.backward.clear()
        self._other.clear()
        self._held, self.count = [], 0

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
        if output.held is not None:
            gradient, output.held = output.held + gradient.detach(), None
            self._held.remove(output)
        collected = self.backward if self._belongs_to_backward() else self._other
        if self._is_transformed:
            with torch._C._DisableFuncTorch():
                collected.at_once(output.slot, _unwrapped(gradient))
        else:
            collected.add(output.slot, gradient)

    def _belongs_to_backward(self) -> bool:
        """Whether the running pass accumulates into parameters, as ``backward()`` does and ``grad`` does not."""
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task = task
            self._is_backward = self._accumulates()
            self._is_transformed = torch._C._functorch.peek_interpreter_stack() is not None
            self.count += self._is_backward
            # a gradient is held no longer than its pass: afterwards torch may add to it in place
            torch.autograd.Variable._execution_engine.queue_callback(self._end_of_pass)
        return self._is_backward

    def _end_of_pass(self) -> None:
        self.backward.flush()
        self._other.flush()

    def _accumulates(self) -> bool:
        trainable = False
        try:
            for parameter in self._model.parameters():  # one of the first is enough
                if parameter.requires_grad:
                    trainable = True
                    node = torch.autograd.graph.get_gradient_edge(parameter).node
                    if torch._C._will_engine_execute_node(node):
                        return True
        except (RuntimeError, AttributeError):  # in autograd.grad of such a parameter, or in torch.func
            return False
        # wholly frozen, as a discriminator in the generator's turn: then only a pass that is to be differentiated
        # itself, as a gradient penalty is, can be told from backward()
        return not trainable and not torch.is_grad_enabled()


def _unwrapped(gradient: Tensor) -> Tensor:
    """The values of a gradient inside torch.func's transforms."""
    while torch._C._functorch.is_functorch_wrapped_tensor(gradient):
        gradient = torch._C._functorch.get_unwrapped(gradient)
    return gradient


class OutputHook(Hook):
    """A forward hook of a layer, which taps its output.

    Attributes:
        calls: How often the layer was called.
        tapped: How often its output required a gradient.
    """

    __slots__ = ("_passes", "_slot", "calls", "tapped")

    def __init__(self, passes: OutputGradients, name: str) -> None:
        self._passes = passes
        self._slot = (name, "output")
        self.calls = self.tapped = 0

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Tap the output of a call."""
        if torch.compiler.is_compiling():
            return
        self.calls += 1
        if is_captured():
            self._passes.refuse([self._slot], CAPTURED)
            return
        tensor = output if type(output) is Tensor else first_tensor(output)
        if tensor is not None and tensor.requires_grad:
            self.tapped += 1
            self._passes.tap(tensor, self._slot)


class _Output(Hook):
    """One output of one call of a layer: a hook that holds a gradient only while another may be added to it."""

    __slots__ = ("held", "passes", "slot")

    def __init__(self, passes: OutputGradients, slot: Key) -> None:
        self.passes = passes
        self.slot = slot
        self.held: Tensor | None = None

    def __call__(self, gradient: Tensor | None) -> None:
        if gradient is not None:  # a node with several outputs has none for those that the loss does not depend on
            self.passes.arrived(self, gradient)

    def flush(self) -> None:
        if self.held is not None:
            self.passes.backward.add(self.slot, self.held)
            self.held = None
