"""What was seen of one forward pass: its autograd graph with numbers for nodes, and parameters of no module."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import NamedTuple

from torch import nn
from torch.autograd.graph import Node

from gradprobe.network.cuts import ancestors, flow_graph

Shape = tuple[int, ...]
_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
)
_CHANNELS_LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.EmbeddingBag, nn.RNNBase)
_ADDITIONS = ("AddBackward", "SubBackward", "MulBackward")
_CONCATENATION = "CatBackward0"
_NUMBERS_PER_NODE = 2  # its own, and one that is kept free for a joint


def joint_after(node: int) -> int:
    """The free number right after a node, for a joint: a node that stands for several tensors together."""
    return node + 1


@dataclass(frozen=True)
class Call:
    """One call of one module; a tensor is known by the graph node that made it.

    Attributes:
        name: Canonical name of the module.
        module: The module.
        inputs: Nodes of the tensors that went in.
        outputs: Nodes of the tensors that came out; a branch would get the first one.
        shape: Shape of the first tensor that came out, or None without one.
        suits_branch: Whether a branch can take that tensor: floating point, with a batch and a channel dimension.
        grad_enabled: Whether autograd recorded the call.
    """

    name: str
    module: nn.Module
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    shape: Shape | None
    suits_branch: bool
    grad_enabled: bool

    @property
    def returns_input(self) -> bool:
        """Whether the module returned what it got."""
        return bool(self.outputs) and self.outputs[0] in self.inputs


@dataclass(frozen=True)
class Trace:
    """What was seen of one forward pass.

    Attributes:
        order: Names of the layers in depth order.
        calls: The calls of modules below the network itself, in the order in which they ended.
        entries: For each node at which inputs enter the graph: which inputs.
        foreign: Nodes of inputs that came with a graph of their own, which is not the network's.
        results: Nodes of the tensors that the network returned; those of scalars only if there is nothing else.
        main_results: Those of the main output, which the branches have to predict.
    """

    order: tuple[str, ...]
    calls: Sequence[Call]
    entries: Mapping[Node, set[int]]
    foreign: Set[Node]
    results: Sequence[Node]
    main_results: Sequence[Node]


class TraceGraph:
    """A trace with numbers for nodes: every edge goes to a higher number; see `joint_after` for those left out.

    Attributes:
        number: The number of each node.
        successors: For each number those to which an edge goes from it.
        call_count: How often each module was called.
        first_call: The first call of each module.
        outputs: For each layer that was called once: the numbers of its outputs.
        layers: How many layers have their first output at a number.
        sink: The number of the result that most layers lead to, among those that are the main output or made
            from it; None without one.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.call_count = Counter(call.name for call in trace.calls)
        self.first_call = {call.name: call for call in reversed(trace.calls)}
        call_outputs = [node for call in trace.calls for node in call.outputs]
        self.number, self.successors = _numbered([*call_outputs, *trace.results], trace.foreign)
        self.outputs = {name: self._output_numbers(name) for name in trace.order if self.call_count[name] == 1}
        called = [self._output_numbers(name) for name in trace.order if name in self.first_call]
        self.layers = Counter(numbers[0] for numbers in called if numbers)
        self._ancestors: dict[int, set[int]] = {}
        self.sink = self._find_sink()

    def _output_numbers(self, name: str) -> list[int]:
        return [self.number[node] for node in self.first_call[name].outputs]

    def _find_sink(self) -> int | None:
        results = [self.number[node] for node in self.trace.results]
        main = [self.number[node] for node in self.trace.main_results]
        from_main = [result for result in results if not self.ancestors(result).isdisjoint(main)]
        return self._with_most_layers(from_main or results)

    def _with_most_layers(self, results: Sequence[int]) -> int | None:
        if len(results) < 2:
            return results[0] if results else None
        layers_before = dict.fromkeys(self.successors, 0)  # each as a set of bits
        for index, node in enumerate(self.layers):
            layers_before[node] |= 1 << index
        for node, successors in self.successors.items():
            for after in successors:
                layers_before[after] |= layers_before[node]
        return max(results, key=lambda node: layers_before[node].bit_count())

    def entry_points(self) -> list[list[int]]:
        """The numbers at which each input enters; first the input that leads to the output through most layers."""
        by_input: dict[int, list[int]] = defaultdict(list)
        for node, inputs in self.trace.entries.items():
            for index in inputs:
                if node in self.number:
                    by_input[index].append(self.number[node])
        layers = {index: self._layers_from(starts) for index, starts in by_input.items()}
        leading = [index for index in sorted(layers, key=lambda index: -layers[index]) if layers[index]]
        # no input was seen to enter (one in a container of its own, a custom function): the first layer stands in
        return [by_input[index] for index in leading] or [self._first_layer()]

    def _first_layer(self) -> list[int]:
        for name in self.trace.order:
            leading = [node for node in self.outputs.get(name, []) if self._layers_from([node])]
            if leading:
                return leading[:1]
        return []

    def _layers_from(self, starts: Iterable[int]) -> int:
        """How many layers are on paths from some nodes to the output."""
        if self.sink is None:
            return 0
        return sum(self.layers[node] for node in flow_graph(self.successors, starts, self.sink))

    def ancestors(self, end: int) -> set[int]:
        """The numbers from which there is a path to one, and that one itself."""
        if end not in self._ancestors:
            self._ancestors[end] = ancestors(self.successors, end)
        return self._ancestors[end]

    def leads_to_output(self, nodes: Iterable[int]) -> bool:
        """Whether there is a path to the output from one of some numbers."""
        return self.sink is not None and not self.ancestors(self.sink).isdisjoint(nodes)

    def makes_output(self, name: str) -> bool:
        """Whether a layer leads to the output with no other layer after it; the network itself always does."""
        if name == "":
            return bool(self.trace.results)
        nodes = self.outputs.get(name, [])
        return self.leads_to_output(nodes) and self.before_layers.isdisjoint(nodes)

    def is_block(self, nodes: Sequence[int], joins: Set[int]) -> bool:
        """Whether a region with a shortcut around it is a block: always, unless the shortcut is concatenated.

        Then it is one if its layers are (nearly) all of one module's; the bottom of a U-Net has no module of its
        own.
        """
        if joins.isdisjoint(self.concatenations):
            return True
        names = {self.layer_at[node] for node in nodes[1:] if node in self.layer_at}
        shared = takewhile(
            lambda parts: len(set(parts)) == 1, zip(*(name.split(".") for name in names), strict=False)
        )
        prefix = "".join(f"{parts[0]}." for parts in shared)
        return sum(name.startswith(prefix) for name in self.outputs) < 2 * len(names)

    @cached_property
    def additions(self) -> set[int]:
        """The numbers at which streams are added or multiplied."""
        return {number for node, number in self.number.items() if type(node).__name__.startswith(_ADDITIONS)}

    @cached_property
    def concatenations(self) -> set[int]:
        """The numbers at which streams are concatenated."""
        return {number for node, number in self.number.items() if type(node).__name__ == _CONCATENATION}

    @cached_property
    def layer_at(self) -> dict[int, str]:
        """The layer whose first output is at a number."""
        return {numbers[0]: name for name, numbers in self.outputs.items() if numbers}

    @cached_property
    def predecessors(self) -> dict[int, list[int]]:
        """For each number those from which an edge goes to it."""
        predecessors: dict[int, list[int]] = {node: [] for node in self.successors}
        for node, successors in self.successors.items():
            for after in successors:
                predecessors[after].append(node)
        return predecessors

    @cached_property
    def on_streams(self) -> set[int]:
        """The numbers on a stream of layers: of layers that take an input or a parameter, and all after them.

        An embedding of constants, such as positions, is not a stream of its own.
        """
        entries = {self.number[node] for node in self.trace.entries if node in self.number}
        with_inputs = {node for node, name in self.layer_at.items() if self.first_call[name].inputs}
        on_streams: set[int] = set()
        for node, predecessors in self.predecessors.items():
            begins = node in with_inputs or (node in entries and self.layers[node])
            if begins or not on_streams.isdisjoint(predecessors):
                on_streams.add(node)
        return on_streams

    @cached_property
    def before_layers(self) -> set[int]:
        """The numbers with a layer somewhere after them on the way to the output."""
        leading, before_layers = {self.sink}, set()
        for node in sorted(self.successors, reverse=True):
            onward = [after for after in self.successors[node] if after in leading]
            if onward:
                leading.add(node)
            if any(self.layers[after] or after in before_layers for after in onward):
                before_layers.add(node)
        return before_layers


