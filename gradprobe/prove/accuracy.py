"""The accuracy of a network on held-out batches, and what it has to be compared to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.measure.batches import Batches, forward, to_device
from gradprobe.measure.loop import shapes_in_errors
from gradprobe.network.tensors import main_tensor


def accuracy(model: nn.Module, held_out: Batches) -> float:
    """Fraction of held-out targets that the largest output names; NaN where that has no meaning.

    The model is in eval mode meanwhile; every module's own flag is put back.

    Example:
        >>> accuracy(nn.Identity(), Batches([(torch.eye(2), torch.tensor([0, 0]))]))
        0.5
    """
    flags = {module: module.training for module in model.modules()}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    right = total = 0
    try:
        model.eval()
        with torch.no_grad():
            for inputs, target in (to_device(batch, device) for batch in held_out.once()):
                with shapes_in_errors(inputs, "held-out batch"):
                    output = main_tensor(forward(model, inputs))
                target = _labels(target)
                if output is None or not is_classified(output, target):
                    return float("nan")
                right += int((output.argmax(1) == target).sum())
                total += target.numel()
    finally:
        # not model.train(flag): that would un-freeze a frozen normalisation (docs/facts.md, 11)
        for module, flag in flags.items():
            module.training = flag
    return right / total if total else float("nan")


def is_classified(output: Tensor, target: Any) -> bool:
    """Whether the output has one score for each class and the target names one class for each score vector."""
    return (
        isinstance(target, Tensor)
        and not target.is_floating_point()
        and output.dim() == target.dim() + 1
        and output.shape[:1] + output.shape[2:] == target.shape
    )


def held_out_facts(held_out: Batches | None) -> tuple[int, float]:
    """Number of held-out targets, and the share of the commonest: what a constant answer gets.

    Example:
        >>> held_out_facts(Batches([(torch.zeros(4, 2), torch.tensor([0, 1, 1, 1]))]))
        (4, 0.75)
    """
    if held_out is None:
        return 0, 0.0
    targets = [_labels(target) for _, target in held_out.once()]
    classes = [
        target.flatten() for target in targets if isinstance(target, Tensor) and not target.is_floating_point()
    ]
    if not classes:
        return 0, 0.0
    together = torch.cat(classes)
    return together.numel(), together.unique(return_counts=True)[1].max().item() / together.numel()


def _labels(target: Any) -> Any:
    """The labels in a batch's target: a batch that is a dict is its own target."""
    return target.get("labels") if isinstance(target, dict) else target
