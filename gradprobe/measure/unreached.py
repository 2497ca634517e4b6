"""Why no gradient arrived at a layer, as far as that can be known: a sentence to read and a code to decide by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass

from torch import nn

from gradprobe.measure.output_gradients import OutputHook
from gradprobe.network.layers import CHECKPOINTED as CHECKPOINTED_FACT
from gradprobe.network.layers import OPAQUE as OPAQUE_FACT
from gradprobe.network.layers import SEVERAL, own_parameters
from gradprobe.record.history import Layer


@dataclass(frozen=True)
class Reason:
    """Why no gradient arrived.

    Attributes:
        code: One of `gradprobe.record.layer.UNREACHED`.
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
NO_ELEMENTS = Reason("opaque", "its parameters have no elements")
CAME_LATE = Reason("came_late", "it came while the window was open, so it was not recorded")
NOT_HELD = Reason("not_held", "no optimizer holds its parameters: a step does not change them")
NOT_HELD_NEW = Reason(
    "not_held_new", "no optimizer holds its parameters: it was put in after the optimizer was built"
)
CHECKPOINTED = Reason(
    "checkpointed", "inside reentrant checkpointing none of whose inputs requires a gradient, so none comes back"
)
OTHER_TENSOR = Reason(
    "other_tensor",
    "the first tensor of its output, the one that is measured, has no path to the loss; it returns others",
)
BYPASSED = Reason(
    "bypassed", "its hooks were bypassed: parameters got gradients, but no module was called as one, module(x)"
)
OPAQUE = Reason("opaque", "what it returned is of a class in which no tensor can be seen")


@dataclass(frozen=True)
class Seen:
    """What was seen of a layer, and of all of them.

    Attributes:
        hook: Its forward hook, which has seen its calls.
        fact: What was special about its call, as `gradprobe.network.layers.call_fact` says it, or None.
        touched: Whether any backward pass brought a gradient to its output, one that counts or not.
        weight_arrived: Whether one arrived at its weight.
        is_held: Whether an optimizer holds one of its weights; None where that is not known.
        others_called: Whether any layer was called.
        any_weight_arrived: Whether a gradient arrived at the weight of any layer.
    """

    hook: OutputHook
    fact: str | None
    touched: bool
    weight_arrived: bool
    is_held: bool | None
    others_called: bool
    any_weight_arrived: bool


def unreached_reasons(layer: nn.Module, weights: Iterable[str], seen: Seen) -> dict[str, Reason]:
    """The reason for each quantity, for the case that no gradient arrived at it.

    Args:
        layer: The layer.
        weights: Local names of its parameters other than biases.
        seen: What was seen of it.
    """
    own = own_parameters(layer)
    output_trained = any(parameter.requires_grad for parameter in own.values())
    trained_weights = [own[local] for local in weights if local in own and own[local].requires_grad]
    return {
        "output": _output_reason(seen, output_trained, bool(trained_weights)),
        "weight": _weight_reason(seen, trained_weights),
    }


def _output_reason(seen: Seen, trained: bool, weight_trained: bool) -> Reason:
    if not seen.hook.calls:
        if not trained:
            return FROZEN_NOT_CALLED
        if seen.others_called:
            return NEVER_CALLED
        return BYPASSED if seen.any_weight_arrived else NO_CALLS
    if seen.hook.differentiable_calls and seen.touched:
        return CONSUMED
    if seen.hook.differentiable_calls:
        several = seen.fact == SEVERAL and (seen.weight_arrived or not weight_trained)
        return OTHER_TENSOR if several else OUTPUT_WITHOUT_PATH
    if seen.fact == OPAQUE_FACT:
        return OPAQUE
    if not trained:
        return FROZEN_SO_FAR
    return CHECKPOINTED if seen.fact == CHECKPOINTED_FACT else DETACHED


def _weight_reason(seen: Seen, trained: list[nn.Parameter]) -> Reason:
    if not trained:
        return FROZEN
    if not any(weight.numel() for weight in trained):
        return NO_ELEMENTS
    if seen.is_held is False and (seen.touched or any(weight.grad is not None for weight in trained)):
        return NOT_HELD
    if seen.fact == CHECKPOINTED_FACT and not seen.hook.differentiable_calls:
        return CHECKPOINTED
    if seen.others_called and not seen.hook.calls:
        return NEVER_CALLED
    return CONSUMED if seen.touched else WEIGHT_WITHOUT_PATH


def late_layers(
    known: Mapping[str, nn.Module],
    now: Mapping[str, nn.Module],
    of: Iterable[str],
    depth: int,
    recorded: Collection[str] | None = None,
    held: Set[int] | None = None,
) -> tuple[Layer, ...]:
    """Layers that were added, or took another's place, while the probe was on: they have no hooks.

    One that took the place of a recorded layer is called after it, ``fc (new)``.

    Args:
        known: The layers when the probe was made.
        now: The layers now.
        of: The quantities asked for.
        depth: Depth of the first of them, after those that were recorded.
        recorded: Names of the layers that were recorded; None for all that were known.
        held: The parameters, by `id`, that an optimizer held at a step; None where that is not known.
    """
    taken, quantities = known if recorded is None else recorded, tuple(of)
    new = [name for name, module in now.items() if known.get(name) is not module]
    return tuple(
        _late_layer(f"{name} (new)" if name in taken else name, depth + index, now[name], quantities, held)
        for index, name in enumerate(new)
    )


def _late_layer(name: str, depth: int, module: nn.Module, of: tuple[str, ...], held: Set[int] | None) -> Layer:
    own = own_parameters(module)
    trained = {id(parameter) for parameter in own.values() if parameter.requires_grad}
    reasons = dict.fromkeys(of, CAME_LATE)
    if held is not None and trained and not trained & held and "weight" in reasons:
        reasons["weight"] = NOT_HELD_NEW
    return Layer(
        name,
        depth,
        type(module).__name__,
        sum(parameter.numel() for parameter in own.values()),
        {quantity: reason.sentence for quantity, reason in reasons.items()},
        CAME_LATE.sentence,
        {quantity: reason.code for quantity, reason in reasons.items()},
    )
