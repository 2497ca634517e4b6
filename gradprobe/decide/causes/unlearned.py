"""What is looked for where no other cause was found: nothing is learned, though nothing else is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe.decide.causes.facts import NOTHING, Reading
from gradprobe.decide.causes.finding import Finding
from gradprobe.record.quantities import short

_NO_BETTER = 0.97  # of the loss of a constant answer
_NO_WORSE = 1.1
_FAR = 0.2  # of the weights, added up over the window
_TURNS, _NOISE = 0.65, 1.15  # times what independent gradients give; of what is learned slowly it is .51 at most
_SHRUNK = 0.6  # of the standard deviation that weights began with
_ALIKE = 1e-4  # of their RMS: inputs that differ by less are the same
_DECAY = 0.1  # usual are 1e-4 with SGD and 1e-2 with AdamW
_SOME = 5  # iterations


def causes(reading: Reading) -> Iterator[Finding]:
    """The findings of this kind, the surest first."""
    yield from _no_gradient(reading)
    yield from _no_input(reading)
    yield from _shrinking(reading)
    yield from _unrelated(reading)


def _no_gradient(reading: Reading) -> Iterator[Finding]:
    """The gradient is exactly zero everywhere: what is between the output and the loss has no derivative."""
    frame = reading.history.frame
    rows = frame[frame["layer"].isin(reading.trained)].dropna(subset=["max_abs"])
    if reading.history.iterations < _SOME or not len(rows) or (rows["max_abs"] > 0).any():
        return
    if not {"output", "weight"} <= set(rows["of"]):
        return
    losses = reading.finite_losses
    if losses and not any(losses):
        yield Finding(
            "loss_wrong", (), {"loss": 0.0},
            "The loss is exactly 0 in every iteration, and so is every gradient: nothing is asked of the network.",
            "Print the parts of the loss: a mask may be empty, or everything is multiplied by 0.",
            "exact: the losses and the gradients",
        )  # fmt: skip
        return
    yield Finding(
        "detached", tuple(reading.trained), {"largest_gradient": 0.0},
        "The gradient is exactly zero from the network's output on: something between the output and the loss has "
        "no derivative.",
        "Look there for round, sign, argmax, a comparison, a clamp that is always at its bound, or a mask of "
        "zeros, and use a smooth function in its place.",
        "exact: the gradients of all outputs and weights",
    )  # fmt: skip


def _no_input(reading: Reading) -> Iterator[Finding]:
    """All examples are the same."""
    given = reading.network.get("input") or {}
    between, rms = given.get("between"), given.get("rms")
    if (
        reading.history.conditions.get("batch_size") == 1
        or between is None
        or rms is None
        or between > _ALIKE * rms
        or not reading.stands_still
    ):
        return
    yield Finding(
        "input_scale", reading.names(reading.trained[:1]), {"between_examples": between, "input_rms": rms},
        f"All examples of a batch are the same when they reach the network: they differ by {short(between)}, and "
        f"their RMS is {short(rms)}.",
        "Look at a batch just before the network gets it. Division of whole numbers (x // 255) and a wrong "
        "normalisation do this.",
        "exact: the inputs of the first layer",
    )  # fmt: skip


def _shrinking(reading: Reading) -> Iterator[Finding]:
    """Weights go to zero, or are kept near it, instead of being learned."""
    before, now = reading.fact("std"), reading.fact("std_now")
    left = sorted(now[name] / before[name] for name in reading.trained if before.get(name) and name in now)
    if not left or reading.constant is None or not reading.is_long:
        return
    median = left[len(left) // 2]
    if median > _SHRUNK or not NOTHING * reading.constant <= reading.end <= _NO_WORSE * reading.constant:
        return
    decays = [one.get("weight_decay") for one in reading.network.get("optimizers") or ()]
    decay = max((float(one) for one in decays if isinstance(one, (int, float))), default=0.0)
    evidence = {"std_left": median, "threshold": _SHRUNK}
    if decay >= _DECAY:
        evidence["weight_decay"] = decay
        why = f"weight_decay={short(decay)} pulls them to zero"
        remedy = "Lower weight_decay: 1e-4 to 1e-2 is usual."
    else:
        why = "something takes them back after each step"
        remedy = "Look for what changes weights by hand, a clamp or a penalty on their size, and weaken it."
    yield Finding(
        "signal_collapse", tuple(reading.trained), evidence,
        f"The weights shrink instead of learning: {short(median)} of their standard deviation is left, since "
        f"{why}.",
        remedy,
        "Krogh and Hertz, A Simple Weight Decay Can Improve Generalization, 1991",
    )  # fmt: skip


def _unrelated(reading: Reading) -> Iterator[Finding]:
    """Labels that have nothing to do with the inputs.

    Everything works, the weights have moved far, and every batch pulls them in another direction.
    """
    count = len(reading.losses)
    turns = [(turn, reading.facts[name].get("turns_of", 16)) for name, turn in reading.fact("turn").items()]
    if reading.constant is None or not reading.is_long or not turns:
        return
    if not _NO_BETTER * reading.constant <= reading.end <= _NO_WORSE * reading.constant:
        return
    moved = reading.median_update() * count
    turned = sorted(turn * of for turn, of in turns)[len(turns) // 2]
    if (
        moved < _FAR
        or not _TURNS < turned < _NOISE
        or reading.spread_at_end < 0.1
        or reading.share_at_start < 0.01
    ):
        return
    yield Finding(
        "labels_wrong", (), {"loss": reading.end, "constant": reading.constant, "moved": moved, "turn": turned},
        f"The loss is that of a constant answer ({reading.end:.3g} against {reading.constant:.3g}), "
        "though signal, "
        "gradient and steps are as they should be: the targets seem to have nothing to do with the inputs.",
        "Look at some pairs of input and target as the loss gets them; often one of them was shuffled alone.",
        "Zhang et al., Understanding deep learning requires rethinking generalization, 2017",
    )  # fmt: skip
