"""The arguments of a loss function for a branch: a target of its size, and a container like the trunk's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradprobe.insert.branches.base import resized
from gradprobe.network.tensors import main_path, part_at, parts


def resized_target(target: Any, prediction: Any, main: Tensor | None = None) -> Any:
    """A target of the spatial size of a branch's prediction ``(N, K, *S)``.

    Integers and bools by the nearest pixel centre (``"nearest-exact"``), floats linearly, as in nnU-Net (Isensee
    et al. 2021). The target is returned as it is if it has that size, is no tensor, has no spatial dimensions (or
    more than three), or if the main output does not match it either, since such a loss function brings the two
    together itself.

    Args:
        target: ``(N, *S')`` or ``(N, C, *S')``.
        prediction: ``(N, K, *S)``.
        main: The trunk's main output, ``(N, K, *S')``; None: not compared.

    Example:
        >>> resized_target(torch.tensor([[0, 1, 2, 3, 4, 5]]), torch.zeros(1, 7, 2))
        tensor([[1, 4]])
    """
    if not isinstance(target, Tensor) or not isinstance(prediction, Tensor):
        return target
    size = prediction.shape[2:]
    if (
        not 1 <= len(size) <= 3
        or prediction.dim() - target.dim() not in (0, 1)
        or target.shape[-len(size) :] == size
    ):
        return target
    if main is not None and main.shape[2:] != target.shape[-len(size) :]:
        return target
    if not target.is_floating_point():
        return _nearest(target, size)
    channels = target if target.dim() == prediction.dim() else target.unsqueeze(1)
    return resized(channels, size).reshape(*target.shape[: -len(size)], *size)


def _nearest(target: Tensor, size: Sequence[int]) -> Tensor:
    # torch's interpolate takes no integers, and in float32 a label above 2^24 would change
    for dim, length in enumerate(size, target.dim() - len(size)):
        index = (2 * torch.arange(length, device=target.device) + 1) * target.shape[dim] // (2 * length)
        target = target.index_select(dim, index)
    return target


def loss_like(loss_fn: Callable[[Any, Any], Tensor], output: Any, prediction: Any, target: Any) -> Tensor:
    """The loss of a branch's prediction, by a function that was written for the trunk's output.

    Raises:
        TypeError: If the function needs the loss that the model computed itself, since a branch has none.

    Example:
        >>> loss_fn = lambda output, target: (output["scores"] - target).square().mean()
        >>> loss_like(loss_fn, {"scores": torch.ones(3)}, torch.zeros(3), torch.full((3,), 2.0))
        tensor(4.)
    """
    like = stand_in(output, prediction)
    if _loss_key(output) is None:
        return loss_fn(like, target)
    try:
        return loss_fn(like, target)
    except (AttributeError, KeyError, TypeError) as error:
        raise TypeError(
            f"loss_fn failed for a branch, which has no loss computed by the model "
            f"({type(error).__name__}: {error}): have loss_fn return the model's loss as it is (divide or add to "
            "the joint loss instead), or compute the loss from the output"
        ) from error


def stand_in(output: Any, prediction: Any) -> Any:
    """A copy of the trunk's output with the prediction as its main tensor, and without the model's own loss.

    The output is not changed. If it is a tensor, or the prediction is not one, this is the prediction itself.

    Example:
        >>> stand_in({"loss": torch.tensor(0.5), "scores": torch.ones(2, 3)}, torch.zeros(1))
        {'scores': tensor([0.])}
    """
    path = main_path(output)
    if not path or not isinstance(prediction, Tensor):
        return prediction
    return _without_loss(_replaced(output, path, prediction))


def _replaced(output: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    return _with_part(output, path[0], _replaced(part_at(output, path[0]), path[1:], value))


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
    key = _loss_key(output)
    if key is None:
        return output
    if isinstance(output, MutableMapping) and not is_dataclass(output):
        del output[key]
        return output
    return _with_part(output, key, None)


def _loss_key(output: Any) -> Any:
    """The key of the loss that the model computed: ``loss``, or 0 if a tuple begins with a scalar; else None."""
    if not isinstance(output, (tuple, list)):
        return "loss" if any(key == "loss" and value is not None for key, value in parts(output)) else None
    names = getattr(output, "_fields", None)
    if names is not None:
        return names.index("loss") if "loss" in names else None
    return 0 if output and isinstance(output[0], Tensor) and not output[0].dim() else None