def _numbered(roots: Iterable[Node], foreign: Set[Node]) -> tuple[dict[Node, int], dict[int, list[int]]]:
    """Numbers of all nodes that the roots depend on, and the successors of each number."""
    made_from = _dependencies(roots, foreign)
    successors: dict[Node, list[Node]] = {node: [] for node in made_from}
    for node, dependencies in made_from.items():
        for other in dict.fromkeys(dependencies):
            successors[other].append(node)
    missing = {node: len(set(dependencies)) for node, dependencies in made_from.items()}
    # in the order in which they were made, as far as the edges allow: in-place changes of views make nodes late
    ready = [(_time(node), index, node) for index, node in enumerate(made_from) if not missing[node]]
    heapq.heapify(ready)
    number: dict[Node, int] = {}
    while ready:
        _, index, node = heapq.heappop(ready)
        number[node] = _NUMBERS_PER_NODE * len(number)
        for after in successors[node]:
            missing[after] -= 1
            if not missing[after]:
                heapq.heappush(ready, (_time(after), len(made_from) + number[node] + index, after))
    return number, {number[node]: sorted(number[after] for after in successors[node]) for node in number}


def _dependencies(roots: Iterable[Node], foreign: Set[Node]) -> dict[Node, list[Node]]:
    """For the roots and all nodes that they depend on: the nodes each is made from, without parameters."""
    made_from: dict[Node, list[Node]] = {}
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in made_from:
            made_from[node] = [
                other
                for other, _ in (() if node in foreign else node.next_functions)
                if other is not None and (type(other).__name__ != "AccumulateGrad" or other in foreign)
            ]
            stack += made_from[node]
    return made_from


