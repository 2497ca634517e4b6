"""What else can be done about a network that does not learn: initial weights, normalisation, the size of steps.

Where that does as well as deep supervision it is the better advice: there is nothing to remove afterwards. Each
function leaves alone what it does not understand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from gradprobe.measure.batches import Batches, to_device
from gradprobe.prove.remedies.initial_weights import kaiming as kaiming
from gradprobe.prove.remedies.initial_weights import lsuv as lsuv
from gradprobe.prove.remedies.initial_weights import orthogonal as orthogonal
from gradprobe.prove.remedies.initial_weights import within_channel as within_channel
from gradprobe.prove.remedies.initial_weights import xavier as xavier
from gradprobe.prove.remedies.normalisation import ChannelsLast as ChannelsLast
from gradprobe.prove.remedies.normalisation import normalised as normalised
from gradprobe.prove.remedies.residual import residual_scaled as residual_scaled
from gradprobe.prove.remedies.steps import clipping as clipping
from gradprobe.prove.remedies.steps import learning_rate as learning_rate

Remedy = Callable[[nn.Module, Any], None]
StepRemedy = Callable[..., Any]

REMEDIES: dict[str, Remedy] = {
    "kaiming": kaiming,
    "xavier": xavier,
    "lsuv": lsuv,
    "within_channel": within_channel,
    "orthogonal": orthogonal,
    "residual_scaled": residual_scaled,
    "normalised": normalised,
}
"""What changes a network before its optimizer is built: ``(model, inputs of a batch)``."""

STEP_REMEDIES: dict[str, StepRemedy] = {"learning_rate": learning_rate, "clipping": clipping}
"""What changes an optimizer: ``(optimizer, history)``."""


def apply(remedy: Remedy, model: nn.Module, batches: Batches) -> None:
    """Change a model in place by a remedy, which gets the inputs of the first batch; the batches are put back."""
    device = next(model.parameters()).device
    with batches.rewound():
        inputs, _ = to_device(next(batches.stream()), device)
    remedy(model, inputs)
