"""How the main output learnt with several arms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gradprobe.show.plots.style as style
from gradprobe.record.conditions import describe_conditions
from gradprobe.show.plots.header import figure_header
from gradprobe.show.plots.labels import End, EndLabels
from gradprobe.show.plots.learning import Look, chance, checked_value, draw_curves, finish_axes
from gradprobe.verdict.arm import ARMS, NONE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradprobe.verdict.arms_comparison import ArmsComparison

# an arm has the same look in every figure: one of Okabe and Ito's colours with a marker, each pair once
_COLOURS = ("#666666", "#0072b2", "#56b4e9", "#882255", "#e69f00", "#007a5a", "#d55e00", "#cc79a7", "#222222")
_MARKERS = ("s", "o", "^", "v", "D", "P", "X", "<", ">", "p")
_LOOKS = {
    name: (_COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]) for index, name in enumerate(ARMS)
}
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


def draw_arms(figure: Figure, result: ArmsComparison, values: tuple[str, ...]) -> None:
    """Draw the loss and, where one was measured, the metric into an empty figure; the title is the verdict."""
    figure_header(figure, result.choice.sentences[0], describe_conditions(result.plain.conditions))
    wide = figure.get_figwidth() >= len(values) * style.WIDTHS["column"]
    shape = (1, len(values)) if wide else (len(values), 1)
    panels = figure.subplots(*shape, squeeze=False).ravel()
    for ax, value in zip(panels, values, strict=True):
        _draw_panel(result, value, ax, "")


def _draw_panel(result: ArmsComparison, value: str, ax: Axes, conditions: str) -> None:
    style.strip_axes(ax)
    line = chance(result.conditions, result.metric, value)
    drawn, entries = draw_curves(ax, result.frame, value, arm_looks(result), line)
    ends = [End(look.text, float(mean.index[-1]), float(mean.iloc[-1]), look.colour) for look, mean in drawn]
    EndLabels(ax, ends)
    finish_axes(ax, result.frame, value, result.metric, conditions, entries)


def arm_looks(result: ArmsComparison) -> list[Look]:
    """How the trained arms are drawn, each labelled with the names of all arms that do the same."""
    trained = [arm.name for arm in result.arms if arm.like is None]
    same = {name: [name, *(arm.name for arm in result.arms if arm.like == name)] for name in trained}
    return [Look(name, " = ".join(same[name]), *_LOOKS[name], "--" if name == NONE else "-") for name in trained]
