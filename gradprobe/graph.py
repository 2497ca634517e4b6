"""The supervision points of a network, from its autograd graph and the calls of its modules.

The rule (design, section 5): a point is a module output that every path from the input to the output passes. A
branch after one convolution of a residual branch, or inside an attention block, would not supervise the trunk.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from torch import nn
from torch.autograd.graph import Node

from gradprobe.cuts import SOURCE, Graph, cuts, flow, separates, without_long_skips
from gradprobe.history import Point, Points

Shape = tuple[int, ...]
_NORMALISATIONS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
)
_CHANNELS_LAST = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.EmbeddingBag, nn.RNNBase)
_NOT_ELEMENTWISE = ("MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU")
_ADDITIONS = ("AddBackward", "SubBackward", "MulBackward")
_REENTRANT = "CheckpointFunctionBackward"
MAKES_OUTPUT = "it makes the network's output"


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
        """Whether a region with a shortcut around it is one: unless something is concatenated there from afar.

        The layers of a U-Net's stage belong to two modules or more, each of them with other layers beside.
        """
        if joins.isdisjoint(self.concatenations):
            return True
        names = {self.name_at[node] for node in nodes[1:] if node in self.name_at}
        shared = takewhile(
            lambda parts: len(set(parts)) == 1, zip(*(name.split(".") for name in names), strict=False)
        )
        prefix = "".join(f"{parts[0]}." for parts in shared)
        return all(name in names for name in self.places if name.startswith(prefix))

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


class Passage:
    """The way of one input through the network, and the module outputs that all of it passes.

    Attributes:
        ends: For each node at which modules end: their calls, the innermost first.
        chain: The nodes among them that can be supervised, in order.
    """

    def __init__(self, graph: TraceGraph, starts: Sequence[int]) -> None:
        self.graph = graph
        self.ends: dict[int, list[Call]] = defaultdict(list)
        self.behind: dict[int, Sequence[int]] = dict(graph.behind)
        way = flow(graph.behind, starts, graph.sink if graph.sink is not None else SOURCE)
        way = without_long_skips(self._joined(way), graph.layers, len(graph.trace.order), graph.is_block)
        self._way = way
        last = max((node for node in way if graph.layers[node]), default=SOURCE)
        self.chain = [
            cut for cut in cuts(way) if cut in self.ends and cut < last and not self._incomplete(way, cut)
        ]
        self._first = self._first_in_chain()
        self._next = self._elementwise_next()

    def serve(self, name: str) -> list[int]:
        """The node at which a layer is supervised, the nearest one at or behind it; none if there is none."""
        places = self.graph.places.get(name, [])
        first = min((self._first[place] for place in places), default=len(self.chain))
        chain = self.chain[first:]
        if chain and self._way.keys().isdisjoint(places):
            # it comes in from the side, perhaps in several places, as a position bias for every block does
            assert self.graph.sink is not None
            passed = set(cuts(flow(self.behind, places, self.graph.sink)))
            chain = [cut for cut in chain if cut in passed]
        cut = next((cut for cut in chain if self._feeds(cut, places)), None)
        if cut is not None and self.ends[cut][0].name in self.graph.places:
            while cut in self._next:  # a plain layer: the normalisation and the activation that follow it directly
                cut = self._next[cut]
        return [] if cut is None else [cut]

    def _joined(self, way: Graph) -> Graph:
        """Note where each call ends; tensors of a tuple that only together make a cut become one node."""
        joined = dict(way)
        nodes, known = list(way), cuts(way)
        for call in self.graph.trace.calls:
            if self.graph.times[call.name] > 1 or not call.feeds or call.identity:
                continue
            outward = _outward(joined, nodes, {self.graph.number[node] for node in call.outputs})
            if len(outward) == 1:
                self.ends[next(iter(outward))].append(call)
            elif outward:
                joint, targets = max(outward) + 1, {after for behind in outward.values() for after in behind}
                if targets != {joint}:  # else another call joined them
                    since = known[bisect_right(known, min(outward)) - 1] if known[0] <= min(outward) else SOURCE
                    inside = nodes[bisect_left(nodes, since) : bisect_right(nodes, joint)]
                    if joint in joined or min(targets) < joint or not separates(joined, inside, set(outward)):
                        continue
                    for out, behind in outward.items():
                        joined[out] = [*(after for after in joined[out] if after not in behind), joint]
                        self.behind[out] = [*self.behind[out], joint]
                    joined[joint] = self.behind[joint] = sorted(targets)
                    insort(nodes, joint)
                    insort(known, joint)
                self.ends[joint].append(call)
        self._prefer_exact()
        return {node: joined[node] for node in nodes}

    def _prefer_exact(self) -> None:
        """A branch gets a call's first tensor: where that of some call is the cut, only such calls count."""
        for end, calls in self.ends.items():
            exact = [call for call in calls if self.graph.number[call.outputs[0]] == end]
            self.ends[end] = exact or calls

    def _first_in_chain(self) -> dict[int, int]:
        """For each node the index of the first cut at or behind it."""
        index = {cut: position for position, cut in enumerate(self.chain)}
        first: dict[int, int] = {}
        for node in sorted(self.behind, reverse=True):
            onward = (first[after] for after in self.behind[node])
            first[node] = min(index.get(node, len(self.chain)), *onward, len(self.chain))
        return first

    def _elementwise_next(self) -> dict[int, int]:
        number, chain = self.graph.number, set(self.chain)
        found: dict[int, int] = {}
        for call in self.graph.trace.calls:
            if not call.inputs or not call.feeds or call.identity:
                continue
            before, after = number.get(call.inputs[0]), number[call.outputs[0]]
            if before not in chain or after not in chain or not _elementwise(call.module):
                continue
            if _normalises(call.module) and _normalises(self.ends[before][0].module):
                continue  # that is the next block's, or the one behind them all
            found[before] = after
        return found

    def _incomplete(self, way: Graph, cut: int) -> bool:
        """Whether another stream of layers is added to it before the next layer.

        So it is with the first cross-attention of a decoder, whose residual stream comes from the decoder's own
        input, and with the embedding of the words before that of their types.
        """
        node = cut
        while len(way[node]) == 1 and not self.graph.layers[way[node][0]]:
            node = way[node][0]
            before = [other for other in self.graph.before.get(node, []) if other not in way]
            if node in self.graph.additions and not self.graph.has_fed_layer_before.isdisjoint(before):
                return True
        return False

    def _feeds(self, cut: int, places: Sequence[int]) -> bool:
        """Whether the tensor that a branch would get depends on a layer; of a tuple that is the first one."""
        first = self.graph.number[self.ends[cut][0].outputs[0]]
        return first == cut or not self.graph.leading_to(first).isdisjoint(places)


