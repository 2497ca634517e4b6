"""What was seen of one forward pass, and its autograd graph in numbers."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from torch import nn
from torch.autograd.graph import Node

from gradprobe.network.cuts import flow

Shape = tuple[int, ...]
_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
)
_CHANNELS_LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.EmbeddingBag, nn.RNNBase)
_ADDITIONS = ("AddBackward", "SubBackward", "MulBackward")


@dataclass(frozen=True)
class Call:
    """One call of one module; its tensors are told by the graph nodes that made them.

    Attributes:
        name: Canonical name of the module.
        module: The module.
        inputs: Nodes of the tensors that went in.
        outputs: Nodes of the tensors that came out; the first one would feed a branch.
        shape: Shape of the first tensor that came out, or None without one.
        feeds: Whether that tensor can feed a branch: floating point, with a batch and a channel dimension.
        recorded: Whether autograd recorded what happened.
    """

    name: str
    module: nn.Module
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    shape: Shape | None
    feeds: bool
    recorded: bool

    @property
    def identity(self) -> bool:
        """Whether it gave back what it got."""
        return bool(self.outputs) and self.outputs[0] in self.inputs


@dataclass(frozen=True)
class Trace:
    """What was seen of one forward pass.

    Attributes:
        order: Names of the layers in depth order.
        calls: The calls of modules below the network itself, in the order in which they ended.
        entries: For each node that takes in inputs: which ones.
        outside: Nodes of inputs that came with a graph of their own, which is none of the network's.
        results: Nodes of the tensors that the network returned; those of scalars only if there is nothing else.
        main: Those of the main output, which the branches have to predict.
    """

    order: tuple[str, ...]
    calls: Sequence[Call]
    entries: Mapping[Node, set[int]]
    outside: Set[Node]
    results: Sequence[Node]
    main: Sequence[Node]


class TraceGraph:
    """A trace with numbers for nodes: every edge goes up, and every other number is free for a joint.

    Attributes:
        number: The number of each node.
        behind: For each number those behind it.
        places: For each layer that was called once: the numbers of its outputs.
        layers: How many layers have their (first) output at a number.
        sink: The number of the result that most layers lead to, among those that are the main output or made
            from it; None without one.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.times = Counter(call.name for call in trace.calls)
        self.call_of = {call.name: call for call in reversed(trace.calls)}
        made = [node for call in trace.calls for node in call.outputs]
        self.number, self.behind = _numbered([*made, *trace.results], trace.outside)
        self.places = {name: self._numbers(self.call_of[name]) for name in trace.order if self.times[name] == 1}
        called = [self._numbers(self.call_of[name]) for name in trace.order if name in self.call_of]
        self.layers = Counter(numbers[0] for numbers in called if numbers)
        self._leading_to: dict[int, set[int]] = {}
        self.sink = self._sink()

    def _numbers(self, call: Call) -> list[int]:
        return [self.number[node] for node in call.outputs]

    def _sink(self) -> int | None:
        results, main = ([self.number[node] for node in nodes] for nodes in (self.trace.results, self.trace.main))
        onward = [result for result in results if not self.leading_to(result).isdisjoint(main)]
        return self._most_covering(onward or results)

    def _most_covering(self, results: Sequence[int]) -> int | None:
        if len(results) < 2:
            return results[0] if results else None
        covered = dict.fromkeys(self.behind, 0)
        for index, node in enumerate(self.layers):
            covered[node] |= 1 << index
        for node, behind in self.behind.items():
            for after in behind:
                covered[after] |= covered[node]
        return max(results, key=lambda node: covered[node].bit_count())

    def ways_in(self) -> list[list[int]]:
        """Where each input enters; the one first that leads to the output through most layers."""
        by_input: dict[int, list[int]] = defaultdict(list)
        for node, which in self.trace.entries.items():
            for index in which:
                if node in self.number:
                    by_input[index].append(self.number[node])
        first = next((places[:1] for name in self.trace.order if (places := self._leading(name))), [])
        # nothing seen to enter (an input in a container of its own, a custom function): the first layer stands in
        held = {index: self._held(starts) for index, starts in by_input.items()}
        ways = [by_input[index] for index in sorted(held, key=lambda index: -held[index]) if held[index]]
        return ways or [first]

    def _leading(self, name: str) -> list[int]:
        return [place for place in self.places.get(name, []) if self.sink is not None and self._held([place])]

    def _held(self, starts: Iterable[int]) -> int:
        return sum(self.layers[node] for node in flow(self.behind, starts, self.sink or 0))

    def leading_to(self, end: int) -> set[int]:
        """The numbers from which there is a path to one; itself too."""
        if end not in self._leading_to:
            leads = self._leading_to[end] = {end}
            for node in sorted((node for node in self.behind if node < end), reverse=True):
                if not leads.isdisjoint(self.behind[node]):
                    leads.add(node)
        return self._leading_to[end]

    @cached_property
    def additions(self) -> set[int]:
        """The numbers at which streams are added or multiplied."""
        return {number for node, number in self.number.items() if type(node).__name__.startswith(_ADDITIONS)}

    def is_block(self, nodes: Sequence[int], joins: Set[int]) -> bool:
        """Whether a region with a shortcut around it is a block: unless something is concatenated there from afar.

        A block's layers are (nearly) all of one module's; those of a U-Net's bottom have no module to themselves.
        """
        if joins.isdisjoint(self.concatenations):
            return True
        names = {self.name_at[node] for node in nodes[1:] if node in self.name_at}
        shared = takewhile(
            lambda parts: len(set(parts)) == 1, zip(*(name.split(".") for name in names), strict=False)
        )
        prefix = "".join(f"{parts[0]}." for parts in shared)
        return sum(name.startswith(prefix) for name in self.places) < 2 * len(names)

    @cached_property
    def concatenations(self) -> set[int]:
        """The numbers at which streams are concatenated."""
        return {number for node, number in self.number.items() if type(node).__name__ == "CatBackward0"}

    @cached_property
    def name_at(self) -> dict[int, str]:
        """The layer whose first output is at a number."""
        return {places[0]: name for name, places in self.places.items() if places}

    @cached_property
    def before(self) -> dict[int, list[int]]:
        """For each number those before it."""
        before: dict[int, list[int]] = {node: [] for node in self.behind}
        for node, behind in self.behind.items():
            for after in behind:
                before[after].append(node)
        return before

    @cached_property
    def has_fed_layer_before(self) -> set[int]:
        """The numbers of layers that are fed by an input or a parameter, and all behind them.

        An embedding of constants, such as positions, is no stream of its own.
        """
        entries = {self.number[node] for node in self.trace.entries if node in self.number}
        fed = {self.places[name][0] for name in self.places if self.places[name] and self.call_of[name].inputs}
        found: set[int] = set()
        for node, before in self.before.items():
            if node in fed or (node in entries and self.layers[node]) or not found.isdisjoint(before):
                found.add(node)
        return found

    @cached_property
    def has_layer_behind(self) -> set[int]:
        """The numbers with a layer somewhere behind them on the way to the output."""
        leads, found = {self.sink}, set()
        for node in sorted(self.behind, reverse=True):
            onward = [after for after in self.behind[node] if after in leads]
            if onward:
                leads.add(node)
            if any(self.layers[after] or after in found for after in onward):
                found.add(node)
        return found


