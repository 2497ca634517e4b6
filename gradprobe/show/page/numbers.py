"""The numbers that the page draws, as JSON with packed arrays, small enough for a thousand layers."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradprobe.decide.diagnosis import diagnose
from gradprobe.decide.findings import with_default_flags
from gradprobe.record.evidence import BY_DEPTH
from gradprobe.record.history import AGGREGATES, GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.quantities import CNDS_THRESHOLD, label, short
from gradprobe.record.text import shorten
from gradprobe.show.colours import VIRIDIS
from gradprobe.show.curves import (
    LOOKS,
    VALUES,
    Look,
    arm_looks,
    capitalised,
    chance,
    curve_label,
    finite_curves,
    rolling_length,
    value_title,
)
from gradprobe.show.grid import Grid, recorded_quantity

if TYPE_CHECKING:
    import pandas as pd

    from gradprobe.verdict.arms_comparison import ArmsComparison
    from gradprobe.verdict.comparison import Comparison
    from gradprobe.verdict.metric import Metric

MAX_CURVE_POINTS = 1000  # iterations that a learning curve is drawn with
STATISTICS = ("rms", "max_abs", "zero_fraction", "nonfinite")


def page_data(
    history: GradientHistory,
    placement: Placement,
    comparison: Comparison | None,
    several: ArmsComparison | None = None,
) -> dict[str, Any]:
    """Everything that the scripts of the page read, as plain JSON types.

    Arrays are little-endian floats in base64, see `_packed`. A layer is its row in depth order.
    """
    placement = with_default_flags(history, placement)
    arms = {"Without deep supervision" if comparison and comparison.supervised else "": history}
    if comparison is not None and comparison.supervised is not None:
        arms["With deep supervision"] = comparison.supervised
    row_of = {layer.name: row for row, layer in enumerate(history.layers)}
    quantities = [of for of in history.of if all(of in arm.of for arm in arms.values())]
    return {
        "names": [layer.name for layer in history.layers],
        "shorts": [shorten(layer.name, 24) for layer in history.layers],
        "kinds": [layer.kind for layer in history.layers],
        "parameters": [layer.parameters for layer in history.layers],
        "unreached": [dict(layer.unreached) for layer in history.layers],
        "missing": [{of: layer.missing(of) for of in layer.unreached} for layer in history.layers],
        "weights": _single_weights(history),
        "flagged": [row_of[name] for name in placement.flagged if name in row_of],
        "points": _points(history, placement),
        "quantities": {of: label(of) for of in quantities},
        "aggregates": list(AGGREGATES),
        "decided": decided(history, placement),
        "signal": _signal(history),
        "finding": {"layers": found_rows(history), "sentence": signal_sentence(history)},
        "arms": [_arm(name, arm, quantities, list(row_of)) for name, arm in arms.items()],
        "learning": _learning(comparison, several),
        "colours": list(VIRIDIS),
    }


def _single_weights(history: GradientHistory) -> dict[str, Any]:
    """The weights of recurrent layers: the row of the layer of each, its name there, and its numbers."""
    known = [
        (row, layer, weight)
        for row, layer in enumerate(history.layers)
        if "weight" in history.of
        for weight in layer.weights
    ]
    names = [weight for _, _, weight in known]
    updates = {} if history.evidence is None else history.evidence.median("update")
    return {
        "rows": [row for row, _, _ in known],
        "names": [weight.removeprefix(layer.name).removeprefix(".") for _, layer, weight in known],
        "aggregates": {how: _packed(history.single_weights(how).reindex(names), "<f8") for how in AGGREGATES},
        "update": _packed(np.array([updates.get(name, math.nan) for name in names]), "<f8"),
    }


def found_rows(history: GradientHistory) -> list[int]:
    """The rows of the layers of the first finding of the diagnosis."""
    findings = diagnose(history).findings
    names = set(findings[0].layers) if findings else set()
    return [row for row, layer in enumerate(history.layers) if layer.name in names]


def signal_sentence(history: GradientHistory) -> str:
    """What spread, share and update are at the ends of the network; empty where they were not recorded."""
    table = history.by_depth
    said = []
    for name, at in (("spread", "last"), ("share", "first")):
        known = table[name].dropna()
        if len(known):
            said.append(f"{name} {short(known.iloc[-1 if at == 'last' else 0])} at the {at} layer")
    updates = table["update"].dropna()
    if len(updates):
        said.append(f"a step moves a layer's weights by {short(updates.min())} to {short(updates.max())} of them")
    sentence = "; ".join(said)
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def _signal(history: GradientHistory) -> dict[str, str] | None:
    if history.evidence is None:
        return None
    table = history.by_depth
    return {name: _packed(table[name], "<f8") for name in BY_DEPTH}


def decided(history: GradientHistory, placement: Placement) -> dict[str, Any]:
    """The absolute rule that the page begins with: that of the placement, as far as it is known.

    A placement does not say how the iterations were aggregated, so this takes the first aggregation that flags the
    same layers.

    Example:
        >>> from gradprobe.record.history import tidy
        >>> decided(GradientHistory(tidy([]), {}, (), (), None), Placement("by hand", (), (), ""))
        {'of': 'output', 'threshold': 1e-07, 'aggregate': 'median'}
    """
    of = recorded_quantity(history, placement.of)
    threshold = CNDS_THRESHOLD if placement.threshold is None else placement.threshold
    how = next((how for how in AGGREGATES if _flags(history, of, how, threshold) == placement.flagged), "median")
    return {"of": of, "threshold": threshold, "aggregate": how}


def _flags(history: GradientHistory, of: str, how: str, threshold: float) -> tuple[str, ...]:
    magnitudes = history.aggregate(of, how)
    return tuple(map(str, magnitudes.index[magnitudes < threshold]))


def _points(history: GradientHistory, placement: Placement) -> list[dict[str, Any]]:
    chosen = {point.name for point in placement.points}
    known = {point.name: point for point in (*history.points, *placement.points)}
    depths = [layer.depth for layer in history.layers]
    return [
        {
            "name": point.name,
            "short": shorten(point.name, 24),
            "shape": list(point.shape),
            "row": int(np.searchsorted(depths, point.depth)),
            "branch": point.name in chosen,
        }
        for point in known.values()
    ]


def _arm(title: str, history: GradientHistory, quantities: list[str], names: list[str]) -> dict[str, Any]:
    return {
        "title": title,
        "iterations": sorted(map(int, history.frame["iteration"].unique())),
        "of": {of: _quantity(history, of, names) for of in quantities},
    }


def _quantity(history: GradientHistory, of: str, names: list[str]) -> dict[str, Any]:
    """The magnitudes of one quantity, and their aggregates, so that the page computes none itself."""
    grid = Grid.of(history, of)
    rows = {name: row for row, name in enumerate(grid.names)}
    order = [rows[name] for name in names]
    with np.errstate(divide="ignore"):
        logs = np.log10(np.where(grid.nonfinite, np.inf, grid.values))
    table = history.select(of).groupby("layer", sort=False)
    columns = {name: table[name].sum() if name == "nonfinite" else table[name].median() for name in STATISTICS}
    return {
        "logs": _packed(logs[order], "<f4"),
        "aggregates": {how: _packed(history.aggregate(of, how).reindex(names), "<f8") for how in AGGREGATES},
        "statistics": {name: _packed(column.reindex(names), "<f4") for name, column in columns.items()},
    }


def _packed(values: pd.Series[Any] | NDArray[np.float64], dtype: str) -> str:
    """Base64 of the numbers; a missing one is NaN.

    Example:
        >>> _packed(np.array([1.0, 0.0]), "<f4")
        'AACAPwAAAAA='
    """
    array: NDArray[Any] = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        return base64.b64encode(array.astype(dtype).tobytes()).decode("ascii")


# how the main output learnt -------------------------------------------------------------------------------------

_COLOURS = {"plain": "flagged", "supervised": "fine"}  # of the style sheet; every other arm has its own there


def _learning(comparison: Comparison | None, several: ArmsComparison | None) -> list[dict[str, Any]]:
    if several is not None:
        return _curves(several.frame, several.conditions, several.metric, arm_looks(several))
    return [] if comparison is None else _curves(comparison.frame, comparison.conditions, comparison.metric, LOOKS)


def _curves(
    frame: pd.DataFrame, conditions: Mapping[str, Any], metric: Metric, looks: Sequence[Look]
) -> list[dict[str, Any]]:
    measured = [value for value in VALUES if np.isfinite(frame[value].astype(float)).any()]
    return [_curve(frame, conditions, metric, value, looks) for value in measured]


def _curve(
    frame: pd.DataFrame, conditions: Mapping[str, Any], metric: Metric, value: str, looks: Sequence[Look]
) -> dict[str, Any]:
    length = rolling_length(int(frame["iteration"].nunique())) if value == "loss" else 1
    return {
        "title": capitalised(value_title(value, metric)),
        "label": curve_label(frame, value, metric),
        "chance": chance(conditions, metric, value),
        "seeds": int(frame["seed"].nunique()),
        "markers": value == "metric",
        "arms": [
            {
                "name": look.text,
                "colour": _COLOURS.get(look.arm, f"arm-{look.arm}"),
                **_smoothed(frame[frame["arm"] == look.arm], value, length),
            }
            for look in looks
        ],
    }


def _smoothed(rows: pd.DataFrame, value: str, length: int) -> dict[str, list[float]]:
    """Mean and range over the seeds of the rolling mean, thinned where there are very many iterations."""
    table = finite_curves(rows, value).rolling(length, min_periods=1, center=True).mean()
    table = table.iloc[:: max(1, math.ceil(len(table) / MAX_CURVE_POINTS))].dropna(how="all")
    columns = {"mean": table.mean(axis=1), "low": table.min(axis=1), "high": table.max(axis=1)}
    curves = {name: [float(f"{number:.5g}") for number in column] for name, column in columns.items()}
    return {"iterations": [int(iteration) for iteration in table.index], **curves}
