"""The curves of a training: their names, colours and smoothing, for figures and for the page. No matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gradprobe.show.colours import FINE, FLAGGED
from gradprobe.verdict.arm import ARMS, NONE
from gradprobe.verdict.metric import ACCURACY, TRAINING_LOSS, Metric

if TYPE_CHECKING:
    import pandas as pd

    from gradprobe.verdict.arms_comparison import ArmsComparison


@dataclass(frozen=True)
class Look:
    """How the curves of an arm are drawn."""

    arm: str
    text: str
    colour: str
    marker: str
    line: Literal["-", "--"] = "-"


LOOKS = (
    Look("plain", "without", FLAGGED, "s", "--"),
    Look("supervised", "with deep supervision", FINE, "o"),
)
VALUES = ("loss", "metric")
# an arm has the same look in every figure: one of Okabe and Ito's colours with a marker, each pair once
_COLOURS = ("#666666", "#0072b2", "#56b4e9", "#882255", "#e69f00", "#007a5a", "#d55e00", "#cc79a7", "#222222")
_MARKERS = ("s", "o", "^", "v", "D", "P", "X", "<", ">", "p")
ARM_LOOKS = {
    name: (_COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]) for index, name in enumerate(ARMS)
}


def arm_looks(result: ArmsComparison) -> list[Look]:
    """How the trained arms are drawn, each labelled with the names of all arms that do the same."""
    trained = [arm.name for arm in result.arms if arm.like is None]
    same = {name: [name, *(arm.name for arm in result.arms if arm.like == name)] for name in trained}
    return [
        Look(name, " = ".join(same[name]), *ARM_LOOKS[name], "--" if name == NONE else "-") for name in trained
    ]


def checked_value(value: str, metric: Metric) -> str:
    """The column of a frame that shows this value.

    Raises:
        ValueError: If no learning curve shows it.
    """
    allowed = ["loss", "accuracy", "metric"] if metric in (ACCURACY, TRAINING_LOSS) else list(VALUES)
    if value not in allowed:
        raise ValueError(f"expected one of {allowed}, got {value!r}")
    return "metric" if value == "accuracy" else value


def chance(conditions: Mapping[str, Any], metric: Metric, value: str) -> float | None:
    """The accuracy of a constant answer, where an accuracy is drawn."""
    return conditions.get("chance") if value == "metric" and metric == ACCURACY else None


def value_title(value: str, metric: Metric) -> str:
    """A value in words; a metric with its direction where that does not go without saying."""
    measured = metric if metric.held_out else ACCURACY
    return "training loss" if value == "loss" else measured.described


def finite_curves(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """One row for each iteration with a finite value, one column for each seed."""
    table = rows.set_index(["iteration", "seed"])[value].unstack()
    return table.where(np.isfinite(table)).dropna(how="all")


def rolling_length(count: int) -> int:
    """Length of the rolling mean: an odd number, about a twentieth of the iterations.

    Example:
        >>> rolling_length(10), rolling_length(50), rolling_length(600)
        (1, 3, 31)
    """
    return 2 * (count // 40) + 1


def capitalised(text: str) -> str:
    """With a capital letter first; the others are left as they are."""
    return text[:1].upper() + text[1:]


def curve_label(frame: pd.DataFrame, value: str, metric: Metric) -> str:
    """What a learning curve shows, for the axis of a figure."""
    length = rolling_length(int(frame["iteration"].nunique()))
    return value_title(value, metric) + (f", rolling mean of {length}" if value == "loss" and length > 1 else "")
