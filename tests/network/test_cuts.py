"""Cuts of graphs against brute force and networkx, and the long skips of architectures drawn by hand."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradprobe.network.cuts import (
    DOZEN,
    SOURCE,
    bypassed_branches,
    cuts,
    flow_graph,
    longest_path,
    separates,
    without_long_skips,
)


@st.composite
def graphs(draw, most=12):
    """Every edge goes to a higher node; not every node is reached or leads anywhere."""
    size = draw(st.integers(2, most))
    pairs = [(node, after) for node in range(size) for after in range(node + 1, size)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True))
    return {node: sorted(after for before, after in chosen if before == node) for node in range(size)}


@st.composite
def flow_graphs(draw, most=12):
    graph = draw(graphs(most))
    sources = draw(st.sets(st.sampled_from(sorted(graph)), min_size=1))
    return flow_graph(graph, sources, max(graph))


@st.composite
def chains_with_skips(draw):
    """A chain that is long enough for a large region, with skips anywhere."""
    size = draw(st.integers(14, 40))
    ends = st.tuples(st.integers(0, size - 2), st.integers(1, size - 1)).filter(lambda skip: skip[0] + 1 < skip[1])
    chain = {node: [node + 1] for node in range(size - 1)} | {size - 1: []}
    for before, after in draw(st.lists(ends, max_size=8, unique=True)):
        chain[before] = sorted([*chain[before], after])
    layers = {node: draw(st.integers(0, 3)) for node in chain}
    return flow_graph(chain, [0], size - 1), layers


def drawn(graph):
    return nx.DiGraph({node: list(successors) for node, successors in graph.items()})


def longest(graph, layers):
    """Layers on the longest path."""
    depths = {}
    for node in sorted(graph):
        before = [depths[other] for other in graph if node in graph[other]]
        depths[node] = max(before, default=0) + layers.get(node, 0)
    return max(depths.values())


@given(graphs(), st.data())
def test_a_flow_graph_keeps_what_is_on_a_path_from_a_source_to_the_sink(graph, data):
    sources = data.draw(st.sets(st.sampled_from(sorted(graph)), min_size=1))
    sink = data.draw(st.sampled_from(sorted(graph)))
    whole = drawn(graph)
    on_path = {
        node
        for node in graph
        if nx.has_path(whole, node, sink) and any(nx.has_path(whole, source, node) for source in sources)
    }
    kept = flow_graph(graph, sources, sink)
    if not on_path:
        assert kept == {}
        return
    assert list(kept) == [SOURCE, *sorted(on_path)]
    assert list(kept[SOURCE]) == sorted(sources & on_path)
    for node in on_path - {sink}:
        assert list(kept[node]) == [after for after in graph[node] if after in on_path]
    assert list(kept[sink]) == []


@given(flow_graphs())
def test_cuts_are_the_nodes_without_which_the_sink_is_not_reached(graph):
    if not graph:
        assert cuts(graph) == []
        return
    whole, sink = drawn(graph), max(graph)
    expected = []
    for node in sorted(graph):
        left = whole.subgraph(set(graph) - {node})
        if node != SOURCE and (node == sink or not nx.has_path(left, SOURCE, sink)):
            expected.append(node)
    assert cuts(graph) == expected


def on_one_way(nodes, graph):
    """Whether a chain of nodes with one successor each leads from the first to the last, past all others."""
    ways = list(nx.all_simple_paths(drawn(graph), min(nodes), max(nodes))) if len(nodes) > 1 else [list(nodes)]
    return len(ways) == 1 and set(nodes) <= set(ways[0]) and all(len(graph[node]) == 1 for node in ways[0][:-1])


@given(flow_graphs())
def test_what_is_in_a_bypassed_branch_is_no_cut_and_leads_only_to_its_join_and_past_it(graph):
    for join, branch in bypassed_branches(graph):
        assert branch.isdisjoint(cuts(graph))
        after = {after for node in branch for after in graph[node]} - branch
        assert min(after) == join
        assert on_one_way(sorted(after), graph)


@given(flow_graphs())
def test_what_leads_only_to_a_join_and_past_it_is_in_a_bypassed_branch(graph):
    found = {node for _, branch in bypassed_branches(graph) for node in branch}
    for node, successors in graph.items():
        joins = successors and sum(min(successors) in after for after in graph.values()) > 1
        assert node in found or node == SOURCE or not joins or not on_one_way(successors, graph)


@given(flow_graphs(most=6), st.data())
def test_the_longest_path_is_that_of_the_drawn_graph(graph, data):
    nodes = data.draw(st.sets(st.sampled_from(sorted(graph)))) if graph else set()
    layers = {node: data.draw(st.integers(0, 3)) for node in nodes}
    whole = drawn(graph).subgraph(nodes)
    paths = [path for one in nodes for other in nodes for path in nx.all_simple_paths(whole, one, other)]
    counts = [sum(layers[node] for node in path) for path in [*paths, *([node] for node in nodes)]]
    assert longest_path(graph, nodes, layers) == max(counts, default=0)


@given(flow_graphs())
def test_cuts_are_the_dominators_of_the_sink(graph):
    if graph:
        above, node, chain = nx.immediate_dominators(drawn(graph), SOURCE), max(graph), []
        while node != SOURCE:
            chain.append(node)
            node = above[node]
        assert cuts(graph) == chain[::-1]


@given(flow_graphs(), st.data())
def test_nodes_separate_where_no_path_goes_around_all_of_them(graph, data):
    if len(graph) < 3:
        return
    first = data.draw(st.sampled_from([SOURCE, *cuts(graph)[:-1]]))
    later = [node for node in graph if node > first]
    nodes = data.draw(st.sets(st.sampled_from(later), min_size=1))
    region = [node for node in graph if first <= node <= max(nodes)]
    sink, rest = max(graph), drawn(graph).subgraph(set(graph) - nodes)
    assert separates(graph, region, nodes) == (sink in nodes or not nx.has_path(rest, first, sink))


@given(chains_with_skips())
def test_taking_skips_away_keeps_the_ends_and_a_longest_path(made):
    graph, layers = made
    kept = without_long_skips(graph, layers, sum(layers.values()))
    assert (min(kept), max(kept)) == (SOURCE, max(graph))
    assert all(set(kept[node]) <= set(graph[node]) for node in kept)
    assert flow_graph({node: kept[node] for node in kept if node != SOURCE}, kept[SOURCE], max(graph)) == kept
    assert longest(kept, layers) == longest(graph, layers)
    assert set(cuts(graph)) <= set(cuts(kept))


@given(chains_with_skips())
def test_nothing_goes_from_a_graph_without_a_large_region(made):
    graph, layers = made
    assert without_long_skips(graph, layers, 4 * sum(layers.values())) == graph
    few = dict.fromkeys(list(graph)[:DOZEN], 1)
    assert without_long_skips(graph, few, DOZEN) == graph


@given(flow_graphs(), st.data())
def test_nothing_goes_from_a_small_network(graph, data):
    layers = {node: data.draw(st.integers(0, 1)) for node in graph}
    assert without_long_skips(graph, layers, sum(layers.values())) == graph


class Drawing:
    """A graph drawn node by node; each method returns numbers of nodes."""

    def __init__(self):
        self.successors, self.layers = {}, {}

    def node(self, *before, layers=0):
        number = len(self.successors)
        self.successors[number] = []
        self.layers[number] = layers
        for other in before:
            self.successors[other].append(number)
        return number

    def layer(self, *before):
        return self.node(*before, layers=1)

    def chain(self, before, count):
        """A number of layers in a row; the nodes of all."""
        nodes = []
        for _ in range(count):
            before = self.layer(before)
            nodes.append(before)
        return nodes

    def residual(self, before, count):
        """A number of layers with a shortcut around them; the node of the sum."""
        return self.node(before, self.chain(before, count)[-1])

    def cuts(self):
        graph = flow_graph(self.successors, [0], max(self.successors))
        return cuts(without_long_skips(graph, self.layers, sum(self.layers.values())))


def u_net(levels, size, residual):
    """Stages, a layer up, a join, a stage; the network, and the nodes that are not inside the innermost skip."""
    net = Drawing()
    at, skips, outside = net.node(), [], []

    def stage(before):
        if residual:
            return [net.residual(before, size)]
        return net.chain(before, size)

    outside.append(at)
    for level in range(levels):
        made = stage(at)
        at = made[-1]
        skips.append(at)
        outside += made if level < levels - 1 else []
    for level, skip in enumerate(reversed(skips[:-1])):
        up = net.layer(at)
        joined = net.node(up, skip)
        made = stage(joined)
        at = made[-1]
        outside += [joined, *made] if not level else [up, joined, *made]
    return net, [*outside, net.layer(at)]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("levels", [3, 4, 5])
def test_the_stages_of_a_u_net_are_cuts(levels, residual):
    """Six layers a stage: all skips go but the innermost, which may as well be a block's shortcut."""
    net, expected = u_net(levels, 6, residual)
    assert net.cuts() == sorted(expected)


