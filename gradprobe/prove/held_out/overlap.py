"""Dice and mean IoU: how far predicted regions and true ones overlap, from counts over all held-out data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradprobe.network.tensors import main_tensor
from gradprobe.prove.held_out.accuracy import labels_in
from gradprobe.prove.held_out.evaluation import shapes_of


class Overlap:
    """The counts of each class: where it is predicted, where it is true, and where it is both.

    They are added up over all batches, so that neither the batch size nor an image without a class matters (as
    Cityscapes has it, Cordts et al. 2016, arXiv 1604.01685). Every class counts, the background too, unless it is
    neither predicted nor true anywhere. A target that is no class (-100, 255) does not count.
    """

    def __init__(self) -> None:
        self.both = self.predicted = self.true = torch.zeros(1, dtype=torch.float64)

    def add(self, output: Any, target: Any) -> None:
        """Count one batch.

        Raises:
            ValueError: If the target is neither a map of class numbers nor one channel for each class.
        """
        predicted, true = _regions(output, labels_in(target))
        axes = tuple(axis for axis in range(predicted.dim()) if axis != 1)
        for name, region in (("both", predicted & true), ("predicted", predicted), ("true", true)):
            setattr(self, name, getattr(self, name) + region.sum(axes).double().cpu())


class Dice(Overlap):
    """The Dice coefficient.

    Example:
        >>> meter = Dice()
        >>> meter.add(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]) - 0.5, torch.tensor([[[1, 0, 0, 0]]]))
        >>> round(meter.value(), 3)  # 2 * 1 / (2 + 1)
        0.667
    """

    def value(self) -> float:
        """Mean over the classes of 2 |A and B| / (|A| + |B|) (Dice 1945); NaN without a class."""
        return _mean_ratio(2 * self.both, self.predicted + self.true)


class MeanIoU(Overlap):
    """The mean intersection over union.

    Example:
        >>> meter = MeanIoU()
        >>> scores = torch.tensor([[[9.0, 9.0, 0.0, 0.0], [0.0, 0.0, 9.0, 9.0]]])  # classes 0, 0, 1, 1
        >>> meter.add(scores, torch.tensor([[0, 1, 1, 1]]))
        >>> round(meter.value(), 3)  # the mean of 1 / 2 and 2 / 3
        0.583
    """

    def value(self) -> float:
        """Mean over the classes of |A and B| / |A or B| (Jaccard 1912); NaN without a class."""
        return _mean_ratio(self.both, self.predicted + self.true - self.both)


def _mean_ratio(part: Tensor, whole: Tensor) -> float:
    there = whole > 0
    return float((part[there] / whole[there]).mean())  # NaN without a class


def _regions(output: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Where each class is predicted and where it is true, both ``(N, classes, ...)``."""
    scores = main_tensor(output)
    if scores is None or scores.dim() < 2 or not isinstance(target, Tensor):
        raise _misfit(output, target)
    if target.dim() == scores.dim() - 1:
        target = target.unsqueeze(1)
    classes, labels = scores.shape[1], target.shape[1] == 1
    if target.dim() != scores.dim() or target.shape[0] != scores.shape[0] or target.shape[2:] != scores.shape[2:]:
        raise _misfit(output, target)
    if classes > 1 and labels:  # a map of class numbers, whatever its dtype
        return _one_of(scores.argmax(1), target[:, 0].long(), classes)
    if target.shape[1] != classes:
        raise _misfit(output, target)
    if classes > 1 and bool(((target != 0).sum(1) == 1).all()):  # one-hot
        return _one_of(scores.argmax(1), target.argmax(1), classes)
    valid = (target >= 0) & (target <= 1)
    return (scores > _limit(scores)) & valid, (target > 0.5) & valid


def _one_of(predicted: Tensor, true: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Maps of class numbers as regions, without the places whose target is no class."""
    valid = ((true >= 0) & (true < classes)).unsqueeze(1)
    numbers = torch.arange(classes, device=true.device).view(1, classes, *[1] * (true.dim() - 1))
    return (predicted.unsqueeze(1) == numbers) & valid, (true.unsqueeze(1) == numbers) & valid


def _limit(scores: Tensor) -> float:
    """From where on a score means yes: 0.5 of a probability, 0 of a logit."""
    return 0.5 if scores.numel() and scores.min() >= 0 and scores.max() <= 1 else 0.0


def _misfit(output: Any, target: Any) -> ValueError:
    return ValueError(
        "expected scores (N, classes, ...) and a map of class numbers (N, ...), or a channel for each class, to "
        f"take the overlap of, got {shapes_of(output, target)}: give metric= a function (output, target) -> number"
    )
