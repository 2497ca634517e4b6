"""Causes in what layers return: modes, scales, symmetry, dead and saturated units, a signal that is lost."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradprobe.decide.causes.facts import WELL, Reading
from gradprobe.decide.causes.finding import Finding
from gradprobe.record.quantities import short

SMALL_SCALE = 0.01  # RMS of inputs: the biases of the first layer, at about 1/sqrt(fan_in), then hide them
SCALE = 10.0  # RMS: initial weights are made for inputs and targets of about 1
ALIKE = 1e-3  # spread of a weight's rows: of random rows it is about 1
TOO_WIDE = 5.0  # times 1/sqrt(inputs); torch's own weights have .58, an orthogonal matrix of gain 1 has 1
BEYOND = 0.5  # of what goes into a sigmoid or tanh is further than 3 from 0
DEAD = 0.9  # of the units of a layer
SPREAD = 0.01  # Schoenholz et al. 2017; sound scripts stay above .037 in the window
NOTHING = 1e-5  # of a signal: what float32 leaves of it by rounding
SHARE = 1e-3  # sound scripts stay above .017 in the window
MUCH = 0.75  # of the loss of the best single number: what learns more than that, and be it the means, is not lost
SPREAD_AND_SHARE_AT_FIRST, SPREAD_AND_SHARE = (
    0.03,
    0.1,
)  # sqrt(spread * share): 237 windows of networks that learn stay above .14 at first
_THEORY = "Schoenholz et al., Deep Information Propagation, ICLR 2017; 136 scripts measured"


def causes(reading: Reading) -> Iterator[Finding]:
    """The findings of this kind."""
    yield from _eval_mode(reading)
    yield from _one_example(reading)
    yield from _scales(reading)
    yield from _symmetry(reading)
    yield from _dead(reading)
    yield from _saturated(reading)
    yield from _collapse(reading)


def _eval_mode(reading: Reading) -> Iterator[Finding]:
    share = reading.network.get("eval_mode") or 0.0
    if share >= 0.5:
        layers = [name for name, of in reading.fact("eval").items() if of >= 0.5]
        yield Finding(
            "eval_mode", reading.names(layers), {"iterations_in_eval_mode": share, "threshold": 0.5},
            "The network trains in eval mode: normalisation uses its running statistics, and dropout "
            "does nothing.",
            "Call model.train() before each epoch; an evaluation leaves the model in eval mode.",
            "exact: the training flags at the backward pass",
        )  # fmt: skip


def _one_example(reading: Reading) -> Iterator[Finding]:
    layers = [name for name, share in reading.fact("one_example").items() if share >= 0.5]
    if layers and not _learns_well(reading):
        yield Finding(
            "bn_batch1", reading.names(layers), {"batch_size": 1},
            f"Batch normalisation ({reading.span(reading.names(layers))}) gets one example at a time, and "
            "subtracts what tells this one from others.",
            "Use larger batches, or GroupNorm or LayerNorm.", "exact: the inputs of the layers; Wu and He 2018",
        )  # fmt: skip


def _learns_well(reading: Reading) -> bool:
    """Whether the loss shows it in spite of the noise that single examples make."""
    if reading.constant is not None and reading.constant > 0:
        return reading.end < WELL * reading.constant
    return reading.learned


def _scales(reading: Reading) -> Iterator[Finding]:
    given = reading.network.get("input") or {}
    rms = given.get("rms") or 1.0
    limit = SCALE if rms > 1 else SMALL_SCALE
    is_far = not SMALL_SCALE <= rms <= SCALE
    if is_far and not reading.learned and not _normalised_at_once(reading):
        yield Finding(
            "input_scale", reading.names(reading.trained[:1]), {"input_rms": rms, "threshold": limit},
            f"The inputs are not scaled: their RMS is {short(rms)}, and initial weights are made for about 1.",
            "Subtract the mean of each feature and divide by its standard deviation (images: divide by 255).",
            "LeCun et al., Efficient BackProp, 1998",
        )  # fmt: skip
    for use in reading.uses:
        rms = (use["target"] or {}).get("rms") or 1.0
        regression = use["loss"] in ("mse", "smooth_l1", "huber", "difference")
        is_small = rms < SMALL_SCALE and use["plain"] and reading.constant is not None
        if regression and (rms > SCALE or is_small) and not reading.learned:
            yield Finding(
                "target_scale", (use["layer"],),
                {"target_rms": rms, "threshold": SMALL_SCALE if is_small else SCALE},
                f"The targets are not scaled: their RMS is {short(rms)}, and outputs begin at about 1.",
                "Subtract the targets' mean and divide by their standard deviation; undo it on the output.",
                "LeCun et al., Efficient BackProp, 1998",
            )  # fmt: skip


def _normalised_at_once(reading: Reading) -> bool:
    return any("Norm" in layer.kind for layer in reading.layers[:2])


def _symmetry(reading: Reading) -> Iterator[Finding]:
    alike = reading.fact("alike_now")
    layers = [
        name
        for name in reading.trained
        if alike.get(name, 1.0) < ALIKE and reading.facts[name].get("units", 1) > 1
    ]
    if not layers:
        return
    yield Finding(
        "symmetry", reading.names(layers),
        {"spread_of_rows": max(alike[name] for name in layers), "threshold": ALIKE},
        f"The units of {reading.span(layers)} are all alike: each gets the same gradient, so they stay alike.",
        "Initialise the weights at random, each unit differently (the default of torch does).",
        "Goodfellow et al., Deep Learning, 2016, section 8.4",
    )  # fmt: skip


def _dead(reading: Reading) -> Iterator[Finding]:
    after = reading.fact("after")
    dead = {
        name: share
        for name, share in reading.fact("never_positive").items()
        if after.get(name) == "relu" and share >= DEAD and name in reading.trained
    }
    if dead and not reading.learned:
        yield Finding(
            "dead_units", reading.names(list(dead)), {"units_never_active": max(dead.values()), "threshold": DEAD},
            f"{max(dead.values()):.0%} of the units of {reading.span(reading.names(list(dead)))} were "
            "never active in the window: "
            "no gradient passes a ReLU that is always off.",
            "Use He's initialisation and small biases, a lower learning rate, or LeakyReLU.",
            "Lu et al., Dying ReLU and Initialization, 2019",
        )  # fmt: skip


def _saturated(reading: Reading) -> Iterator[Finding]:
    recurrent = {layer.name for layer in reading.layers if layer.kind.startswith(("RNN", "LSTM", "GRU"))}
    sizes = {
        name: facts["std"] * facts["fan_in"] ** 0.5 for name, facts in reading.facts.items() if facts.get("std")
    }
    large = [name for name in recurrent if sizes.get(name, 0.0) > TOO_WIDE]
    if large:
        yield Finding(
            "saturated", reading.names(large),
            {"weights_times_sqrt_fan_in": max(sizes[name] for name in large), "threshold": TOO_WIDE},
            f"The weights of {reading.span(reading.names(large))} begin at "
            f"{short(max(sizes[name] for name in large))} times 1/sqrt(inputs): the units stay at the flat ends "
            "of tanh and sigmoid.",
            "Use the default weights, or an orthogonal matrix of gain 1.", "Glorot and Bengio 2010",
        )  # fmt: skip
    after = reading.fact("after")
    outside = {name: share for name, share in reading.fact("never_inside").items() if share >= DEAD}
    layers = [name for name in outside if after.get(name) in ("sigmoid", "tanh") and name in reading.trained]
    beyond = reading.evidence.median("beyond_3")
    wide = {name for name, size in sizes.items() if size > TOO_WIDE and not reading.learned}
    layers += [
        name
        for name, share in beyond.items()
        if share >= (BEYOND if name in wide else DEAD)
        and after.get(name) in ("sigmoid", "tanh")
        and name not in layers
    ]
    outputs = {
        use["layer"] for use in reading.uses
    }  # of a classifier that is sure the last sigmoid is at its ends
    layers = [name for name in layers if name not in outputs]
    if layers:
        yield Finding(
            "saturated", reading.names(layers),
            {"units_at_their_ends": max(outside.get(name, 0.0) or beyond.get(name, 0.0) for name in layers),
             "threshold": BEYOND if wide & {*layers} else DEAD},
            f"The units of {reading.span(reading.names(layers))} stay at the flat ends of their "
            f"{after[layers[0]]}, where hardly any gradient passes.",
            "Use smaller initial weights (Xavier's rule), scaled inputs, or a normalisation before "
            "the activation.",
            "Glorot and Bengio 2010",
        )  # fmt: skip


def _collapse(reading: Reading) -> Iterator[Finding]:
    spread, share = reading.spread_at_end, reading.share_at_start
    if not reading.spread_at_start > SPREAD and not _lost_at_once(reading):
        spread = math.nan  # it is not lost on the way: the inputs themselves hardly differ
    together = (
        reading.spread_and_share_at_first < SPREAD_AND_SHARE_AT_FIRST
        and reading.spread_and_share < SPREAD_AND_SHARE
        and not math.isnan(spread)
    )
    together &= not (reading.one_number and reading.end < MUCH * reading.one_number)
    if not together and (reading.learned or not (spread < SPREAD or share < SHARE)):
        return
    if _arrived_at_first(reading):
        yield _lost_by_steps(reading, spread, share)
        return
    lost = [name for name in reading.ordered(reading.spread) if reading.spread[name] < max(SPREAD, 2 * spread)]
    far = [name for name in reading.ordered(reading.share) if reading.share[name] < max(SHARE, 2 * share)]
    yield Finding(
        "signal_collapse", reading.names(lost if spread < share else far),
        {"spread": spread, "spread_threshold": SPREAD, "share": share, "share_threshold": SHARE,
         "spread_and_share": reading.spread_and_share, "spread_and_share_threshold": SPREAD_AND_SHARE,
         "spread_and_share_at_first": reading.spread_and_share_at_first,
         "spread_and_share_at_first_threshold": SPREAD_AND_SHARE_AT_FIRST},
        _where_it_is_lost(
            spread if together or spread < SPREAD else None, share if together or share < SHARE else None
        ),
        "Initialise by LSUV or He's rule (gradprobe.remedies.lsuv(model, x)), use ReLU or tanh in "
        "place of sigmoid, or put normalisation between the layers.",
        _THEORY,
    )  # fmt: skip


def _arrived_at_first(reading: Reading) -> bool:
    """Whether signal and gradient were as they should be in the first iteration, and the signal in every layer."""
    together = reading.spread_and_share_at_first
    return SPREAD_AND_SHARE <= together <= 1 / SPREAD_AND_SHARE and min(reading.first_spread.values()) > SPREAD


def _lost_by_steps(reading: Reading, spread: float, share: float) -> Finding:
    """It arrived at the first iteration: no initialisation mends what the steps do."""
    lost = "signal" if spread < SPREAD else "gradient"
    has_norms = any("LayerNorm" in layer.kind for layer in reading.layers)
    return Finding(
        "lr_high", tuple(reading.trained),
        {"spread_and_share_at_first": reading.spread_and_share_at_first,
         "spread_and_share_at_first_threshold": SPREAD_AND_SHARE,
         "spread": spread, "spread_threshold": SPREAD, "share": share, "share_threshold": SHARE},
        f"Steps are too large: at the first iteration the {lost} arrived, and the steps lose it "
        f"({short(spread if lost == 'signal' else share)} of it is left in the median).",
        "Lower the learning rate by a factor of 10, or warm it up"
        + (", or normalise before each block and not after it (norm_first=True)." if has_norms else "."),
        "Xiong et al., On Layer Normalization in the Transformer Architecture, ICML 2020",
    )  # fmt: skip


def _lost_at_once(reading: Reading) -> bool:
    """Whether the first layers return the same for all inputs that differ: normalisation over one number does."""
    given = reading.network.get("input") or {}
    differ = (given.get("between") or 0.0) > SPREAD * (given.get("rms") or 0.0)
    return differ and reading.spread_at_start < NOTHING


def _where_it_is_lost(spread: float | None, share: float | None) -> str:
    """Which of the two is lost, and how much of it is left; None for what is not."""
    signal = f"only {short(spread or 0)} of the last layers' output depends on the input"
    gradient = f"only {short(share or 0)} of the gradient arrives at the first layers"
    if spread is not None and share is not None:
        return f"Signal and gradient are lost over the depth of the network: {signal}, and {gradient}."
    if spread is not None:
        return f"The signal is lost over the depth of the network: {signal}."
    return f"The gradient is lost over the depth of the network: {gradient}."
