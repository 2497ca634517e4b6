"""The supervision points of a network, from its autograd graph and the calls of its modules.

The rule: a point is a module output that every path from the input to the output passes. A branch after one
convolution of a residual branch, or inside an attention block, would not supervise the trunk.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set

from torch import nn

from gradprobe.network.blocks import inside_blocks, inside_exchanges, is_between_blocks, two_back
from gradprobe.network.cuts import SOURCE, Graph, cuts, flow_graph, separates, without_long_skips
from gradprobe.network.layers import NORMALISATIONS, is_inside
from gradprobe.network.trace import Call
from gradprobe.network.trace_graph import TraceGraph, joint_after
from gradprobe.record.points import Points, is_input, module_of

_NOT_ELEMENTWISE = ("MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU")
_NO_PREDICTION = (
    "the network returns no prediction but its loss, or something else for each sample: supervise a part of it, "
    "gp.supervise({part}, ...), by a loss of your own on what its branches predict (branch_loss=; see the recipe "
    "on detectors)"
)
_REENTRANT = "CheckpointFunctionBackward"
Uses = Mapping[int, Sequence[int]]


class InputPaths:
    """The paths of one input through the network, and the module outputs that all of them pass.

    Attributes:
        ends: For each node at which modules end: their calls, the innermost first; where none does, those that
            stand for what modules are called with.
        chain: Those of these nodes that can be supervised, in order.
    """

    def __init__(self, graph: TraceGraph, starts: Sequence[int]) -> None:
        self.graph = graph
        self.ends: dict[int, list[Call]] = defaultdict(list)
        self.successors: dict[int, Sequence[int]] = dict(graph.successors)
        flow = flow_graph(graph.successors, starts, graph.sink if graph.sink is not None else SOURCE)
        whole = self._joined(flow)
        total = len(graph.trace.order)
        self.flow = without_long_skips(whole, graph.layers, total, graph.is_block, graph.is_stream)
        self.chain = self._chain(whole)
        self._first_in_chain = self._index_of_first_cut()
        self._next_elementwise = self._find_next_elementwise()

    def _chain(self, whole: Graph) -> list[int]:
        """The nodes that can be supervised, in order."""
        last = max((node for node in self.flow if self.graph.layers[node]), default=SOURCE)
        passed = set(cuts(self.flow))
        if self.flow is not whole:
            freed = passed - set(cuts(whole))
            passed -= self.graph.bypassed(whole) | inside_exchanges(self.graph, whole, self.ends, freed)
        passed |= two_back(self.graph, whole, self.ends.keys())
        chain = [cut for cut in sorted(passed & self.ends.keys()) if cut < last and not self._incomplete(cut)]
        chain = [cut for cut in chain if self._returned_or_between_blocks(cut, passed)]
        within = inside_blocks(self.graph, self.ends, chain)
        return [cut for cut in chain if cut not in within]

    def _returned_or_between_blocks(self, cut: int, passed: Set[int]) -> bool:
        """Whether a module returns it, or one receives it between blocks and does not just normalise it."""
        received = [call for call in self.ends[cut] if is_input(call.name)]
        if not received:
            return True
        outputs = {self.graph.first_call[module_of(call.name)].outputs for call in received}
        following = {self.graph.number[nodes[0]] for nodes in outputs if nodes}
        if all(self.graph.makes_output(module_of(call.name)) for call in received):
            return False  # a branch would be another head beside the head
        at_once = all(_kept_in_place(call.module) for call in received) and not passed.isdisjoint(following)
        return not at_once and is_between_blocks(self.graph, received[0])

    def serving_cut(self, name: str) -> int | None:
        """The node at which a layer is supervised, the nearest one at or after it; None if there is none."""
        outputs = self.graph.outputs.get(name, [])
        first = min((self._first_in_chain[node] for node in outputs), default=len(self.chain))
        chain = self.chain[first:]
        if chain and self.flow.keys().isdisjoint(outputs):
            # it comes in from the side, perhaps in several places, as a position bias for every block does
            assert self.graph.sink is not None
            passed = set(cuts(flow_graph(self.successors, outputs, self.graph.sink)))
            chain = [cut for cut in chain if cut in passed]
        cut = next((cut for cut in chain if self._branch_depends_on(cut, outputs)), None)
        if cut is not None and self.ends[cut][0].name in self.graph.outputs.keys() - self.graph.holders:
            # a plain layer, and no block that owns a parameter: the normalisation and the activation that follow
            # it directly belong to it
            while cut in self._next_elementwise:
                cut = self._next_elementwise[cut]
        return cut

    def _joined(self, flow: Graph) -> Graph:
        """Note where each call ends; tensors of a tuple that only together make a cut become one node."""
        joined, nodes, known_cuts = dict(flow), list(flow), cuts(flow)
        for call in self.graph.trace.calls:
            if self.graph.call_count[call.name] > 1 or not call.suits_branch or call.returns_input:
                continue
            outputs = call.outputs[:1] if is_input(call.name) else call.outputs
            uses = _uses_outside(joined, nodes, {self.graph.number[node] for node in outputs})
            end = self._joint(joined, nodes, known_cuts, uses) if len(uses) > 1 else next(iter(uses), None)
            if end is not None:
                self.ends[end].append(call)
        self._prefer_exact()
        self._prefer_returned()
        return {node: joined[node] for node in nodes}

    def _joint(
        self, joined: dict[int, Sequence[int]], nodes: list[int], known_cuts: list[int], uses: Uses
    ) -> int | None:
        """The node that joins the tensors of a tuple, right after the last of them; None if they are no cut."""
        joint, targets = joint_after(max(uses)), {node for used_by in uses.values() for node in used_by}
        if targets == {joint}:
            return joint  # an inner call returned the same tensors
        first = min(uses)
        since = known_cuts[bisect_right(known_cuts, first) - 1] if known_cuts[0] <= first else SOURCE
        region = nodes[bisect_left(nodes, since) : bisect_right(nodes, joint)]
        if joint in joined or min(targets) < joint or not separates(joined, region, set(uses)):
            return None
        for output, used_by in uses.items():
            joined[output] = [*(node for node in joined[output] if node not in used_by), joint]
            self.successors[output] = [*self.successors[output], joint]
        joined[joint] = self.successors[joint] = sorted(targets)
        insort(nodes, joint)
        insort(known_cuts, joint)
        return joint

    def _prefer_exact(self) -> None:
        """A branch gets a call's first tensor: where that of some call is the cut, only such calls count."""
        for end, calls in self.ends.items():
            exact = [call for call in calls if self.graph.number[call.outputs[0]] == end]
            self.ends[end] = exact or calls

    def _prefer_returned(self) -> None:
        """What a module receives counts only where no module returns it; the outermost module comes first."""
        for end, calls in self.ends.items():
            returned = [call for call in calls if not is_input(call.name)]
            self.ends[end] = returned or sorted(calls, key=lambda call: call.name.count("."))

    def _index_of_first_cut(self) -> dict[int, int]:
        """For each node the index in the chain of the first cut at or after it."""
        index = {cut: position for position, cut in enumerate(self.chain)}
        first: dict[int, int] = {}
        for node in sorted(self.successors, reverse=True):
            onward = (first[after] for after in self.successors[node])
            first[node] = min(index.get(node, len(self.chain)), *onward, len(self.chain))
        return first

    def _find_next_elementwise(self) -> dict[int, int]:
        """For each cut that a normalisation or an activation follows directly: the cut after that."""
        number, chain = self.graph.number, set(self.chain)
        following: dict[int, int] = {}
        for call in self.graph.trace.calls:
            if not call.inputs or not call.suits_branch or call.returns_input:
                continue
            before, after = number.get(call.inputs[0]), number[call.outputs[0]]
            if before not in chain or after not in chain or not _elementwise(call.module):
                continue
            if _normalises(call.module) and _normalises(self.ends[before][0].module):
                continue  # it belongs to the next block, or is the one after all blocks
            following[before] = after
        return following

    def _incomplete(self, cut: int) -> bool:
        """Whether another stream of layers is added to it before the next layer.

        So it is with the first cross-attention of a decoder, whose residual stream comes from the decoder's own
        input, and with the embedding of the words before that of their types.
        """
        node = cut
        while len(self.flow[node]) == 1 and not self.graph.layers[self.flow[node][0]]:
            node = self.flow[node][0]
            others = [other for other in self.graph.predecessors.get(node, []) if other not in self.flow]
            if node in self.graph.additions and not self.graph.on_streams.isdisjoint(others):
                return True
        return False

    def _branch_depends_on(self, cut: int, outputs: Sequence[int]) -> bool:
        """Whether the tensor that a branch would get depends on a layer; of a tuple that is the first one."""
        first = self.graph.number[self.ends[cut][0].outputs[0]]
        return first == cut or not self.graph.ancestors(first).isdisjoint(outputs)


