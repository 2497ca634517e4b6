"""The autograd graph of one forward pass with numbers for nodes, and what the calls of modules say of them."""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from functools import cached_property
from itertools import takewhile

from torch.autograd.graph import Node

from gradprobe.network.cuts import DOZEN, LARGE_PART, Graph, ancestors, bypassed_branches, flow_graph, longest_path
from gradprobe.network.trace import Seen, Trace

_ADDITIONS = ("AddBackward", "SubBackward", "MulBackward")
_CONCATENATION = "CatBackward0"
_UPSAMPLING = ("Upsample", "PixelShuffle")
_LAYERS_OF_A_SKIP = 2  # keys and values, or a projection with its normalisation; with more it is a stream
_NUMBERS_PER_NODE = 2  # its own, and one that is kept free for a joint


def joint_after(node: int) -> int:
    """The free number right after a node, for a joint: a node that stands for several tensors together."""
    return node + 1


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
        own. A region that leads to a lower resolution and up again is such a bottom.
        """
        if self._comes_back(nodes[1:]):
            return False
        if joins.isdisjoint(self.concatenations):
            return True
        names = {self.layer_at[node] for node in nodes[1:] if node in self.layer_at}
        prefix = _common_prefix(names)
        return sum(name.startswith(prefix) for name in self.outputs) < 2 * len(names)

    def is_stream(self, region: Graph, kept: Graph) -> bool:
        """Whether what would go from a region with some skips is a stream of its own, side by side with the rest.

        A skip may have a few layers. It may have more where what it goes around comes back to its own resolution
        from a lower one, as in a U-Net with blocks in its skips.
        """
        lost = region.keys() - kept.keys()
        if longest_path(region, lost, self.layers) <= _LAYERS_OF_A_SKIP:
            return False
        after_lost = set(lost)
        for node in region:
            if node in after_lost:
                after_lost.update(region[node])
        size = min((self.positions[node] for node in lost if node in self.positions), default=0)
        return not self._comes_back([node for node in kept if node not in after_lost], size)

    def _comes_back(self, nodes: Iterable[int], size: int = 0) -> bool:
        """Whether a way of nodes leads to a lower resolution and up again: to so many positions, or its end's."""
        sizes = [self.positions[node] for node in sorted(nodes) if node in self.positions]
        size = size or (sizes[-1] if sizes else 0)
        below = next((place for place, each in enumerate(sizes) if each < size), len(sizes))
        return any(each >= size for each in sizes[below:])

    def bypassed(self, flow: Graph) -> set[int]:
        """The nodes in branches of blocks: no branch can be put there, whatever skips are taken away.

        The branch of a block has no more than a dozen layers, or all its layers are in one module that is no large
        part of the network. One that leads to a lower resolution and up again is a level of a U-Net.
        """
        inside: set[int] = set()
        for join, branch in bypassed_branches(flow):
            own = longest_path(flow, branch, self.layers)
            small = own <= DOZEN or self._in_one_module(branch)
            if own and small and not self._comes_back(branch) and self.is_block([join, *sorted(branch)], {join}):
                inside |= branch
        return inside

    def _in_one_module(self, nodes: Iterable[int]) -> bool:
        """Whether the layers at some nodes are in one module that is no large part of the network."""
        prefix = _common_prefix([self.layer_at[node] for node in nodes if node in self.layer_at])
        return bool(prefix) and self.layers_inside(prefix[:-1]) <= len(self.outputs) * LARGE_PART

    def layers_inside(self, name: str) -> int:
        """How many layers are inside a module."""
        return self._layers_inside[name]

    @cached_property
    def _layers_inside(self) -> Counter[str]:
        called = [name for name in self.outputs if name in self.first_call]
        return Counter(name.rsplit(".", count)[0] for name in called for count in range(1, name.count(".") + 1))

    @cached_property
    def positions(self) -> dict[int, int]:
        """The size of the map, or the number of tokens, at the nodes of layers and of upsampling."""
        sizes: dict[int, int] = {}
        for call in self.trace.calls:
            if call.name in self.outputs and call.seen is not None and self.outputs[call.name]:
                sizes[self.outputs[call.name][0]] = _positions(call.seen)
        for node, number in self.number.items():
            if type(node).__name__.startswith(_UPSAMPLING):
                shape = next((tuple(each.shape) for each in getattr(node, "_input_metadata", ())), None)
                sizes[number] = _positions(Seen(None, shape, 1, None, False))
        return sizes

    @property
    def holders(self) -> Set[str]:
        """The names of the modules that hold layers which were called."""
        return self._layers_inside.keys()

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


def _common_prefix(names: Iterable[str]) -> str:
    """The name, with a dot after it, of the innermost module that holds them all; empty for the network itself."""
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*(name.split(".") for name in names), strict=False))
    return "".join(f"{parts[0]}." for parts in shared)


def _positions(seen: Seen) -> int:
    """How many positions a tensor has, those of all samples: its numbers without the channels."""
    shape = seen.shape or ()
    if len(shape) < 2:
        return 1
    channels = seen.channels if seen.channels is not None else (2 if len(shape) == 3 else 1)
    return math.prod(shape) // max(1, shape[channels])


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
