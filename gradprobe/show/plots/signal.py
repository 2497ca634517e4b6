"""Signal, gradient and steps against depth: where each of them is lost."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch

import gradprobe.show.plots.style as style
from gradprobe.decide.causes.finding import CAUSES
from gradprobe.decide.diagnosis import diagnose
from gradprobe.record.conditions import describe_conditions
from gradprobe.record.evidence import BY_DEPTH
from gradprobe.record.history import GradientHistory, check_history
from gradprobe.show.plots.depth import layer_axis
from gradprobe.show.plots.fitting import lay_out
from gradprobe.show.plots.header import font_entries, header, marker_entry
from gradprobe.show.plots.labels import End, EndLabels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

# colour, marker and dashes, so that nothing depends on colour alone
LOOKS: dict[str, tuple[str, str, Any]] = {
    "spread": (style.FINE, "o", "-"),
    "share": ("#8f4e8b", "s", (0, (4, 2))),
    "update": ("#a06800", "^", (0, (1, 1.5))),
}
MEANS = {
    "spread": "spread: how far the output depends on the input",
    "share": "share: the gradient's norm over that at the last layer",
    "update": "update: how far a step moves the weights, relative to them",
}
FLOOR = 1e-12  # below it float32 holds nothing but rounding
TOP = 10.0


def plot_signal(history: GradientHistory, *, ax: Axes | None = None) -> Axes:
    """Draw the signal, the gradient and the steps of every layer against its depth, on one log axis.

    Three lines: the spread of the layer's output, its share of the gradient, and its update (see
    `gradprobe.GradientHistory.by_depth`), each the median over the window. Where the first one falls the signal is
    lost, where the second one falls the gradient. What is exactly zero is marked at the bottom. The layers of the
    first finding of `gradprobe.diagnose` have a background and a colour.

    Args:
        history: What to draw; recorded with ``stats="all"``.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The axes.

    Raises:
        TypeError: If it is not a history.
        ValueError: If only gradients were recorded.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from gradprobe.record.evidence import Evidence
        >>> from gradprobe.record.history import Layer, tidy
        >>> rows = [(0, "fc", 0, "output", 1e-3, 1e-3, 1e-3, 0.0, 0)]
        >>> evidence = Evidence.from_rows([(0, "fc", 0.9, 1.0, 0.0, 0.0, 0.0, 0.0, 8, 1e-3, 1.0)], {}, {})
        >>> history = GradientHistory(tidy(rows), {}, (Layer("fc", 0, "Linear", 9),), (), None, evidence=evidence)
        >>> plot_signal(history, ax=Figure().subplots()).get_title("left")
        'Signal by depth'
    """
    check_history(history)
    if history.evidence is None:
        raise ValueError(
            'expected a history with signal and updates; this one holds gradients only: record it with stats="all"'
        )
    table, findings = history.by_depth, diagnose(history).findings
    marked = set(findings[0].layers) if findings else set()
    ax = style.axes(ax, style.panel_size(style.SCREEN))
    style.strip_axes(ax)
    ax.set_xlim(-0.6, max(len(table), 1) - 0.4)
    style.log_axis(ax, *_limits(table), "ratio, median over the window")
    _draw_background(ax, list(table.index), marked)
    entries = _draw_lines(ax, table)
    lay_out(ax)  # the names of the layers are fitted to the axes' size
    layer_axis(ax, list(table.index), marked)
    title = "Signal by depth" + (f": {CAUSES[findings[0].cause]}" if findings else "")
    if marked:
        entries.append(Patch(facecolor=style.FLAGGED, alpha=0.15, label="layers of the finding"))
    conditions = describe_conditions(history.conditions)
    header(ax, title, conditions, [*entries, *font_entries(list(table.index))])
    return ax


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Whole powers of ten around all numbers, at most from `FLOOR` to `TOP`."""
    values = table.to_numpy()
    values = values[np.isfinite(values) & (values > 0)].clip(FLOOR, TOP)
    low = float(values.min()) if len(values) else 1e-3
    padding = 4.0 if (table == 0).any(axis=None) else 2.0  # marks of exact zeros need some room
    return low / padding, max(2.0, float(values.max(initial=1.0)) * 2)


def _draw_lines(ax: Axes, table: pd.DataFrame) -> list[Artist]:
    """A line for each quantity with its name at the end; returns the legend entries."""
    entries: list[Artist] = []
    ends = []
    for name in BY_DEPTH:
        known = table[name].dropna()
        if known.empty:
            continue
        colour, marker, dashes = LOOKS[name]
        x = np.flatnonzero(table[name].notna())
        values = known.to_numpy().clip(FLOOR, TOP)
        zero = (known == 0).to_numpy()
        size = float(np.clip(150 / len(table), 1.5, 5))
        look: dict[str, Any] = {"color": colour, "linestyle": dashes, "marker": marker, "markersize": size}
        ax.plot(x, np.where(zero, np.nan, values), linewidth=1.4, gid=name, **look)
        style.draw_off_scale(ax, x[zero], colour, zero=True)
        ends.append(End(name, float(x[-1]), float(max(values[-1], ax.get_ylim()[0])), colour))
        entries.append(marker_entry(marker, MEANS[name], colour))
    EndLabels(ax, ends)
    if (table == 0).any(axis=None):
        entries.append(marker_entry(style.ZERO, "exact zero"))
    return entries


def _draw_background(ax: Axes, names: list[str], marked: Collection[str]) -> None:
    for row, name in enumerate(names):
        if name in marked:
            ax.axvspan(row - 0.5, row + 0.5, color=style.FLAGGED, alpha=0.07, linewidth=0, gid="finding")
