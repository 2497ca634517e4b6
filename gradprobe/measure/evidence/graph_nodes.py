"""What can be asked of a node of the graph of a loss."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from torch import Tensor

from gradprobe.measure.reduction.values import is_immediate

KEEPS_VALUES = (
    "View",
    "UnsafeView",
    "ReshapeAlias",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Permute",
    "TBackward",
    "Clone",
    "Alias",
    "ToCopy",
    "Expand",
    "Select",
    "Slice",
    "Index",
    "Gather",
    "MaskedSelect",
    "Narrow",
    "Split",
    "Unbind",
)


def saved(node: Any, name: str) -> Tensor | None:
    """What a node keeps for the backward pass, if it keeps it as it is."""
    try:
        value = None if is_hooked(node, name) else getattr(node, name)
    except (AttributeError, RuntimeError):  # changed in place or freed since
        return None
    return value.detach() if isinstance(value, Tensor) else None


def is_hooked(node: Any, name: str) -> bool:
    """Whether it has to be made first: to ask for what is checkpointed would run a forward pass again."""
    raw = getattr(node, name.replace("_saved_", "_raw_saved_"), None)
    return getattr(raw, "unpack_hook", None) is not None


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of what a node made; ``()`` where it is not known."""
    metadata = getattr(node, "_input_metadata", None) or ()
    return tuple(int(size) for size in metadata[0].shape) if metadata else ()


def constants(node: Any) -> list[Tensor | None]:
    """The factors of a product or a quotient that do not come from the network; None where one is not kept.

    Example:
        >>> import torch
        >>> scores = torch.ones(3, requires_grad=True)
        >>> constants((scores * torch.tensor([1.0, 0.0, 1.0])).grad_fn)
        [tensor([1., 0., 1.])]
        >>> constants((scores * scores).grad_fn)
        []
    """
    operands = [child for child, _ in node.next_functions]
    names = ("_saved_self", "_saved_other")
    # a factor is kept for the derivative of the other one
    return [saved(node, name) for name, child in zip(names, operands, strict=False) if child is None]


def leads_elsewhere(root: Any, parameters: Set[int]) -> bool:
    """Whether anything but some parameters gets a gradient from a node: an input, or another network.

    Args:
        root: The node.
        parameters: The `id` of each.

    Example:
        >>> import torch
        >>> layer, given = torch.nn.Linear(2, 1), torch.ones(4, 2)
        >>> own = set(map(id, layer.parameters()))
        >>> leads_elsewhere(layer(given).mean().grad_fn, own), leads_elsewhere(
        ...     layer(given.requires_grad_()).mean().grad_fn, own
        ... )
        (False, True)
    """
    waiting, seen = [root], {None}
    while waiting:
        node = waiting.pop()
        if node not in seen:
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) not in parameters:
                return True
            seen.add(node)
            waiting.extend(child for child, _ in node.next_functions)
    return False


def sign_of(product: Any) -> int:
    """The sign that a product or a quotient gives to what comes from the network; 0 where it is not known.

    Example:
        >>> import torch
        >>> scores = torch.ones(3, requires_grad=True)
        >>> factors = -2, torch.tensor([0.0, 1, 1]), torch.tensor([1.0, -1, 1])
        >>> [sign_of((scores * factor).grad_fn) for factor in factors]
        [-1, 1, 0]
    """
    factors = constants(product)
    sign = 1
    for factor in factors:
        if factor is None or not factor.numel() or factor.is_complex() or not is_immediate(factor.device):
            return 0
        low, high = (float(end) for end in factor.detach().aminmax())
        sign *= 1 if low >= 0 else -1 if high <= 0 else 0
    return sign if factors else 0


def scale_of(root: Any) -> float:
    """What the loss is multiplied by before its backward pass; 1 where it is not, or where it is not known.

    Example:
        >>> import torch
        >>> round(scale_of((torch.ones(2, requires_grad=True).mean() / 1000).grad_fn), 6)
        0.001
    """
    scale, node = 1.0, root
    for _ in range(8):
        name = node.name() if node is not None else ""
        if not name.startswith(("MulBackward", "DivBackward")):
            break
        children = [child for child, _ in node.next_functions if child is not None]
        other = saved(node, "_saved_other")
        if len(children) != 1 or other is None or other.dim() or not is_immediate(other.device):
            break
        factor = float(other)
        scale *= factor if name.startswith("Mul") else 1 / factor if factor else 1.0
        node = children[0]
    return scale
