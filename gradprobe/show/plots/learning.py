"""How the main output learnt, without and with deep supervision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

import gradprobe.show.plots.style as style
from gradprobe.record.conditions import describe_conditions
from gradprobe.record.text import counted
from gradprobe.show.curves import (
    LOOKS,
    Look,
    capitalised,
    chance,
    checked_value,
    curve_label,
    finite_curves,
    rolling_length,
    value_title,
)
from gradprobe.show.plots.header import header, marker_entry

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from gradprobe.verdict.comparison import Comparison
    from gradprobe.verdict.metric import Metric


def plot_learning(comparison: Comparison, *, value: str = "loss", ax: Axes | None = None) -> Axes:
    """Draw the loss of the main output, or its metric on held-out data, with and without deep supervision.

    The loss is a rolling mean; with one seed a pale line shows the loss itself. With several seeds the line
    is their mean and the band reaches from the smallest to the largest.

    Args:
        comparison: What to draw.
        value: ``"loss"`` or ``"metric"``; where the metric is the accuracy, ``"accuracy"`` is the same.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The axes.

    Raises:
        ValueError: If it is another value.
    """
    value = checked_value(value, comparison.metric)
    ax = style.axes(ax, style.panel_size(style.SCREEN))
    draw_learning(comparison, value, ax, conditions=describe_conditions(comparison.plain.conditions))
    return ax


def draw_learning(comparison: Comparison, value: str, ax: Axes, *, conditions: str) -> None:
    """Draw one value of both arms, with the conditions above."""
    style.strip_axes(ax)
    metric = comparison.metric
    drawn, entries = draw_curves(ax, comparison.frame, value, LOOKS, chance(comparison.conditions, metric, value))
    entries = [*(_entry(look, value) for look, _ in drawn), *entries]
    finish_axes(ax, comparison.frame, value, metric, conditions, entries)


def _entry(look: Look, value: str) -> Line2D:
    """The entry of an arm in a legend."""
    marker: dict[str, Any] = {"marker": look.marker, "markersize": 4.5} if value == "metric" else {}
    return Line2D([], [], color=look.colour, linewidth=1.8, linestyle=look.line, label=look.text, **marker)


def draw_curves(
    ax: Axes, frame: pd.DataFrame, value: str, looks: Sequence[Look], chance: float | None
) -> tuple[list[tuple[Look, pd.Series[float]]], list[Artist]]:
    """Draw the curves of some arms; returns those drawn with their means, and the other legend entries."""
    drawn: list[tuple[Look, pd.Series[float]]] = []
    entries: list[Artist] = []
    missing = 0
    for look in looks:
        rows = frame[frame["arm"] == look.arm]
        curves = finite_curves(rows, value)
        missing += int((~np.isfinite(rows[value].to_numpy(dtype=float))).sum()) if value == "loss" else 0
        if len(curves):
            drawn.append((look, _draw_curves(ax, curves, look, markers=value == "metric")))
    if chance is not None and drawn:
        ax.axhline(chance, color=style.GREY, linestyle=":", linewidth=1, zorder=1.5, gid="chance")
        entries.append(Line2D([], [], color=style.GREY, linestyle=":", linewidth=1, label="chance"))
    if (seeds := int(frame["seed"].nunique())) > 1:
        entries.append(Patch(facecolor=style.GREY, alpha=0.3, label=f"mean and range of {seeds} seeds"))
    if missing:
        entries.append(marker_entry("", f"NaN or inf in {counted(missing, 'iteration')}: not drawn"))
    return drawn, entries


def finish_axes(
    ax: Axes, frame: pd.DataFrame, value: str, metric: Metric, conditions: str, entries: Sequence[Artist]
) -> None:
    """Name the axes and put title, conditions and legend above them."""
    if not ax.lines:
        entries = [*entries, marker_entry("", f"no {value_title(value, metric)} was recorded")]
    style.iteration_axis(ax, np.unique(frame["iteration"].to_numpy(dtype=np.int64)))
    style.name_axis(ax.yaxis, curve_label(frame, value, metric))
    header(ax, f"{capitalised(value_title(value, metric))}, main output", conditions, entries)


def _draw_curves(ax: Axes, curves: pd.DataFrame, look: Look, *, markers: bool) -> pd.Series[float]:
    """Draw the mean of the seeds and their range; returns the mean."""
    x = curves.index.to_numpy()
    several = curves.shape[1] > 1
    if not markers:
        if not several:
            ax.plot(x, curves.iloc[:, 0], color=look.colour, alpha=0.25, linewidth=0.9, gid="raw")
        curves = curves.rolling(rolling_length(len(curves)), min_periods=1, center=True).mean()
    if several:
        ax.fill_between(x, curves.min(axis=1), curves.max(axis=1), color=look.colour, alpha=0.15, linewidth=0)
    mean: pd.Series[float] = curves.mean(axis=1)
    ax.plot(
        x,
        mean,
        color=look.colour,
        linewidth=1.8,
        linestyle=look.line,
        marker=look.marker if markers else "",
        markersize=4.5,
        clip_on=False,
        zorder=2 if look.line == "-" else 2.1,  # where two curves coincide, both can be seen
        gid="mean",
    )
    return mean
