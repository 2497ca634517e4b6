"""The supervision points of a network, from its autograd graph and the calls of its modules.

The rule (design, section 5): a point is a module output that every path from the input to the output passes. A
branch after one convolution of a residual branch, or inside an attention block, would not supervise the trunk.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import nn

from gradprobe.network.cuts import SOURCE, Graph, cuts, flow, separates, without_long_skips
from gradprobe.network.trace import Call, Trace, TraceGraph, channel_axes
from gradprobe.record.points import Point, Points

_NORMALISATIONS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
_NOT_ELEMENTWISE = ("MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU")
_REENTRANT = "CheckpointFunctionBackward"
Outward = Mapping[int, Sequence[int]]
MAKES_OUTPUT = "it makes the network's output"


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
        joined, nodes, known = dict(way), list(way), cuts(way)
        for call in self.graph.trace.calls:
            if self.graph.times[call.name] > 1 or not call.feeds or call.identity:
                continue
            outward = _outward(joined, nodes, {self.graph.number[node] for node in call.outputs})
            end = self._joint(joined, nodes, known, outward) if len(outward) > 1 else next(iter(outward), None)
            if end is not None:
                self.ends[end].append(call)
        self._prefer_exact()
        return {node: joined[node] for node in nodes}

    def _joint(
        self, joined: dict[int, Sequence[int]], nodes: list[int], known: list[int], outward: Outward
    ) -> int | None:
        """The node that joins the tensors of a tuple, at the free number behind them; None if they are no cut."""
        joint, targets = max(outward) + 1, {after for behind in outward.values() for after in behind}
        if targets == {joint}:
            return joint  # an inner call returned the same tensors
        since = known[bisect_right(known, min(outward)) - 1] if known[0] <= min(outward) else SOURCE
        inside = nodes[bisect_left(nodes, since) : bisect_right(nodes, joint)]
        if joint in joined or min(targets) < joint or not separates(joined, inside, set(outward)):
            return None
        for out, behind in outward.items():
            joined[out] = [*(after for after in joined[out] if after not in behind), joint]
            self.behind[out] = [*self.behind[out], joint]
        joined[joint] = self.behind[joint] = sorted(targets)
        insort(nodes, joint)
        insort(known, joint)
        return joint

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


def _elementwise(module: nn.Module) -> bool:
    kind = type(module)
    home = kind.__module__.rpartition(".")[2]  # torch's, transformers' and monai's are all in such a module
    activation = home.startswith("activation") and kind.__name__ not in _NOT_ELEMENTWISE
    return activation or _normalises(module)


def _normalises(module: nn.Module) -> bool:
    named = isinstance(module, _NORMALISATIONS) or "norm" in type(module).__name__.lower()
    return named and next(module.children(), None) is None
