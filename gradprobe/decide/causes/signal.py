"""Causes in what layers return: modes, scales, symmetry, dead and saturated units, a signal that is lost."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe.decide.causes.facts import Reading
from gradprobe.decide.causes.finding import Finding
from gradprobe.record.quantities import short

SCALE = 10.0  # RMS: initial weights are made for inputs and targets of about 1
ALIKE = 1e-3  # spread of a weight's rows: of random rows it is about 1
DEAD = 0.9  # of the units of a layer
SPREAD = 0.01  # Schoenholz et al. 2017; sound scripts stay above .037 in the window
SHARE = 1e-3  # sound scripts stay above .017 in the window
_THEORY = "Schoenholz et al., Deep Information Propagation, ICLR 2017; 136 scripts measured"


def causes(reading: Reading) -> Iterator[Finding]:
    """The findings of this kind."""
    yield from _eval_mode(reading)
    yield from _alone(reading)
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


def _alone(reading: Reading) -> Iterator[Finding]:
    layers = [name for name, share in reading.fact("alone").items() if share >= 0.5]
    if layers and not reading.learned:
        yield Finding(
            "bn_batch1", reading.names(layers), {"batch_size": 1},
            f"Batch normalisation ({reading.span(reading.names(layers))}) gets one example at a time, and "
            "subtracts what tells this one from others.",
            "Use larger batches, or GroupNorm or LayerNorm.", "exact: the inputs of the layers; Wu and He 2018",
        )  # fmt: skip


def _scales(reading: Reading) -> Iterator[Finding]:
    given = reading.network.get("input") or {}
    rms = given.get("rms") or 0.0
    if rms > SCALE and not reading.learned and not _normalised_at_once(reading):
        yield Finding(
            "input_scale", reading.names(reading.trained[:1]), {"input_rms": rms, "threshold": SCALE},
            f"The inputs are not scaled: their RMS is {rms:.3g}, and initial weights are made for about 1.",
            "Subtract the mean of each feature and divide by its standard deviation (images: divide by 255).",
            "LeCun et al., Efficient BackProp, 1998",
        )  # fmt: skip
    for use in reading.uses:
        target = use["target"]
        regression = use["loss"] in ("mse", "smooth_l1", "huber", "difference")
        if target is not None and regression and target["rms"] > SCALE and not reading.learned:
            yield Finding(
                "target_scale", (use["layer"],), {"target_rms": target["rms"], "threshold": SCALE},
                f"The targets are not scaled: their RMS is {target['rms']:.3g}, and outputs begin at about 1.",
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
    after = reading.fact("after")
    outside = {name: share for name, share in reading.fact("never_inside").items() if share >= DEAD}
    layers = [name for name in outside if after.get(name) in ("sigmoid", "tanh") and name in reading.trained]
    beyond = reading.evidence.median("beyond_3")
    layers += [
        n
        for n, share in beyond.items()
        if share >= DEAD and after.get(n) in ("sigmoid", "tanh") and n not in layers
    ]
    outputs = {
        use["layer"] for use in reading.uses
    }  # of a classifier that is sure the last sigmoid is at its ends
    layers = [name for name in layers if name not in outputs]
    if layers:
        yield Finding(
            "saturated", reading.names(layers), {"units_at_their_ends": DEAD, "threshold": DEAD},
            f"The units of {reading.span(reading.names(layers))} stay at the flat ends of their "
            f"{after[layers[0]]}, where hardly any gradient passes.",
            "Use smaller initial weights (Xavier's rule), scaled inputs, or a normalisation before "
            "the activation.",
            "Glorot and Bengio 2010",
        )  # fmt: skip


def _collapse(reading: Reading) -> Iterator[Finding]:
    spread, share = reading.spread_at_end, reading.share_at_start
    if not any(reading.spread.values()):  # the inputs are all the same, so nothing can depend on them
        spread = 1.0
    if reading.learned or not (spread < SPREAD or share < SHARE):
        return
    lost = [name for name in reading.ordered(reading.spread) if reading.spread[name] < SPREAD]
    far = [name for name in reading.ordered(reading.share) if reading.share[name] < SHARE]
    layers = reading.names(lost or far)
    yield Finding(
        "signal_collapse", layers,
        {"spread": spread, "spread_threshold": SPREAD, "share": share, "share_threshold": SHARE},
        _where_it_is_lost(reading, spread, share),
        "Initialise by LSUV or He's rule (gradprobe.remedies.lsuv(model, x)), use ReLU or tanh in "
        "place of sigmoid, "
        "or put normalisation between the layers.",
        _THEORY,
    )  # fmt: skip


def _where_it_is_lost(reading: Reading, spread: float, share: float) -> str:
    """Which of the two is lost, and how much of it is left."""
    signal = f"only {short(spread)} of the last layers' output depends on the input"
    gradient = f"only {short(share)} of the gradient arrives at the first layers"
    if spread < SPREAD and share < SHARE:
        return f"Signal and gradient are lost over the depth of the network: {signal}, and {gradient}."
    if spread < SPREAD:
        return f"The signal is lost over the depth of the network: {signal}."
    return f"The gradient is lost over the depth of the network: {gradient}."
