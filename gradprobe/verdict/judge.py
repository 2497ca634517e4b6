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
from gradprobe.verdict.metric import ACCURACY, Metric, metric_of

PLAIN_AND_SUPERVISED = ("plain", "supervised")
VERDICTS = ("helped", "harmed", "no difference", "cannot tell", "nothing to compare")
SIGNIFICANCE = 0.05  # two-sided: 95 %
WORTH = 0.005  # of what it was at first: a loss or metric that changed by less has not learnt, whatever its scale
SAME_BATCHES = (
    "Give batches that can be gone through again alike (a list, or a function that seeds what it draws)."
)
SHARED_WEIGHTS = "All seeds began from the same weights: give a class or `build_model()` for weights of their own."


@dataclass(frozen=True)
class Outcome:
    """What a comparison of two arms comes to.

    Attributes:
        verdict: One of `VERDICTS`.
        difference: Supervised minus plain, sign turned where lower is better: above zero is better.
        error: Its standard error.
        sentences: The same in words.
    """

    verdict: str
    difference: float
    error: float
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class ArmResult:
    """How one arm fared.

    Attributes:
        metric: What its values are.
        values: How each seed ended; infinitely bad where that was not a finite number.
        progress: What each seed gained over not training.
        error: The noise that is left within one training.
        learnt: Whether it gained anything beyond that noise: on held-out data, on one of the seeds at least.
        improving: Whether it was still gaining in the end.
    """

    metric: Metric
    values: tuple[float, ...]
    progress: tuple[float, ...]
    error: float
    learnt: bool
    improving: bool

    @property
    def mean(self) -> float:
        """How it ended, the mean over the seeds."""
        return sum(self.values) / len(self.values)

    @property
    def shown(self) -> str:
        """The same in words."""
        return f"{self.mean:.3g}" if math.isfinite(self.mean) else "not finite"