def _outward(way: Graph, nodes: Sequence[int], outs: set[int]) -> dict[int, list[int]]:
    """For those of a call's outputs that are used outside of the call: the nodes that use them there."""
    ends = sorted(out for out in outs if out in way)
    if len(ends) < 2:
        return {end: list(way[end]) for end in ends}
    inside = set(ends)
    for node in reversed(nodes[bisect_left(nodes, ends[0]) : bisect_right(nodes, ends[-1])]):
        if not inside.isdisjoint(way[node]):
            inside.add(node)
    found = {end: [after for after in way[end] if after not in inside] for end in ends}
    return {end: behind for end, behind in found.items() if behind}


def find_points(trace: Trace) -> Points:
    """The supervision points of a network, and why every other layer has none."""
    graph = TraceGraph(trace)
    found: dict[int, list[str]] = defaultdict(list)
    ends: dict[int, list[Call]] = {}
    passages = [Passage(graph, starts) for starts in graph.ways_in()]
    for name in trace.order:
        cuts_of = {cut: passage for passage in passages for cut in passage.serve(name)}
        if cuts_of:
            nearest = min(cuts_of)
            found[nearest].append(name)
            ends[nearest] = cuts_of[nearest].ends[nearest]
    depth = {name: index for index, name in enumerate(trace.order)}
    axes = channel_axes(trace.calls)
    points = []
    for cut, names in sorted(found.items()):
        layers = sorted(names, key=depth.__getitem__)
        call = _named(ends[cut], layers)
        assert call.shape is not None
        points.append(Point(call.name, call.shape, depth[layers[-1]], tuple(layers), axes[id(call)]))
    served = {name for names in found.values() for name in names}
    return Points(points, {name: _why_not(graph, name) for name in trace.order if name not in served})


def _named(calls: Sequence[Call], layers: Sequence[str]) -> Call:
    """Of several modules that return a tensor: the innermost one that holds the layers."""
    for wanted in (layers, layers[-1:]):
        for call in calls:
            if all(name == call.name or name.startswith(f"{call.name}.") for name in wanted):
                return call
    return calls[0]


def _why_not(graph: TraceGraph, name: str) -> str:
    call = graph.call_of.get(name)
    if name == "" and graph.trace.results:
        return MAKES_OUTPUT
    if call is None:
        return "never called as a module"
    if call.shape is None:
        return "its output holds no tensor"
    if graph.times[name] > 1:
        return f"reused: called {graph.times[name]} times in one forward"
    places = graph.places[name]
    if not places:
        if any(type(node).__name__ == _REENTRANT for node in graph.number) and not call.recorded:
            return "inside reentrant checkpointing: pass use_reentrant=False"
        return "its output requires no gradient: frozen with all that is before it, or under no_grad"
    if graph.sink is None or graph.leading_to(graph.sink).isdisjoint(places):
        other = any(not graph.leading_to(graph.number[node]).isdisjoint(places) for node in graph.trace.results)
        return "it leads to another output only" if other else "no path from its output to the network's output"
    if graph.has_layer_behind.isdisjoint(places):
        return MAKES_OUTPUT
    return "no module behind it returns what every path to the output passes"


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


def _elementwise(module: nn.Module) -> bool:
    kind = type(module)
    home = kind.__module__.rpartition(".")[2]  # torch's, transformers' and monai's are all in such a module
    activation = home.startswith("activation") and kind.__name__ not in _NOT_ELEMENTWISE
    return activation or _normalises(module)


def _normalises(module: nn.Module) -> bool:
    named = isinstance(module, _NORMALISATIONS) or "norm" in type(module).__name__.lower()
    return named and next(module.children(), None) is None
