"""What lies between the network's output and the loss, read from the graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gradprobe.measure.evidence.graph_nodes import KEEPS_VALUES, constants, is_hooked, saved, shape_of, sign_of

_MOST = 400  # nodes between the layers and the loss
_NEAR = 64  # nodes after an output in which it may meet a target
ACTIVATIONS = {
    "ReluBackward0": "relu",
    "SigmoidBackward0": "sigmoid",
    "TanhBackward0": "tanh",
    "SoftmaxBackward0": "softmax",
    "LogSoftmaxBackward0": "log_softmax",
    "LogSigmoidBackward0": "log_sigmoid",
    "HardtanhBackward0": "hardtanh",
    "ClampBackward1": "clamp",
    "ClampMinBackward0": "clamp_min",
    "EluBackward0": "elu",
    "LeakyReluBackward0": "leaky_relu",
    "GeluBackward0": "gelu",
    "SiluBackward0": "silu",
    "SoftplusBackward0": "softplus",
}
_VIEWS = ("ViewBackward", "UnsafeView", "ReshapeAlias")
_LOSSES = {
    "MseLossBackward0": "mse",
    "SmoothL1LossBackward0": "smooth_l1",
    "HuberLossBackward0": "huber",
    "NllLossBackward0": "nll",
    "NllLoss2DBackward0": "nll",
    "BinaryCrossEntropyBackward0": "bce",
    "BinaryCrossEntropyWithLogitsBackward0": "bce_with_logits",
    "KlDivBackward0": "kl_div",
    "CtcLossBackward0": "ctc",
    "SubBackward0": "difference",
    "RsubBackward0": "difference",
}


@dataclass
class OutputUse:
    """What the loss does with an output of the network.

    Attributes:
        layer: The layer that makes the output.
        activations: The functions that it goes through, in order.
        loss: The function of the loss that takes it; ``"likelihood"`` where the logarithms of probabilities are
            added up by hand, ``"other"`` where it is none that is known.
        shape: Of what goes into it.
        broadcast: Over how many examples it was spread out to meet the target; 1 where shapes agree.
        clamped: The share of the output that a ReLU or clamp holds at its end, on the device.
        target: The target, if the graph holds it.
        values: What goes into the loss, if the graph holds it.
        classes: Number of classes that a softmax goes over, or None.
        reduction: ``"mean"`` or ``"sum"`` over the examples, where that is known.
        plain: Whether the loss is of the whole output, and nothing else but for a factor.
        squared: Whether a difference is squared.
        across_examples: Whether a softmax goes over the examples of the batch, and not over the classes.
        negated: Whether the loss is made negative, and nothing else joins it: the training makes it larger. Of a
            likelihood, whether it is not.
        torn: The shape that was viewed as rows of one number for each class, where its classes are not its last
            axis: a row then holds neighbours of one class.
    """

    layer: str
    activations: list[str] = field(default_factory=list)
    loss: str = "other"
    shape: tuple[int, ...] = ()
    broadcast: int = 1
    clamped: Tensor | None = None
    target: Tensor | None = None
    values: Tensor | None = None
    classes: int | None = None
    reduction: str | None = None
    plain: bool = False
    squared: bool = False
    across_examples: bool = False
    negated: bool = False
    torn: tuple[int, ...] = ()


def uses_of_output(root: Any, layers: Mapping[Any, str]) -> list[OutputUse]:
    """What happens to the outputs of the last layers on their way to the loss.

    Args:
        root: The node of the loss.
        layers: The nodes that made outputs of layers, and the layer of each.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> output = layer(torch.ones(4, 2))
        >>> loss = torch.nn.functional.mse_loss(torch.relu(output), torch.ones(4, 1))
        >>> [use] = uses_of_output(loss.grad_fn, {output.grad_fn: "fc"})
        >>> use.layer, use.activations, use.loss, use.target.shape
        ('fc', ['relu'], 'mse', torch.Size([4, 1]))
    """
    above, heads = _tail(root, layers)
    return [_use(head, layers[head], above) for head in heads]


def _tail(root: Any, layers: Mapping[Any, str]) -> tuple[dict[Any, list[Any]], list[Any]]:
    """The nodes from the loss down to the layers: for each the nodes that use it; and those of the layers."""
    above: dict[Any, list[Any]] = {root: []}
    heads: list[Any] = []
    waiting = [root]
    while waiting and len(above) < _MOST:
        node = waiting.pop()
        if node in layers and not _is_wrapped(node, layers):
            heads.append(node)
            continue
        for child, _ in node.next_functions:
            if child is None or "AccumulateGrad" in child.name():
                continue
            if child not in above:
                above[child] = []
                waiting.append(child)
            above[child].append(node)
    return above, heads


def _is_wrapped(node: Any, layers: Mapping[Any, str]) -> bool:
    """Whether a layer contains the one that makes its output: an activation or a view at its end is no layer."""
    while node.name() in ACTIVATIONS or node.name().startswith(KEEPS_VALUES):
        children = [child for child, _ in node.next_functions if child is not None]
        if len(children) != 1 or "AccumulateGrad" in children[0].name():
            return False
        [node] = children
        if node in layers:
            return True
    return False


def _use(head: Any, layer: str, above: Mapping[Any, Sequence[Any]]) -> OutputUse:
    use, node = OutputUse(layer, shape=shape_of(head)), head
    unsqueezed = picked = False
    for _ in range(20):
        parents = above[node]
        if not parents:
            break
        parent, name = parents[0], parents[0].name()
        grown = math.prod(shape_of(parent)) // max(1, math.prod(shape_of(node)))
        if name in _LOSSES:
            _take_loss(use, node, parent, above, 1 if unsqueezed else grown)
            break
        if (target := _divergence_target(parent, above)) is not None:
            use.loss, use.target = "kl_div", target
            _take_reduction(use, above[parent][0], above)
            break
        if name in ACTIVATIONS:
            _take_activation(use, parent, ACTIVATIONS[name])
        elif name.startswith("ExpandBackward") and grown > 1:
            use.broadcast = 1 if unsqueezed else grown
        elif not name.startswith(KEEPS_VALUES):
            _take_likelihood(use, node, above)
            break
        elif name.startswith(_VIEWS) and _tears(shape_of(node), shape_of(parent)):
            use.torn = shape_of(node)
        unsqueezed |= name.startswith("Unsqueeze")
        picked |= name.startswith("Gather")
        node = parent
        if "Expand" not in name:
            use.shape = shape_of(node) or use.shape
    if use.loss in ("other", "likelihood"):
        use.broadcast = 1 if unsqueezed else outer_product(head, above)
    use.plain &= not picked  # of each example another part of the output is trained
    return use


def _tears(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether a view of ``(N, C, ...)`` as rows of ``C`` numbers mixes the classes up with the places.

    Example:
        >>> _tears((2, 4, 3, 3), (18, 4)), _tears((2, 3, 3, 4), (18, 4)), _tears((2, 4, 1, 1), (2, 4))
        (True, False, False)
    """
    if len(before) < 3 or len(after) != 2 or not after[1] == before[1] > 1:
        return False
    return before[-1] != before[1] and math.prod(before[2:]) > 1


