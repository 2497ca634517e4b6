"""Where a network's inputs enter the autograd graph, seen during an ordinary forward pass that is not changed."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from gradprobe.network.tensors import base_of_full_view, tensors


class InputUse(NamedTuple):
    """A tensor of input among the arguments of a function."""

    as_numbers: bool  # else as indices
    inputs: set[int]


class InputTracker(TorchFunctionMode):
    """Follows the inputs through what is computed without a gradient, to the graph nodes that take them in.

    The inputs of a network seldom require a gradient, and making them do so would change the user's training
    (reentrant checkpointing, the first layer's backward). So no path in the graph begins at them. This mode sees
    each torch function while it is on and remembers which tensors are input, preprocessed or not.

    A tensor of numbers stays input through functions of numbers, one of indices through functions of indices; a
    mask that is made from indices is no longer input. Indices enter where they choose among parameters.

    Attributes:
        entries: For each graph node that takes in inputs directly: which ones, by position.
        foreign: The nodes of inputs that came with a graph of their own.
        error: What went wrong in the mode itself, which then notes nothing more; the functions are called all the
            same. The mode stays on until it is left: inside a function torch has taken it off the stack.

    Example:
        >>> tracker, x, weight = InputTracker(), torch.ones(2), torch.ones(2, requires_grad=True)
        >>> tracker.begin([x])
        >>> with tracker:
        ...     y = (x / 255) * weight
        >>> tracker.entries == {y.grad_fn: {0}}
        True
    """

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.entries: dict[Node, set[int]] = {}
        self.foreign: set[Node] = set()
        self._inputs: dict[int, tuple[weakref.ref[Tensor], set[int]]] = {}
        self._count = 0

    def begin(self, inputs: Iterable[Tensor]) -> None:
        """Take these tensors for inputs, in this order; those that require a gradient enter at once."""
        for tensor in inputs:
            if tensor.requires_grad:
                node = get_gradient_edge(tensor).node
                self.foreign.add(node)
                self.entries.setdefault(node, set()).add(self._count)
            else:
                self._remember(tensor, self._inputs_in(tensor) | {self._count})
            self._count += 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # before: an in-place function may make an input require a gradient
        uses = self._guarded(self._uses, [args, kwargs])
        result = func(*args, **kwargs)
        if uses:
            self._guarded(self._follow, uses, result)
        return result

    def _guarded(self, call: Callable[..., Any], *args: Any) -> Any:
        """What a `GuardedHook` would do; there is one call of this for each function of a forward pass."""
        if self.error is None:
            try:
                return call(*args)
            except Exception as error:
                self._fail(error)
        return None

    def _fail(self, error: Exception) -> None:
        self.error = error
        self._inputs.clear()

    def _uses(self, arguments: Any) -> list[InputUse]:
        """Which of the arguments of a function are input."""
        if not self._inputs:
            return []
        every = list(tensors(arguments))
        with_inputs = [(tensor, self._inputs_in(tensor)) for tensor in every if not tensor.requires_grad]
        parameters_only = all(tensor.is_leaf for tensor in every if tensor.requires_grad)
        # what indices choose out of a table of parameters are numbers of the input, in a frozen embedding as well
        chosen = parameters_only and any(isinstance(tensor, nn.Parameter) for tensor in every)
        uses = [InputUse(chosen or _holds_numbers(tensor), inputs) for tensor, inputs in with_inputs if inputs]
        return [use for use in uses if use.as_numbers or parameters_only]

    def _follow(self, uses: Sequence[InputUse], result: Any) -> None:
        """Note in which results of a function the inputs are now."""
        all_inputs = {index for use in uses for index in use.inputs}
        for tensor in tensors(result):
            if tensor.requires_grad:
                node = base_of_full_view(tensor).grad_fn
                if node is not None:
                    self.entries.setdefault(node, set()).update(all_inputs)
            elif tensor.dtype != torch.bool:
                as_numbers = _holds_numbers(tensor)
                inputs = {index for use in uses if use.as_numbers == as_numbers for index in use.inputs}
                if inputs:
                    self._remember(tensor, inputs)

    def _remember(self, tensor: Tensor, inputs: set[int]) -> None:
        with contextlib.suppress(TypeError):  # a tensor subclass without weak references
            self._inputs[id(tensor)] = weakref.ref(tensor), inputs

    def _inputs_in(self, tensor: Tensor) -> set[int]:
        reference, inputs = self._inputs.get(id(tensor), (None, set()))
        return inputs if reference is not None and reference() is tensor else set()


def _holds_numbers(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
