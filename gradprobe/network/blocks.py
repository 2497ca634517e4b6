"""Blocks, by the calls of their modules: cuts that lie inside one, sums between them, and cells of two inputs."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence, Set
from itertools import takewhile

from torch import nn
from torch.autograd.graph import Node

from gradprobe.network.cuts import DOZEN, Graph
from gradprobe.network.layers import is_inside
from gradprobe.network.trace import Call
from gradprobe.network.trace_graph import TraceGraph
from gradprobe.record.points import is_input

_CELLS = 3  # so many cells in a row that take the outputs of the two before them
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
Ends = Mapping[int, Sequence[Call]]


def inside_blocks(graph: TraceGraph, ends: Ends, chain: Sequence[int]) -> set[int]:
    """The cuts inside modules whose like are blocks: of one class with a module that has no cut inside.

    The block between two stages often has no shortcut, for the size changes there (the inverted residuals of
    MobileNet, the one-shot aggregation of VoVNet): its convolutions are cuts, those of its like are not.

    Args:
        graph: The graph, for the layers in a module.
        ends: For each node the calls that end there.
        chain: The cuts, in order.
    """
    holders = {end: [call for call in ends[end] if _may_be_block(graph, call)] for end in chain}
    inside = {
        call.name: set(takewhile(lambda cut: _any_inside(call.name, ends[cut]), reversed(chain[:place])))  # noqa: B023
        for place, end in enumerate(chain)
        for call in holders[end]
    }
    blocks = {type(calls[0].module) for calls in holders.values() if calls and not inside[calls[0].name]}
    like_blocks = [
        call
        for calls in holders.values()
        for call in calls
        if type(call.module) in blocks and not _holds_its_like(call.module)
    ]
    return {cut for call in like_blocks for cut in inside[call.name]}


def _may_be_block(graph: TraceGraph, call: Call) -> bool:
    several = call.name in graph.holders and graph.layers_inside(call.name) > 1
    return several and not is_input(call.name) and not isinstance(call.module, _CONTAINERS)


def _holds_its_like(module: nn.Module) -> bool:
    """Whether a module holds one of its own class: the levels of a U-Net may be one inside the other."""
    return any(type(inner) is type(module) for inner in module.modules() if inner is not module)


def _any_inside(outer: str, calls: Sequence[Call]) -> bool:
    return any(call.name != outer and is_inside(outer, call.name) for call in calls)


def inside_exchanges(graph: TraceGraph, flow: Graph, ends: Ends, nodes: Set[int]) -> set[int]:
    """Those of some nodes that lie in modules which take several streams and return as many (HRNet, CrossViT).

    Such a module is left whole, however unequal its streams are: none of them is a skip around the others.
    """
    streams = {
        call.name: [len(_numbers(graph, each) & flow.keys()) for each in (call.inputs, call.outputs)]
        for call in graph.trace.calls
    }
    exchanges = [name for name, (taken, returned) in streams.items() if taken == returned > 1]
    return {node for node in nodes & ends.keys() if any(_any_inside(name, ends[node]) for name in exchanges)}


def _numbers(graph: TraceGraph, nodes: Sequence[Node]) -> set[int]:
    return {graph.number[node] for node in nodes if node in graph.number}


def is_between_blocks(graph: TraceGraph, call: Call) -> bool:
    """Whether what a module is called with lies between blocks, and not in the forward of a block itself."""
    parents = [call.name.rsplit(".", count)[0] for count in range(1, call.name.count(".") + 1)]
    parent = next((name for name in parents if name in graph.first_call), None)
    return parent is None or graph.layers_inside(parent) > DOZEN


def two_back(graph: TraceGraph, flow: Graph, ends: Set[int]) -> set[int]:
    """The outputs of cells that take the outputs of the two cells before them (NASNet, DARTS).

    Each jumps over the cell after it, so none is a cut. But of all that is before the end of a cell nothing goes
    on except that end and the one before: a branch there sees as much of the network as the next cell.

    Args:
        graph: The graph, for the inputs of calls.
        flow: The part of it that leads from an input to the output.
        ends: The nodes at which modules end.
    """
    beside, before = _one_beside(flow), dict[int, int]()
    for call in graph.trace.calls:
        taken = sorted(_numbers(graph, call.inputs) & flow.keys())
        if len(taken) == 2 and ends >= set(taken) and beside.get(taken[1]) == taken[0]:
            before[taken[1]] = taken[0]
    rows: dict[int, list[int]] = {}
    for node in sorted(before):
        rows[node] = [*rows.get(before[node], []), node]
    return {node for row in rows.values() if len(row) >= _CELLS for node in row}


def _one_beside(flow: Graph) -> dict[int, int]:
    """For each node beside which only one earlier node goes on to later ones: that node."""
    beside: dict[int, int] = {}
    going_on: list[tuple[int, int]] = []  # the last node each goes to, and itself
    for node, successors in flow.items():
        while going_on and going_on[0][0] <= node:
            heapq.heappop(going_on)
        if len(going_on) == 1:
            beside[node] = going_on[0][1]
        if successors:
            heapq.heappush(going_on, (max(successors), node))
    return beside
