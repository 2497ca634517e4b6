"""The arguments of a loss function for a branch: a target of its size, and a container like the trunk's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradprobe.insert.branches.base import resized
from gradprobe.network.tensors import main_tensor, parts, tensors

OnTensor = Callable[[Tensor, str], Any]  # a tensor and its name, such as "output['boxes']"


def resized_target(target: Any, prediction: Any, main: Tensor | None = None) -> Any:
    """A target of the spatial size of a branch's prediction ``(N, K, *S)``.

    Labels, masks, one-hot and multi-label maps, whatever their dtype, go by the nearest pixel centre
    (``"nearest-exact"``), as in MONAI and in nnU-Net (Isensee et al. 2021): no label appears that was not there,
    and what is ignored stays so. Other floats are resized linearly. Floats are labels if all are whole numbers
    below K (below 2 if K is 1), but for one value to ignore. In a container each tensor is resized as what it is.
    A target is returned as it is if it has that size, is no tensor, has no spatial dimensions (or more than
    three), or if the main output does not match it either, since such a loss function brings the two together
    itself.

    Args:
        target: ``(N, *S')`` or ``(N, C, *S')``, or a container with such.
        prediction: ``(N, K, *S)``.
        main: The trunk's main output, ``(N, K, *S')``; None: not compared.

    Example:
        >>> resized_target(torch.tensor([[0, 1, 2, 3, 4, 5]]), torch.zeros(1, 7, 2))
        tensor([[1, 4]])
        >>> resized_target(torch.tensor([[0.0, 2.0, 0.0, 2.0]]), torch.zeros(1, 3, 2))  # 1 is no label here
        tensor([[2., 2.]])
    """
    predicted = main_tensor(prediction) if isinstance(prediction, Mapping) else prediction
    if not isinstance(predicted, Tensor):
        return target
    size = predicted.shape[2:]
    if not 1 <= len(size) <= 3 or (main is not None and main.shape[2:] == size):
        return target
    return mapped(target, lambda tensor, _: _resized_tensor(tensor, predicted, main))


def _resized_tensor(target: Tensor, prediction: Tensor, main: Tensor | None) -> Tensor:
    size = prediction.shape[2:]
    if prediction.dim() - target.dim() not in (0, 1) or target.shape[-len(size) :] == size:
        return target
    if main is not None and main.shape[2:] != target.shape[-len(size) :]:
        return target
    nearest = _nearest(target, size)
    if not target.is_floating_point():
        return nearest
    channels = target if target.dim() == prediction.dim() else target.unsqueeze(1)
    linear = resized(channels, size).reshape(nearest.shape)
    # chosen on the device, without waiting for it
    return torch.where(_are_labels(target, max(2, prediction.shape[1])), nearest, linear)


def _are_labels(target: Tensor, classes: int) -> Tensor:
    """Whether floats are all indices of classes, but for one other value."""
    is_class = (target == target.round()) & (target >= 0) & (target < classes)
    others = target.masked_fill(is_class, torch.inf).amin(), target.masked_fill(is_class, -torch.inf).amax()
    return is_class.all() | (others[0] == others[1]) & (others[0] == others[0].round())


def _nearest(target: Tensor, size: Sequence[int]) -> Tensor:
    # torch's interpolate takes no integers, and in float32 a label above 2^24 would change
    for dim, length in enumerate(size, target.dim() - len(size)):
        index = (2 * torch.arange(length, device=target.device) + 1) * target.shape[dim] // (2 * length)
        target = target.index_select(dim, index)
    return target


def stand_in(
    output: Any, prediction: Any, other: OnTensor = lambda tensor, name: tensor, with_loss: bool = False
) -> Any:
    """A copy of the trunk's output with what a branch predicts in it, and without the model's own loss.

    A prediction that is a tensor replaces the main tensor. One that is a mapping replaces the parts that have its
    keys. Any other one, and every prediction where the output is a tensor, is returned as it is. The output is not
    changed.

    Args:
        output: What the trunk returned.
        prediction: What a branch returned.
        other: What to put for each other tensor of the output.
        with_loss: Whether the model's own loss is one of these.

    Example:
        >>> stand_in({"loss": torch.tensor(0.5), "scores": torch.ones(2, 3)}, torch.zeros(1))
        {'scores': tensor([0.])}
        >>> stand_in({"scores": torch.ones(2), "boxes": torch.ones(4)}, {"boxes": torch.zeros(1)})
        {'scores': tensor([1., 1.]), 'boxes': tensor([0.])}
    """
    if isinstance(output, Tensor):
        return prediction
    main = main_tensor(output)
    if isinstance(prediction, Mapping) and prediction.keys() <= dict(parts(output)).keys():
        for key, value in prediction.items():
            output = _with_part(output, key, value)
    elif main is None or not isinstance(prediction, Tensor):
        return prediction
    of_branch = set(map(id, tensors(prediction)))
    waiting = [main] if isinstance(prediction, Tensor) else []

    def on_tensor(tensor: Tensor, name: str) -> Any:
        if waiting and tensor is waiting[0]:  # only there: it may be among the hidden states too
            waiting.clear()
            return prediction
        return tensor if id(tensor) in of_branch else other(tensor, name)

    made = mapped(output, on_tensor)
    return made if with_loss else _without_loss(made)


def mapped(value: Any, on_tensor: OnTensor, name: str = "output") -> Any:
    """A container with another value for each tensor in it, of the same types; the container itself if none is.

    Example:
        >>> mapped({"a": [torch.ones(1)], "b": 3}, lambda tensor, name: name)
        {'a': ["output['a'][0]"], 'b': 3}
    """
    if isinstance(value, Tensor):
        return on_tensor(value, name)
    by_key = isinstance(value, (Mapping, tuple, list))
    for key, part in parts(value):
        made = mapped(part, on_tensor, f"{name}[{key!r}]" if by_key else f"{name}.{key}")
        if made is not part:
            value = _with_part(value, key, made)
    return value


def _with_part(output: Any, key: Any, value: Any) -> Any:
    if is_dataclass(output) and not isinstance(output, type):
        return replace(output, **{key: value})
    if isinstance(output, Mapping):
        return _with_entry(output, key, value)
    values = [value if index == key else part for index, part in parts(output)]
    return getattr(type(output), "_make", type(output))(values)


def _with_entry(output: Mapping[Any, Any], key: Any, value: Any) -> MutableMapping[Any, Any]:
    if type(output) is dict or not isinstance(output, MutableMapping):
        return {**output, key: value}
    changed = copy.copy(output)  # torch.compile cannot do this, so not for a dict
    changed[key] = value
    return changed


def _without_loss(output: Any) -> Any:
    key = loss_key(output)
    if key is None:
        return output
    if isinstance(output, MutableMapping) and not is_dataclass(output):
        del output[key]
        return output
    return _with_part(output, key, None)


def loss_key(output: Any) -> Any:
    """The key of the loss that the model computed: ``loss``, or 0 if a tuple begins with a scalar; else None.

    Example:
        >>> loss_key({"loss": torch.tensor(0.5), "logits": torch.ones(2, 3)}), loss_key((torch.tensor(0.5),))
        ('loss', 0)
    """
    if not isinstance(output, (tuple, list)):
        return "loss" if any(key == "loss" and value is not None for key, value in parts(output)) else None
    names = getattr(output, "_fields", None)
    if names is not None:
        return names.index("loss") if "loss" in names else None
    return 0 if output and isinstance(output[0], Tensor) and not output[0].dim() else None
