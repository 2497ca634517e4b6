"""How the main output learnt, without and with deep supervision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gradprobe.history import describe_conditions
from gradprobe.plots import style
from gradprobe.plots.header import header, mark

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from gradprobe.comparison import Comparison

ARMS = (("plain", "without", style.FLAGGED, "s"), ("supervised", "with deep supervision", style.FINE, "o"))
NAMES = {"loss": "Training loss", "accuracy": "Held-out accuracy"}


def plot_learning(comparison: Comparison, *, value: str = "loss", ax: Axes | None = None) -> Axes:
    """Draw the loss or the held-out accuracy of the main output with and without deep supervision.

    The loss is a rolling mean; with one seed the raw loss stands pale behind it. With several seeds the
    line is their mean and the band reaches from the smallest to the largest.

    Args:
        comparison: What to draw.
        value: ``"loss"`` or ``"accuracy"``.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The axes.

    Raises:
        ValueError: The value is neither.
    """
    ax = style.axes(ax, style.size(style.SCREEN))
    draw_learning(comparison, value, ax, conditions=describe_conditions(comparison.plain.conditions))
    return ax


def draw_learning(comparison: Comparison, value: str, ax: Axes, *, conditions: str) -> None:
    """Draw one value of both arms, with this line of conditions above."""
    if value not in NAMES:
        raise ValueError(f"expected one of {list(NAMES)}, got {value!r}")
    style.dress(ax)
    entries: list[Any] = []
    missing = 0
    for arm, text, colour, marker in ARMS:
        rows = comparison.frame[comparison.frame["arm"] == arm]
        curves = _curves(rows, value)
        missing += int((~np.isfinite(rows[value].to_numpy(dtype=float))).sum()) if value == "loss" else 0
        if len(curves):
            _draw_curves(ax, curves, colour, marker if value == "accuracy" else "")
            look = {"marker": marker, "markersize": 4.5} if value == "accuracy" else {}
            entries.append(Line2D([], [], color=colour, linewidth=1.8, label=text, **look))  # type: ignore[arg-type]
    chance = comparison.conditions.get("chance")
    if value == "accuracy" and chance is not None and ax.lines:
        ax.axhline(chance, color=style.GREY, linestyle=":", linewidth=1, zorder=1.5, gid="chance")
        entries.append(Line2D([], [], color=style.GREY, linestyle=":", linewidth=1, label="chance"))
    if (seeds := int(comparison.frame["seed"].nunique())) > 1:
        entries.append(Patch(facecolor=style.GREY, alpha=0.3, label=f"mean and range of {seeds} seeds"))
    if missing:
        entries.append(mark("", f"NaN or inf in {style.counted(missing, 'iteration')}: not drawn"))
    if not ax.lines:
        entries.append(mark("", f"no {NAMES[value].lower()} was recorded"))
    style.iteration_axis(ax, np.unique(comparison.frame["iteration"].to_numpy(dtype=np.int64)))
    style.name_axis(ax.yaxis, _name(comparison.frame, value))
    header(ax, f"{NAMES[value]}, main output", conditions, entries)


def _curves(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """One row for each iteration, one column for each seed; only where something finite was recorded."""
    table = rows.set_index(["iteration", "seed"])[value].unstack()
    return table.where(np.isfinite(table)).dropna(how="all")


def _draw_curves(ax: Axes, curves: pd.DataFrame, colour: str, marker: str) -> None:
    x = curves.index.to_numpy()
    several = curves.shape[1] > 1
    if not marker:
        if not several:
            ax.plot(x, curves.iloc[:, 0], color=colour, alpha=0.25, linewidth=0.9, gid="raw")
        curves = curves.rolling(window(len(curves)), min_periods=1, center=True).mean()
    if several:
        ax.fill_between(x, curves.min(axis=1), curves.max(axis=1), color=colour, alpha=0.15, linewidth=0)
    ax.plot(
        x,
        curves.mean(axis=1),
        color=colour,
        linewidth=1.8,
        marker=marker,
        markersize=4.5,
        clip_on=False,
        gid="mean",
    )


def window(count: int) -> int:
    """Length of the rolling mean: an odd number, about a twentieth of the iterations.

    Example:
        >>> window(10), window(50), window(600)
        (1, 3, 31)
    """
    return 2 * (count // 40) + 1


def _name(frame: pd.DataFrame, value: str) -> str:
    """The label of the y axis."""
    length = window(int(frame["iteration"].nunique()))
    return NAMES[value].lower() + (f", rolling mean of {length}" if value == "loss" and length > 1 else "")
