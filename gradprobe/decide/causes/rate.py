"""Causes in the size of the steps: too large, too small, and what grows without bound."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradprobe.decide.causes.facts import Reading
from gradprobe.decide.causes.finding import Finding
from gradprobe.decide.causes.steps import LEFT
from gradprobe.decide.onset import onset
from gradprobe.record.quantities import short

LARGE = 0.3  # of a weight in one step: You et al. 2017 (LARS) train at 1e-3 to 1e-2
SMALL = 1e-4  # sound scripts move a weight by 3.2e-4 at least in the median
SMALLEST_SOUND = 3e-4
TURN = 0.9  # squared mean gradient over mean squared gradient: sound scripts reach .80
FALLS = 0.2  # of the loss
GREW = 10.0
CLIPPED = 0.1  # of the gradient, where steps are too small
GROWING = 1.5  # the last learning rate to the first
_SHORT = 10  # iterations: of fewer noisy losses nobody can say that they do not fall
_LONG = 20  # iterations, after which a network that learns has learned more than a constant
_USUAL = 0.1  # of the standard deviation 1/sqrt(fan_in), which keeps the size of the signal (LeCun et al. 1998)
_BEGAN = 30.0  # times the loss of a constant answer, or times the input: He's rule keeps both near 1


def causes(reading: Reading) -> Iterator[Finding]:
    """The findings of this kind."""
    yield from _too_large(reading)
    yield from _too_small(reading)


def _too_large(reading: Reading) -> Iterator[Finding]:
    usual = _of_usual_size(reading)
    if len(usual) > 1:  # a last layer alone may learn that fast: its weights are few and begin small
        usual.discard(reading.trained[-1])
    updates = {name: update for name, update in reading.largest_update.items() if name in usual}
    largest = max(updates.values(), default=0.0)
    frame = reading.history.frame
    nonfinite = bool((frame["nonfinite"] > 0).fillna(False).any()) or None in reading.losses
    grew = (
        _began_large(reading) or nonfinite or reading.end > GREW * max(abs(reading.start), reading.constant or 0.0)
    )
    if grew:
        yield _grown(reading, largest, nonfinite)
    elif largest > LARGE and not reading.learned and _does_not_fall(reading):
        layers = [name for name, update in updates.items() if update > LARGE]
        yield Finding(
            "lr_high", reading.names(layers),
            {"largest_update": largest, "threshold": LARGE, "trend": reading.trend},
            f"Steps are too large: one moves the weights of {reading.span(reading.names(layers))} by "
            f"{times(largest)} their size, and the loss does not fall.",
            "Lower the learning rate by a factor of 10, or warm it up.",
            "You et al. 2017 (LARS): healthy updates are 1e-3 to 1e-2 of a weight",
        )  # fmt: skip


def times(update: float) -> str:
    """An update in words, to be followed by what it is of.

    Example:
        >>> times(1.2345e-5), times(0.3), times(240.0)
        ('1.2e-5 of', '0.3 of', '240 times')
    """
    number = short(float(f"{update:.2g}"))
    return f"{number} times" if update > 1 else f"{number} of"


def _does_not_fall(reading: Reading) -> bool:
    count = len(reading.losses)
    return count >= _LONG or (count >= _SHORT and reading.trend < 2)


def _of_usual_size(reading: Reading) -> set[str]:
    """Layers whose weights did not begin at almost nothing, as adapters do: any step moves those."""
    return {
        name
        for name, facts in reading.facts.items()
        if facts.get("std") and facts["std"] * facts["fan_in"] ** 0.5 > _USUAL
    }


def _grown(reading: Reading, largest: float, nonfinite: bool) -> Finding:
    first = reading.evidence.frame
    early = first[first["iteration"] <= 1]["update"].dropna()
    steps = float(early.median()) if len(early) else math.nan
    began = onset(reading.history) if nonfinite else None
    where = f" ({began})" if began else ""
    evidence = {"loss_start": reading.start, "first_updates": steps, "threshold": LARGE, "largest_update": largest}
    if steps > LARGE and not _began_large(reading):
        return Finding(
            "lr_high", tuple(reading.trained), evidence,
            f"Steps are too large: the first ones move the weights by {times(steps)} their size, and the loss "
            "grows.",
            "Lower the learning rate by a factor of 10, or warm it up.",
            "You et al. 2017 (LARS): healthy updates are 1e-3 to 1e-2 of a weight",
        )  # fmt: skip
    return Finding(
        "exploding", tuple(reading.trained), evidence,
        "The training explodes: "
        f"{'NaN or infinity appears' if nonfinite else 'the loss grows without bound'}{where}.",
        "Clip the gradient norm (torch.nn.utils.clip_grad_norm_), lower the learning rate, and look "
        "at the initial "
        "weights: of a recurrent layer an orthogonal matrix of gain 1.",
        "Pascanu et al., On the difficulty of training recurrent neural networks, 2013",
    )  # fmt: skip


def _began_large(reading: Reading) -> bool:
    """Whether the signal grows over the layers before the first step, and the loss begins far too high."""
    frame = reading.evidence.frame
    first = frame[frame["iteration"] == frame["iteration"].min()].dropna(subset=["rms"])
    sizes = dict(zip(first["layer"], first["rms"], strict=True))
    order = reading.ordered(sizes)
    if len(order) < 3 or reading.constant is None or reading.learned:
        return False
    grows = sizes[order[-1]] > _BEGAN * max(sizes[order[0]], 1.0)
    return grows and reading.start > _BEGAN * reading.constant


def _too_small(reading: Reading) -> Iterator[Finding]:
    update, turns = reading.median_update(), sorted(reading.fact("turn").values())
    turn = turns[len(turns) // 2] if turns else math.nan
    limit = SMALLEST_SOUND if reading.stands_still else SMALL
    is_small = update < limit and not reading.fell > FALLS
    is_straight = turn > TURN and not math.isnan(reading.fell) and abs(reading.fell) < 0.1
    if reading.learned or not (is_small or is_straight) or reading.history.conditions.get("default_optimizer"):
        return
    if _is_warming_up(reading):
        return
    left = sorted(reading.evidence.median("left").values())
    if is_small and left and LEFT <= left[len(left) // 2] < CLIPPED and not _is_scale_free(reading):
        yield _clipped_small(reading, left[len(left) // 2], update)
        return
    if is_small:
        why = f"each moves the weights by only {times(update)} their size"
    else:
        why = f"the gradient keeps its direction ({turn:.2f} of 1) while the loss falls by {reading.fell:.1%}"
    yield Finding(
        "lr_low", tuple(reading.trained),
        {"median_update": update, "update_threshold": limit, "turn": turn,
         "turn_threshold": TURN, "fell": reading.fell},
        f"Steps are too small: {why}.", "Raise the learning rate by a factor of 10, or use Adam.",
        "You et al. 2017 (LARS); 136 scripts measured",
    )  # fmt: skip


def _clipped_small(reading: Reading, left: float, update: float) -> Finding:
    return Finding(
        "clipped", tuple(reading.trained),
        {"left_of_the_gradient": left, "threshold": CLIPPED, "median_update": update},
        f"Clipping leaves {left:.1e} of the gradient, and steps are too small: each moves the weights by only "
        f"{times(update)} their size.",
        "Clip at a norm that few batches exceed (1 is common), or not at all.",
        "exact: .grad after the backward pass and at the step",
    )  # fmt: skip


def _is_scale_free(reading: Reading) -> bool:
    """Whether all optimizers divide by the size of the gradient, so that clipping changes nothing."""
    kinds = [str(one.get("kind")) for one in reading.network.get("optimizers") or ()]
    return bool(kinds) and all("SGD" not in kind for kind in kinds)


def _is_warming_up(reading: Reading) -> bool:
    """Whether the learning rate grows over the window, so that it is small on purpose."""
    rates = [(one.get("lr"), one.get("last_lr")) for one in reading.network.get("optimizers") or ()]
    return any(None not in (first, last) and last > GROWING * first for first, last in rates)
