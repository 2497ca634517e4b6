"""The accuracy of a network on held-out batches, and what it has to be compared to."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.insert.model_loss import LABELS
from gradprobe.measure.batches import Batches
from gradprobe.network.tensors import main_tensor
from gradprobe.prove.held_out.evaluation import shapes_of, through


class Accuracy:
    """The fraction of targets that the largest score names; a target that is no class (-100, 255) does not count.

    Example:
        >>> meter = Accuracy()
        >>> meter.add(torch.eye(2), torch.tensor([0, 0]))
        >>> meter.value(), meter.targets, meter.chance
        (0.5, 2, 1.0)
    """

    def __init__(self) -> None:
        self._right = 0
        self._classes = torch.zeros(0, dtype=torch.int64)

    def add(self, output: Any, target: Any) -> None:
        """Count one batch.

        Raises:
            ValueError: If there is not one score for each class.
        """
        scores, labels = main_tensor(output), labels_in(target)
        if scores is None or not is_classified(scores, labels):
            raise ValueError(
                "expected scores (N, classes, ...) and whole class numbers (N, ...) to take the accuracy of, got "
                f"{shapes_of(output, target)}: give metric= another name or a function (output, target) -> number"
            )
        valid = (labels >= 0) & (labels < scores.shape[1])
        self._right += int(((scores.argmax(1) == labels) & valid).sum())
        counts = torch.bincount(labels[valid].flatten(), minlength=scores.shape[1]).cpu()
        self._classes = counts + self._classes if len(self._classes) else counts

    @property
    def targets(self) -> int:
        """How many targets were counted."""
        return int(self._classes.sum())

    @property
    def chance(self) -> float:
        """The share of the commonest class: what a constant answer gets."""
        return int(self._classes.max()) / self.targets if self.targets else 0.0

    def value(self) -> float:
        """The accuracy; NaN without a target."""
        return self._right / self.targets if self.targets else float("nan")


def accuracy(model: nn.Module, held_out: Batches) -> float:
    """Fraction of held-out targets that the largest output names; NaN where that has no meaning.

    The model is in eval mode meanwhile; every module's own flag is put back.

    Example:
        >>> accuracy(nn.Identity(), Batches([(torch.eye(2), torch.tensor([0, 0]))]))
        0.5
    """
    meter = Accuracy()
    with contextlib.closing(through(model, held_out)) as results:
        for output, target in results:
            scores = main_tensor(output)
            if scores is None or not is_classified(scores, labels_in(target)):
                return float("nan")
            meter.add(output, target)
    return meter.value()


def is_classified(output: Tensor, target: Any) -> bool:
    """Whether the output has one score for each class and the target names one class for each score vector."""
    return (
        isinstance(target, Tensor)
        and not target.is_floating_point()
        and output.dim() == target.dim() + 1
        and output.shape[:1] + output.shape[2:] == target.shape
    )


def labels_in(target: Any) -> Any:
    """The labels in a batch's target: a batch that is a dict is its own target; None if it has none.

    Example:
        >>> labels_in({"input_ids": 1, "label": 2}), labels_in(3)
        (2, 3)
    """
    if not isinstance(target, Mapping):
        return target
    return next((target[name] for name in LABELS if name in target), None)
