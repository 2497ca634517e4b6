"""Whether a difference between two trainings is beyond the noise. Plain numbers, no torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import pandas as pd

from gradprobe.record.text import counted

PLAIN_AND_SUPERVISED = ("plain", "supervised")
VERDICTS = ("helped", "harmed", "no difference", "cannot tell", "nothing to compare")
SIGNIFICANCE = 0.05  # two-sided: 95 %
SAME_BATCHES = (
    "Give batches that can be gone through again alike (a list, or a function that seeds what it draws)."
)
SHARED_WEIGHTS = "All seeds began from the same weights: give a class or `build_model()` for weights of their own."


@dataclass(frozen=True)
class Outcome:
    """What a comparison of two arms comes to.

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
class ArmResult:
    """How one arm fared.

    Attributes:
        held_out: Whether its values are accuracies on held-out data, else they are training losses.
        values: How each seed ended.
        progress: What each seed gained over not training.
        error: The noise that is left within one training.
        learnt: Whether it gained anything beyond that noise: in accuracy, on one of the seeds at least.
        improving: Whether it was still gaining in the end.
    """

    held_out: bool
    values: tuple[float, ...]
    progress: tuple[float, ...]
    error: float
    learnt: bool
    improving: bool

    @property
    def what(self) -> str:
        """The quantity in words."""
        return "held-out accuracy" if self.held_out else "training loss"

    @property
    def mean(self) -> float:
        """How it ended, the mean over the seeds."""
        return sum(self.values) / len(self.values)


def judge(frame: pd.DataFrame, conditions: Mapping[str, Any]) -> Outcome:
    """Compare the main outputs of both arms, by held-out accuracy if it was taken, else by training loss.

    A difference counts if it exceeds the noise within a training and either is significant over the seeds (paired,
    Student's t, 95 %) or one arm gained at least twice what the other did on every seed. A smaller difference on a
    single seed is no verdict: another seed may reverse it.

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
    pair = judge_pair(frame, conditions, *PLAIN_AND_SUPERVISED)
    return Outcome(pair.verdict, pair.difference, pair.error, _sentences(pair, conditions))


@dataclass(frozen=True)
class PairOutcome:
    """Two arms compared.

    Attributes:
        first: How the first fared.
        second: How the second fared.
        difference: Second minus first, in accuracy or (sign turned) in loss: above zero is better.
        error: Its standard error.
        verdict: What the second did in place of the first: one of `VERDICTS`.
        significant: Whether the difference is beyond the spread over the seeds.
    """

    first: ArmResult
    second: ArmResult
    difference: float
    error: float
    verdict: str
    significant: bool


def judge_pair(
    frame: pd.DataFrame, conditions: Mapping[str, Any], first: str, second: str, pairs: int = 1
) -> PairOutcome:
    """Compare two arms over the seeds that both have; see `judge` for what counts.

    Args:
        frame: As for `judge`.
        conditions: As for `judge`.
        first: Name of an arm.
        second: Name of another.
        pairs: How many pairs of arms are compared: the significance level is divided among them (Bonferroni).
    """
    seeds = set.intersection(*(set(frame.loc[frame["arm"] == arm, "seed"]) for arm in (first, second)))
    shared = frame[frame["seed"].isin(seeds)]
    held_out = bool(frame["accuracy"].notna().any())
    one, other = (arm_result(shared[shared["arm"] == arm], conditions, held_out) for arm in (first, second))
    sign = 1 if held_out else -1
    differences = [sign * (b - a) for a, b in zip(one.values, other.values, strict=True)]
    # few seeds may agree by chance, so the error is at least what the noise within each training gives
    within = math.hypot(one.error, other.error) / math.sqrt(len(differences))
    error = max(standard_error(differences), within)
    difference = sum(differences) / len(differences)
    verdict, significant = _verdict(one, other, difference, error, conditions.get("same_batches", True), pairs)
    return PairOutcome(one, other, difference, error, verdict, significant)


def _verdict(
    first: ArmResult, second: ArmResult, difference: float, error: float, same: bool, pairs: int
) -> tuple[str, bool]:
    """The verdict, and whether the difference is significant over the seeds."""
    if not (same and (first.learnt or second.learnt)):
        return "cannot tell", False
    seeds = len(first.values)
    if abs(difference) <= _noise(pairs) * error:
        return "no difference", False
    significant = seeds > 1 and abs(difference) > critical_t(seeds - 1, SIGNIFICANCE / pairs) * error
    better, worse = (second, first) if difference > 0 else (first, second)
    doubled = all(more >= 2 * max(less, 0.0) for more, less in zip(better.progress, worse.progress, strict=True))
    if not (significant or doubled):
        return ("cannot tell" if seeds == 1 else "no difference"), False
    return ("helped" if difference > 0 else "harmed"), significant


def _noise(pairs: int) -> float:
    """How many standard errors a difference has to exceed in any case: 2 for one pair of arms, more for many."""
    return max(2.0, NormalDist().inv_cdf(1 - SIGNIFICANCE / pairs / 2))


@functools.cache
def critical_t(freedom: int, tails: float) -> float:
    """The critical value of Student's t: its absolute value exceeds it with this probability.

    The finite sums for whole degrees of freedom are those of Abramowitz and Stegun, 26.7.3 and 26.7.4.

    Args:
        freedom: Degrees of freedom, at least 1.
        tails: The probability of both tails together.

    Example:
        >>> [round(critical_t(freedom, 0.05), 3) for freedom in (1, 2, 10)]
        [12.706, 4.303, 2.228]
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _probability_within(middle, freedom) > 1 - tails else (middle, high)
    return math.sqrt(freedom) * math.tan(low)


