"""The loss that a model computes itself, and which function of its output and the labels that is.

Models such as those of ``transformers`` take the labels and return their loss. To supervise a branch by the same
function, that function is recognised by its value: the candidates in `OWN_LOSSES` are tried on the model's own
output and labels until only one of them reproduces the model's loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gradprobe.network.tensors import main_tensor, parts

OwnLoss = Callable[[Tensor, Tensor], "Tensor | None"]

LABELS = ("labels", "label", "targets", "target")
IGNORED = -100
TOLERANCE, HALF_TOLERANCE = 1e-3, 2e-2
# what summing in another order may change; of two candidates this close both are kept for the next batch
ROUNDING = 1e-5
WAY_OUT = (
    "pass loss_fn=, a function (output, target) -> scalar that computes the loss from the output, or "
    "branch_loss=, one for the branches alone (on the command line: define `loss` or `branch_loss` in TARGET)"
)


def own_loss(output: Any, target: Any) -> Tensor:
    """The loss that the model computed itself: ``output.loss``, ``output["loss"]``, or the one scalar of a tuple.

    Args:
        output: What the model returned.
        target: Not used; here so that this is a loss function like any other.

    Raises:
        TypeError: If the output holds no such scalar.

    Example:
        >>> own_loss({"loss": torch.tensor(0.5), "logits": torch.ones(2, 3)}, None)
        tensor(0.5000)
    """
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None and isinstance(output, (tuple, list)):
        scalars = [part for part in output if isinstance(part, Tensor) and not part.dim()]
        loss = scalars[0] if len(scalars) == 1 else None
    if isinstance(loss, Tensor) and not loss.dim():
        return loss
    shape = f"a loss of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else "none"
    raise TypeError(
        f"without loss_fn= the model's output has to hold its own scalar loss, but {type(output).__name__} has "
        f"{shape}: give the model its labels, or {WAY_OUT}"
    )


def is_own(loss: Any, output: Any) -> bool:
    """Whether a loss is the very tensor that the model put into its output.

    Example:
        >>> loss, logits = torch.tensor(0.5), torch.ones(2, 3)
        >>> is_own(loss, {"loss": loss, "logits": logits}), is_own(loss / 4, (loss, logits))
        (True, False)
    """
    return any(part is loss for _, part in parts(output))


def labels_of(target: Any) -> Tensor:
    """The labels: the target itself, or what a mapping has under ``labels``, ``label``, ``targets`` or ``target``.

    Raises:
        TypeError: If there are none.

    Example:
        >>> labels_of({"input_ids": torch.zeros(2, 8), "labels": torch.tensor([1, 0])})
        tensor([1, 0])
    """
    if isinstance(target, Tensor):
        return target
    what = type(target).__name__
    if isinstance(target, Mapping):
        labels = next((target[name] for name in LABELS if name in target), None)
        if isinstance(labels, Tensor):
            return labels
        what = f"a mapping with {sorted(map(str, target))}"
    raise TypeError(
        f"the model computes its own loss; for the branches the target has to be a tensor of labels or a mapping "
        f"with one of {list(LABELS)}, got {what}: pass the labels (or the batch) as target, or {WAY_OUT}"
    )


def matching_losses(candidates: tuple[str, ...], output: Any, target: Any, loss: Tensor) -> tuple[str, ...]:
    """The candidates that reproduce a model's own loss from its own output and labels, the closest first.

    Within a relative 1e-3 (2e-2 in half precision) counts as reproduced; of these, all stay that are as close as
    the closest, up to rounding: on uniform scores every cross entropy is the same. Waits for the device.

    Args:
        candidates: Names out of `OWN_LOSSES`.
        output: What the model returned.
        target: The labels, or a mapping with them.
        loss: The model's own loss. If it is not finite, all candidates whose shapes fit are left.

    Raises:
        ValueError: If none of them reproduces it.
        TypeError: If the output has no tensor, or the target no labels.

    Example:
        >>> scores, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
        >>> matching_losses(tuple(OWN_LOSSES), scores, labels, F.cross_entropy(scores, labels))
        ('cross entropy',)
    """
    scores, labels = main_tensor(output), labels_of(target)
    if scores is None:
        raise TypeError(
            f"the model computes its own loss, but its {type(output).__name__} has no tensor: {WAY_OUT}"
        )
    values = _values(candidates, scores.detach(), labels)
    own = float(loss.detach())
    if values and not math.isfinite(own):
        return tuple(values)
    misses = {name: abs(value - own) / max(abs(own), 1e-3) for name, value in values.items()}
    close = sorted((name for name in misses if misses[name] <= _tolerance(scores)), key=misses.__getitem__)
    if not close:
        raise ValueError(_none_fits(own, scores, labels))
    return tuple(name for name in close if misses[name] <= max(ROUNDING, 10 * misses[close[0]]))


@torch.no_grad()
def _values(candidates: tuple[str, ...], scores: Tensor, labels: Tensor) -> dict[str, float]:
    losses = {name: OWN_LOSSES[name](scores, labels) for name in candidates}
    fitting = {name: value.double() for name, value in losses.items() if value is not None}
    # one wait for the device, not one for each candidate
    return dict(zip(fitting, torch.stack(list(fitting.values())).tolist(), strict=True)) if fitting else {}


def _tolerance(scores: Tensor) -> float:
    half = scores.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(scores.device.type)
    return HALF_TOLERANCE if half else TOLERANCE


def _none_fits(own: float, scores: Tensor, labels: Tensor) -> str:
    return (
        f"the model's own loss is {own:.6g}, and none of {list(OWN_LOSSES)} gives that from its output "
        f"{tuple(scores.shape)} and labels {tuple(labels.shape)} (class weights, label smoothing or further "
        f"terms, such as a router loss, can be why), so the branches' loss is not known: {WAY_OUT}"
    )


def branch_loss(name: str, prediction: Any, target: Any) -> Tensor:
    """The model's own loss function, by its name in `OWN_LOSSES`, of a branch's prediction.

    Raises:
        ValueError: If the prediction is no tensor, or its shape does not suit the labels.
        TypeError: If the target has no labels.

    Example:
        >>> branch_loss("mean squared error", torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0]))
        tensor(2.)
    """
    scores, labels = main_tensor(prediction), labels_of(target)
    loss = None if scores is None else OWN_LOSSES[name](scores, labels)
    if loss is None:
        shape = type(prediction).__name__ if scores is None else tuple(scores.shape)
        raise ValueError(
            f"the model's own loss is {name}, which does not suit a branch's prediction {shape} and labels "
            f"{tuple(labels.shape)}: let the branch predict what the model predicts, pass map_target=, or "
            f"{WAY_OUT}"
        )
    return loss


def _classes_first(scores: Tensor, labels: Tensor) -> Tensor | None:
    """``(N, K, *S)`` and ``(N, *S)``, also ``(N, K)`` and ``(N, 1)``."""
    if scores.dim() == 2 and labels.shape == (len(scores), 1):
        labels = labels[:, 0]
    if scores.dim() < 2 or scores.shape[:1] + scores.shape[2:] != labels.shape:
        return None
    return _cross_entropy(scores, labels)


def _classes_last(scores: Tensor, labels: Tensor) -> Tensor | None:
    """``(N, T, V)`` and ``(N, T)``."""
    # two dimensions are left to _classes_first: both would fit in every batch
    if scores.dim() < 3 or scores.shape[:-1] != labels.shape:
        return None
    return _cross_entropy(scores.flatten(0, -2), labels.flatten())


def _next_token(scores: Tensor, labels: Tensor) -> Tensor | None:
    """``(N, T, V)`` and ``(N, T)``, where the scores at ``t`` are for the label at ``t + 1``."""
    if scores.dim() != 3 or scores.shape[:-1] != labels.shape:
        return None
    return _classes_last(scores[:, :-1], labels[:, 1:])


def _upsampled(scores: Tensor, labels: Tensor) -> Tensor | None:
    """``(N, K, h, w)`` and ``(N, H, W)``: bilinear to the size of the labels, as the segmentation models do."""
    if scores.dim() != 4 or labels.dim() != 3 or scores.shape[2:] == labels.shape[1:]:
        return None
    size = labels.shape[1:]
    return _classes_first(F.interpolate(_wide(scores), size=size, mode="bilinear", align_corners=False), labels)


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor | None:
    if labels.is_floating_point() or labels.is_complex():
        return None
    # a label that is not a class (-100, 255) is one to ignore; on a GPU it would otherwise end the process
    is_class = (labels >= 0) & (labels < scores.shape[1])
    return F.cross_entropy(_wide(scores), labels.long().where(is_class, IGNORED), ignore_index=IGNORED)


def _paired(loss: Callable[[Tensor, Tensor], Tensor], scores: Tensor, labels: Tensor) -> Tensor | None:
    """One label for each score, up to dimensions of 1."""
    if scores.squeeze().shape != labels.squeeze().shape:
        return None
    scores = _wide(scores)
    return loss(scores, labels.reshape(scores.shape).to(scores.dtype))


def _wide(scores: Tensor) -> Tensor:
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


OWN_LOSSES: dict[str, OwnLoss] = {
    "cross entropy": _classes_first,
    "cross entropy, classes last": _classes_last,
    "next-token cross entropy": _next_token,
    "cross entropy, upsampled": _upsampled,
    "binary cross entropy": partial(_paired, F.binary_cross_entropy_with_logits),
    "mean squared error": partial(_paired, F.mse_loss),
    "mean absolute error": partial(_paired, F.l1_loss),
    "smooth L1": partial(_paired, F.smooth_l1_loss),
}
