"""Cuts of a graph: the nodes that every path passes, and the long skips that hide them. Numbers, no torch.

A graph maps each node to its successors; nodes are numbers, and every edge goes to a higher one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import pairwise

Graph = Mapping[int, Sequence[int]]
Edge = tuple[int, int]
IsBlock = Callable[[Sequence[int], Set[int]], bool]
IsStream = Callable[[Graph, Graph], bool]
SOURCE = -1  # comes before every node at which the data enter
DOZEN = 12  # a region with no more layers on its longest path is a block, whatever goes around it
LARGE_PART = 1 / 4  # of the network's layers


def flow_graph(graph: Graph, sources: Iterable[int], sink: int) -> Graph:
    """The nodes and edges on paths from a source to the sink, after one new node, `SOURCE`; empty without a path.

    Example:
        >>> flow_graph({0: [1, 2], 1: [3], 2: [], 3: [4], 4: []}, [0], 3)
        {-1: [0], 0: [1], 1: [3], 3: []}
    """
    leading = ancestors(graph, sink)
    kept: dict[int, Sequence[int]] = {SOURCE: sorted(leading.intersection(sources))}
    reached = set(kept[SOURCE])
    for node in sorted(leading):
        if node in reached:
            kept[node] = [after for after in graph[node] if after in leading] if node != sink else []
            reached.update(kept[node])
    return kept if sink in kept else {}


def ancestors(graph: Graph, end: int) -> set[int]:
    """The nodes with a path to a node, and that node itself.

    Example:
        >>> ancestors({0: [1, 2], 1: [3], 2: [], 3: [4], 4: []}, 3)
        {0, 1, 3}
    """
    leading = {end}
    for node in sorted((node for node in graph if node < end), reverse=True):
        if not leading.isdisjoint(graph[node]):
            leading.add(node)
    return leading


def cuts(graph: Graph) -> list[int]:
    """The nodes of a flow graph that every path passes, in order: no edge jumps over them.

    Example:
        >>> cuts(flow_graph({0: [1], 1: [2, 3], 2: [4], 3: [4], 4: []}, [0], 4))  # a diamond between 1 and 4
        [0, 1, 4]
    """
    passed: list[int] = []
    furthest = SOURCE
    for node, successors in graph.items():
        if furthest <= node != SOURCE:
            passed.append(node)
        furthest = max(furthest, *successors, node)
    return passed


def separates(graph: Graph, region: Sequence[int], nodes: Set[int]) -> bool:
    """Whether some nodes together are a cut: every path from a region's first node past its end passes one.

    Args:
        graph: A flow graph.
        region: Its nodes from a cut before those in question up to the last of them.
        nodes: The nodes in question.

    Example:
        >>> graph = flow_graph({0: [1, 2], 1: [3], 2: [3], 3: []}, [0], 3)
        >>> separates(graph, [0, 1, 2], {1, 2}), separates(graph, [0, 1, 2], {2})
        (True, False)
    """
    reached, last = set(region[:1]), region[-1]
    for node in region:
        if node in reached and node not in nodes:
            if any(after > last for after in graph[node]):
                return False
            reached.update(graph[node])
    return True


def without_long_skips(
    graph: Graph,
    layers: Mapping[int, int],
    total: int,
    is_block: IsBlock = lambda nodes, joins: True,
    is_stream: IsStream = lambda region, kept: False,
) -> Graph:
    """Take the long skips away where a large part of a flow graph has no cut: U-Nets, encoder-decoders.

    A region between two neighbouring cuts with more than a dozen layers and more than a quarter of the network is
    a trunk of its own. There the skip around the most layers goes, at the edge by which it joins a longest path
    (and with it, if these are more than a dozen layers, those around at least half as many); then the rest is
    searched again. Three kinds of region stay whole: a block with a shortcut around all of it and no more than a
    dozen layers on its longest path; streams side by side (HRNet, CrossViT, experts), of which only one would be
    left; and a dense block, in which more skips than layers would have to go.

    Args:
        graph: A flow graph.
        layers: Number of layers at each node; a node that is missing has none.
        total: Number of layers in the network.
        is_block: ``(nodes, joins) -> bool``: whether a region of such a shape is a block; it may as well be the
            bottom of a U-Net. ``joins`` are the nodes at which a skip without a layer ends.
        is_stream: ``(region, kept) -> bool``: whether what would go with the skips is a stream of its own;
            ``kept`` is what would be left of the region.

    Example:
        >>> chain = {node: [node + 1] for node in range(30)} | {30: []}
        >>> chain[2] = [3, 27]  # the long skip of a U-Net
        >>> chain[10] = [11, 12]  # a residual block
        >>> nodes = cuts(without_long_skips(flow_graph(chain, [0], 30), dict.fromkeys(chain, 1), 31))
        >>> 15 in nodes, 11 in nodes
        (True, False)
    """
    removed: set[Edge] = set()
    for region in _regions(graph, layers, more_than=max(DOZEN, total * LARGE_PART)):
        skips = _long_skips(region, layers, is_block, is_stream)
        if len(skips) <= _layer_count(region, layers):
            removed |= skips
    return _without_edges(graph, removed)


def _long_skips(region: Graph, layers: Mapping[int, int], is_block: IsBlock, is_stream: IsStream) -> set[Edge]:
    skips = _longest_skips(region, layers)
    depths, last = _depths(region, layers), max(region)
    goes_around = depths[last] <= DOZEN and any(after == last for _, after in skips)
    if not skips or (goes_around and is_block(list(region), {after for node, after in skips if not depths[node]})):
        return set()
    rest = _without_edges(region, skips)
    few_left = _layer_count(rest, layers) * 3 < _layer_count(region, layers) * 2
    if few_left or is_stream(region, rest):
        return set()
    for part in _regions(rest, layers, more_than=0):
        skips |= _long_skips(part, layers, is_block, is_stream)
    return skips


def longest_path(graph: Graph, nodes: Iterable[int], layers: Mapping[int, int]) -> int:
    """Layers on the longest path through some nodes of a graph.

    Example:
        >>> longest_path({0: [1, 2], 1: [3], 2: [3], 3: []}, [1, 2, 3], {1: 4, 2: 1, 3: 1})
        5
    """
    chosen = sorted(nodes)
    depths = {node: layers.get(node, 0) for node in chosen}
    for node in chosen:
        for after in graph[node]:
            if after in depths:
                depths[after] = max(depths[after], depths[node] + layers.get(after, 0))
    return max(depths.values(), default=0)


def bypassed_branches(graph: Graph) -> Iterator[tuple[int, set[int]]]:
    """The branches of a flow graph that something goes around: each with the node at which it joins the rest.

    A branch is a node that goes into a join, and else only into what follows that join without a choice, and all
    that leads nowhere but into the branch. The other ways into the join go around all of it.

    Example:
        >>> list(bypassed_branches(flow_graph({0: [1, 3], 1: [2], 2: [3], 3: []}, [0], 3)))
        [(3, {1, 2})]
        >>> list(bypassed_branches(flow_graph({0: [1, 2], 1: [2, 3], 2: [3], 3: []}, [0], 3)))  # 2 leads only to 3
        [(2, {1}), (3, {2})]
    """
    before: dict[int, list[int]] = {node: [] for node in graph}
    for node, successors in graph.items():
        for after in successors:
            before[after].append(node)
    for end, successors in graph.items():
        if end != SOURCE and successors and len(before[min(successors)]) > 1 and _on_one_way(successors, graph):
            yield min(successors), _closed(end, graph, before)


def _on_one_way(nodes: Sequence[int], graph: Graph) -> bool:
    """Whether the first of some nodes leads to all others, by a way on which nothing branches off."""
    node, last, passed = min(nodes), max(nodes), set[int]()
    while node < last and len(graph[node]) == 1:
        passed.add(node)
        (node,) = graph[node]
    return node == last and passed.issuperset(set(nodes) - {last})


def _closed(end: int, graph: Graph, before: Mapping[int, Sequence[int]]) -> set[int]:
    """A node and what leads nowhere but to it."""
    branch, ahead = {end}, list(before[end])
    while ahead:
        node = max(ahead)  # the last one first: then all that comes after it is known
        ahead = [other for other in ahead if other != node]
        if node != SOURCE and branch.issuperset(graph[node]):
            branch.add(node)
            ahead += before[node]
    return branch


def _layer_count(nodes: Iterable[int], layers: Mapping[int, int]) -> int:
    return sum(layers.get(node, 0) for node in nodes)


def _without_edges(graph: Graph, edges: set[Edge]) -> Graph:
    if not edges:
        return graph
    rest = {node: [after for after in graph[node] if (node, after) not in edges] for node in graph}
    return flow_graph(rest, rest[SOURCE] if SOURCE in rest else [min(rest)], max(rest))


def _regions(graph: Graph, layers: Mapping[int, int], more_than: float) -> Iterator[Graph]:
    """The parts between neighbouring cuts with more layers than this; each begins with the cut before it."""
    nodes = list(graph)
    index = {node: position for position, node in enumerate(nodes)}
    ends = [min(graph), *cuts(graph)] if graph else []
    for first, last in pairwise(ends):
        part = nodes[index[first] : index[last] + 1]
        if _layer_count(part[1:], layers) > more_than:
            yield {node: graph[node] if node != last else [] for node in part}


def _depths(region: Graph, layers: Mapping[int, int]) -> dict[int, int]:
    """Layers on the longest path from the beginning of a region to each of its nodes, with that node's own."""
    depths = dict.fromkeys(region, 0)
    for node, successors in region.items():
        for after in successors:
            depths[after] = max(depths[after], depths[node] + layers.get(after, 0))
    return depths


def _longest_skips(region: Graph, layers: Mapping[int, int]) -> set[Edge]:
    """The edges by which the longest skips of a region join one of its longest paths."""
    depths = _depths(region, layers)
    heights = dict.fromkeys(region, 0)  # layers on the longest path after a node
    for node in reversed(list(region)):
        heights[node] = max((layers.get(after, 0) + heights[after] for after in region[node]), default=0)
    length = depths[max(region)]
    skipped = {
        (node, after): length - depths[node] - layers.get(after, 0) - heights[after]
        for node, successors in region.items()
        for after in successors
        if depths[after] + heights[after] == length
    }
    most = max(skipped.values(), default=0)
    least = most / 2 if most > DOZEN else most
    return {edge for edge, count in skipped.items() if most and count >= least}
