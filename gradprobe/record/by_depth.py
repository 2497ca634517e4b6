"""How signal, gradient and steps arrive at each layer: spread, share and update by depth. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from gradprobe.record.history import GradientHistory

BY_DEPTH = ("spread", "share", "update")


def by_depth(history: GradientHistory) -> pd.DataFrame:
    """Spread, share and update of every layer, medians over the window; NaN where a number is missing.

    ``spread``: how far the layer's output depends on the input, 1 for all of it. ``share``: the L2 norm of
    dL/d(the layer's output) over that of the last layer's. ``update``: how far a step moves the layer's weights,
    relative to their norm. None of them depends on the scale of the loss, its reduction or the batch size; update
    does with SGD.

    Returns:
        A column for each of `BY_DEPTH`, one row for each layer, in depth order.

    Source:
        Spread: Schoenholz et al., Deep Information Propagation, 2017.

    Example:
        >>> from gradprobe.record.evidence import Evidence
        >>> from gradprobe.record.history import GradientHistory, Layer, tidy
        >>> rows = [(0, "a", 0, "output", 1, 0.25, 1, 0, 0), (0, "b", 1, "output", 1, 1.0, 1, 0, 0)]
        >>> seen = [(0, "a", 0.5, 1, 0, 0, 0, 0, 16, 1e-3, 1), (0, "b", 0.4, 1, 0, 0, 0, 0, 4, 2e-3, 1)]
        >>> layers = (Layer("a", 0, "Linear", 9), Layer("b", 1, "Linear", 9))
        >>> history = GradientHistory(tidy(rows), {}, layers, (), None, evidence=Evidence.from_rows(seen, {}, {}))
        >>> by_depth(history).loc["a"].to_dict()
        {'spread': 0.5, 'share': 0.5, 'update': 0.001}
    """
    columns: dict[str, Any] = {name: {} for name in BY_DEPTH}
    evidence = history.evidence
    if evidence is not None:
        whole = {name: facts.get("spread_over_window") for name, facts in evidence.layers.items()}
        columns["spread"] = {
            **{n: one for n, one in whole.items() if one is not None},
            **evidence.median("spread"),
        }
        columns["share"] = shares(history).median().to_dict()
        columns["update"] = evidence.median("update")
    names = [layer.name for layer in history.layers]
    return pd.DataFrame({name: pd.Series(column, dtype=float).reindex(names) for name, column in columns.items()})


def shares(history: GradientHistory) -> pd.DataFrame:
    """The share of the gradient that arrives at each layer: a row for each iteration, a column for each layer.

    The L2 norm of dL/d(its output), of the whole batch, over that of the last layer: rms times the square root of
    the number of elements. Only for iterations in which the evidence was taken.
    """
    evidence, frame = history.evidence, history.frame
    if evidence is None:
        return pd.DataFrame()
    rows = frame[(frame["of"] == "output") & frame["rms"].notna()]
    sizes = evidence.frame[["iteration", "layer", "elements"]].dropna()
    joined = rows.merge(sizes, on=["iteration", "layer"])
    joined = joined.assign(norm=joined["rms"] * joined["elements"] ** 0.5)
    norms = joined.pivot(index="iteration", columns="layer", values="norm")
    order = [layer.name for layer in history.layers if layer.name in norms.columns]
    return norms[order].div(norms[order[-1]], axis=0) if order else norms
