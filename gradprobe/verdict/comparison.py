"""A training with and without deep supervision: the record of both, and what it says. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from gradprobe.record.conditions import describe_conditions
from gradprobe.record.csv_tables import read_cells
from gradprobe.record.history import GradientHistory
from gradprobe.record.html import bars, block, legend, paragraph, small, span_of, title
from gradprobe.record.placement import Placement
from gradprobe.record.quantities import label
from gradprobe.record.text import counted, layer_span, shorten
from gradprobe.verdict.judge import NOTHING, Outcome, judge

COLUMNS = ("seed", "arm", "iteration", "loss", "accuracy")


@dataclass(frozen=True, eq=False)
class Comparison:
    """The same training with and without deep supervision, and whether it helped.

    Attributes:
        plain: Gradients without branches, over the window, first seed.
        supervised: Gradients with them, or None if no branch was placed.
        placement: The placement that was tried.
        frame: Columns ``seed, arm, iteration, loss, accuracy``: loss of the main output at every iteration,
            accuracy of the main output on held-out data where it was taken, else NaN.
        conditions: Iterations, seeds, weight, schedule, branch, size of the held-out data, and which of the
            flagged layers the same policy would still flag with the branches in place.
    """

    plain: GradientHistory
    supervised: GradientHistory | None
    placement: Placement
    frame: pd.DataFrame
    conditions: Mapping[str, Any]

    @property
    def gradient(self) -> pd.DataFrame:
        """Flagged layers: median magnitude without and with, and their ratio.

        Over the first sixth of the training at most, where the branches' weight is still near its first value.
        Where none is flagged (`gradprobe.EveryLayerPolicy`): the layers that the branches serve.

        Returns:
            Indexed by layer, columns ``without, with, ratio``.
        """
        served = {name for point in self.placement.points for name in point.layers}
        named = list(self.placement.flagged) or [layer.name for layer in self.plain.layers if layer.name in served]
        without = _first(self.plain, self.early).aggregate().reindex(named)
        with_ = _first(self.supervised or self.plain, self.early).aggregate().reindex(named)
        return pd.DataFrame({"without": without, "with": with_, "ratio": with_ / without})

    @property
    def early(self) -> int:
        """Over how many iterations `gradient` is taken."""
        length = int(self.conditions.get("iterations", 6 * self.plain.iterations))
        return max(1, min(self.plain.iterations, length // 6))

    @property
    def outcome(self) -> Outcome:
        """How the main output fared, by held-out accuracy where there is some, else by training loss."""
        if self.supervised is None:
            return NOTHING
        return judge(self.frame, self.conditions)

    @property
    def verdict(self) -> str:
        """``helped``, ``harmed``, ``no difference``, ``cannot tell`` or ``nothing to compare``."""
        return self.outcome.verdict

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the tables."""
        return {
            "verdict": self.verdict,
            "sentences": str(self).splitlines(),
            "conditions": dict(self.conditions),
            "supervised": None if self.supervised is None else self.supervised.to_dict(),
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Comparison):
            return NotImplemented
        mine = (self.plain, self.supervised, self.placement, self.conditions)
        theirs = (other.plain, other.supervised, other.placement, other.conditions)
        return mine == theirs and self.frame.equals(other.frame)

    __hash__ = None  # type: ignore[assignment]

    def _repr_html_(self) -> str:
        return comparison_html(self)

    def __str__(self) -> str:
        return "\n".join([*_gradient_sentences(self), *self.outcome.sentences])


def _gradient_sentences(comparison: Comparison) -> list[str]:
    table = comparison.gradient.dropna()
    if comparison.supervised is None or table.empty:
        return []
    order = [layer.name for layer in comparison.plain.layers]
    which = layer_span([str(name) for name in table.index], order, _short)
    still = list(comparison.conditions.get("still_flagged", []))
    flagged = bool(comparison.placement.flagged)
    verb = _flagged_verb(table["ratio"], still) if flagged else _supervised_verb(table["ratio"])
    kind = "flagged layer" if flagged else "supervised layer"
    change = (
        f"The gradient {verb}: {label('output')} of the {counted(len(table), kind)} "
        f"({which}) is {_times(table['ratio'].min(), table['ratio'].max())} what it was "
        f"(median over the first {counted(comparison.early, 'iteration')})."
    )
    if not still:
        return [change]
    names = layer_span(still, order, _short)
    left = names if len(still) == 1 else f"{len(still)} of them ({names})"
    return [change, f"By the same rule {left} would still be flagged: --repeat places more branches."]


def _flagged_verb(ratios: pd.Series[float], still_flagged: list[str]) -> str:
    if ratios.min() < 2:
        return "did not come back"
    return "rose" if still_flagged or ratios.min() < 10 else "came back"


def _supervised_verb(ratios: pd.Series[float]) -> str:
    return "rose" if ratios.median() >= 2 else "hardly changed"


def _first(history: GradientHistory, iterations: int) -> GradientHistory:
    """The beginning of a history."""
    return replace(history, frame=history.frame[history.frame["iteration"] < iterations])


def _short(name: str) -> str:
    return shorten(name, 24)


def _times(low: float, high: float) -> str:
    """A range of ratios, three digits each.

    Example:
        >>> _times(18.94, 2345.6), _times(30.0, 30.0)
        ('18.9 to 2350 times', '30 times')
    """
    first, last = (f"{float(f'{ratio:.3g}'):g}" for ratio in (low, high))
    return f"{first} times" if first == last else f"{first} to {last} times"


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
    rows = [
        (int(row["seed"]), row["arm"], int(row["iteration"]), _number(row["loss"]), _number(row["accuracy"]))
        for row in read_cells(text).to_dict("records")
    ]
    return learning_frame(rows)


def _number(text: str) -> float:
    return float(text) if text else float("nan")


def comparison_html(comparison: Comparison) -> str:
    """A comparison: the verdict, the sentences, and the gradient by depth without and with, on one scale."""
    arms = {"without deep supervision": comparison.plain, "with deep supervision": comparison.supervised}
    parts = [title(f"comparison: {comparison.verdict}"), *map(paragraph, str(comparison).splitlines())]
    of, flagged = comparison.plain.main_quantity, set(comparison.placement.flagged)
    if of is not None:
        medians = {name: arm.aggregate(of) for name, arm in arms.items() if arm is not None}
        layers, span = [layer.name for layer in comparison.plain.layers], span_of(list(medians.values()))
        for name, values in medians.items():
            caption = f"{name}: {legend(values, layers, of, flagged, 'flagged')}"
            parts += [bars(values, layers, of, flagged, span), small(caption)]
    return block([*parts, small(describe_conditions(comparison.plain.conditions))])
