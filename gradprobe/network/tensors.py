"""The tensors in what a module takes and returns, and the main one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

from torch import Tensor, finfo

_RESHAPES = (
    "View",
    "UnsafeView",
    "ReshapeAlias",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Permute",
    "Clone",
    "Alias",
)
_SCALES = ("DivBackward", "MulBackward")  # the last step of a normalisation to unit length
_ACTIVATIONS = {
    "SigmoidBackward0": "sigmoid",
    "LogSigmoidBackward0": "log_sigmoid",
    "TanhBackward0": "tanh",
    "SoftmaxBackward0": "softmax",
    "LogSoftmaxBackward0": "log_softmax",
}


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested containers, in order.

    Example:
        >>> import torch
        >>> [int(tensor) for tensor in tensors({"a": torch.tensor(1), "b": [torch.tensor(2), "text"]})]
        [1, 2]
    """
    if isinstance(value, Tensor):
        yield value
    for _, part in parts(value):
        yield from tensors(part)


def first_tensor(output: Any) -> Tensor | None:
    """The tensor that stands for a module's output: itself, or the first one inside a container.

    Example:
        >>> import torch
        >>> first_tensor({"logits": torch.ones(2, 3), "cache": None}).shape
        torch.Size([2, 3])
    """
    return next(tensors(output), None)


def measured_tensor(output: Any) -> Tensor | None:
    """The tensor of a module's output whose gradient is measured: the first that has one to get, else the first.

    Example:
        >>> import torch
        >>> indices, values = torch.arange(2), torch.ones(3, requires_grad=True)
        >>> measured_tensor((indices, values)) is values, measured_tensor((indices,)) is indices
        (True, True)
    """
    return next((tensor for tensor in tensors(output) if tensor.requires_grad), first_tensor(output))


def parts(output: Any) -> list[tuple[Any, Any]]:
    """The entries of a container, each with its key, index or field name; none for anything else.

    Example:
        >>> parts([3, 4]), parts({"a": 5}), parts(6)
        ([(0, 3), (1, 4)], [('a', 5)], [])
    """
    if isinstance(output, Mapping):
        return list(output.items())
    if isinstance(output, (tuple, list)):
        return list(enumerate(output))
    # of the type: an object may answer to any name that it is asked for
    return [(name, getattr(output, name)) for name in getattr(type(output), "__dataclass_fields__", ())]


def part_at(output: Any, key: Any) -> Any:
    """The entry of a container at a key, index or field name, as `parts` gives it."""
    return output[key] if isinstance(output, (Mapping, tuple, list)) else getattr(output, key)


def main_path(output: Any) -> tuple[Any, ...] | None:
    """Where the main tensor is in a network's output: the keys, indices and field names to it, outermost first.

    Returns:
        ``()`` where the output is that tensor; None where there is none.

    Example:
        >>> import torch
        >>> main_path({"losses": [torch.tensor(0.5)], "out": (None, torch.ones(2, 3))})
        ('out', 1)
    """
    if isinstance(output, Tensor):
        return ()
    for key, value in parts(output):
        if isinstance(value, Tensor) and not value.dim():
            continue
        path = main_path(value)
        if path is not None:
            return (key, *path)
    return None


def main_tensor(output: Any) -> Tensor | None:
    """The first tensor with dimensions in a network's output: not the loss that it may have computed itself.

    Example:
        >>> import torch
        >>> main_tensor({"loss": torch.tensor(0.5), "logits": torch.ones(2, 3)}).shape
        torch.Size([2, 3])
    """
    path = main_path(output)
    return None if path is None else reduce(part_at, path, output)


def main_output(output: Any) -> Tensor | list[Tensor] | None:
    """What a branch has to predict: the main tensor, or all tensors of a list, as detection networks return it.

    Example:
        >>> import torch
        >>> [tuple(tensor.shape) for tensor in main_output([torch.ones(2, 3, 8, 8), torch.ones(2, 3, 4, 4)])]
        [(2, 3, 8, 8), (2, 3, 4, 4)]
    """
    several = isinstance(output, list) and len(output) > 1
    if several and all(isinstance(tensor, Tensor) and tensor.dim() > 1 for tensor in output):
        return list(output)
    return main_tensor(output)


def is_list_of_samples(output: Any) -> bool:
    """Whether an output is a list of containers, one for each sample: a dict of boxes for each image.

    Example:
        >>> import torch
        >>> is_list_of_samples([{"boxes": torch.ones(3, 4)}]), is_list_of_samples([torch.ones(3, 4)])
        (True, False)
    """
    path = main_path(output)
    return isinstance(output, list) and path is not None and len(path) > 1


def output_shape(output: Any) -> Any:
    """Shape of a network's main output: of its main tensor, or of each tensor of a list; None without one shape.

    A nested tensor has none: each of its parts has its own. Nor has a list with a container for each sample, as
    detectors return it.
    """
    main = None if is_list_of_samples(output) else main_output(output)
    if main is None or any(tensor.is_nested for tensor in tensors(main)):
        return None
    return tuple(tuple(tensor.shape) for tensor in main) if isinstance(main, list) else tuple(main.shape)


def output_activation(result: Any, channels: int | None = None) -> str | None:
    """The last function before the main output, if it limits the range of values.

    The user's loss may count on it: ``NLLLoss`` after a log-softmax, ``BCELoss`` after a sigmoid, a contrastive
    loss on embeddings of unit length.

    Args:
        result: What a network returned.
        channels: The axis of the channels in the main output, where it is known.

    Example:
        >>> import torch
        >>> output_activation(torch.ones(2, 3, requires_grad=True).sigmoid().view(6))
        'sigmoid'
        >>> output_activation(torch.nn.functional.normalize(torch.ones(2, 3, requires_grad=True)))
        'unit_length'
    """
    main = main_output(result)
    node = main.grad_fn if isinstance(main, Tensor) else None
    while node is not None and type(node).__name__.startswith(_RESHAPES):
        node = node.next_functions[0][0]
    if not isinstance(main, Tensor) or node is None:
        return None
    if type(node).__name__.startswith(_SCALES) and _has_unit_length(main.detach(), channels):
        return "unit_length"
    return _ACTIVATIONS.get(type(node).__name__)


def _has_unit_length(output: Tensor, channels: int | None) -> bool:
    """Whether every vector of channels has length 1."""
    if output.dim() < 2 or not output.is_floating_point():
        return False
    axis = (2 if output.dim() == 3 else 1) if channels is None else channels
    close = 1e-3 if finfo(output.dtype).eps < 1e-4 else 0.02
    lengths = output.float().norm(dim=axis)
    return output.size(axis) > 1 and bool(((lengths - 1).abs() < close).all())


def as_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments for a model: a mapping gives keywords, a tuple several positionals."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def base_of_full_view(tensor: Tensor) -> Tensor:
    """The tensor of which this one is a view, if the view covers all of it; else the tensor itself.

    An in-place change of a view takes the view's node out of the graph, but not that of its base.

    Example:
        >>> import torch
        >>> tensor = torch.ones(2, 3, requires_grad=True) * 2
        >>> base_of_full_view(tensor.view(6)) is tensor, base_of_full_view(tensor[0]) is tensor
        (True, False)
    """
    base = tensor._base if tensor._is_view() else None
    if base is None or not base.requires_grad or base.numel() != tensor.numel():
        return tensor
    return base
