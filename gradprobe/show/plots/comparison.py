"""The figures of the CNDS paper: the gradient of the flagged layers without and with deep supervision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

import gradprobe.show.plots.style as style
from gradprobe.record.conditions import describe_conditions
from gradprobe.record.quantities import label
from gradprobe.record.text import counted, few, shorten
from gradprobe.show.grid import Grid, limits, recorded_quantity
from gradprobe.show.plots.fitting import lay_out, wrap
from gradprobe.show.plots.header import figure_header, header, header_start, marker_entry
from gradprobe.show.plots.iterations import (
    Colour,
    draw_iterations,
    draw_lines,
    emphasis_entry,
    grid_entries,
    layer_ends,
    threshold_end,
)
from gradprobe.show.plots.labels import EndLabels
from gradprobe.show.plots.learning import draw_learning

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradprobe.verdict.comparison import Comparison

MAX_LAYERS = 8  # flagged layers that are drawn
SCREEN_WIDTH, TWO_ROWS_FROM = 11.0, 9.0  # inches


def plot_comparison(
    comparison: Comparison,
    *,
    layers: str | Sequence[str] | None = None,
    threshold: float | None = 1e-7,
    ax: Axes | None = None,
) -> Axes:
    """Draw the gradient of the flagged layers without (dashed) and with (solid) deep supervision.

    Of more than 8 layers, 8 are drawn, evenly spaced by depth. Where no layer is flagged, all layers count;
    where no branch was placed, there are only dashed lines. The legend says so.

    Args:
        comparison: What to draw.
        layers: Names or shell patterns of the layers to draw; None draws the flagged ones.
        threshold: Magnitude to draw a dashed line at, or None.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The axes.

    Raises:
        ValueError: If a pattern matches no layer.
    """
    ax = style.axes(ax, style.panel_size(style.SCREEN))
    entries = _draw_flagged(ax, comparison, layers, threshold)
    header(ax, _title(comparison, layers), describe_conditions(comparison.plain.conditions), entries)
    return ax


def comparison_figure(
    comparison: Comparison, *, threshold: float | None = 1e-7, width: str | float = "screen"
) -> Figure:
    """Draw a comparison on one page.

    Above are the two figures of the paper: the gradient of all layers without and with deep supervision, on
    the same scale. Below are the flagged layers in both, and how the main output learnt. `paper_figure` draws
    the upper two alone.

    Args:
        comparison: What to draw.
        threshold: Magnitude to draw a dashed line at, or None.
        width: ``"screen"`` (11 inches), ``"page"`` (7, the text width of a paper), or inches, at least 7: five
            panels do not fit into a column.

    Returns:
        A new figure, made with pyplot, so that a notebook shows it.

    Raises:
        ValueError: If it is not a width, or too small.
    """
    size = comparison_size(width)
    figure = style.new_figure(*size)
    draw_comparison(figure, comparison, threshold)
    return figure


def comparison_size(width: str | float) -> tuple[float, float]:
    """Width and height of the page in inches; a narrow one has a third row, because letters do not shrink.

    Raises:
        ValueError: If it is not a width, or too small.
    """
    wide, least = style.inches(width, SCREEN_WIDTH), style.WIDTHS["page"]
    if wide < least:
        raise ValueError(f"expected a width of at least {least:g} inches for five panels, got {width!r}")
    return wide, 8.6 if wide < TWO_ROWS_FROM else 0.68 * wide


def draw_comparison(figure: Figure, comparison: Comparison, threshold: float | None) -> Figure:
    """Draw a comparison into an empty figure, and return it."""
    figure_header(figure, _heading(comparison), describe_conditions(comparison.plain.conditions), size=11)
    learning = ["loss"] + (["metric"] if comparison.metric.held_out else [])
    plain, supervised, flagged, *learnt = _panels(figure, len(learning))
    _draw_arms(plain, supervised, comparison, threshold)
    title = "Flagged layers" if comparison.placement.flagged else "Layers"
    header(flagged, title, "", _draw_flagged(flagged, comparison, None, threshold))
    for value, ax in zip(learning, learnt, strict=True):
        draw_learning(comparison, value, ax, conditions="")
    return figure


def _panels(figure: Figure, learning: int) -> list[Axes]:
    """The axes of a page: both arms, the flagged layers, and what was learnt."""
    # one subfigure for each row: the names beside the panels of one row must not narrow those of another
    if figure.get_figwidth() < TWO_ROWS_FROM:
        upper, middle, lower = figure.subfigures(3, 1, squeeze=False, height_ratios=[1.15, 1, 1])[:, 0]
        return [*upper.subplots(1, 2), middle.subplots(), *lower.subplots(1, learning, squeeze=False)[0]]
    upper, lower = figure.subfigures(2, 1, squeeze=False)[:, 0]
    return [*upper.subplots(1, 2), *lower.subplots(1, 1 + learning, width_ratios=[1.15] + [1] * learning)]


def _draw_arms(plain: Axes, supervised: Axes, comparison: Comparison, threshold: float | None) -> None:
    """All layers without and with deep supervision, on the same scale."""
    of = recorded_quantity(comparison.plain)
    histories = [history for history in (comparison.plain, comparison.supervised) if history is not None]
    grids = [Grid.of(history, of) for history in histories]
    span = limits(grids, threshold)
    titles = ("Without deep supervision", "With deep supervision")
    for ax, grid, title in zip((plain, supervised), grids, titles, strict=False):
        draw_iterations(ax, grid, span, of=of, threshold=threshold, flagged=comparison.placement.flagged)
        entries = [*emphasis_entry(comparison.placement.flagged, grid.names), *grid_entries(grid)]
        header(ax, title, "", entries, start=header_start(grid.nonfinite))
    if comparison.supervised is None:
        draw_reason(supervised, comparison.placement.reason)


def draw_reason(ax: Axes, reason: str) -> None:
    """Say why there is nothing to draw."""
    ax.set_axis_off()
    text = ax.text(0, 0.97, style.legible(reason), transform=ax.transAxes, fontsize=style.NAME)
    text.set(color=style.GREY, parse_math=False, va="top")
    text.set_in_layout(False)  # on one line it would leave the axes beside it no room
    lay_out(ax)
    wrap(text, 0.9 * ax.bbox.width, lines=12)
    text.set_in_layout(True)
    header(ax, "No branch was placed")


def _draw_flagged(
    ax: Axes, comparison: Comparison, layers: str | Sequence[str] | None, threshold: float | None
) -> list[Any]:
    """Draw the flagged layers in both arms; returns the legend entries."""
    of = recorded_quantity(comparison.plain)
    every = Grid.of(comparison.plain, of)
    plain, notes = _selection(every, comparison.placement.flagged, layers)
    arms = [plain]
    if comparison.supervised is not None:
        supervised = Grid.of(comparison.supervised, of)
        arms.append(supervised.take([supervised.names.index(name) for name in plain.names]))
    else:
        notes.append("no branch was placed")
    colours = _colours(every, plain)
    span = limits(arms, threshold)
    style.strip_axes(ax)
    style.log_axis(ax, *span, label(of))
    style.iteration_axis(ax, plain.iterations)
    style.draw_threshold(ax, threshold)
    draw_lines(ax, plain, colours, linewidth=[1.3] * len(plain.names), linestyle=(0, (3, 1.6)), alpha=0.6)
    if len(arms) > 1:
        draw_lines(ax, arms[1], colours, linewidth=[2.0] * len(plain.names))
    reached = arms[-1].reached
    ends = layer_ends(ax, arms[-1], colours, span, np.flatnonzero(reached).tolist())
    ends += layer_ends(ax, plain, colours, span, np.flatnonzero(~reached).tolist())
    EndLabels(ax, ends + threshold_end(ax, threshold, of))
    return [*_arm_entries(len(arms)), *grid_entries(*arms), *(marker_entry("", note) for note in notes)]


def _colours(every: Grid, chosen: Grid) -> list[Colour]:
    """The colours of the chosen layers among all layers, as in the panels above."""
    names = every.without_unreached().names
    colours = dict(zip(names, style.depth_colours(len(names)), strict=True))
    return [colours[name] for name in chosen.names]


def _arm_entries(arms: int) -> list[Line2D]:
    dashed = Line2D([], [], color=style.GREY, linewidth=1.3, linestyle=(0, (3, 1.6)), label="without")
    solid = Line2D([], [], color=style.GREY, linewidth=2.0, label="with deep supervision")
    return [dashed, solid][:arms]


def _selection(grid: Grid, flagged: Sequence[str], layers: str | Sequence[str] | None) -> tuple[Grid, list[str]]:
    """The layers to draw, and notes on the choice for the legend."""
    notes = []
    if layers is not None:
        kind, chosen = "chosen layers", grid.matching(layers)
    elif flagged:
        kind = "flagged layers"
        chosen = grid.take([row for row, name in enumerate(grid.names) if name in set(flagged)])
    else:
        kind, chosen = "layers", grid
        notes.append("no layer is flagged")
    chosen = chosen.without_unreached()
    count = len(chosen.names)
    if count > MAX_LAYERS:
        notes.append(f"{MAX_LAYERS} of {count} {kind} drawn")
    return chosen.take(style.evenly(count, MAX_LAYERS)), notes


def _title(comparison: Comparison, layers: str | Sequence[str] | None) -> str:
    count = 0 if layers is not None else len(comparison.placement.flagged)
    what = counted(count, "flagged layer") if count else "Gradient"
    return f"{what} without {'' if comparison.supervised is None else 'and with '}deep supervision"


def _heading(comparison: Comparison) -> str:
    points = [shorten(point.name, 24) for point in comparison.placement.points]
    if not points:
        return "Deep supervision: no branch"
    return f"Deep supervision: {counted(len(points), 'branch', 'branches')}, at {few(points, 4)}"
