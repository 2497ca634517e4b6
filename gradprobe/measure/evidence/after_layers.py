"""What follows each layer in the graph, and whether anything in the network bends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradprobe.measure.evidence.graph_nodes import KEEPS_VALUES
from gradprobe.measure.evidence.loss_graph import ACTIVATIONS

_LINEAR = (
    *KEEPS_VALUES,
    "Addmm",
    "Mm",
    "Bmm",
    "Convolution",
    "NativeDropout",
    "FeatureDropout",
    "AvgPool",
    "MeanBackward",
    "SumBackward",
    "torch::autograd::AccumulateGrad",
    "AddBackward",
    "CatBackward",
    "AdaptiveAvgPool",
    "MkldnnConvolution",
    "AdaptiveAvgPool2D",
)
_DRAWS = ("NormalBackward", "PoissonBackward")  # torch gives what they are drawn from a gradient of 0
_WEIGHTED = ("Addmm", "MmBackward", "Convolution", "MkldnnConvolution")


@dataclass
class Following:
    """What comes after each layer, and whether anything in the network bends.

    Attributes:
        activation: The activation that a layer's output goes into, by layer.
        weighted: How many products with weights there are.
        bends: Whether there is anything but linear functions between them.
        drawn: The layers from whose outputs something is drawn at random that goes through weights before the
            loss. A draw that goes to the loss alone is that of a policy gradient, which needs no gradient of it.
    """

    activation: dict[str, str]
    weighted: int
    bends: bool
    drawn: tuple[str, ...] = ()


def following(root: Any, layers: Mapping[Any, str], tail: Iterator[Any] | None = None) -> Following:
    """Read the whole graph, once.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sigmoid(), torch.nn.Linear(2, 1))
        >>> hidden = net[0](torch.ones(4, 2))
        >>> output = net[2](net[1](hidden))
        >>> found = following(output.sum().grad_fn, {hidden.grad_fn: "0", output.grad_fn: "2"})
        >>> found.activation, found.weighted, found.bends
        ({'0': 'sigmoid'}, 2, True)
        >>> drawn = net[2](torch.normal(hidden, 1.0))
        >>> following(drawn.sum().grad_fn, {hidden.grad_fn: "0", drawn.grad_fn: "2"}).drawn
        ('0',)
    """
    above: dict[Any, list[Any]] = {root: []}
    waiting = [(root, False, False)]
    inside: dict[Any, bool] = {}
    draws = []
    while waiting:
        node, below, weighed = waiting.pop()
        below = below or node in layers
        inside[node] = below
        if weighed and node.name().startswith(_DRAWS):
            draws.append(node)
        weighed = weighed or node.name().startswith(_WEIGHTED)
        for child, _ in node.next_functions:
            if child is None:
                continue
            if child not in above:
                above[child] = []
                waiting.append((child, below, weighed))
            above[child].append(node)
    activation = {name: found for node, name in layers.items() if node in above and (found := _after(node, above))}
    ops = [node.name() for node in above if inside.get(node)]
    weighted = sum(name.startswith(_WEIGHTED) for name in ops)
    bends = not all(name.startswith(_LINEAR) for name in ops)
    return Following(activation, weighted, bends, tuple(_nearest(draws, layers)))


def _nearest(nodes: Sequence[Any], layers: Mapping[Any, str]) -> Iterator[str]:
    """The layers nearest before some nodes."""
    waiting = list(nodes)
    seen = set(waiting)
    while waiting:
        for child, _ in waiting.pop().next_functions:
            if child in layers and child not in seen:
                yield layers[child]
            elif child is not None and child not in seen:
                waiting.append(child)
            seen.add(child)


def _after(node: Any, above: Mapping[Any, Sequence[Any]]) -> str | None:
    """The activation that a node's result goes into, or that the node is itself."""
    if node.name() in ACTIVATIONS:
        return ACTIVATIONS[node.name()]
    for _ in range(4):
        parents = above.get(node) or ()
        if len(parents) != 1:
            return None
        node = parents[0]
        if node.name() in ACTIVATIONS:
            return ACTIVATIONS[node.name()]
        if not node.name().startswith(KEEPS_VALUES):
            return None
    return None
