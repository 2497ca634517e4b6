"""Losses of outputs of many kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F


def logits(loss: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """A loss on the ``logits`` of a container."""
    return lambda output, target: loss(output.logits, target)


def own_loss(output: Any, target: Any) -> Tensor:
    """The loss that the model computed itself."""
    result: Tensor = output.loss
    return result


def last_axis(scores: Tensor, target: Tensor) -> Tensor:
    """Cross entropy with the classes on the last axis."""
    return F.cross_entropy(scores.flatten(0, -2), target.flatten())


def resized(scores: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of a map that may be smaller than the target."""
    return F.cross_entropy(F.interpolate(scores, target.shape[1:]), target)


def boxes_and_classes(output: Any, target: Tensor) -> Tensor:
    """DETR's two terms with the assignment given: object i is query i, in the middle of the image."""
    return last_axis(output.logits, target) + (output.pred_boxes - 0.5).abs().mean()


def first(loss: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """A loss on the first entry of a tuple, or on what is no tuple."""
    return lambda output, target: loss(output[0] if isinstance(output, (tuple, list)) else output, target)
