"""What can be asked of a node of the graph of a loss."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from torch import Tensor

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
