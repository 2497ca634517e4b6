"""Of a loss, the terms that depend on what a branch predicts.

A loss function is written for all that the trunk returns: boxes beside classes, a KL term, heads of its own. For a
branch it is called with the branch's prediction in the place of the main tensor. The terms that do not depend on
that prediction are in the main loss already, and are left out: counted again for each branch, they would have a
weight that nobody chose. The terms are found in the graph of the loss, from its end backwards through sums, means
and factors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from gradprobe.network.tensors import tensors

Edge = tuple[Node, int]
WAY_OUT = (
    "pass branch_loss=, a function (prediction, target) -> scalar of what a branch returns (on the command line: "
    "define `branch_loss` in TARGET)"
)
OTHER_BRANCH = (
    "branch=, a function that builds branches which return a dict with all parts that the loss needs (on the "
    "command line: --branch module:callable)"
)

_DEPTHS = (256, 4, 3, 2, 1, 0)  # of sums in sums: a loss that is added up in a loop has one for each turn
_ADDING = {"add", "add_", "sub", "sub_", "subtract", "stack", "cat", "concat", "concatenate", "hstack", "vstack"}
# nodes with several inputs that are a sum of them, once what follows is linear
_SUMS = {"AddBackward0", "SubBackward0", "StackBackward0", "CatBackward0"}
# nodes that are linear in one input if the other ones need no gradient; of a quotient, in the numerator
_LINEAR = {
    *("MulBackward0", "DivBackward0", "NegBackward0", "DotBackward0", "MvBackward0", "ToCopyBackward0"),
    *("SumBackward0", "SumBackward1", "MeanBackward0", "MeanBackward1", "CloneBackward0", "AliasBackward0"),
    *("ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "ExpandBackward0", "SelectBackward0"),
    *("SqueezeBackward0", "SqueezeBackward1", "UnsqueezeBackward0", "TBackward0", "TransposeBackward0"),
    *("PermuteBackward0", "SliceBackward0", "IndexBackward0"),
}


class OwnTerms(NamedTuple):
    """What a branch's loss is, and what was left out of it."""

    loss: Tensor
    depends: bool  # on what the branch predicts
    left_out: tuple[str, ...]  # in words: which parts of the trunk's output, or what else


class _Term(NamedTuple):
    edge: Edge
    of_branch: bool
    others: tuple[int, ...]  # the id of each other leaf that it depends on
    meets: frozenset[Edge]  # other terms that it depends on