def _divergence_target(product: Any, above: Mapping[Any, Sequence[Any]]) -> Tensor | None:
    """The target of ``kl_div``, which is a difference of a constant and a product; None of any other node.

    Example:
        >>> import torch
        >>> p = torch.zeros(1, 2, requires_grad=True).log_softmax(1)
        >>> difference = torch.nn.functional.kl_div(p, torch.tensor([[0.9, 0.1]]), reduction="none").grad_fn
        >>> product = difference.next_functions[1][0]
        >>> _divergence_target(product, {product: [difference]})
        tensor([[0.9000, 0.1000]])
    """
    parents = above[product]
    if not product.name().startswith("MulBackward") or len(parents) != 1:
        return None
    [difference] = parents
    if not difference.name().startswith("SubBackward") or difference.next_functions[0][0] is not None:
        return None
    factors = constants(product)
    is_alike = len(factors) == 1 and factors[0] is not None and tuple(factors[0].shape) == shape_of(product)
    return factors[0] if is_alike and shape_of(difference) == shape_of(product) else None


def outer_product(head: Any, above: Mapping[Any, Sequence[Any]]) -> int:
    """By how much an output grows where it meets a target of another shape: ``(n, 1)`` and ``(n,)``; 1 if not.

    What is unsqueezed on purpose is not followed, nor what meets something that has all pairs already.

    Args:
        head: The node that made the output.
        above: For each node between it and the loss those that use it.

    Example:
        >>> import torch
        >>> p = torch.full((4, 1), 0.5, requires_grad=True).sigmoid()
        >>> logarithm = p.log()
        >>> product = torch.ones(4) * logarithm
        >>> nodes = p.grad_fn, logarithm.grad_fn, product.grad_fn
        >>> outer_product(p.grad_fn, {nodes[0]: [nodes[1]], nodes[1]: [nodes[2]], nodes[2]: []})
        4
    """
    waiting, seen = [head], {head}
    while waiting and len(seen) <= _NEAR:
        node = waiting.pop()
        for parent in above.get(node, ()):
            name = parent.name()
            if name.startswith(("MulBackward", "DivBackward")) and _is_outer(node, parent):
                return max(shape_of(parent))
            follows = shape_of(parent) == shape_of(node) or name.startswith(KEEPS_VALUES)
            if parent not in seen and follows and not name.startswith(("Unsqueeze", "Expand")):
                seen.add(parent)
                waiting.append(parent)
    return 1