def _numbered(roots: Iterable[Node], outside: Set[Node]) -> tuple[dict[Node, int], dict[int, list[int]]]:
    before: dict[Node, list[Node]] = {}
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in before:
            made_from = () if node in outside else node.next_functions
            before[node] = [
                other
                for other, _ in made_from
                if other is not None and (type(other).__name__ != "AccumulateGrad" or other in outside)
            ]
            stack += before[node]
    behind: dict[Node, list[Node]] = {node: [] for node in before}
    for node, made_from_nodes in before.items():
        for other in dict.fromkeys(made_from_nodes):
            behind[other].append(node)
    waiting = {node: len(set(made_from_nodes)) for node, made_from_nodes in before.items()}
    # in the order in which they were made, as far as the edges allow: in-place changes of views make nodes late
    ready = [(_made(node), index, node) for index, node in enumerate(before) if not waiting[node]]
    heapq.heapify(ready)
    number: dict[Node, int] = {}
    while ready:
        _, index, node = heapq.heappop(ready)
        number[node] = 2 * len(number)
        for after in behind[node]:
            waiting[after] -= 1
            if not waiting[after]:
                heapq.heappush(ready, (_made(after), len(before) + number[node] + index, after))
    return number, {number[node]: sorted(number[after] for after in behind[node]) for node in number}


def _made(node: Node) -> int:
    return int(node._sequence_nr())


def channel_axes(calls: Iterable[Call]) -> dict[int, int | None]:
    """For each call (by id) the axis of the channels in what it returned: as in the last layer of this shape."""
    axes: dict[Shape | None, int] = {}
    found: dict[int, int | None] = {}
    for call in calls:
        rank = len(call.shape or ())
        if rank > 2 and isinstance(call.module, _CHANNELS_FIRST):
            axes[call.shape] = 1
        elif rank > 2 and isinstance(call.module, _CHANNELS_LAST):
            axes[call.shape] = rank - 1
        found[id(call)] = axes.get(call.shape)
    return found
