"""A run for a program: its verdict, what is found wrong, and the rows of its table, as JSON and CSV."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pandas as pd

from gradprobe.decide.diagnosis import diagnose
from gradprobe.decide.explain import explain
from gradprobe.decide.findings import with_default_flags
from gradprobe.record.csv_tables import write_csv
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.points import Points
from gradprobe.show.headline import verdict
from gradprobe.verdict.arms_comparison import ArmsComparison
from gradprobe.verdict.comparison import Comparison


def result_frame(history: GradientHistory, placement: Placement) -> pd.DataFrame:
    """One row for each layer, in depth order, with what was measured and decided.

    Returns:
        Columns ``layer, depth, kind, parameters``, one for each quantity, ``unreached``, ``flagged``, ``point``
        (the name of the point whose branch serves the layer, or empty).
    """
    table = history.summary()
    served = {layer: point.name for point in placement.points for layer in point.layers}
    table["flagged"] = table["layer"].isin(list(placement.flagged))
    table["point"] = [served.get(name, "") for name in table["layer"]]
    return table


def ends_of_loss(history: GradientHistory) -> tuple[float | None, ...]:
    """The loss at the first and at the last iteration, None where it was not finite; empty where it is not known.

    Example:
        >>> from gradprobe.record.history import tidy
        >>> ends_of_loss(GradientHistory(tidy([]), {"losses": [2.5, 1.5, None]}, (), (), None))
        (2.5, None)
    """
    seen = history.evidence.network.get("losses") if history.evidence is not None else None
    losses = history.conditions.get("losses") or seen
    return (losses[0], losses[-1]) if losses else ()


def losses_in_words(history: GradientHistory) -> list[str]:
    """The same in words."""
    return ["not finite" if loss is None else f"{loss:.4g}" for loss in ends_of_loss(history)]


def weight_table(history: GradientHistory) -> pd.DataFrame:
    """One row for each weight of recurrent layers, in depth order: its gradient and update, medians of the window.

    Returns:
        Columns ``weight`` (its name in the network), ``layer``, ``gradient``, ``update``.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> layer = Layer("rnn", 0, "RNN", 9, weights=("rnn.weight_hh_l0",))
        >>> rows = [(0, "rnn.weight_hh_l0", 0, "weight", 0.5, 0.5, 0.5, 0.0, 0)]
        >>> weight_table(GradientHistory(tidy(rows), {}, (layer,), (), None)).to_dict("list")
        {'weight': ['rnn.weight_hh_l0'], 'layer': ['rnn'], 'gradient': [0.5], 'update': [nan]}
    """
    gradients = history.single_weights()
    updates = history.evidence.median("update") if history.evidence is not None else {}
    rows = [
        (row, layer.name, float(gradients.get(row, math.nan)), updates.get(row, math.nan))
        for layer in history.layers
        for row in layer.weights
    ]
    return pd.DataFrame(rows, columns=["weight", "layer", "gradient", "update"])


def as_json(history: GradientHistory, placement: Placement, comparison: Comparison | None = None) -> str:
    """One JSON object: the verdict and the causes that the diagnosis found, the conditions, the decision and rows.

    ``gradients`` has what the gradients alone show, as the 1e-7 rule of CNDS does.

    Example:
        >>> from gradprobe.record.history import Layer, tidy
        >>> rows = [(0, "a", 0, "output", 1e-9, 0, 0, 0, 0), (0, "b", 1, "output", 1e-3, 0, 0, 0, 0)]
        >>> layers = (Layer("a", 0, "Linear", 9), Layer("b", 1, "Linear", 9))
        >>> history = GradientHistory(tidy(rows), {}, layers, (), None)
        >>> record = json.loads(as_json(history, Placement("by hand", ("a",), (), "so")))
        >>> record["verdict"], record["findings"], [found["layers"] for found in record["gradients"]]
        ('unclear', [], [['a']])
    """
    said, diagnosis = verdict(history, placement, comparison), diagnose(history)
    result: dict[str, Any] = {
        "verdict": diagnosis.verdict,
        "sentence": said.sentence,
        "step": said.step,
        "findings": [_plain(asdict(finding)) for finding in diagnosis.findings],
        "gradients": [asdict(finding) for finding in explain(history, with_default_flags(history, placement))],
        "conditions": dict(history.conditions),
        "placement": placement.to_dict(),
        "layers": _json_rows(result_frame(history, placement)),
        "weights": _json_rows(weight_table(history)),
    }
    if comparison is not None:
        result["comparison"] = {
            "verdict": comparison.verdict,
            "metric": comparison.metric.to_dict(),
            "sentences": str(comparison).splitlines(),
            "conditions": dict(comparison.conditions),
            "gradient": _json_rows(comparison.gradient.reset_index(names="layer")),
        }
    return json.dumps(result, indent=2, allow_nan=False)


def as_csv(history: GradientHistory, placement: Placement) -> str:
    """The rows of `result_frame`."""
    return write_csv(result_frame(history, placement))


def arms_json(result: ArmsComparison) -> str:
    """Several arms as one JSON object: the conditions, the decision, which arm to use and why, a row for each."""
    record = {
        "conditions": {**result.plain.conditions, **result.conditions},
        "placement": result.placement.to_dict(),
        "best": result.best,
        "metric": result.metric.to_dict(),
        "sentences": list(result.choice.sentences),
        "next_step": result.next_step and result.next_step.lines,
        "arms": _json_rows(result.summary),
    }
    return json.dumps(record, indent=2, allow_nan=False)


def arms_csv(result: ArmsComparison) -> str:
    """A row for each arm."""
    return write_csv(result.summary)


def points_record(points: Points) -> dict[str, Any]:
    """The supervision points for a program: plain JSON types."""
    return {"points": [asdict(point) for point in points], "unserved": dict(points.unserved)}


def points_csv(points: Points) -> str:
    """One row for each layer: the point that serves it, or the reason why none does."""
    rows = [(name, point.name, "") for point in points for name in point.layers]
    rows += [(name, "", why) for name, why in points.unserved.items()]
    return write_csv(pd.DataFrame(rows, columns=["layer", "point", "unserved"]))


def _plain(value: Any) -> Any:
    """Nested values as plain JSON types."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else _json_value(value)


def _json_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain JSON types."""
    return [{str(key): _json_value(value) for key, value in row.items()} for row in table.to_dict("records")]


def _json_value(value: Any) -> Any:
    """A cell as a plain JSON type: NaN as None, and inf as a string, because JSON has neither.

    Example:
        >>> import numpy as np
        >>> _json_value(0.5), _json_value(float("nan")), _json_value(float("-inf")), _json_value(np.int64(3))
        (0.5, None, '-inf', 3)
    """
    if not isinstance(value, float):
        return value.item() if hasattr(value, "item") else value
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)