def test_a_skip_around_more_than_a_dozen_layers_goes_if_it_is_the_innermost():
    net, _ = u_net(2, 13, residual=False)
    assert net.cuts() == sorted(net.successors)


@pytest.mark.parametrize("layers", [3, 6])
def test_every_decoder_layer_with_cross_attention_is_a_cut(layers):
    """The encoder's end goes into every decoder layer; a decoder layer is a residual chain of its own."""
    net = Drawing()
    encoded = net.chain(net.node(), 3)
    memory, ends = encoded[-1], []
    target = None
    for _ in range(layers):
        if target is not None:
            target = net.residual(target, 3)
        cross = net.chain(memory if target is None else net.node(target, memory), 3)[-1]
        target = net.node(cross) if target is None else net.node(cross, target)
        target = net.residual(target, 3)
        ends.append(target)
    net.layer(target)
    assert set(ends) | set(encoded) <= set(net.cuts())


def test_a_dense_block_stays_whole():
    """Huang et al. 2017: each of 16 layers takes in all before it."""
    net = Drawing()
    first = net.layer(net.node())
    features = [first]
    for _ in range(16):
        features.append(net.layer(net.node(*features)))
    end = net.node(*features)
    last = net.layer(end)
    # what goes into the first layer of the block is what came in, alone
    assert net.cuts() == [0, first, end, last]


