"""How the main output learnt with several arms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gradprobe.show.plots.style as style
from gradprobe.record.conditions import describe_conditions
from gradprobe.show.curves import arm_looks, chance, checked_value
from gradprobe.show.plots.header import figure_header
from gradprobe.show.plots.labels import End, EndLabels
from gradprobe.show.plots.learning import draw_curves, finish_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradprobe.verdict.arms_comparison import ArmsComparison

PANEL = 5.5  # inches


def plot_arms(result: ArmsComparison, *, value: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw how the main output learnt with each arm: the mean over the seeds, and their range.

    Each line is named at its end, with the arms that do the same.

    Args:
        result: What to draw.
        value: ``"loss"`` (a rolling mean) or ``"metric"`` (where it is the accuracy, ``"accuracy"`` is the same);
            None takes what the arms were judged by.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The axes.

    Raises:
        ValueError: If it is another value.
    """
    value = result.metric.column if value is None else checked_value(value, result.metric)
    ax = style.axes(ax, style.panel_size(style.SCREEN))
    _draw_panel(result, value, ax, describe_conditions(result.plain.conditions))
    return ax


def arms_size(width: str | float, panels: int) -> tuple[float, float]:
    """Width and height in inches of a figure with panels side by side, or below each other if it is narrow."""
    wide = style.inches(width, panels * PANEL)
    rows = panels if wide < panels * style.WIDTHS["column"] else 1
    return wide, 0.7 + rows * style.panel_size(wide * rows / panels)[1]


def draw_arms(figure: Figure, result: ArmsComparison, values: tuple[str, ...]) -> Figure:
    """Draw the loss and, where one was measured, the metric into an empty figure; the title is the verdict."""
    figure_header(figure, result.choice.sentences[0], describe_conditions(result.plain.conditions))
    wide = figure.get_figwidth() >= len(values) * style.WIDTHS["column"]
    shape = (1, len(values)) if wide else (len(values), 1)
    panels = figure.subplots(*shape, squeeze=False).ravel()
    for ax, value in zip(panels, values, strict=True):
        _draw_panel(result, value, ax, "")
    return figure


def _draw_panel(result: ArmsComparison, value: str, ax: Axes, conditions: str) -> None:
    style.strip_axes(ax)
    line = chance(result.conditions, result.metric, value)
    drawn, entries = draw_curves(ax, result.frame, value, arm_looks(result), line)
    ends = [End(look.text, float(mean.index[-1]), float(mean.iloc[-1]), look.colour) for look, mean in drawn]
    EndLabels(ax, ends)
    finish_axes(ax, result.frame, value, result.metric, conditions, entries)