def _time(node: Node) -> int:
    return int(node._sequence_nr())


def channel_axes(calls: Iterable[Call]) -> dict[int, int | None]:
    """For each call (by id) the axis of the channels in what it returned: as in the last layer of this shape."""
    axis_of_shape: dict[Shape | None, int] = {}
    axes: dict[int, int | None] = {}
    for call in calls:
        rank = len(call.shape or ())
        if rank > 2 and isinstance(call.module, _CHANNELS_FIRST):
            axis_of_shape[call.shape] = 1
        elif rank > 2 and isinstance(call.module, _CHANNELS_LAST):
            axis_of_shape[call.shape] = rank - 1
        axes[id(call)] = axis_of_shape.get(call.shape)
    return axes


class LooseParameter(NamedTuple):
    """A parameter that takes part in the forward pass and belongs to no registered module."""

    id: int
    shape: tuple[int, ...]


def loose_parameters(model: nn.Module, results: Iterable[Node], inputs: Set[Node]) -> tuple[LooseParameter, ...]:
    """The parameters in a graph that are not among the model's: those of layers in a plain list, say.

    Args:
        model: The network.
        results: The nodes that made its output.
        inputs: The nodes that made its inputs; what is before them is not the network's.

    Example:
        >>> import torch
        >>> hidden = [nn.Linear(3, 3, bias=False)]
        >>> net = nn.Linear(2, 3)
        >>> result = hidden[0](net(torch.ones(1, 2)))
        >>> [parameter.shape for parameter in loose_parameters(net, [result.grad_fn], set())]
        [(3, 3)]
    """
    if any(type(module).__name__.startswith(("FSDP", "FullyShardedDataParallel")) for module in model.modules()):
        return ()  # its gathered parameters stand in for the model's
    own = {id(parameter) for parameter in model.parameters()}
    seen, ahead, found = set(inputs), list(results), dict[int, LooseParameter]()
    while ahead:
        node = ahead.pop()
        if node in seen:
            continue
        seen.add(node)
        ahead += [following for following, _ in node.next_functions if following is not None]
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter) and id(leaf) not in own:
            found[id(leaf)] = LooseParameter(id(leaf), tuple(map(int, leaf.shape)))
    return tuple(found.values())[::-1]
