"""Causes between the gradient and the weight: what no step reaches, and what is done to gradients on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradprobe.decide.causes.facts import Reading
from gradprobe.decide.causes.finding import Finding

NOT_HELD = ("not_held", "not_held_new")
CUT_OFF = ("detached", "no_path", "checkpointed", "consumed")
LEFT = 1e-3  # of the gradient: ordinary clipping leaves 1e-2 and more of it, measured on sound scripts
EVEN = 0.9  # mean to largest: 180 sound scripts stay below .4
MOST = 0.9  # of the iterations
UNCHANGED = 1.001
LEFT_OVER = 0.5  # of the steps: accumulation over batches steps rarely, and clears each time
_EPSILON = {"bfloat16": 2.0**-9, "float16": 2.0**-12}  # half a unit in the last place, relative to the weight
_SCALE = 1e-3  # of the loss: averaging over accumulated batches divides by tens
_FROZEN_AT_LEAST = 100  # weights: of fewer the distribution is not seen


def causes(reading: Reading) -> Iterator[Finding]:
    """The findings of this kind."""
    yield from _not_in_optimizer(reading)
    yield from _step_missing(reading)
    yield from _frozen(reading)
    yield from _detached(reading)
    yield from _drawn(reading)
    yield from _zero_grad_missing(reading)
    yield from _taken_away(reading)
    yield from _thrown_away(reading)
    yield from _clamped(reading)
    yield from _loss_scale(reading)
    yield from _update_lost(reading)


def _not_in_optimizer(reading: Reading) -> Iterator[Finding]:
    if _never_ran(reading):
        yield Finding(
            "not_in_optimizer",
            tuple(reading.trained),
            {"passes": reading.network["passes"]},
            "The optimizer holds a network that never ran, while backward passes of another one were made: what "
            "is trained is not what the optimizer was built from.",
            "Build the optimizer from the parameters of the network that is trained, after it is made, loaded or "
            "copied for the last time.",
            "exact: the calls of the network, and the backward passes",
        )
        return
    layers = [x.name for x in reading.layers if x.unreached_code.get("weight") in NOT_HELD]
    loose = reading.history.conditions.get("loose_parameters") or []
    if not layers and not loose:
        return
    if layers:
        sentence = f"No optimizer holds the weights of {reading.span(layers)}, though gradients arrive there."
        remedy = "Give them to the optimizer (build it after the last change of the network), or freeze them."
    else:
        shapes = ", ".join(str(tuple(shape)) for shape in loose[:3])
        sentence = (
            f"{len(loose)} parameters take part and belong to no module, so no optimizer holds them ({shapes})."
        )
        remedy = "Put layers that are in a plain list or dict into an nn.ModuleList or an nn.ModuleDict."
    yield Finding(
        "not_in_optimizer", reading.names(layers), {"unregistered": len(loose)}, sentence, remedy,
        "exact: the optimizers' param_groups and the graph of the loss",
    )  # fmt: skip


def _never_ran(reading: Reading) -> bool:
    codes = [layer.unreached_code.get("output") for layer in reading.layers]
    return bool(reading.network.get("passes")) and bool(codes) and set(codes) == {"never_called"}


def _step_missing(reading: Reading) -> Iterator[Finding]:
    alive = {name for name, facts in reading.facts.items() if facts.get("std") and facts.get("arrived")}
    codes = {layer.name for layer in reading.layers if layer.unreached_code.get("weight") in NOT_HELD}
    layers = [name for name in reading.trained if name in alive - codes and name not in reading.update]
    if not layers or not (reading.network.get("never_stepped") or reading.update):
        return
    yield Finding(
        "step_missing",
        reading.names(layers),
        {"steps": 0},
        f"Gradients arrive at {reading.span(layers)}, but no optimizer that holds them ever steps.",
        "Call optimizer.step() after loss.backward(), of each optimizer.",
        "exact: the steps of the optimizers",
    )


def _frozen(reading: Reading) -> Iterator[Finding]:
    """Frozen, and random as an initialisation leaves it: trained weights do not follow such a distribution."""
    frozen = {name for name, facts in reading.facts.items() if facts.get("trained") is False}
    layers = [name for name in frozen if looks_initial(reading.facts[name])]
    if not layers or len(layers) < len(frozen) / 2:
        return
    yield Finding(
        "frozen",
        reading.names(layers),
        {"frozen": len(frozen), "with_random_weights": len(layers)},
        f"{reading.span(reading.names(layers))} cannot learn: requires_grad is False, and the weights are as an "
        "initialisation leaves them, not trained.",
        "Call requires_grad_(True) on them before the optimizer is built, or load the trained weights.",
        "He et al. 2015, Glorot and Bengio 2010: the distributions of initial weights",
    )


def looks_initial(facts: dict[str, float] | object) -> bool:
    """Whether weights have the distribution of one of torch's initialisations.

    Example:
        >>> facts = {"std": 0.0722, "largest": 0.1249, "kurtosis": 1.8, "count": 4096}
        >>> looks_initial({**facts, "fan_in": 64, "fan_out": 64})
        True
    """
    assert isinstance(facts, dict)
    if facts.get("count", 0) < _FROZEN_AT_LEAST or not facts.get("std"):
        return False
    fan_in, fan_out = facts["fan_in"], facts["fan_out"]
    uniform, normal = abs(facts["kurtosis"] - 1.8) < 0.15, abs(facts["kurtosis"] - 3) < 0.5
    expected = [
        1.0,  # an embedding's
        math.sqrt(2 / fan_in),
        math.sqrt(1 / fan_in),
        math.sqrt(2 / (fan_in + fan_out)),
        math.sqrt(2 / fan_out),
    ]
    if uniform and facts["largest"] <= 1.001 / math.sqrt(fan_in):
        expected.append(1 / math.sqrt(3 * fan_in))
    near = any(abs(facts["std"] / one - 1) < 0.06 for one in expected)
    return near and (uniform or normal)


def _detached(reading: Reading) -> Iterator[Finding]:
    layers = [
        layer.name
        for layer in reading.layers
        if layer.unreached_code.get("weight") in CUT_OFF
        and layer.name in reading.trained
        and not reading.facts.get(layer.name, {}).get("arrived")
    ]
    if not layers or _nothing_arrives(reading) or _never_ran(reading):
        return
    yield Finding(
        "detached",
        reading.names(layers),
        {"layers": len(layers)},
        f"{reading.span(layers)} ran, but the loss does not depend on it through the graph: no backward pass "
        "arrives there.",
        "Look for .detach(), .data, .numpy(), .item(), torch.no_grad() or a new tensor made of the output between "
        "the last of these layers and the loss.",
        "exact: the graph of the loss",
    )


def _drawn(reading: Reading) -> Iterator[Finding]:
    """A latent that is drawn at random: no gradient passes a draw, and the terms that do arrive hide it."""
    layers = reading.names(reading.network.get("drawn") or ())
    if layers:
        yield Finding(
            "detached", layers, {"random_draws": 1},
            f"What comes after {reading.span(layers)} is drawn at random from its output, and no gradient passes "
            "a random draw: the loss of what comes after it does not train it.",
            "Use mean + std * torch.randn_like(std) in place of torch.normal(mean, std), or rsample() of "
            "torch.distributions.",
            "exact: the graph of the loss; Kingma and Welling 2014, section 2.4",
        )  # fmt: skip


def _nothing_arrives(reading: Reading) -> bool:
    return not reading.evidence.median("left") and not reading.update


def _zero_grad_missing(reading: Reading) -> Iterator[Finding]:
    over = {name: share for name, share in reading.fact("left_over").items() if share >= LEFT_OVER}
    if not over or len(over) < len(reading.fact("left_over")) / 2:
        return
    yield Finding(
        "zero_grad_missing",
        reading.names(list(over)),
        {"steps_with_old_gradients": max(over.values()), "threshold": LEFT_OVER},
        f"Gradients are not cleared: {max(over.values()):.0%} of the steps use what was left from the "
        "steps before.",
        "Call optimizer.zero_grad() once before each loss.backward() that begins a new step.",
        "exact: what is in .grad before the first backward pass after a step",
    )


def _taken_away(reading: Reading) -> Iterator[Finding]:
    left = reading.evidence.median("left")
    values = sorted(left.values())
    if not values or values[len(values) // 2] >= LEFT:
        return
    median = values[len(values) // 2]
    evidence = {"left_of_the_gradient": median, "threshold": LEFT}
    if median == 0:
        yield Finding(
            "grad_zeroed", reading.names(list(left)), evidence,
            "The gradients are cleared between the backward pass and the step: the step finds none.",
            "Call optimizer.zero_grad() before loss.backward(), not after it.",
            "exact: .grad after the backward pass and at the step",
        )  # fmt: skip
    else:
        yield Finding(
            "clipped", reading.names(list(left)), evidence,
            f"Clipping leaves {median:.1e} of the gradient.",
            "Clip at a norm that few batches exceed (1 is common), or not at all.",
            "exact: .grad after the backward pass and at the step",
        )  # fmt: skip


def _thrown_away(reading: Reading) -> Iterator[Finding]:
    found = reading.network.get("thrown_away") or {}
    left = sorted(reading.evidence.median("left").values())
    # where gradients are read in between, and put together by hand, the step finds more than the last pass made
    if not found.get("share", 0) >= MOST or not left or left[len(left) // 2] > UNCHANGED:
        return
    yield Finding(
        "grad_zeroed", reading.names(reading.trained), {**found, "threshold": MOST},
        "Gradients are cleared between the backward passes of one step: of "
        f"{found['passes']} passes only the last one counts.",
        "Call optimizer.zero_grad() once for each step, after it, and not before each backward pass.",
        "exact: .grad before each backward pass",
    )  # fmt: skip


def _clamped(reading: Reading) -> Iterator[Finding]:
    """Clamped inside the backward pass, by hooks of parameters, so that the step finds what the pass has made."""
    values = reading.evidence.median("left").values()
    if not reading.evenness >= EVEN or reading.learned or any(value < LEFT for value in values):
        return
    yield Finding(
        "clipped", reading.names(reading.trained), {"mean_to_largest": reading.evenness, "threshold": EVEN},
        f"Nearly all elements of the weights' gradients have one size: the mean is {reading.evenness:.2f} of the "
        "largest, as if each were clamped.",
        "Look for hooks that clamp gradients and for clip_grad_value_: use a limit that few elements exceed, or "
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).",
        "measured: sound trainings stay below .4",
    )  # fmt: skip


def _loss_scale(reading: Reading) -> Iterator[Finding]:
    scale = reading.network.get("loss_scale")
    if scale is None or not 0 < abs(scale) < _SCALE or reading.learned:
        return
    yield Finding(
        "loss_scale",
        (),
        {"factor": scale, "threshold": _SCALE},
        f"The loss is multiplied by {scale:.1e} before its backward pass, so the gradients are as much smaller.",
        "Take the factor out, or divide by the number of accumulated batches only.",
        "exact: the graph of the loss",
    )


def _update_lost(reading: Reading) -> Iterator[Finding]:
    limit = _EPSILON.get(str(reading.history.conditions.get("dtype")))
    update = reading.median_update()
    if limit is None or not update < limit or reading.learned:
        return
    yield Finding(
        "update_lost",
        reading.names(list(reading.update)),
        {"median_update": update, "threshold": limit},
        f"Steps are lost in the number format: a step is {update:.1e} of a weight, and "
        f"{reading.history.conditions['dtype']} rounds away what is below {limit:.1e}.",
        "Keep the weights in float32 and use autocast for the computation.",
        "half a unit in the last place of the format",
    )