def _is_outer(node: Any, product: Any) -> bool:
    own, grown = shape_of(node), shape_of(product)
    if len(grown) != 2 or grown[0] != grown[1] or grown[0] < 2 or own not in ((grown[0], 1), (grown[0],)):
        return False
    factors = constants(product)
    return bool(factors) and all(one is not None and one.numel() == grown[0] for one in factors)


def _take_activation(use: OutputUse, node: Any, name: str) -> None:
    use.activations.append(name)
    if name in ("relu", "sigmoid", "tanh"):
        use.values = saved(node, "_saved_result")
        if name == "relu" and use.values is not None:
            use.clamped = (use.values == 0).float().mean()
    elif name in ("softmax", "log_softmax"):
        shape, axis = shape_of(node), int(getattr(node, "_saved_dim", 1))
        axis = axis - 2**64 if axis >= 2**63 else axis
        use.classes = shape[axis] if shape else None
        use.across_examples = len(shape) == 2 and axis in (0, -2)
    elif name in ("clamp", "clamp_min"):
        values, low = saved(node, "_saved_self"), getattr(node, "_saved_min", None)
        if values is not None and low is not None:
            use.clamped = (values <= low).float().mean()


def _take_loss(use: OutputUse, node: Any, parent: Any, above: Mapping[Any, Sequence[Any]], grown: int) -> None:
    name = _LOSSES[parent.name()]
    if name == "difference":
        if any(child is not None for child, _ in parent.next_functions[1:] if child is not node) and not all(
            child is None or child is node for child, _ in parent.next_functions
        ):
            return  # of two outputs of the network
        use.broadcast = max(use.broadcast, grown)
        squares = above[parent][0] if above[parent] else None
        if squares is None or not squares.name().startswith(("Pow", "Abs", "Mul", "MseLoss", "SmoothL1")):
            return
        difference = saved(squares, "_saved_self")
        if difference is not None and use.values is not None and difference.shape == use.values.shape:
            sign = -1 if parent.name().startswith("Rsub") or parent.next_functions[0][0] is not node else 1
            use.target = use.values - sign * difference
        elif difference is not None:
            use.target = difference
    else:
        use.target = saved(parent, "_saved_target")
        if name in ("nll", "bce", "bce_with_logits", "mse") and use.values is None:
            use.values = saved(parent, "_saved_self")
    use.loss = name
    _take_reduction(use, parent, above)


_SUMS = ("MeanBackward", "SumBackward", "NegBackward", "MulBackward", "DivBackward")
_REDUCTIONS = {1: "mean", 2: "sum"}


def _take_reduction(use: OutputUse, node: Any, above: Mapping[Any, Sequence[Any]]) -> None:
    """Follow the loss up to the scalar: what it is averaged or added up by, and whether anything joins it."""
    use.reduction = _REDUCTIONS.get(getattr(node, "_saved_reduction", 0))
    weights = [f"_saved_{name}" for name in ("weight", "pos_weight")]
    use.plain = all(saved(node, name) is None and not is_hooked(node, name) for name in weights)
    negative = False
    for _ in range(8):
        parents = above[node]
        if not parents:
            use.negated = negative
            return
        node, name = parents[0], parents[0].name()
        if name.startswith(("MeanBackward", "SumBackward")):
            use.reduction = "mean" if name.startswith("Mean") else "sum"
        elif name.startswith("PowBackward") and getattr(node, "_saved_exponent", 0) == 2:
            use.squared = True
        elif len(parents) == 1 and name.startswith("NegBackward"):
            use.plain, negative = False, not negative
        elif len(parents) > 1 or not name.startswith(("MulBackward", "DivBackward", "AbsBackward")):
            use.plain = False
            return
        elif any(one is not None and one.numel() > 1 for one in constants(node)):  # a mask, or a weight of each
            use.plain = False
        elif name.startswith(("MulBackward", "DivBackward")) and sign_of(node) < 0:
            use.plain, negative = False, not negative


def _take_likelihood(use: OutputUse, node: Any, above: Mapping[Any, Sequence[Any]]) -> None:
    """Follow logarithms of probabilities up to the scalar, if they are weighted, added up and nothing else."""
    if use.activations[-1:] not in (["log_softmax"], ["log_sigmoid"]):
        return
    negative = False
    for _ in range(16):
        parents = above[node]
        if not parents:
            use.loss, use.negated = "likelihood", not negative
            return
        node, name = parents[0], parents[0].name()
        sign = sign_of(node) if name.startswith(("MulBackward", "DivBackward")) else 1
        if len(parents) > 1 or not sign or not name.startswith((*_SUMS, *KEEPS_VALUES)):
            return
        negative ^= sign < 0 or name.startswith("Neg")
