"""With and without: the record of a comparison and what it says, in words. Plain data, no torch."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradprobe.history import GradientHistory, shorten
from gradprobe.magnitude import label
from gradprobe.policies import Placement

COLUMNS = ("seed", "arm", "iteration", "loss", "accuracy")
ARMS = ("plain", "supervised")
VERDICTS = ("helped", "harmed", "no difference", "cannot tell", "nothing to compare")


@dataclass(frozen=True, eq=False)
class Comparison:
    """The same training with and without deep supervision, and whether it helped.

    Attributes:
        plain: Gradients without branches, over the window, first seed.
        supervised: Gradients with them, or None if no branch was placed.
        placement: The placement that was tried.
        frame: Columns ``seed, arm, iteration, loss, accuracy``: loss of the main output at every iteration,
            accuracy of the main output on held-out data where it was taken, else NaN.
        conditions: Iterations, seeds, weight, schedule, branch, size of the held-out data.
    """

    plain: GradientHistory
    supervised: GradientHistory | None
    placement: Placement
    frame: pd.DataFrame
    conditions: Mapping[str, Any]

    @property
    def gradient(self) -> pd.DataFrame:
        """Flagged layers: median magnitude without and with, their ratio, and whether it is back.

        Returns:
            Indexed by layer, columns ``without, with, ratio``.
        """
        flagged = list(self.placement.flagged)
        without = self.plain.aggregate().reindex(flagged)
        with_ = (self.supervised or self.plain).aggregate().reindex(flagged)
        return pd.DataFrame({"without": without, "with": with_, "ratio": with_ / without})

    @property
    def outcome(self) -> Outcome:
        """How the main output fared, by held-out accuracy where there is some, else by training loss."""
        return _outcome(self)

    @property
    def verdict(self) -> str:
        """``helped``, ``harmed``, ``no difference``, ``cannot tell`` or ``nothing to compare``."""
        return self.outcome.verdict

    def record(self) -> dict[str, Any]:
        """Plain JSON types, without the tables."""
        return {
            "verdict": self.verdict,
            "sentences": str(self).splitlines(),
            "conditions": dict(self.conditions),
            "supervised": None if self.supervised is None else self.supervised.record(),
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Comparison):
            return NotImplemented
        mine = (self.plain, self.supervised, self.placement, self.conditions)
        theirs = (other.plain, other.supervised, other.placement, other.conditions)
        return mine == theirs and self.frame.equals(other.frame)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return "\n".join([*_gradient_sentences(self), *self.outcome.sentences])


@dataclass(frozen=True)
class Outcome:
    """What the comparison says of learning.

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


def _gradient_sentences(comparison: Comparison) -> list[str]:
    if comparison.supervised is None:
        return [comparison.placement.reason]
    table = comparison.gradient
    names = [shorten(str(name), 24) for name in table.index]
    span = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    low, high = table["ratio"].min(), table["ratio"].max()
    first = (
        f"{'The gradient came back' if low >= 10 else 'The gradient changed'}: {label('output')} of the "
        f"{len(table)} flagged {'layer' if len(table) == 1 else 'layers'} ({span}) is {_times(low)}"
        f"{'' if len(table) == 1 else f' to {_times(high)}'} what it was "
        f"(median over the first {comparison.plain.iterations} iterations)."
    )
    if low >= 10:
        return [first]
    worst = shorten(str(table["ratio"].idxmin()), 24)
    verb = "did not come back" if low < 2 else "rose less than tenfold"
    return [first, f"At {worst} it {verb}."]


def _times(ratio: float) -> str:
    return f"{ratio:.3g} times" if ratio < 1000 else f"{ratio:.1e} times"


def _outcome(comparison: Comparison) -> Outcome:
    if comparison.supervised is None:
        return Outcome("nothing to compare", 0.0, 0.0, ("No branch was placed, so there is nothing to compare.",))
    held_out = comparison.frame["accuracy"].notna().any()
    measure = _accuracy if held_out else _loss
    plain, supervised = (measure(comparison, arm) for arm in ARMS)
    sign = 1 if held_out else -1
    differences = [sign * (b - a) for a, b in zip(plain.values, supervised.values, strict=True)]
    difference = sum(differences) / len(differences)
    # few seeds may agree by luck: the error is never below what each training's own noise leaves
    within = math.hypot(plain.error, supervised.error) / math.sqrt(len(differences))
    error = max(_spread(differences), within, plain.resolution)
    learnt = plain.learnt or supervised.learnt
    verdict = "no difference"
    if not learnt:
        verdict = "cannot tell"
    elif abs(difference) > 2 * error:
        verdict = "helped" if difference > 0 else "harmed"
    sentences = _learning_sentences(comparison, verdict, plain, supervised, error)
    return Outcome(verdict, difference, error, sentences)