def _uses_outside(flow: Graph, nodes: Sequence[int], outputs: set[int]) -> dict[int, list[int]]:
    """For those of a call's outputs that are used outside of the call: the nodes that use them there."""
    ends = sorted(output for output in outputs if output in flow)
    if len(ends) < 2:
        return {end: list(flow[end]) for end in ends}
    inside = set(ends)
    for node in reversed(nodes[bisect_left(nodes, ends[0]) : bisect_right(nodes, ends[-1])]):
        if not inside.isdisjoint(flow[node]):
            inside.add(node)
    uses = {end: [after for after in flow[end] if after not in inside] for end in ends}
    return {end: used_by for end, used_by in uses.items() if used_by}


def find_points(graph: TraceGraph) -> Points:
    """The supervision points of a network, and why every other layer has none."""
    order = graph.trace.order
    served: dict[int, list[str]] = defaultdict(list)
    ends: dict[int, list[Call]] = {}
    paths_of_inputs = [InputPaths(graph, starts) for starts in graph.entry_points()]
    for name in order:
        paths_by_cut = {paths.serving_cut(name): paths for paths in paths_of_inputs}
        cut = min((cut for cut in paths_by_cut if cut is not None), default=None)
        if cut is not None:
            served[cut].append(name)
            ends[cut] = paths_by_cut[cut].ends[cut]
    depth = {name: index for index, name in enumerate(order)}
    points = [
        _innermost(ends[cut], layers).point(depth[layers[-1]], tuple(layers))
        for cut, layers in sorted(served.items())
    ]
    with_point = {name for layers in served.values() for name in layers}
    return Points(points, {name: _why_no_point(graph, name) for name in order if name not in with_point})


