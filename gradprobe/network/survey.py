"""Which module outputs can be supervised, found while the network makes one ordinary forward pass.

The survey notes what modules are called with and return; `gradprobe.network.find_points` draws the conclusions.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node

from gradprobe.network.batch_size import Batch, BatchSizes, OutputAxes
from gradprobe.network.checks import check_network
from gradprobe.network.find_points import find_points
from gradprobe.network.hooks import Attached, Eager, GuardedHook, Hook, failure
from gradprobe.network.input_tracker import InputTracker
from gradprobe.network.layers import (
    call_fact,
    frozen_fast_path_modules,
    is_compiled,
    is_inside,
    named_layers,
    named_modules,
    unwrap,
)
from gradprobe.network.layout import why_no_branch
from gradprobe.network.preserve import preserved
from gradprobe.network.tensors import (
    as_arguments,
    main_output,
    output_activation,
    output_shape,
    tensors,
)
from gradprobe.network.trace import Axes, Call, LooseParameter, Seen, Trace, loose_parameters, nodes_of
from gradprobe.network.trace_graph import TraceGraph
from gradprobe.record.points import Point, Points, input_of, is_input


@dataclass(frozen=True)
class Topology:
    """What one forward pass shows of a network.

    Attributes:
        order: Layer names in the order in which they first finished; one that was never called comes after the
            layer before it in ``named_modules()``.
        points: The supervision points in forward order, with the reason for each layer that has none.
        points_by_hand: For each module that a branch could be put after by hand, in forward order: its point.
        output_layers: Names of the layers that no point serves because they make the network's output.
        output_shape: Shape of the network's main output tensor, one for each where it is a list, or None.
        output_channels: Axis of the channels in it, where a layer shows it.
        head: Name of the layer that makes the output.
        activation: The last function of the output, if it limits the range of values: a sigmoid, a softmax, ...
        batch: The samples of the pass and their axis in the output, or None where the network shows none.
        output_axes: Where the samples are in the layers' outputs.
        facts: What was special about the call of a module, by name: a code of `call_fact`.
        loose_parameters: Parameters that took part and belong to no registered module.
    """

    order: tuple[str, ...]
    points: Points
    points_by_hand: dict[str, Point]
    output_layers: frozenset[str]
    output_shape: Any
    output_channels: int | None
    head: str | None
    activation: str | None
    batch: Batch | None
    output_axes: OutputAxes
    facts: Mapping[str, str]
    loose_parameters: tuple[LooseParameter, ...]

    @property
    def batch_size(self) -> int | None:
        """That of the pass that was surveyed, which need not be the one that was trained on."""
        return self.output_axes.size


class Survey:
    """Notes the first forward pass that records gradients, by hooks that come off when the network returns.

    Where the root itself is never called, the outermost of its modules stand in for it.

    Args:
        model: The bare network.
        gently: Whether the network must compute the same to the last bit. Then frozen transformer layers get no
            hooks, and if there are any, the inputs are not followed to where they enter. And what fails in here
            raises nothing: the survey ends, and no layer has a point.
    """

    def __init__(self, model: nn.Module, gently: bool = True) -> None:
        self.model = model
        self.topology: Topology | None = None
        self._gently = gently
        self._calls: list[Call] = []
        self._call_stack: list[tuple[nn.Module, tuple[Node, ...]]] = []
        self._without_hooks = frozen_fast_path_modules(model) if gently else set()
        self._input_tracker = InputTracker()
        self._tracking = contextlib.ExitStack()
        self._result: Any = None
        self._inner_result: Any = None  # of a root that calls itself
        self._sizes = BatchSizes()
        self._axes = Axes()
        self._arguments: Sequence[Any] | None = None  # of the first call of the network
        self._input_nodes: set[Node] | None = None  # None: the network itself was not called
        self._facts: dict[str, str] = {}
        self._hooks = Attached()

    def attach(self) -> None:
        """Start to note calls."""
        for name, module in named_modules(self.model):
            if module not in self._without_hooks:
                before, after = self._hook(partial(self._enter, name)), self._hook(partial(self._leave, name))
                self._hooks.add(module.register_forward_pre_hook(before, with_kwargs=True))
                self._hooks.add(module.register_forward_hook(after, with_kwargs=True, always_call=True))

    def finish(self) -> Topology:
        """Take the hooks off and draw the conclusions; what was noted, and with it the graph, is freed."""
        self.detach()
        if self.topology is None:
            try:
                if self._input_tracker.error is not None:
                    raise self._input_tracker.error
                self.topology = self._find_topology()
            except Exception as error:
                self.topology = self._failed(error)
            self._forget()
        return self.topology

    def _forget(self) -> None:
        self._calls, self._input_tracker = [], InputTracker()
        self._result = self._inner_result = self._arguments = None

    def _hook(self, call: Callable[..., None]) -> Hook:
        return GuardedHook(call, self._fail) if self._gently else Hook(call)

    def _fail(self, error: Exception) -> None:
        """End the survey: the training that it looks on at goes on."""
        self.detach()
        self.topology = self._failed(error)
        self._forget()

    def _failed(self, error: Exception) -> Topology:
        """What is known after an error: the layers."""
        if not self._gently:
            raise error
        layers = tuple(named_layers(self.model))
        unserved = Points((), dict.fromkeys(layers, failure(error)))
        return Topology(
            layers, unserved, {}, frozenset(), None, None, None, None, None, OutputAxes(None, {}), {}, ()
        )

    def detach(self) -> None:
        """Take the hooks off, whatever was noted."""
        self._hooks.remove()
        self._tracking.close()
        self._call_stack.clear()

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        if torch.compiler.is_compiling() or not (self._call_stack or torch.is_grad_enabled()):
            return
        inputs, arguments = list(tensors([args, kwargs])), [*args, *(kwargs or {}).values()]
        self._sizes.note(module, arguments)
        if not self._call_stack:
            if self._arguments is None:
                self._arguments = arguments
            if not self._without_hooks:
                self._input_tracker.begin(inputs)
                self._tracking.enter_context(self._input_tracker)
        # the nodes as they are now: after an in-place module they would be those of its output
        received = tuple(self._axes.seen(tensor) for tensor in inputs)
        self._call_stack.append(
            (module, tuple(dict.fromkeys(seen.node for seen in received if seen.node is not None)))
        )
        if name and received:
            self._calls.append(Call(input_of(name), module, (), received, torch.is_grad_enabled()))

    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or all(module is not entered for entered, _ in self._call_stack):
            return
        inputs: tuple[Node, ...] = ()
        while self._call_stack:
            entered, inputs = self._call_stack.pop()
            if entered is module:
                break
        if module is self.model:
            self._input_nodes = set(inputs)
        else:
            self._calls.append(self._call(name, module, inputs, output))
        if fact := call_fact(module, output):
            self._facts[name] = fact
        if self._call_stack and module is self.model:
            self._inner_result = output
        if not self._call_stack:
            self._tracking.close()
            # under DDP, Lightning calls the training step as the root, which calls itself and returns the loss
            is_loss = not any(tensor.dim() for tensor in tensors(output))
            self._result = self._inner_result if is_loss and self._inner_result is not None else output
            if module is self.model and output is not None:
                self.finish()

    def _call(self, name: str, module: nn.Module, inputs: tuple[Node, ...], output: Any) -> Call:
        returned = list(tensors(output))
        if returned and not returned[0].is_nested:
            self._axes.note(module, returned[0])
        return Call(name, module, inputs, tuple(map(self._axes.seen, returned)), torch.is_grad_enabled())

    def _find_topology(self) -> Topology:
        layers = list(named_layers(self.model))
        order = _depth_order(layers, [call.name for call in self._calls], called=self._result is not None)
        shape = output_shape(self._result)
        returned = [call for call in self._calls if not is_input(call.name)]
        like_output = [call for call in returned if call.shape == shape]
        channels = like_output[-1].seen.channels if like_output and like_output[-1].seen else None
        refusal = partial(_refusal, shape, channels, self._samples_first(shape))
        calls = [call.choose(refusal) for call in self._calls]
        graph = TraceGraph(self._trace(order, calls, bool(shape)))
        points = find_points(graph)
        batch = self._sizes.batch(self._arguments or (), self._result)
        return Topology(
            order,
            points,
            _points_by_hand(order, calls),
            frozenset(name for name in points.unserved if graph.makes_output(name)),
            shape,
            channels,
            next((name for name in reversed(_makers(graph, like_output)) if name in layers), None),
            output_activation(self._result, channels),
            batch,
            OutputAxes.of(batch and batch.size, [(call.name, call.shape) for call in returned if call.shape]),
            self._facts,
            self._loose_parameters(),
        )

    def _samples_first(self, output: Any) -> bool:
        """Whether the samples are on axis 0: of an input, and no layer has them elsewhere."""
        first = {tensor.size(0) for tensor in tensors(list(self._arguments or ())) if tensor.dim()}
        return not self._axes.time_first and bool(output) and output[0] in first

    def _loose_parameters(self) -> tuple[LooseParameter, ...]:
        """Only where the network itself was called is it known where its graph begins."""
        if self._input_nodes is None:
            return ()
        given = {id(tensor) for tensor in tensors(list(self._arguments or ()))}
        found = loose_parameters(self.model, nodes_of(list(tensors(self._result))), self._input_nodes)
        return tuple(parameter for parameter in found if parameter.id not in given)

    def _trace(self, order: tuple[str, ...], calls: Sequence[Call], predicts: bool) -> Trace:
        returned = list(tensors(self._result))
        results = nodes_of([tensor for tensor in returned if tensor.dim()]) or nodes_of(returned)
        main_results = nodes_of(list(tensors(main_output(self._result)))) or results
        tracker = self._input_tracker
        return Trace(order, calls, tracker.entries, tracker.foreign, results, main_results, predicts)


def points(model: nn.Module, inputs: Any) -> Points:
    """The supervision points of a model: the module outputs that can feed a branch, in forward order.

    A point is an output that every path from the input to the model's output passes; each layer is served by the
    nearest one at or after it. Runs one forward pass on the inputs and leaves the model as it was.

    Args:
        model: Any module.
        inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.

    Returns:
        A tuple of points with ``name``, ``shape``, ``depth`` and ``layers``; its ``unserved`` has the
        reason for every layer that has none.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> net_points = points(net, torch.ones(2, 1, 4, 4))
        >>> [(point.name, point.shape, point.layers) for point in net_points]
        [('2', (2, 4, 2, 2), ('0', '1'))]
        >>> net_points.unserved
        {'4': "it makes the network's output"}
    """
    return survey(model, inputs).points


def survey(model: nn.Module, inputs: Any) -> Topology:
    """Run one forward pass on the inputs and return what it shows; the model is left as it was."""
    check_network(model)
    args, kwargs = as_arguments(inputs)
    survey = Survey(unwrap(model), gently=False)
    hooks = Attached()
    with preserved(model), torch.enable_grad():
        try:
            if is_compiled(model):
                hooks.add(Eager())
            survey.attach()
            model(*args, **kwargs)
            return survey.finish()
        finally:
            survey.detach()
            hooks.remove()


def _makers(graph: TraceGraph, calls: Sequence[Call]) -> list[str]:
    """Of calls of the output's shape, those that make it: another head may have that shape as well."""
    names = [call.name for call in calls]
    return [name for name in names if graph.makes_output(name)] or names


