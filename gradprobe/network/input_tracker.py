"""Where a network's inputs enter the autograd graph, seen during an ordinary forward pass that is not changed."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from gradprobe.network.tensors import base_of_full_view, tensors


class Entries(TorchFunctionMode):
    """Follows the inputs through what is computed without a gradient, to the graph nodes that take them in.

    The inputs of a network seldom require a gradient, and making them do so would change the user's training
    (reentrant checkpointing, the first layer's backward). So no path in the graph begins at them. This mode sees
    each torch function while it is on and remembers which tensors hold (only) preprocessed input.

    A tensor of numbers stays input through functions of numbers, one of indices through functions of indices; a
    mask that is made from indices is no longer input. Indices enter where they choose among parameters.

    Attributes:
        nodes: For each graph node that takes in inputs directly: which ones, by position.
        outside: The nodes of inputs that came with a graph of their own.

    Example:
        >>> entries, x, weight = Entries(), torch.ones(2), torch.ones(2, requires_grad=True)
        >>> entries.begin([x])
        >>> with entries:
        ...     y = (x / 255) * weight
        >>> entries.nodes == {y.grad_fn: {0}}
        True
    """

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[Node, set[int]] = {}
        self.outside: set[Node] = set()
        self._inputs: dict[int, tuple[weakref.ref[Tensor], set[int]]] = {}
        self._count = 0

    def begin(self, inputs: Iterable[Tensor]) -> None:
        """Take these tensors for inputs, in this order; those that require a gradient enter at once."""
        for tensor in inputs:
            if tensor.requires_grad:
                node = get_gradient_edge(tensor).node
                self.outside.add(node)
                self.nodes.setdefault(node, set()).add(self._count)
            else:
                self._remember(tensor, self._which(tensor) | {self._count})
            self._count += 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = self.taken([args, kwargs])  # before: an in-place function may make an input require a gradient
        result = func(*args, **kwargs)
        if before:
            self.given(before, result)
        return result

    def taken(self, arguments: Any) -> list[tuple[bool, set[int]]]:
        """What of the inputs is in some arguments: whether as numbers (else as indices), and which inputs."""
        if not self._inputs:
            return []
        found = list(tensors(arguments))
        held = [(tensor, self._which(tensor)) for tensor in found if not tensor.requires_grad]
        parameters = all(tensor.is_leaf for tensor in found if tensor.requires_grad)
        return [(_numbers(tensor), which) for tensor, which in held if which and (_numbers(tensor) or parameters)]

    def given(self, before: list[tuple[bool, set[int]]], result: Any) -> None:
        """Go on with what came out of them."""
        every = {index for _, which in before for index in which}
        for tensor in tensors(result):
            if tensor.requires_grad:
                node = base_of_full_view(tensor).grad_fn
                if node is not None:
                    self.nodes.setdefault(node, set()).update(every)
            elif tensor.dtype != torch.bool:
                same = {index for numbers, which in before if numbers == _numbers(tensor) for index in which}
                if same:
                    self._remember(tensor, same)

    def _remember(self, tensor: Tensor, which: set[int]) -> None:
        with contextlib.suppress(TypeError):  # a tensor subclass without weak references
            self._inputs[id(tensor)] = weakref.ref(tensor), which

    def _which(self, tensor: Tensor) -> set[int]:
        reference, which = self._inputs.get(id(tensor), (None, set()))
        return which if reference is not None and reference() is tensor else set()


def _numbers(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
