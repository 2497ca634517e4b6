"""Why no gradient arrived at a layer, as far as that can be known: a sentence to read and a code to decide by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from torch import nn

from gradprobe.measure.accumulator import Key
from gradprobe.measure.output_gradients import OutputHook
from gradprobe.network.layers import own_parameters
from gradprobe.record.history import Layer


@dataclass(frozen=True)
class Reason:
    """Why no gradient arrived.

    Attributes:
        code: One of `gradprobe.record.history.UNREACHED`.
        sentence: The same in words.
    """

    code: str
    sentence: str


FROZEN = Reason("frozen", "frozen: requires_grad is False")
FROZEN_SO_FAR = Reason("frozen", "frozen: neither it nor anything before it is trained")
FROZEN_NOT_CALLED = Reason("frozen", "frozen, and not seen to be called")
NEVER_CALLED = Reason("never_called", "never called as a module")
NO_CALLS = Reason(
    "never_called",
    "never called as a module, or only inside code that was compiled while the probe was attached",
)
OUTPUT_WITHOUT_PATH = Reason("no_path", "no path from its output to the loss")
WEIGHT_WITHOUT_PATH = Reason("no_path", "no path from its weight to the loss")
DETACHED = Reason("detached", "its output holds no tensor that requires a gradient (detached, or under no_grad)")
CONSUMED = Reason(
    "consumed", "its gradient was gone when it was read: used up in the backward pass, or zeroed before"
)
CAME_LATE = Reason("came_late", "it came while the window was open, so it was not recorded")


def unreached_reasons(
    name: str,
    layer: nn.Module,
    weights: Iterable[str],
    hooks: Mapping[str, OutputHook],
    arrived: Set[Key],
) -> dict[str, Reason]:
    """The reason for each quantity, for the case that no gradient arrived at it.

    Args:
        name: Name of the layer.
        layer: The layer.
        weights: Local names of its parameters other than biases.
        hooks: The hooks of all layers, which have seen their calls.
        arrived: The layers and quantities that a gradient arrived at.
    """
    own = own_parameters(layer)
    output_trained = any(parameter.requires_grad for parameter in own.values())
    weight_trained = any(own[local].requires_grad for local in weights if local in own)
    others_called = any(hook.calls for hook in hooks.values())
    return {
        "output": _output_reason(hooks[name], output_trained, others_called),
        "weight": _weight_reason(hooks[name], weight_trained, others_called, (name, "output") in arrived),
    }


def _output_reason(hook: OutputHook, trained: bool, others_called: bool) -> Reason:
    if not hook.calls:
        if not trained:
            return FROZEN_NOT_CALLED
        return NEVER_CALLED if others_called else NO_CALLS
    if hook.differentiable_calls:
        return OUTPUT_WITHOUT_PATH
    return DETACHED if trained else FROZEN_SO_FAR


def _weight_reason(hook: OutputHook, trained: bool, others_called: bool, output_arrived: bool) -> Reason:
    if not trained:
        return FROZEN
    if others_called and not hook.calls:
        return NEVER_CALLED
    return CONSUMED if output_arrived else WEIGHT_WITHOUT_PATH


def late_layers(
    known: Mapping[str, nn.Module], now: Mapping[str, nn.Module], of: Iterable[str], depth: int
) -> tuple[Layer, ...]:
    """Layers that were added, or took another's place, while the window was open: they have no hooks.

    Args:
        known: The layers when the probe was made.
        now: The layers now.
        of: The quantities asked for.
        depth: Depth of the first of them, after those that were recorded.
    """
    quantities = tuple(of)
    new = [name for name, module in now.items() if known.get(name) is not module]
    return tuple(
        Layer(
            f"{name} (new)" if name in known else name,
            depth + index,
            type(now[name]).__name__,
            sum(parameter.numel() for parameter in own_parameters(now[name]).values()),
            dict.fromkeys(quantities, CAME_LATE.sentence),
            CAME_LATE.sentence,
            dict.fromkeys(quantities, CAME_LATE.code),
        )
        for index, name in enumerate(new)
    )
