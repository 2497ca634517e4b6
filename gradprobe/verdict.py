"""Whether a difference between two trainings is one: the honest half of a comparison. Plain numbers, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

ARMS = ("plain", "supervised")
VERDICTS = ("helped", "harmed", "no difference", "cannot tell", "nothing to compare")
# two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


@dataclass(frozen=True)
class Outcome:
    """What a comparison says of learning.

    Attributes:
        verdict: One of `VERDICTS`.
        difference: Supervised minus plain, in accuracy or (sign turned) in loss: above zero is better.
        error: Its standard error.
        sentences: The same in words.
    """

    verdict: str
    difference: float
    error: float
    sentences: tuple[str, ...]


NOTHING = Outcome("nothing to compare", 0.0, 0.0, ("No branch was placed, so there is nothing to compare.",))


@dataclass(frozen=True)
class _Measured:
    """How one arm fared.

    ``values`` is the outcome and ``progress`` what it gained over not training, a number for each seed. ``error``
    is the noise that is left within one training.
    """

    what: str
    values: tuple[float, ...]
    progress: tuple[float, ...]
    error: float
    learnt: bool
    improving: bool

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)


def judge(frame: pd.DataFrame, conditions: Mapping[str, Any]) -> Outcome:
    """Compare the main outputs of both arms, by held-out accuracy if it was taken, else by training loss.

    A difference counts as one if it is significant over the seeds (paired, Student's t, 95 %), or if on every
    seed one arm gained at least twice what the other did, and it exceeds the noise within a training either way.
    A smaller difference on a single seed is no verdict: another seed may turn it round.

    Args:
        frame: Columns ``seed, arm, iteration, loss, accuracy``.
        conditions: ``iterations``, and ``held_out`` and ``chance`` where there are accuracies.

    Example:
        >>> rows = {"seed": 0, "iteration": range(40), "accuracy": float("nan")}
        >>> loss = [2.3 - 0.05 * i for i in range(40)]
        >>> plain = pd.DataFrame({**rows, "arm": "plain", "loss": 2.3})
        >>> frame = pd.concat([plain, pd.DataFrame({**rows, "arm": "supervised", "loss": loss})])
        >>> judge(frame, {"iterations": 40}).verdict
        'helped'
    """
    held_out = bool(frame["accuracy"].notna().any())
    plain, supervised = (
        _accuracy(frame[frame["arm"] == arm], conditions) if held_out else _loss(frame[frame["arm"] == arm])
        for arm in ARMS
    )
    sign = 1 if held_out else -1
    differences = [sign * (b - a) for a, b in zip(plain.values, supervised.values, strict=True)]
    difference = sum(differences) / len(differences)
    # few seeds may agree by luck: the error is never below what the noise within each training leaves
    within = math.hypot(plain.error, supervised.error) / math.sqrt(len(differences))
    error = max(_spread(differences), within)
    verdict = _verdict(plain, supervised, differences, error, conditions.get("same_batches", True))
    return Outcome(verdict, difference, error, _sentences(verdict, plain, supervised, error, conditions))


def _verdict(
    plain: _Measured, supervised: _Measured, differences: Sequence[float], error: float, same: bool
) -> str:
    if not (same and (plain.learnt or supervised.learnt)):
        return "cannot tell"
    seeds = len(differences)
    difference = sum(differences) / seeds
    if abs(difference) <= 2 * error:
        return "no difference"
    significant = seeds > 1 and abs(difference) > _student(seeds - 1) * error
    better, worse = (supervised, plain) if difference > 0 else (plain, supervised)
    doubled = all(more >= 2 * max(less, 0.0) for more, less in zip(better.progress, worse.progress, strict=True))
    if not (significant or doubled):
        return "cannot tell" if seeds == 1 else "no difference"
    return "helped" if difference > 0 else "harmed"


def _student(freedom: int) -> float:
    return _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 2.0


def _accuracy(rows: pd.DataFrame, conditions: Mapping[str, Any]) -> _Measured:
    size, chance = conditions["held_out"], conditions["chance"]
    taken = rows[rows["accuracy"].notna()]
    curves = [curve["accuracy"].tolist() for _, curve in taken.groupby("seed")]
    last = tuple(curve[-1] for curve in curves)
    mean = sum(last) / len(last)
    error = math.sqrt(max(mean * (1 - mean), 1 / size) / size)
    earlier = sum(curve[max(0, len(curve) * 3 // 4 - 1)] for curve in curves) / len(curves)
    learnt = mean > chance + 3 * math.sqrt(chance * (1 - chance) / size)
    progress = tuple(value - chance for value in last)
    return _Measured("held-out accuracy", last, progress, error, learnt, mean - earlier > 2 * error)


def _loss(rows: pd.DataFrame) -> _Measured:
    curves = [curve["loss"].tolist() for _, curve in rows.groupby("seed")]
    tenth = min(len(curves[0]), max(5, len(curves[0]) // 10))  # fewer tell nothing of the noise
    quarter = max(tenth, len(curves[0]) // 4)
    starts = [_mean(curve[:tenth]) for curve in curves]
    before = [_mean(curve[-quarter:][:tenth]) for curve in curves]
    ends = tuple(_mean(curve[-tenth:]) for curve in curves)
    error = max(1e-6, _mean([_spread(curve[-tenth:]) for curve in curves]))
    learnt = _mean(starts) - _mean(ends) > max(2 * error, 0.01)
    progress = tuple(
        start - end if math.isfinite(end) else -math.inf for start, end in zip(starts, ends, strict=True)
    )
    return _Measured("training loss", ends, progress, error, learnt, _mean(before) - _mean(ends) > 2 * error)


def _mean(values: Sequence[float]) -> float:
    """The mean; a value that is not finite makes it infinite: a loss cannot be worse."""
    return sum(values) / len(values) if all(map(math.isfinite, values)) else math.inf


def _spread(values: Sequence[float]) -> float:
    """Standard error of the mean; 0 where there are too few values, or not all are finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return 0.0
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def _sentences(
    verdict: str, plain: _Measured, supervised: _Measured, error: float, conditions: Mapping[str, Any]
) -> tuple[str, ...]:
    seeds = "1 seed" if len(plain.values) == 1 else f"{len(plain.values)} seeds"
    numbers = (
        f"after {conditions['iterations']} iterations the {plain.what} of the main output is "
        f"{supervised.mean:.3g} with and {plain.mean:.3g} without (standard error {error:.2g}, {seeds})."
    )
    if not conditions.get("same_batches", True):
        return (
            f"The two trainings did not see the same batches, so this cannot tell: {numbers} Give batches that "
            "can be gone through again alike (a list, or a function that seeds what it draws).",
        )
    if not (plain.learnt or supervised.learnt):
        return (
            f"Neither network learnt, so this cannot tell: {numbers} Train longer (--iterations), or look at the "
            "learning rate, the initialisation or normalisation first.",
        )
    said = {
        "helped": f"It helped: {numbers}",
        "harmed": f"It harmed: {numbers}",
        "no difference": f"It did not help beyond the noise: {numbers}",
        "cannot tell": f"One seed cannot tell: {numbers} Repeat with more (--seeds 3).",
    }[verdict]
    more = "At least one of them was still improving: a longer run may turn out otherwise."
    sentences = (said, more) if plain.improving or supervised.improving else (said,)
    if len(plain.values) > 1 and not conditions.get("own_weights", True):
        alike = "All seeds began from the same weights: give a class or `build_model()` for weights of their own."
        return (*sentences, alike)
    return sentences
