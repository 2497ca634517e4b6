"""What every path through a graph has to pass: its cuts, and the long skips that hide them. Numbers, no torch.

A graph maps each node to the nodes behind it; nodes are numbers, and every edge goes up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import pairwise

Graph = Mapping[int, Sequence[int]]
Edge = tuple[int, int]
IsBlock = Callable[[Sequence[int], Set[int]], bool]
SOURCE = -1  # stands before whatever the data enters by
DOZEN = 12  # with no more layers on its longest path a region is a block, whatever bypasses it (design, section 5)
QUARTER = 4


def flow(graph: Graph, sources: Iterable[int], sink: int) -> Graph:
    """Keep what is on a path from a source to the sink, behind one new node, `SOURCE`; empty if there is none.

    Example:
        >>> flow({0: [1, 2], 1: [3], 2: [], 3: [4], 4: []}, [0], 3)
        {-1: [0], 0: [1], 1: [3], 3: []}
    """
    leads = {sink}
    for node in sorted((node for node in graph if node < sink), reverse=True):
        if not leads.isdisjoint(graph[node]):
            leads.add(node)
    kept: dict[int, Sequence[int]] = {SOURCE: sorted(leads.intersection(sources))}
    reached = set(kept[SOURCE])
    for node in sorted(leads):
        if node in reached:
            kept[node] = [after for after in graph[node] if after in leads] if node != sink else []
            reached.update(kept[node])
    return kept if sink in kept else {}


def cuts(graph: Graph) -> list[int]:
    """The nodes of a `flow` that every path passes, in order: no edge jumps over them.

    Example:
        >>> cuts(flow({0: [1], 1: [2, 3], 2: [4], 3: [4], 4: []}, [0], 4))  # a diamond between 1 and 4
        [0, 1, 4]
    """
    found: list[int] = []
    furthest = SOURCE
    for node, behind in graph.items():
        if furthest <= node != SOURCE:
            found.append(node)
        furthest = max(furthest, *behind, node)
    return found


def separates(graph: Graph, inside: Sequence[int], together: Set[int]) -> bool:
    """Whether some nodes together are a cut: no path from the first node goes on behind the last one without them.

    Args:
        graph: A flow.
        inside: Its nodes from a cut before those up to the last of them.
        together: The nodes.

    Example:
        >>> graph = flow({0: [1, 2], 1: [3], 2: [3], 3: []}, [0], 3)
        >>> separates(graph, [0, 1, 2], {1, 2}), separates(graph, [0, 1, 2], {2})
        (True, False)
    """
    reached, last = set(inside[:1]), inside[-1]
    for node in inside:
        if node in reached and node not in together:
            if any(after > last for after in graph[node]):
                return False
            reached.update(graph[node])
    return True


def without_long_skips(
    graph: Graph, layers: Mapping[int, int], total: int, is_block: IsBlock = lambda nodes, joins: True
) -> Graph:
    """Take the long skips away where a large part of a `flow` has no cut: U-Nets, encoder-decoders.

    A region between two neighbouring cuts with more than a dozen layers and more than a quarter of the network is
    a trunk of its own. There the bypass that skips most layers goes, at the edge by which it joins a longest path
    (and with it, if they are more than a dozen, those that skip at least half as many); and what is left is looked
    at again. Three kinds of region stay whole: a block with a shortcut around all of it and no more than a dozen
    layers on its longest path; streams side by side (HRNet, experts), of which only one would be left; and a dense
    block, in which more bypasses than layers would have to go.

    Args:
        graph: A flow.
        layers: Number of layers at each node; none where it is not named.
        total: Layers of the network.
        is_block: Says of the nodes of such a block, and of those at which a skip without a layer joins, whether it
            is one; by its shape alone it may as well be the bottom of a U-Net.

    Example:
        >>> chain = {node: [node + 1] for node in range(30)} | {30: []}
        >>> chain[2] = [3, 27]  # the long skip of a U-Net
        >>> chain[10] = [11, 12]  # a residual block
        >>> found = cuts(without_long_skips(flow(chain, [0], 30), dict.fromkeys(chain, 1), 31))
        >>> 15 in found, 11 in found
        (True, False)
    """
    gone: set[Edge] = set()
    for region in _regions(graph, layers, more_than=max(DOZEN, total / QUARTER)):
        skips = _long_skips(region, layers, is_block)
        if len(skips) <= _held(region, layers):
            gone |= skips
    return _without(graph, gone)


def _long_skips(region: Graph, layers: Mapping[int, int], is_block: IsBlock) -> set[Edge]:
    found = _longest_skips(region, layers)
    up, last = _up(region, layers), max(region)
    around = up[last] <= DOZEN and any(after == last for _, after in found)
    if not found or (around and is_block(list(region), {after for node, after in found if not up[node]})):
        return set()
    left = _without(region, found)
    if _held(left, layers) * 3 < _held(region, layers) * 2:
        return set()
    for part in _regions(left, layers, more_than=0):
        found |= _long_skips(part, layers, is_block)
    return found


def _held(region: Graph, layers: Mapping[int, int]) -> int:
    return sum(layers.get(node, 0) for node in region)


def _without(graph: Graph, edges: set[Edge]) -> Graph:
    left = {node: [after for after in behind if (node, after) not in edges] for node, behind in graph.items()}
    return flow(left, left[SOURCE] if SOURCE in left else [min(left)], max(left)) if edges else graph


def _regions(graph: Graph, layers: Mapping[int, int], more_than: float) -> Iterator[Graph]:
    """The parts between neighbouring cuts with more than so many layers; each begins with the cut before it."""
    nodes = list(graph)
    place = {node: index for index, node in enumerate(nodes)}
    ends = [min(graph), *cuts(graph)] if graph else []
    for first, last in pairwise(ends):
        part = nodes[place[first] : place[last] + 1]
        if sum(layers.get(node, 0) for node in part[1:]) > more_than:
            yield {node: graph[node] if node != last else [] for node in part}


def _up(region: Graph, layers: Mapping[int, int]) -> dict[int, int]:
    """Layers on the longest path from the beginning of a region to each of its nodes, that node's included."""
    up = dict.fromkeys(region, 0)
    for node, behind in region.items():
        for after in behind:
            up[after] = max(up[after], up[node] + layers.get(after, 0))
    return up


def _longest_skips(region: Graph, layers: Mapping[int, int]) -> set[Edge]:
    """The edges by which the longest skips of a region join one of its longest paths."""
    up = _up(region, layers)
    down = dict.fromkeys(region, 0)  # layers behind a node
    for node in reversed(list(region)):
        down[node] = max((layers.get(after, 0) + down[after] for after in region[node]), default=0)
    length = up[max(region)]
    skipped = {
        (node, after): length - up[node] - layers.get(after, 0) - down[after]
        for node, behind in region.items()
        for after in behind
        if up[after] + down[after] == length
    }
    most = max(skipped.values(), default=0)
    least = most / 2 if most > DOZEN else most
    return {edge for edge, skips in skipped.items() if most and skips >= least}