def test_inception_modules_stay_whole():
    net = Drawing()
    at = net.layer(net.node())
    expected = [0, at]
    for _ in range(9):
        ways = [net.layer(at), *(net.chain(at, count)[-1] for count in (2, 3, 2))]
        at = net.node(*ways)
        expected.append(at)
    last = net.layer(at)
    assert net.cuts() == [*expected, last]


@pytest.mark.parametrize("size", [1, 2, 3, 12])
def test_residual_blocks_stay_whole(size):
    net = Drawing()
    at = net.layer(net.node())
    expected = [0, at]
    for _ in range(8):
        at = net.residual(at, size)
        expected.append(at)
    last = net.layer(at)
    assert net.cuts() == [*expected, last]


def test_blocks_inside_a_long_skip_stay_whole():
    """A skip from the stem to the head around eight residual blocks: it goes, their shortcuts do not."""
    net = Drawing()
    stem = net.layer(net.node())
    at, expected = stem, [0, stem]
    for _ in range(8):
        at = net.residual(at, 2)
        expected.append(at)
    joined = net.node(at, stem)
    last = net.layer(joined)
    assert net.cuts() == [*expected, joined, last]


def test_a_chain_is_all_cuts():
    net = Drawing()
    net.chain(net.node(), 50)
    assert net.cuts() == list(range(51))
