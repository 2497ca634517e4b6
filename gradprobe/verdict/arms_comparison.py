"""Several arms compared: the record of their trainings, a table, and which one to use. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from gradprobe.decide.policies import place
from gradprobe.record.conditions import describe_conditions
from gradprobe.record.files.fields import at, mapping, tuple_of
from gradprobe.record.history import GradientHistory
from gradprobe.record.html import block, paragraph, small, table, title
from gradprobe.record.placement import Placement
from gradprobe.record.text import printable
from gradprobe.verdict.arm import NONE, Arm
from gradprobe.verdict.choice import Choice, Contest, choose_arm
from gradprobe.verdict.judge import arm_result, standard_error
from gradprobe.verdict.metric import Metric, metric_of
from gradprobe.verdict.next_step import Step, next_step

_MISSING = float("nan")


@dataclass(frozen=True, eq=False)
class ArmsComparison:
    """The same training with several arms (policies and remedies), and which of them to use.

    Attributes:
        plain: Gradients of the network as it is, over the window, first seed.
        arms: The arms, in the order that they were asked for; ``"none"`` is the first.
        frame: As that of `gradprobe.Comparison`, of every training. An arm that does what another does
            (`Arm.like`) has no rows of its own.
        conditions: Iterations, window, seeds, weight, schedule, branch, and what is measured on held-out data:
            ``metric`` with its name, its direction and its value before the training.
    """

    plain: GradientHistory
    arms: tuple[Arm, ...]
    frame: pd.DataFrame
    conditions: Mapping[str, Any]

    @cached_property
    def _contest(self) -> Contest:
        return Contest(self.arms, self.frame, self.conditions)

    @cached_property
    def choice(self) -> Choice:
        """Which arm to use, and how sure that is."""
        return choose_arm(self._contest)

    @property
    def best(self) -> str:
        """Name of the arm to use; ``"none"`` where nothing is clearly better than the network as it is."""
        return self.choice.arm

    @property
    def placement(self) -> Placement:
        """What to do, as a decision: the branches or the remedy of the best arm, with its sentences as the reason.

        What is flagged is what CNDS' rule flags in the network as it is.
        """
        best = next(arm for arm in self.arms if arm.name == self.best)
        flagged = place(self.plain)
        weights = best.placement.weights if best.placement is not None else None
        reason = " ".join(self.choice.sentences)
        return replace(flagged, points=best.points, remedy=best.remedy, reason=reason, weights=weights)

    @property
    def next_step(self) -> Step | None:
        """The command or the lines to type next; None where nothing is to be done."""
        return next_step(self.choice, self.placement, self.conditions)

    @property
    def held_out(self) -> bool:
        """Whether the arms are judged by something that was measured on held-out data, else by training loss."""
        return self.metric.held_out

    @property
    def metric(self) -> Metric:
        """What the arms are judged by."""
        return metric_of(self.frame, self.conditions)

    @property
    def summary(self) -> pd.DataFrame:
        """One row for each arm.

        Returns:
            Columns ``arm, did``; ``mean`` of what the arms are judged by (`metric`) in the end, and its
            standard ``error`` over the seeds; ``difference`` to none in the same unit (above zero is better), and
            its standard error, ``difference_error``; ``verdict`` on it, ``likely ...`` where it is not beyond the
            noise for all pairs of arms together; ``windows`` that the decision took,
            ``seconds`` of a training; ``failed``, in words.
        """
        return pd.DataFrame([self._row(arm) for arm in self.arms])

    def _row(self, arm: Arm) -> dict[str, Any]:
        trained = arm.like or arm.name  # whose trainings stand for it
        failed = "; ".join(f"{where}: {why}" for where, why in arm.failed.items())
        costs = {"windows": arm.windows, "seconds": _MISSING if arm.seconds is None else arm.seconds}
        numbers, verdict = self._numbers(trained), self._verdict(trained)
        return {"arm": arm.name, "did": arm.did, **numbers, "verdict": verdict, **costs, "failed": failed}

    def _verdict(self, name: str) -> str:
        if name == NONE:
            return ""
        return self._contest.verdict(name) if name in self._contest.arms else "failed"

    def _numbers(self, name: str) -> dict[str, float]:
        if name not in set(self.frame["arm"]):
            return dict.fromkeys(_NUMBERS, _MISSING)
        result = arm_result(self.frame[self.frame["arm"] == name], self.conditions, self.metric)
        error = standard_error(result.values) if len(result.values) > 1 else _MISSING
        pair = self._contest.judge_pair(NONE, name) if name in self._contest.arms and name != NONE else None
        differences = (pair.difference, pair.error) if pair else (_MISSING, _MISSING)
        return dict(zip(_NUMBERS, (result.mean, error, *differences), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the tables."""
        return {
            "best": self.best,
            "metric": self.metric.to_dict(),
            "sentences": list(self.choice.sentences),
            "next_step": self.next_step and self.next_step.lines,
            "conditions": dict(self.conditions),
            "arms": [arm.to_dict() for arm in self.arms],
        }

    @classmethod
    def from_dict(cls, plain: GradientHistory, frame: pd.DataFrame, record: Mapping[str, Any]) -> ArmsComparison:
        """The reverse of `to_dict`; what is read is checked."""
        arms = at(record, "arms", tuple_of(Arm.from_dict))
        unknown = set(frame["arm"]) - {arm.name for arm in arms}
        if NONE not in [arm.name for arm in arms] or unknown:
            raise ValueError(f"expected trainings of the arms in run.json, with {NONE!r}; got {sorted(unknown)}")
        return cls(plain, arms, frame, at(record, "conditions", mapping))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ArmsComparison):
            return NotImplemented
        mine, theirs = ((one.plain, one.arms, one.conditions) for one in (self, other))
        return mine == theirs and self.frame.equals(other.frame)

    __hash__ = None  # type: ignore[assignment]

    def _repr_html_(self) -> str:
        return arms_html(self)

    def __str__(self) -> str:
        head, *rows = self.table()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = (zip(row, widths, strict=True) for row in (head, *rows))
        text = ["  ".join(cell.ljust(width) for cell, width in line).rstrip() for line in lines]
        step = [] if self.next_step is None else [str(self.next_step)]
        return printable("\n".join([*text, *self.failures, *self.choice.sentences, *step]))

    @property
    def failures(self) -> list[str]:
        """What failed and why, a sentence for each failure."""
        return [f"{arm.name} failed ({where}): {why}" for arm in self.arms for where, why in arm.failed.items()]

    def table(self) -> list[tuple[str, ...]]:
        """The summary as text: the head, then a row for each arm."""
        what = {"training loss": "loss", "loss": "held-out loss"}.get(self.metric.name, self.metric.short)
        head = ("arm", "what it did", what, "better by", "verdict", "windows", "seconds")
        return [head, *(_cells(row) for row in self.summary.to_dict("records"))]


_NUMBERS = ("mean", "error", "difference", "difference_error")


def _cells(row: Mapping[Any, Any]) -> tuple[str, ...]:
    mean, difference = _measured(row["mean"], row["error"]), _measured(row["difference"], row["difference_error"])
    seconds = "" if math.isnan(row["seconds"]) else f"{row['seconds']:.3g}"
    return row["arm"], row["did"], mean, difference, row["verdict"], f"{row['windows']:g}", seconds


def _measured(value: float, error: float) -> str:
    """A number and its standard error.

    Example:
        >>> _measured(0.9512, 0.0123), _measured(0.5, float("nan")), _measured(float("nan"), float("nan"))
        ('0.951 ± 0.012', '0.5', '')
    """
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "not finite"
    return f"{value:.3g}" + ("" if math.isnan(error) else f" ± {error:.2g}")


def arms_html(result: ArmsComparison) -> str:
    """Several arms: which one to use, and the table."""
    head, *rows = result.table()
    sentences = [*result.choice.sentences, *result.failures]
    parts = [title(f"{len(rows)} arms: use {result.best}"), *map(paragraph, sentences), table(head, rows)]
    return block([*parts, small(describe_conditions(result.plain.conditions))])