def _points_by_hand(order: Sequence[str], calls: Sequence[Call]) -> dict[str, Point]:
    """The point of every module that is called once and returns what a branch can take."""
    call_count, layers = Counter(call.name for call in calls), set(order)
    points: dict[str, Point] = {}
    finished: list[str] = []
    for call in calls:
        if call.name in layers and call.name not in finished:
            finished.append(call.name)
        if call.seen is not None and call.seen.suits_branch and call_count[call.name] == 1:
            inside = tuple(takewhile(partial(is_inside, call.name), reversed(finished)))[::-1]
            points[call.name] = call.point(max(0, len(finished) - 1), inside)
    return points


def _refusal(output: Any, output_channels: int | None, samples_first: bool, seen: Seen) -> str | None:
    """Why no branch can be built from a tensor to the network's output, or None."""
    if not output:
        return "the network returns no prediction"
    batch = 0 if seen.batch is None and samples_first else seen.batch
    return why_no_branch(seen.shape or (), output, seen.channels, output_channels, batch)


def _depth_order(names: Sequence[str], finished: Sequence[str], called: bool) -> tuple[str, ...]:
    """The layers in the order in which they finished, `called` the root itself last; the others in between."""
    known = set(names)
    order = [name for name in dict.fromkeys(finished) if name in known]
    if called and "" in known:
        order.append("")
    seen = set(order)
    for position, name in enumerate(names):
        if name not in seen:
            order.insert(order.index(names[position - 1]) + 1 if position else 0, name)
    return tuple(order)