def _innermost(calls: Sequence[Call], layers: Sequence[str]) -> Call:
    """Of several modules that return a tensor: the innermost one that contains the layers, or the last of them."""
    for contained in (layers, layers[-1:]):
        for call in calls:
            if all(is_inside(call.name, name) for name in contained):
                return call
    return calls[0]


def _why_no_point(graph: TraceGraph, name: str) -> str:
    if graph.makes_output(name):
        return "it makes the network's output"
    call = graph.first_call.get(name)
    if call is None:
        return "never called as a module"
    if call.shape is None:
        return "its output holds no tensor"
    if graph.call_count[name] > 1:
        return f"reused: called {graph.call_count[name]} times in one forward"
    outputs = graph.outputs[name]
    if not outputs:
        if any(type(node).__name__ == _REENTRANT for node in graph.number) and not call.grad_enabled:
            return "inside reentrant checkpointing: pass use_reentrant=False"
        return "its output requires no gradient: frozen with everything before it, or under no_grad"
    if not graph.leads_to_output(outputs):
        other = any(not graph.ancestors(graph.number[node]).isdisjoint(outputs) for node in graph.trace.results)
        return "it leads to another output only" if other else "no path from its output to the network's output"
    if not graph.trace.predicts:
        return _NO_PREDICTION.format(part=_part_with(graph, name))
    if call.refusal:
        return f"no branch can be built from its output of shape {call.shape} ({call.refusal}), and none after it"
    return "no module after it returns what every path to the output passes"


def _part_with(graph: TraceGraph, name: str) -> str:
    """The outermost part that holds a layer and others, and returns a tensor: as a user would write it."""
    parts = [name.rsplit(".", count)[0] for count in range(name.count("."), 0, -1)]
    found = (
        part for part in parts if graph.layers_inside(part) > 1 and _returns_tensor(graph.first_call.get(part))
    )
    return next((f"model.{part}" for part in found), "model.part")


def _returns_tensor(call: Call | None) -> bool:
    return call is not None and len(call.shape or ()) > 1


def _elementwise(module: nn.Module) -> bool:
    kind = type(module)
    home = kind.__module__.rpartition(".")[2]  # torch's, transformers' and monai's are all in such a module
    activation = home.startswith("activation") and kind.__name__ not in _NOT_ELEMENTWISE
    return activation or _normalises(module)


def _kept_in_place(module: nn.Module) -> bool:
    """Whether what it returns is a better place for a branch than what it gets."""
    return _elementwise(module) or isinstance(module, nn.modules.dropout._DropoutNd)


def _normalises(module: nn.Module) -> bool:
    named = isinstance(module, NORMALISATIONS) or "norm" in type(module).__name__.lower()
    plain = all(next(child.parameters(), None) is None for child in module.children())
    return named and plain  # an activation inside, as in timm's BatchNormAct2d, belongs to it
