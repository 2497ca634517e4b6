"""Which module outputs can be supervised, found while the network makes one ordinary forward pass.

The survey notes what the modules are called with and return; `gradprobe.network.find_points` draws the conclusions.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from gradprobe.network.checks import check_network
from gradprobe.network.find_points import find_points
from gradprobe.network.hooks import Attached, Eager, Hook
from gradprobe.network.input_tracker import Entries
from gradprobe.network.layers import frozen_fast_path_modules, is_compiled, named_layers, named_modules, unwrap
from gradprobe.network.preserve import preserved
from gradprobe.network.tensors import as_arguments, base_of_full_view, main_output, output_shape, tensors
from gradprobe.network.trace import Call, Trace, channel_axes
from gradprobe.record.points import Point, Points

_RESHAPES = (
    "View",
    "UnsafeView",
    "ReshapeAlias",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Permute",
    "Clone",
    "Alias",
)
_ACTIVATIONS = {
    "SigmoidBackward0": "sigmoid",
    "LogSigmoidBackward0": "log_sigmoid",
    "TanhBackward0": "tanh",
    "SoftmaxBackward0": "softmax",
    "LogSoftmaxBackward0": "log_softmax",
}


@dataclass(frozen=True)
class Topology:
    """What one forward pass told about the network.

    Attributes:
        order: Layer names in the order in which they first finished; one that was never called stands
            behind the layer before it in ``named_modules()``.
        points: The supervision points in forward order, with the reason for each layer that has none.
        taps: For each module that a branch could be put behind by hand, in forward order: the point it would be.
        output_shape: Shape of the network's main output tensor, one for each where it is a list, or None.
        output_channels: Axis of the channels in it, where the layers told it.
        head: Name of the layer that makes the output.
        activation: What the output comes out of, if the range of its values tells: a sigmoid, a softmax, ...
        batch_size: First size of the network's first input tensor, or None.
    """

    order: tuple[str, ...]
    points: Points
    taps: dict[str, Point]
    output_shape: Any
    output_channels: int | None
    head: str | None
    activation: str | None
    batch_size: int | None


class Survey:
    """Notes the first forward pass that records gradients, by hooks that come off when the network returns.

    Where the root itself is never called, the outermost of its modules stand for it.

    Args:
        model: The bare network.
        gently: Whether not a bit of what the network computes may change. Then frozen transformer layers have no
            hooks, and where there are some, it is not followed where the inputs enter.
    """

    def __init__(self, model: nn.Module, gently: bool = True) -> None:
        self.model = model
        self.topology: Topology | None = None
        self._calls: list[Call] = []
        self._open: list[tuple[nn.Module, tuple[Node, ...]]] = []
        self._alone = frozen_fast_path_modules(model) if gently else set()
        self._entries = Entries()
        self._following = contextlib.ExitStack()
        self._result: Any = None
        self._inner: Any = None
        self._batch_size: int | None = None
        self._hooks = Attached()

    def attach(self) -> None:
        """Start to note calls."""
        for name, module in named_modules(self.model):
            if module not in self._alone:
                before, after = Hook(self._enter), Hook(partial(self._leave, name))
                self._hooks.add(module.register_forward_pre_hook(before, with_kwargs=True))
                self._hooks.add(module.register_forward_hook(after, with_kwargs=True, always_call=True))

    def finish(self) -> Topology:
        """Take the hooks off and draw the conclusions; the graph is let go."""
        self.detach()
        if self.topology is None:
            self.topology = self._concluded()
            self._calls, self._result, self._inner, self._entries = [], None, None, Entries()
        return self.topology

    def detach(self) -> None:
        """Take the hooks off, whatever was noted."""
        self._hooks.remove()
        self._following.close()
        self._open.clear()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling() or not (self._open or torch.is_grad_enabled()):
            return
        given = list(tensors([args, kwargs]))
        if not self._open:
            if self._batch_size is None and given and given[0].dim():
                self._batch_size = int(given[0].shape[0])
            if not self._alone:
                self._entries.begin(given)
                self._following.enter_context(self._entries)
        # the nodes as they are now: behind an in-place module they would be those of its output
        self._open.append((module, _nodes(given)))

    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or all(module is not entered for entered, _ in self._open):
            return
        inputs: tuple[Node, ...] = ()
        while self._open:
            entered, inputs = self._open.pop()
            if entered is module:
                break
        if module is not self.model:
            self._calls.append(_call(name, module, inputs, output))
        if self._open and module is self.model:
            self._inner = output
        if not self._open:
            self._following.close()
            # under DDP, Lightning calls the training step as the root, which calls itself and returns the loss
            is_loss = not any(tensor.dim() for tensor in tensors(output))
            self._result = self._inner if is_loss and self._inner is not None else output
            if module is self.model and output is not None:
                self.finish()

    def _concluded(self) -> Topology:
        layers = list(named_layers(self.model))
        order = _order(layers, [call.name for call in self._calls], called=self._result is not None)
        found = list(tensors(self._result))
        results = _nodes([tensor for tensor in found if tensor.dim()]) or _nodes(found)
        entries = self._entries
        main = _nodes(list(tensors(main_output(self._result)))) or results
        points = find_points(Trace(order, self._calls, entries.nodes, entries.outside, results, main))
        axes = channel_axes(self._calls)
        shape = output_shape(self._result)
        alike = [call for call in self._calls if call.shape == shape]
        return Topology(
            order,
            points,
            _taps(order, self._calls),
            shape,
            axes[id(alike[-1])] if alike else None,
            next((call.name for call in reversed(alike) if call.name in layers), None),
            _activation(self._result),
            self._batch_size,
        )


def points(model: nn.Module, inputs: Any) -> Points:
    """The supervision points of a model: the module outputs that can feed a branch, in forward order.

    A point is an output that every path from the input to the model's output passes; each layer is served by the
    nearest one at or behind it. Runs one forward pass on the inputs and leaves the model as it was.

    Args:
        model: Any module.
        inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.

    Returns:
        A tuple of points with ``name``, ``shape``, ``depth`` and ``layers``; its ``unserved`` says of every other
        layer why it has none.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> found = points(net, torch.ones(2, 1, 4, 4))
        >>> [(point.name, point.shape, point.layers) for point in found]
        [('2', (2, 4, 2, 2), ('0', '1'))]
        >>> found.unserved
        {'4': "it makes the network's output"}
    """
    return survey(model, inputs).points


def survey(model: nn.Module, inputs: Any) -> Topology:
    """Run one forward pass on the inputs and say what it told; the model is left as it was."""
    check_network(model)
    args, kwargs = as_arguments(inputs)
    noted = Survey(unwrap(model), gently=False)
    hooks = Attached()
    with preserved(model), torch.enable_grad():
        try:
            if is_compiled(model):
                hooks.add(Eager())
            noted.attach()
            model(*args, **kwargs)
            return noted.finish()
        finally:
            noted.detach()
            hooks.remove()


def _activation(result: Any) -> str | None:
    """The function of a limited range that the main output comes out of, if any.

    The user's loss may count on it (``NLLLoss`` behind a log-softmax, ``BCELoss`` behind a sigmoid).
    """
    main = main_output(result)
    node = main.grad_fn if isinstance(main, Tensor) else None
    while node is not None and type(node).__name__.startswith(_RESHAPES):
        node = node.next_functions[0][0]
    return None if node is None else _ACTIVATIONS.get(type(node).__name__)


def _taps(order: Sequence[str], calls: Sequence[Call]) -> dict[str, Point]:
    """What could be a point by hand: every module that is called once and returns what can feed a branch."""
    times, axes, layers = Counter(call.name for call in calls), channel_axes(calls), set(order)
    taps: dict[str, Point] = {}
    done: list[str] = []
    for call in calls:
        if call.name in layers and call.name not in done:
            done.append(call.name)
        if call.shape is not None and call.feeds and times[call.name] == 1:
            within = partial(_is_within, f"{call.name}.")
            inside = tuple(takewhile(within, reversed(done)))[::-1]  # those have just finished
            taps[call.name] = Point(call.name, call.shape, max(0, len(done) - 1), inside, axes[id(call)])
    return taps


def _is_within(prefix: str, name: str) -> bool:
    return f"{name}.".startswith(prefix)


def _call(name: str, module: nn.Module, inputs: tuple[Node, ...], output: Any) -> Call:
    made = [tensor for tensor in tensors(output) if not tensor.is_nested]  # which would not say its shape
    first = made[0] if made else None
    feeds = first is not None and first.grad_fn is not None and first.is_floating_point() and first.dim() > 1
    shape = None if first is None else tuple(first.shape)
    return Call(name, module, inputs, _nodes(made), shape, feeds, torch.is_grad_enabled())


def _nodes(found: Sequence[Tensor]) -> tuple[Node, ...]:
    nodes = (base_of_full_view(tensor).grad_fn for tensor in found)
    return tuple(dict.fromkeys(node for node in nodes if node is not None))


def _order(names: Sequence[str], finished: Sequence[str], called: bool) -> tuple[str, ...]:
    known = set(names)
    order = [name for name in dict.fromkeys(finished) if name in known]
    if called and "" in known:
        order.append("")
    seen = set(order)
    for position, name in enumerate(names):
        if name not in seen:
            order.insert(order.index(names[position - 1]) + 1 if position else 0, name)
    return tuple(order)