def judge(frame: pd.DataFrame, conditions: Mapping[str, Any]) -> Outcome:
    """Compare the main outputs of both arms, by what was measured on held-out data, else by training loss.

    A difference counts if it exceeds the noise within a training and either is significant over the seeds (paired,
    Student's t, 95 %) or one arm gained at least twice what the other did on every seed. A smaller difference on a
    single seed is no verdict: another seed may reverse it. The noise within a training is that of its last values
    around their trend; of an accuracy also that of so many held-out targets.

    Args:
        frame: Columns ``seed, arm, iteration, loss, metric``; see `gradprobe.Comparison`.
        conditions: ``iterations``; ``metric`` where something was measured on held-out data, and ``held_out`` and
            ``chance`` where that is an accuracy.

    Example:
        >>> rows = {"seed": 0, "iteration": range(40), "metric": float("nan")}
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
        difference: Second minus first, sign turned where lower is better: above zero is better.
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
    metric = metric_of(frame, conditions)
    one, other = (arm_result(shared[shared["arm"] == arm], conditions, metric) for arm in (first, second))
    differences = [metric.sign * (b - a) for a, b in zip(one.values, other.values, strict=True)]
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
    if not (same and (first.learnt or second.learnt)) or math.isnan(difference):
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


def arm_result(rows: pd.DataFrame, conditions: Mapping[str, Any], metric: Metric) -> ArmResult:
    """How one arm fared by a metric, from its rows."""
    return _on_held_out(rows, conditions, metric) if metric.held_out else _in_training(rows, metric)


def _on_held_out(rows: pd.DataFrame, conditions: Mapping[str, Any], metric: Metric) -> ArmResult:
    measured = rows[rows["metric"].notna()]
    curves = {seed: curve["metric"].tolist() for seed, curve in measured.groupby("seed")}
    last = tuple(curve[-1] for curve in curves.values())
    starts = [_start(seed, curve, conditions, metric) for seed, curve in curves.items()]
    progress = tuple(metric.sign * (end - start) for end, start in zip(last, starts, strict=True))
    scatter = math.sqrt(sum(scatter_around_trend(curve) ** 2 for curve in curves.values()) / len(curves))
    error = max(scatter, _sampling_error(_mean(last), conditions, metric))
    least = [
        max(2 * scatter, WORTH * abs(start), 3 * _sampling_error(start, conditions, metric)) for start in starts
    ]
    learnt = any(gain > enough for gain, enough in zip(progress, least, strict=True))
    earlier = _mean([curve[max(0, len(curve) * 3 // 4 - 1)] for curve in curves.values()])
    improving = metric.sign * (_mean(last) - earlier) > 2 * max(error, WORTH * abs(earlier))
    return ArmResult(metric, last, progress, error, learnt, improving)


def _start(seed: Any, curve: Sequence[float], conditions: Mapping[str, Any], metric: Metric) -> float:
    """What not training gives: of an accuracy that of a constant answer, else what was measured before."""
    if metric == ACCURACY:
        return float(conditions["chance"])
    known = conditions.get("metric", {}).get("start", {}).get(str(seed))
    return curve[0] if known is None else float(known)


def _sampling_error(value: float, conditions: Mapping[str, Any], metric: Metric) -> float:
    """The standard error of an accuracy on so many targets (binomial); of another metric it is not known."""
    if metric != ACCURACY or not math.isfinite(value):
        return 0.0
    size = conditions["held_out"]
    return math.sqrt(max(value * (1 - value), 1 / size) / size)


def scatter_around_trend(values: Sequence[float], last: int = 5) -> float:
    """Standard deviation of the last values around their trend, from their second differences.

    Those of a straight line are zero, and independent errors of variance v give them a variance of 6 v.

    Example:
        >>> scatter_around_trend([1, 2, 3, 4]), round(scatter_around_trend([0, 1, 0, 1, 0]), 3)
        (0.0, 0.816)
    """
    taken = [value for value in values[-last:] if math.isfinite(value)]
    second = [a - 2 * b + c for a, b, c in zip(taken, taken[1:], taken[2:], strict=False)]
    return math.sqrt(sum(value**2 for value in second) / len(second) / 6) if second else 0.0


def _in_training(rows: pd.DataFrame, metric: Metric) -> ArmResult:
    curves = [curve["loss"].tolist() for _, curve in rows.groupby("seed")]
    tenth = min(len(curves[0]), max(5, len(curves[0]) // 10))  # fewer would not show the noise
    quarter = max(tenth, len(curves[0]) // 4)
    starts = [_mean(curve[:tenth]) for curve in curves]
    before = [_mean(curve[-quarter:][:tenth]) for curve in curves]
    ends = tuple(_mean(curve[-tenth:]) for curve in curves)
    first = _mean([curve[0] for curve in curves])
    scale = abs(first) if math.isfinite(first) else 1.0
    error = max(1e-6 * scale, _mean([standard_error(curve[-tenth:]) for curve in curves]))
    learnt = _mean(starts) - _mean(ends) > max(2 * error, WORTH * scale)
    progress = tuple(
        start - end if math.isfinite(end) else -math.inf for start, end in zip(starts, ends, strict=True)
    )
    return ArmResult(metric, ends, progress, error, learnt, _mean(before) - _mean(ends) > 2 * error)


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
        f"after {conditions['iterations']} iterations the {plain.metric.described} of the main output is "
        f"{supervised.shown} with and {plain.shown} without (standard error {error:.2g}, {seeds})."
    )
    if not conditions.get("same_batches", True):
        return (f"The two trainings did not see the same batches, so this cannot tell: {numbers} {SAME_BATCHES}",)
    if all(not math.isfinite(arm.mean) for arm in (plain, supervised)):
        return (_never_finite(plain.metric),)
    if not (plain.learnt or supervised.learnt):
        return (
            f"Neither network learnt, so this cannot tell: {numbers} Train longer (--iterations), or look at the "
            "learning rate, the initialisation or normalisation first.",
        )
    one = "One seed cannot tell" if len(plain.values) == 1 else "This cannot tell"
    sentence = {
        "helped": f"It helped: {numbers}",
        "harmed": f"It harmed: {numbers}",
        "no difference": f"It did not help beyond the noise: {numbers}",
        "cannot tell": f"{one}: {numbers} Repeat with more (--seeds 3).",
    }[pair.verdict]
    more = "At least one of them was still improving: a longer run may turn out otherwise."
    sentences = (sentence, more) if plain.improving or supervised.improving else (sentence,)
    if len(plain.values) > 1 and not conditions.get("own_weights", True):
        return (*sentences, SHARED_WEIGHTS)
    return sentences


def _never_finite(metric: Metric) -> str:
    """Why nothing can be said where no arm ended with a number."""
    look = (
        "look at what it returns for a held-out batch of this model (NaN where a class does not occur?)"
        if metric.held_out and metric.name not in ("accuracy", "loss")
        else "look at the learning rate and the data first"
    )
    return f"The {metric.title} was NaN or infinite in the end in both trainings, so this cannot tell: {look}."
