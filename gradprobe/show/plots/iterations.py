"""Magnitude against iteration, one line for each layer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

import gradprobe.show.plots.style as style
from gradprobe.record.conditions import describe_conditions
from gradprobe.record.history import GradientHistory
from gradprobe.record.quantities import label
from gradprobe.record.text import counted
from gradprobe.show.grid import Floats, Grid, limits
from gradprobe.show.plots.header import depth_bar, font_entries, header, header_start, marker_entry
from gradprobe.show.plots.labels import End, EndLabels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_NAMED = 14  # layers that are all named
Colour = tuple[float, ...]


def plot_history(
    history: GradientHistory,
    *,
    of: str = "output",
    layers: str | Sequence[str] | None = None,
    threshold: float | None = 1e-7,
    flagged: Collection[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the magnitude of every layer against the iteration.

    One line for each layer, coloured by depth, on a log axis. An exact zero is marked at the bottom and a
    gradient with NaN or inf at the top; where no gradient arrived there is a gap. Up to 14 layers are named
    at the ends of their lines; of more, the first, the last and the one with the smallest median.

    Args:
        history: What to draw.
        of: ``"output"`` or ``"weight"``.
        layers: Names or shell patterns of the layers to draw; None draws all.
        threshold: Magnitude to draw a dashed line at, or None.
        flagged: Layers to emphasise; None takes those whose median is below the threshold.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The axes.

    Raises:
        ValueError: If the quantity was not recorded, or a pattern matches no layer.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from gradprobe.record.history import Layer, tidy
        >>> rows = [(i, "conv", 0, "output", 2e-9, 3e-9, 1e-8, 0.0, 0) for i in range(10)]
        >>> history = GradientHistory(tidy(rows), {}, (Layer("conv", 0, "Conv2d", 9),), (), None)
        >>> plot_history(history, ax=Figure().subplots()).get_title("left")
        'Gradient by iteration: 1 of 1 layer below 1e-7'
    """
    grid = Grid.of(history, of).matching(layers)
    ax = style.axes(ax, style.panel_size(style.SCREEN))
    low = layers_below(history, of, threshold) if flagged is None else flagged
    draw_iterations(ax, grid, limits([grid], threshold), of=of, threshold=threshold, flagged=low)
    shown = grid.without_unreached()
    below = threshold if flagged is None else None
    phrase = style.flagged_phrase(sum(name in low for name in shown.names), len(shown.names), below)
    start = header_start(grid.nonfinite)
    if len(shown.names) > MAX_NAMED:
        start = depth_bar(ax, shown.depths, start)
    conditions = describe_conditions(history.conditions)
    entries = [*emphasis_entry(low, shown.names, style.flagged_word(below)), *grid_entries(grid)]
    header(ax, "Gradient by iteration" + phrase, conditions, entries, start=start)
    return ax


def layers_below(history: GradientHistory, of: str, threshold: float | None) -> set[str]:
    """The layers whose median magnitude is below the threshold."""
    if threshold is None:
        return set()
    medians = history.aggregate(of)
    return set(medians.index[medians < threshold])


def emphasis_entry(flagged: Collection[str], names: Sequence[str], word: str = "flagged") -> list[Any]:
    """A legend entry for the thick lines, where they are not all of one kind."""
    kinds = {name in flagged for name in names}
    return [Line2D([], [], color=style.GREY, linewidth=2.4, label=word)] if len(kinds) > 1 else []


def grid_entries(*grids: Grid) -> list[Any]:
    """Legend entries for what a log axis and a font cannot show; only for what occurs in the grids."""
    entries: list[Any] = []
    if any(grid.zero.any() for grid in grids):
        entries.append(marker_entry(style.ZERO, "exact zero"))
    if any(grid.nonfinite.any() for grid in grids):
        entries.append(marker_entry(style.NONFINITE, "NaN or inf"))
    if unreached := int((~grids[0].reached).sum()):
        entries.append(marker_entry("", f"{counted(unreached, 'layer')} unreached: not drawn"))
    return entries + font_entries(grids[0].names)


def draw_iterations(
    ax: Axes,
    grid: Grid,
    span: tuple[float, float],
    *,
    of: str,
    threshold: float | None,
    flagged: Collection[str] = (),
    labelled: bool = True,
) -> None:
    """Draw axes, lines, the threshold and, if ``labelled``, labels at the ends of the lines, but no header."""
    style.strip_axes(ax)
    style.log_axis(ax, *span, label(of))
    style.iteration_axis(ax, grid.iterations)
    style.draw_threshold(ax, threshold)
    grid = grid.without_unreached()
    width = float(np.clip(24 / max(len(grid.names), 1), 0.6, 1.5))
    widths = [width + (0.8 if name in flagged else 0) for name in grid.names]
    colours = style.depth_colours(len(grid.names))
    draw_lines(ax, grid, colours, linewidth=widths)
    if labelled:
        ends = layer_ends(ax, grid, colours, span, rows_to_name(grid))
        EndLabels(ax, ends + threshold_end(ax, threshold, of))


def draw_lines(
    ax: Axes, grid: Grid, colours: Sequence[Colour], *, linewidth: Sequence[float], **options: Any
) -> None:
    """One line for each layer; zeros and non-finite values are markers at the limits of the axis."""
    visible = np.where(grid.zero, np.nan, grid.values)
    for name, values, colour, width in zip(grid.names, visible, colours, linewidth, strict=True):
        ax.plot(
            grid.iterations,
            values,
            color=colour,
            linewidth=width,
            marker="o",
            markersize=3.5,
            markevery=_isolated(values),
            solid_capstyle="round",
            gid=f"layer {name}",
            **options,
        )
    for mask, zero in ((grid.zero, True), (grid.nonfinite, False)):
        rows, columns = np.nonzero(mask)
        style.draw_off_scale(ax, grid.iterations[columns], [colours[int(row)] for row in rows], zero=zero)


def _isolated(values: Floats) -> list[int]:
    """Where a value has no neighbour, so that no line shows it."""
    known = np.pad(~np.isnan(values), 1)
    return [int(i) for i in np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:])]


def rows_to_name(grid: Grid) -> list[int]:
    """The layers to name: all of a few; of many the first, the last and the one with the smallest median."""
    count = len(grid.names)
    if count <= MAX_NAMED:
        return list(range(count))
    medians = np.nanmedian(grid.clipped(0.0, np.inf), axis=1)
    return sorted({0, int(np.argmin(medians)), count - 1})


def layer_ends(
    ax: Axes, grid: Grid, colours: Sequence[Colour], span: tuple[float, float], rows: Sequence[int]
) -> list[End]:
    """The names of layers, each at the last value that is drawn of it."""
    drawn = grid.clipped(*span)
    ends = []
    for row in rows:
        last = int(np.flatnonzero(~np.isnan(drawn[row]))[-1])
        name = style.layer_label(grid.names[row], ax)
        ends.append(End(name, float(grid.iterations[last]), float(drawn[row, last]), colours[row]))
    return ends


def threshold_end(ax: Axes, threshold: float | None, of: str) -> list[End]:
    """The label of the threshold, among those of the lines."""
    if threshold is None:
        return []
    return [End(style.threshold_label(threshold, of), ax.get_xlim()[1], threshold, style.FLAGGED)]