@dataclass(frozen=True)
class _Measured:
    """One arm: a value for each seed, a standard error within a seed, the finest step, and whether it learnt."""

    what: str
    values: tuple[float, ...]
    error: float
    resolution: float
    learnt: bool
    improving: bool

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)


def _accuracy(comparison: Comparison, arm: str) -> _Measured:
    rows = comparison.frame[(comparison.frame["arm"] == arm) & comparison.frame["accuracy"].notna()]
    size = comparison.conditions["held_out"]
    chance = comparison.conditions["chance"]
    curves = [curve["accuracy"].tolist() for _, curve in rows.groupby("seed")]
    last = tuple(curve[-1] for curve in curves)
    mean = sum(last) / len(last)
    error = math.sqrt(max(mean * (1 - mean), 1 / size) / size)
    earlier = sum(curve[max(0, len(curve) * 3 // 4 - 1)] for curve in curves) / len(curves)
    learnt = mean > chance + 3 * math.sqrt(chance * (1 - chance) / size)
    return _Measured("held-out accuracy", last, error, 1 / size, learnt, mean - earlier > 2 * error)


def _loss(comparison: Comparison, arm: str) -> _Measured:
    rows = comparison.frame[comparison.frame["arm"] == arm]
    curves = [curve["loss"].tolist() for _, curve in rows.groupby("seed")]
    tenth = max(1, len(curves[0]) // 10)
    quarter = max(tenth, len(curves[0]) // 4)
    starts = [_mean(curve[:tenth]) for curve in curves]
    before = [_mean(curve[-quarter:][:tenth]) for curve in curves]
    ends = tuple(_mean(curve[-tenth:]) for curve in curves)
    error = _mean([_spread(curve[-tenth:]) for curve in curves])
    learnt = _mean(starts) - _mean(ends) > max(2 * error, 0.01)
    improving = _mean(before) - _mean(ends) > 2 * error
    return _Measured("training loss", ends, error, 1e-6, learnt, improving)


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


def _learning_sentences(
    comparison: Comparison, verdict: str, plain: _Measured, supervised: _Measured, error: float
) -> tuple[str, ...]:
    seeds = len(plain.values)
    iterations = comparison.conditions["iterations"]
    spread = f"over {seeds} seeds" if seeds > 1 else "one seed: try --seeds 3 before believing it"
    numbers = (
        f"after {iterations} iterations the {plain.what} of the main output is {supervised.mean:.3g} with and "
        f"{plain.mean:.3g} without (standard error of the difference {error:.2g}, {spread})."
    )
    said = {
        "helped": f"It helped: {numbers}",
        "harmed": f"It harmed: {numbers}",
        "no difference": f"It did not help beyond the noise: {numbers}",
        "cannot tell": f"Neither network learnt, so this cannot tell: {numbers} "
        "Train longer (--iterations), or look at the learning rate, the initialisation or normalisation first.",
    }[verdict]
    if verdict != "cannot tell" and (plain.improving or supervised.improving):
        return (said, "At least one of them was still improving: a longer run may turn out otherwise.")
    return (said,)


def learning_frame(rows: list[tuple[int, str, int, float, float]]) -> pd.DataFrame:
    """The frame of a comparison from rows in the order of `COLUMNS`."""
    seed, arm, iteration, loss, accuracy = zip(*rows, strict=True) if rows else ((),) * 5
    return pd.DataFrame(
        {
            "seed": pd.array(list(seed), dtype="int64"),
            "arm": pd.Series(list(arm), dtype=str),
            "iteration": pd.array(list(iteration), dtype="int64"),
            "loss": pd.array(list(loss), dtype="float64"),
            "accuracy": pd.array(list(accuracy), dtype="float64"),
        }
    )


def read_learning(text: str) -> pd.DataFrame:
    """The frame of a comparison from its CSV text; exact."""
    raw = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, na_filter=False)
    rows = [
        (int(row["seed"]), row["arm"], int(row["iteration"]), _number(row["loss"]), _number(row["accuracy"]))
        for row in raw.to_dict("records")
    ]
    return learning_frame(rows)


def _number(text: str) -> float:
    return float(text) if text else float("nan")
