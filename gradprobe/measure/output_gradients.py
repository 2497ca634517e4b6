"""Gradients of outputs as they arrive: kept apart by backward pass, and added up where they have to be."""

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

    Gradients arrive in ``backward()`` and in ``torch.autograd.grad`` alike. Where both occur, only the first are
    those of the loss: a gradient penalty, say, is a part of the loss. So the second count only in iterations
    without the first. After a pass that keeps the graph another one may go through the same output: their
    gradients are added up before they are measured.

    Args:
        model: Its parameters tell the passes apart.
        reducer: Reduces the gradients.
        refused: Gets a sentence for each key that could not be measured.
        hooks: Gets the hooks that torch would not drop by itself.

    Attributes:
        passes: Backward passes since the last `take`.
        micro_batches: How many backward passes an iteration had, at most.
    """

    def __init__(self, model: nn.Module, reducer: Reducer, refused: dict[Key, str], hooks: Attached) -> None:
        self._model = model
        self._refused = refused
        self._hooks = hooks
        self._averaged: int | None = None
        self._paused = False
        self._of_backward = Accumulator(reducer, refused)
        self._of_grad = Accumulator(reducer, refused)  # torch.autograd.grad
        self._incomplete: list[_GradientHook] = []
        self._task: int | None = None
        self._is_backward = False
        self._is_transformed = False  # by torch.func
        self.passes = 0
        self.micro_batches = 1

    @property
    def averaged(self) -> int:
        """Over how many ranks the loss is averaged; 1 before the first output."""
        return self._averaged or 1

    def add_hook(self, tensor: Tensor, key: Key) -> None:
        """Collect the gradient of an output of a layer."""
        self._averaged = self._averaged or averaged_over(active_ddp_wrapper(self._model))
        tensor = base_of_full_view(tensor)
        handle = tensor.register_hook(_GradientHook(self, key))
        if tensor.is_leaf:  # a parameter that is returned as it is would keep the hook for good
            self._hooks.add(handle)

    def refuse(self, keys: Iterable[Key], sentence: str) -> None:
        """Note why these are not measured."""
        self._refused.update(dict.fromkeys(keys, sentence))

    def take(self) -> list[ReducedGradients]:
        """What arrived since the last time."""
        for hook in self._incomplete:
            self._add_incomplete(hook)
        reduced = (self._of_backward or self._of_grad).take()
        if self.passes:
            self.micro_batches = max(self.micro_batches, self.passes)
        self.clear()
        return reduced

    def clear(self) -> None:
        """Forget what arrived since the last `take`."""
        self._of_backward.clear()
        self._of_grad.clear()
        self._incomplete, self.passes = [], 0

    def pause(self) -> None:
        """Ignore gradients until `resume`: an optimizer evaluates its closure again."""
        self._paused = True

    def resume(self) -> None:
        """Collect again."""
        self._paused = False

    def add(self, hook: _GradientHook, gradient: Tensor) -> None:
        """Collect a gradient that arrived at an output."""
        if self._paused:
            return
        keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph()
        if keeps_graph and self._in_backward():
            if hook.incomplete is None:
                self._incomplete.append(hook)
                hook.incomplete = gradient.detach().clone()
            else:
                hook.incomplete = hook.incomplete + gradient.detach()
            return
        if hook.incomplete is not None:
            gradient, hook.incomplete = hook.incomplete + gradient.detach(), None
            self._incomplete.remove(hook)
        accumulator = self._of_backward if self._in_backward() else self._of_grad
        if self._is_transformed:
            with torch._C._DisableFuncTorch():
                accumulator.add_now(hook.key, _unwrapped(gradient))
        else:
            accumulator.add(hook.key, gradient)

    def _add_incomplete(self, hook: _GradientHook) -> None:
        if hook.incomplete is not None:
            self._of_backward.add(hook.key, hook.incomplete)
            hook.incomplete = None

    def _in_backward(self) -> bool:
        """Whether the running pass accumulates into parameters, as ``backward()`` does and ``grad`` does not."""
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task = task
            self._is_backward = self._accumulates()
            self._is_transformed = torch._C._functorch.peek_interpreter_stack() is not None
            self.passes += self._is_backward
            # a gradient waits no longer than its pass: afterwards torch may add to it in place
            torch.autograd.Variable._execution_engine.queue_callback(self._end_of_pass)
        return self._is_backward

    def _end_of_pass(self) -> None:
        self._of_backward.flush()
        self._of_grad.flush()

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
        # wholly frozen, as a discriminator is in the generator's turn: then only a pass that is itself to be
        # differentiated, as that of a gradient penalty is, can be distinguished from backward()
        return not trainable and not torch.is_grad_enabled()


def _unwrapped(gradient: Tensor) -> Tensor:
    """The values of a gradient inside torch.func's transforms."""
    while torch._C._functorch.is_functorch_wrapped_tensor(gradient):
        gradient = torch._C._functorch.get_unwrapped(gradient)
    return gradient


class OutputHook(Hook):
    """A forward hook of a layer, which puts a hook on its output.

    Attributes:
        calls: How often the layer was called.
        differentiable_calls: How often its output required a gradient.
    """

    __slots__ = ("_gradients", "_key", "calls", "differentiable_calls")

    def __init__(self, gradients: OutputGradients, name: str) -> None:
        self._gradients = gradients
        self._key = (name, "output")
        self.calls = self.differentiable_calls = 0

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Put a hook on the output of a call."""
        if torch.compiler.is_compiling():
            return
        self.calls += 1
        if is_captured():
            self._gradients.refuse([self._key], CAPTURED)
            return
        tensor = output if type(output) is Tensor else first_tensor(output)
        if tensor is not None and tensor.requires_grad:
            self.differentiable_calls += 1
            self._gradients.add_hook(tensor, self._key)


class _GradientHook(Hook):
    """A hook of one output of one call; it keeps a gradient only while another may have to be added to it."""

    __slots__ = ("gradients", "incomplete", "key")

    def __init__(self, gradients: OutputGradients, key: Key) -> None:
        self.gradients = gradients
        self.key = key
        self.incomplete: Tensor | None = None

    def __call__(self, gradient: Tensor | None) -> None:
        if gradient is not None:  # a node with several outputs has none for those that the loss does not depend on
            self.gradients.add(self, gradient)
