"""A training with and without deep supervision: the record of both, and what it says. Plain data, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradprobe.record.conditions import describe_conditions
from gradprobe.record.csv_tables import numbers, read_cells, whole_numbers
from gradprobe.record.history import GradientHistory
from gradprobe.record.html import bars, block, legend, paragraph, small, span_of, title
from gradprobe.record.placement import Placement
from gradprobe.record.quantities import label
from gradprobe.record.text import counted, layer_span, printable, shorten
from gradprobe.verdict.judge import Outcome, judge
from gradprobe.verdict.metric import ACCURACY, Metric, metric_of

COLUMNS = ("seed", "arm", "iteration", "loss", "accuracy", "metric")


@dataclass(frozen=True, eq=False)
class Comparison:
    """The same training with and without deep supervision, and whether it helped.

    Attributes:
        plain: Gradients without branches, over the window, first seed.
        supervised: Gradients with them, or None if no branch was placed.
        placement: The placement that was tried.
        frame: Columns ``seed, arm, iteration, loss, accuracy, metric``: the loss of the main output at every
            iteration; its metric on held-out data where that was taken, else NaN, and infinitely bad where it was
            no finite number; ``accuracy`` is the same where the metric is the accuracy, else NaN.
        conditions: Iterations, seeds, weight, schedule, branch; what is measured on held-out data (``metric``: its
            name, direction, and value before the training for each seed); and which of the flagged layers the same
            policy would still flag with the branches in place.
    """

    plain: GradientHistory
    supervised: GradientHistory | None
    placement: Placement
    frame: pd.DataFrame
    conditions: Mapping[str, Any]

    @property
    def gradient(self) -> pd.DataFrame:
        """Flagged layers: median magnitude without and with over the whole window, and their ratio.

        Where none is flagged (`gradprobe.EveryLayerPolicy`): the layers that the branches serve.

        Returns:
            Indexed by layer, columns ``without, with, ratio``.
        """
        served = {name for point in self.placement.points for name in point.layers}
        named = list(self.placement.flagged) or [layer.name for layer in self.plain.layers if layer.name in served]
        without = self.plain.aggregate().reindex(named)
        with_ = (self.supervised or self.plain).aggregate().reindex(named)
        return pd.DataFrame({"without": without, "with": with_, "ratio": with_ / without})

    @property
    def metric(self) -> Metric:
        """What the arms are judged by."""
        return metric_of(self.frame, self.conditions)

    @property
    def outcome(self) -> Outcome:
        """How the main output fared, by what was measured on held-out data, else by training loss."""
        if self.supervised is None:
            return Outcome("nothing to compare", 0.0, 0.0, (_nothing(self),))
        return judge(self.frame, self.conditions)

    @property
    def verdict(self) -> str:
        """``helped``, ``harmed``, ``no difference``, ``cannot tell`` or ``nothing to compare``."""
        return self.outcome.verdict

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the tables."""
        return {
            "verdict": self.verdict,
            "metric": self.metric.to_dict(),
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

    @property
    def offer(self) -> str:
        """What to run where no branch was placed, or empty: a command line, or a call."""
        call = "gp.compare_arms(model, batches, loss_fn)"
        return "" if self.supervised is not None else str(self.conditions.get("other_arms", call))

    @property
    def sentences(self) -> list[str]:
        """What came of it: the gradient, the main output, and what limits the conclusion."""
        return [*_gradient_sentences(self), *self.outcome.sentences]

    def __str__(self) -> str:
        return printable("\n".join([*self.sentences, *filter(None, [self.offer])]))


def _nothing(comparison: Comparison) -> str:
    """That no branch was placed, where the training ended, and what can be compared all the same."""
    ended, asked = int(comparison.frame["iteration"].nunique()), comparison.conditions.get("iterations")
    rest = (
        f" The training ended after {counted(ended, 'iteration')}." if asked is not None and ended < asked else ""
    )
    return (
        f"No branch was placed, so there is nothing to compare.{rest} The remedy that the diagnosis names, and "
        "branches where they are usual, can be compared all the same:"
    )


def _gradient_sentences(comparison: Comparison) -> list[str]:
    table = comparison.gradient.dropna()
    if comparison.supervised is None or table.empty:
        return []
    order = [layer.name for layer in comparison.plain.layers]
    which = layer_span([str(name) for name in table.index], order, _short)
    still = list(comparison.conditions.get("still_flagged", []))
    flagged = bool(comparison.placement.flagged)
    over_time = _ratio_over_time(comparison.plain, comparison.supervised, table.index)
    ratio, low, high = table["ratio"].median(), over_time.min(), over_time.max()
    verb = _flagged_verb(table["ratio"], still) if flagged else _supervised_verb(ratio)
    kind = "flagged layer" if flagged else "supervised layer"
    spread = f"; {_times(low, high)} from iteration to iteration" if _times(low, low) != _times(high, high) else ""
    times = "no longer exactly zero" if math.isinf(ratio) else _what_it_was(ratio)
    change = (
        f"The gradient {verb}: {label('output')} of the {counted(len(table), kind)} ({which}) is {times} "
        f"(median over {counted(len(over_time), 'iteration')}{spread})."
    )
    if ratio > 1 > low:
        above = int((over_time > 1).sum())
        others = "the other" if len(over_time) - above == 1 else "the others"
        change += f" It is higher in {above} of them and lower in {others}."
    if not still:
        return [change]
    names = layer_span(still, order, _short)
    left = names if len(still) == 1 else f"{len(still)} of them ({names})"
    return [change, f"By the same rule {left} would still be flagged: --repeat places more branches."]


def _ratio_over_time(plain: GradientHistory, supervised: GradientHistory, names: pd.Index) -> pd.Series[float]:
    """With over without in each iteration that both have: the median over these layers."""
    tables = [
        one.select("output").pivot(index="iteration", columns="layer", values="mean_abs")[list(names)]
        for one in (plain, supervised)
    ]
    ratio: pd.Series[float] = (tables[1] / tables[0]).median(axis=1).dropna()
    return ratio


def _flagged_verb(ratios: pd.Series[float], still_flagged: list[str]) -> str:
    if ratios.min() < 2:
        return "did not come back"
    return "rose" if still_flagged or ratios.min() < 10 else "came back"


def _supervised_verb(ratio: float) -> str:
    return "rose" if ratio >= 2 else "fell" if ratio <= 0.5 else "changed little"


def _what_it_was(ratio: float) -> str:
    times = _times(ratio, ratio)
    return "as large as it was" if times == "1 times" else f"{times} what it was"


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


def learning_frame(rows: list[tuple[int, str, int, float, float]], metric: Metric = ACCURACY) -> pd.DataFrame:
    """The frame of a comparison.

    Args:
        rows: Seed, arm, iteration, loss, and the metric's value or NaN.
        metric: Which one it is: the column ``accuracy`` has its values only if it is that.
    """
    seed, arm, iteration, loss, values = zip(*rows, strict=True) if rows else ((),) * 5
    measured = pd.array(list(values), dtype="float64")
    missing = pd.array([float("nan")] * len(values), dtype="float64")
    return pd.DataFrame(
        {
            "seed": pd.array(list(seed), dtype="int64"),
            "arm": pd.Series(list(arm), dtype=str),
            "iteration": pd.array(list(iteration), dtype="int64"),
            "loss": pd.array(list(loss), dtype="float64"),
            "accuracy": measured if metric == ACCURACY else missing,
            "metric": measured.copy(),
        }
    )


def read_learning(text: str) -> pd.DataFrame:
    """The frame of a comparison from its CSV text; exact. Older versions knew the accuracy alone.

    Raises:
        ValueError: If it is no such table.
    """
    cells = read_cells(text)
    older = "metric" not in cells
    missing = {*COLUMNS[:5], *(() if older else COLUMNS)} - set(cells)
    if missing:
        raise ValueError(f"expected the columns {', '.join(COLUMNS)}; missing: {', '.join(sorted(missing))}")
    accuracy = numbers(cells["accuracy"])
    values = accuracy if older else numbers(cells["metric"])
    seeds, iterations = whole_numbers(cells["seed"]), whole_numbers(cells["iteration"])
    frame = learning_frame([*zip(seeds, cells["arm"], iterations, numbers(cells["loss"]), values, strict=True)])
    if frame.duplicated(["seed", "arm", "iteration"]).any():
        raise ValueError("a row is there twice")
    if not older:
        frame["accuracy"] = pd.array(accuracy, dtype="float64")
    return frame


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