class _Summands(TorchFunctionMode):
    """Keeps every tensor that is added to another one: an edge of the graph does not know its value."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[Edge, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _ADDING:
            changed = args[0] if name.endswith("_") and args else None
            for tensor in tensors((args, kwargs)):
                if tensor.requires_grad:
                    self.values[_edge(tensor)] = tensor.clone() if tensor is changed else tensor
        return func(*args, **kwargs)


def own_terms(
    compute: Callable[[], Tensor],
    predicted: Sequence[Tensor],
    parts: Mapping[int, str],
    parameters: Collection[int] = (),
    *,
    refuse: bool = True,
) -> OwnTerms:
    """The terms of a loss that depend on a branch's prediction.

    Args:
        compute: Computes the loss.
        predicted: The tensors of the prediction.
        parts: For the id of each other tensor that the loss was given: its name. They are leaves.
        parameters: The ids of the trainable parameters that are the loss' own.
        refuse: Whether to raise where a term needs one of these as well; otherwise it is kept as it is.

    Raises:
        ValueError: If a term needs another tensor that the loss was given as well, or a parameter of the loss.

    Example:
        >>> scores, boxes = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
        >>> own_terms(lambda: scores.sum() + 5 * boxes.sum(), [scores], {id(boxes): "boxes"})
        OwnTerms(loss=tensor(2., grad_fn=<ViewBackward0>), depends=True, left_out=('boxes',))
    """
    with _Summands() as summands:
        loss = compute()
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        return OwnTerms(loss, False, ())
    ends = frozenset(_edge(tensor) for tensor in predicted if tensor.requires_grad)
    terms = _terms(_edge(loss), ends, summands.values)
    own = [term for term in terms if term.of_branch]
    if refuse:
        _refuse_mixed(own, parts, parameters)
    if len(own) == len(terms):
        return OwnTerms(loss, True, ())
    left_out = {parts.get(leaf, "something outside the output") for term in terms for leaf in term.others}
    kept = _sum_of([term.edge for term in own], loss, summands.values)
    return OwnTerms(kept, bool(own), tuple(sorted(left_out)))


def _terms(root: Edge, ends: frozenset[Edge], values: Mapping[Edge, Tensor]) -> list[_Term]:
    for depth in _DEPTHS:
        edges = list(dict.fromkeys(_split(root, ends, values, depth)))
        terms = [_term(edge, ends, frozenset(edges)) for edge in edges]
        # in x + x ** 2 one depends on the other, so that a derivative by x is not that of the first alone
        if not any(term.meets for term in terms):
            break
    return terms


def _split(edge: Edge, ends: frozenset[Edge], values: Mapping[Edge, Tensor], depth: int) -> Iterator[Edge]:
    """The edges that a linear end of the graph adds up, through so many sums; the edge itself where it is none."""
    inputs = _inputs(edge)
    kind = type(edge[0]).__name__
    if edge in ends or not depth:
        yield edge
        return
    if kind in _SUMS and _all_known(edge, inputs, values):
        for each in inputs:
            yield from _split(each, ends, values, depth - 1)
        return
    if kind in _LINEAR and len(inputs) == 1 and _in_numerator(edge):
        parts = list(_split(inputs[0], ends, values, depth))
        if parts != inputs:
            yield from parts
            return
    yield edge


def _edge(tensor: Tensor) -> Edge:
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _inputs(edge: Edge) -> list[Edge]:
    return [(node, number) for node, number in edge[0].next_functions if node is not None]


def _all_known(edge: Edge, inputs: list[Edge], values: Mapping[Edge, Tensor]) -> bool:
    # with a constant among its inputs it is more than their sum
    return 1 < len(inputs) == len(edge[0].next_functions) and all(each in values for each in inputs)


def _in_numerator(edge: Edge) -> bool:
    return type(edge[0]).__name__ != "DivBackward0" or edge[0].next_functions[0][0] is not None


def _term(edge: Edge, ends: frozenset[Edge], terms: frozenset[Edge]) -> _Term:
    """What a term depends on: a walk through its graph, as far as the prediction and the leaves."""
    of_branch, others, meets = False, dict[int, None](), set[Edge]()
    seen, waiting = {edge}, [edge]
    while waiting:
        here = waiting.pop()
        if here in ends:
            of_branch = True
            continue
        if here in terms and here != edge:
            meets.add(here)
        leaf = getattr(here[0], "variable", None)
        if leaf is not None:
            others[id(leaf)] = None
        fresh = [each for each in _inputs(here) if each not in seen]
        seen.update(fresh)
        waiting += fresh
    return _Term(edge, of_branch, tuple(others), frozenset(meets))


def _refuse_mixed(own: list[_Term], parts: Mapping[int, str], parameters: Collection[int]) -> None:
    others = {leaf for term in own for leaf in term.others}
    names = ", ".join(sorted({parts[leaf] for leaf in others if leaf in parts}))
    if names:
        raise ValueError(
            f"loss_fn has a term that needs, beside what a branch predicts, {names} of the trunk's output, which "
            f"no branch predicts: {WAY_OUT}, or {OTHER_BRANCH}"
        )
    if others.intersection(parameters):
        raise ValueError(
            "loss_fn has trainable parameters of its own that it applies to the branches' predictions too, so "
            f"that they would be trained on the branches as well: {WAY_OUT}; loss_fn itself to share it, or a "
            "list with a loss for each branch, whose parameters go into the optimizer"
        )


def _sum_of(edges: list[Edge], loss: Tensor, values: Mapping[Edge, Tensor]) -> Tensor:
    """The part of a loss that comes through some of its terms: each term times the loss' derivative by it."""
    total = torch.zeros_like(loss)
    if not edges:
        return total
    ones = torch.ones_like(loss)
    inputs = [GradientEdge(*edge) for edge in edges]
    factors = torch.autograd.grad(loss, inputs, ones, retain_graph=True)  # runs no further than to the terms
    parts = [(factor * values[edge]).sum() for factor, edge in zip(factors, edges, strict=True)]
    return sum(parts[1:], parts[0]).reshape(loss.shape).to(loss.dtype)