def _probability_within(angle: float, freedom: int) -> float:
    """The probability that Student's t lies between -x and x, for x = sqrt(freedom) tan(angle)."""
    odd, sine, cosine = freedom % 2, math.sin(angle), math.cos(angle)
    total, term = 0.0, cosine if odd else 1.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def arm_result(rows: pd.DataFrame, conditions: Mapping[str, Any], held_out: bool) -> ArmResult:
    """How one arm fared, by held-out accuracy or by training loss, from its rows."""
    return _accuracy(rows, conditions) if held_out else _loss(rows)


def _accuracy(rows: pd.DataFrame, conditions: Mapping[str, Any]) -> ArmResult:
    size, chance = conditions["held_out"], conditions["chance"]
    measured = rows[rows["accuracy"].notna()]
    curves = [curve["accuracy"].tolist() for _, curve in measured.groupby("seed")]
    last = tuple(curve[-1] for curve in curves)
    mean = sum(last) / len(last)
    error = math.sqrt(max(mean * (1 - mean), 1 / size) / size)
    earlier = sum(curve[max(0, len(curve) * 3 // 4 - 1)] for curve in curves) / len(curves)
    learnt = max(last) > chance + 3 * math.sqrt(chance * (1 - chance) / size)
    progress = tuple(value - chance for value in last)
    return ArmResult(True, last, progress, error, learnt, mean - earlier > 2 * error)


def _loss(rows: pd.DataFrame) -> ArmResult:
    curves = [curve["loss"].tolist() for _, curve in rows.groupby("seed")]
    tenth = min(len(curves[0]), max(5, len(curves[0]) // 10))  # fewer would not show the noise
    quarter = max(tenth, len(curves[0]) // 4)
    starts = [_mean(curve[:tenth]) for curve in curves]
    before = [_mean(curve[-quarter:][:tenth]) for curve in curves]
    ends = tuple(_mean(curve[-tenth:]) for curve in curves)
    error = max(1e-6, _mean([standard_error(curve[-tenth:]) for curve in curves]))
    learnt = _mean(starts) - _mean(ends) > max(2 * error, 0.01)
    progress = tuple(
        start - end if math.isfinite(end) else -math.inf for start, end in zip(starts, ends, strict=True)
    )
    return ArmResult(False, ends, progress, error, learnt, _mean(before) - _mean(ends) > 2 * error)


def _mean(values: Sequence[float]) -> float:
    """The mean; a value that is not finite makes it infinite: a loss cannot be worse."""
    return sum(values) / len(values) if all(map(math.isfinite, values)) else math.inf


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean; 0 where there are too few values, or not all are finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return 0.0
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))


def _sentences(pair: PairOutcome, conditions: Mapping[str, Any]) -> tuple[str, ...]:
    plain, supervised, error = pair.first, pair.second, pair.error
    seeds = counted(len(plain.values), "seed")
    numbers = (
        f"after {conditions['iterations']} iterations the {plain.what} of the main output is "
        f"{supervised.mean:.3g} with and {plain.mean:.3g} without (standard error {error:.2g}, {seeds})."
    )
    if not conditions.get("same_batches", True):
        return (f"The two trainings did not see the same batches, so this cannot tell: {numbers} {SAME_BATCHES}",)
    if not (plain.learnt or supervised.learnt):
        return (
            f"Neither network learnt, so this cannot tell: {numbers} Train longer (--iterations), or look at the "
            "learning rate, the initialisation or normalisation first.",
        )
    sentence = {
        "helped": f"It helped: {numbers}",
        "harmed": f"It harmed: {numbers}",
        "no difference": f"It did not help beyond the noise: {numbers}",
        "cannot tell": f"One seed cannot tell: {numbers} Repeat with more (--seeds 3).",
    }[pair.verdict]
    more = "At least one of them was still improving: a longer run may turn out otherwise."
    sentences = (sentence, more) if plain.improving or supervised.improving else (sentence,)
    if len(plain.values) > 1 and not conditions.get("own_weights", True):
        return (*sentences, SHARED_WEIGHTS)
    return sentences
