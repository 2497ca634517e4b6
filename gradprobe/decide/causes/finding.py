"""A finding, and all codes of what may be found. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CAUSES = {
    "not_in_optimizer": "not in the optimizer",
    "step_missing": "never stepped",
    "frozen": "frozen by mistake",
    "detached": "cut off from the loss",
    "zero_grad_missing": "gradients not cleared",
    "grad_zeroed": "gradients cleared before the step",
    "clipped": "clipped to nothing",
    "loss_scale": "loss scaled to nothing",
    "update_lost": "updates rounded away",
    "labels_wrong": "labels wrong",
    "loss_wrong": "loss and target do not fit",
    "loss_broadcast": "loss broadcast",
    "double_softmax": "softmax twice",
    "double_sigmoid": "sigmoid twice",
    "output_activation": "output activation",
    "no_activation": "no activation",
    "eval_mode": "trains in eval mode",
    "bn_batch1": "normalises one example",
    "input_scale": "inputs not scaled",
    "target_scale": "targets not scaled",
    "symmetry": "units alike",
    "exploding": "explodes",
    "lr_high": "learning rate too high",
    "dead_units": "dead units",
    "saturated": "saturated",
    "signal_collapse": "signal lost",
    "lr_low": "learning rate too low",
}
"""What each cause is called, in the order in which causes are dealt with."""

FINDINGS = ("vanishing", "exploding", "nonfinite", "unreached", "not_held", "zero_weight", "unregistered")
"""What gradients alone show: kinds of finding, of which only ``exploding`` is a cause as well."""

EXPLAINED = (
    "nonfinite",
    "checkpointed",
    "not_held",
    "unregistered",
    "vanishing",
    "exploding",
    "zero_weight",
    "unreached",
    "bypassed",
)
"""`FINDINGS` in the order in which they are dealt with, with two that `unreached` is told apart by."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        cause: One of `CAUSES`; of gradients alone one of `EXPLAINED`.
        layers: The layers that have it, in depth order; for ``unregistered`` the shapes of the parameters.
        evidence: The numbers that were looked at, with the thresholds they were compared to.
        sentence: What is wrong, in one sentence.
        remedy: What to do.
        source: The paper or the measurement that the rule rests on.
    """

    cause: str
    layers: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    sentence: str = ""
    remedy: str = ""
    source: str = ""
