"""Magnitude against depth: where the gradient is lost, and where branches go."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

import gradprobe.show.plots.style as style
from gradprobe.record.conditions import describe_conditions
from gradprobe.record.history import GradientHistory
from gradprobe.record.points import Point
from gradprobe.record.quantities import label
from gradprobe.record.text import counted
from gradprobe.show.grid import Floats, Grid, limits
from gradprobe.show.plots.fitting import lay_out
from gradprobe.show.plots.header import header, header_start, marker_entry
from gradprobe.show.plots.iterations import grid_entries, threshold_end
from gradprobe.show.plots.labels import EndLabels

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

    from gradprobe.record.placement import Placement

MAX_NAME_ROWS = 4  # of the names of branches, above the axes
Rows = NDArray[np.int64]


def plot_profile(
    history: GradientHistory,
    *,
    of: str = "output",
    how: str = "median",
    threshold: float | None = 1e-7,
    placement: Placement | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the magnitude of every layer against its depth.

    A dot shows the aggregated magnitude and a bar the range over the iterations, on a log axis; a zero in any
    iteration is marked at the bottom, NaN or inf at the top. Flagged layers have a colour and a shape of their
    own. With a placement, a line marks each point with a branch, and a note says what it advises to change first.

    Args:
        history: What to draw.
        of: ``"output"`` or ``"weight"``.
        how: Aggregation over the iterations, as in `GradientHistory.aggregate`.
        threshold: Magnitude to draw a dashed line at, or None.
        placement: The decision to draw; None marks the layers that are below the threshold.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The axes.

    Raises:
        ValueError: If the quantity was not recorded, or there is no such aggregation.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from gradprobe.record.history import Layer, tidy
        >>> rows = [(i, "conv", 0, "output", 2e-9, 3e-9, 1e-8, 0.0, 0) for i in range(10)]
        >>> history = GradientHistory(tidy(rows), {}, (Layer("conv", 0, "Conv2d", 9),), (), None)
        >>> plot_profile(history, ax=Figure().subplots()).get_ylabel()
        'mean |dL/d output|, median'
    """
    grid = Grid.of(history, of)
    magnitudes: Floats = np.array(history.aggregate(of, how).reindex(list(grid.names)), dtype=np.float64)
    low = {name for name, value in zip(grid.names, magnitudes, strict=True) if value < (threshold or 0)}
    flagged = low if placement is None else set(placement.flagged)
    word = "below the threshold" if placement is None else "flagged"
    points = () if placement is None else placement.points
    ax = style.axes(ax, style.panel_size(style.SCREEN))
    style.strip_axes(ax)
    ax.set_xlim(-0.6, max(len(grid.names), 1) - 0.4)
    style.log_axis(ax, *limits([grid], threshold), f"{label(of)}, {how}")
    style.draw_threshold(ax, threshold)
    EndLabels(ax, threshold_end(ax, threshold, of))
    lay_out(ax)  # the names of the layers are fitted to the axes' size
    layer_axis(ax, grid.names, flagged)
    entries = _draw_magnitudes(ax, grid, magnitudes, flagged, word) + _decision_entries(placement)
    start = max(_draw_points(ax, grid, points), header_start(grid.nonfinite))
    below = threshold if placement is None else None
    phrase = style.flagged_phrase(len(flagged & set(grid.names)), int(grid.reached.sum()), below)
    conditions = describe_conditions(history.conditions)
    header(ax, "Gradient by depth" + phrase, conditions, [*entries, *grid_entries(grid)], start=start)
    return ax


def _draw_magnitudes(
    ax: Axes, grid: Grid, magnitudes: Floats, flagged: Collection[str], word: str
) -> list[Artist]:
    """Dots and bars in one colour for flagged layers and another for the rest; returns the legend entries."""
    is_flagged = np.array([name in flagged for name in grid.names], dtype=bool)
    rest = "other layers" if is_flagged.any() else "layers"
    entries: list[Artist] = []
    for kind, colour, marker, text in (
        (is_flagged, style.FLAGGED, "D", word),
        (~is_flagged, style.FINE, "o", rest),
    ):
        rows = np.flatnonzero(kind & grid.reached)
        if len(rows):
            _draw_bars(ax, grid, rows, colour)
            _draw_dots(ax, rows, magnitudes[rows], colour, marker, len(grid.names))
            entries.append(marker_entry(marker, text, colour))
    over = counted(len(grid.iterations), "iteration")
    return [*entries, Patch(facecolor=style.GREY, alpha=0.3, label=f"range over {over}")] if entries else []


def _draw_bars(ax: Axes, grid: Grid, rows: Rows, colour: str) -> None:
    """From the smallest to the largest, marked where that is not finite; of many layers the bars become a band.

    They never overlap, because overlapping pale bars look darker. Nor are they snapped to whole pixels, which
    would leave stripes.
    """
    drawn = grid.clipped(*ax.get_ylim())[rows]
    width = min(7, 0.77 * ax.bbox.width * 72 / ax.figure.dpi / len(grid.names))
    smallest, largest = np.nanmin(drawn, axis=1), np.nanmax(drawn, axis=1)
    ax.vlines(rows, smallest, largest, color=colour, linewidth=width, alpha=0.22, zorder=2, snap=False)
    for mask, zero in ((grid.zero, True), (grid.nonfinite, False)):
        style.draw_off_scale(ax, rows[mask[rows].any(axis=1)], colour, zero=zero)


def _draw_dots(ax: Axes, rows: Rows, values: Floats, colour: str, marker: str, count: int) -> None:
    size = float(np.clip(180 / count, 1.5, 6))
    positive = np.isfinite(values) & (values > 0)
    look: dict[str, Any] = {"markersize": size, "markeredgewidth": 0, "color": colour, "zorder": 3}
    ax.plot(rows[positive], values[positive], marker, gid="magnitudes", **look)


def layer_axis(ax: Axes, layers: Sequence[str], flagged: Collection[str]) -> None:
    """Layer names as tick labels; of many layers only some. Flagged ones have their colour."""
    ticks = style.tick_positions(len(layers), ax.bbox.width * 72 / ax.figure.dpi)
    names = [style.layer_label(layers[tick], ax, 20) for tick in ticks]
    upright = len(names) > 12 or max(map(len, names), default=0) > 14
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(ticks, names, parse_math=False, **({"rotation": 90} if upright else slanted))
    style.colour_ticks(ax.get_xticklabels(), [layers[tick] in flagged for tick in ticks])
    style.name_axis(ax.xaxis, "layer, by depth" + style.named_phrase(len(ticks), len(layers)))


def _decision_entries(placement: Placement | None) -> list[Artist]:
    """Legend entries for the branches, and for what to change before any is placed."""
    if placement is None:
        return []
    branches = counted(len(placement.points), "branch", "branches")
    entries: list[Artist] = []
    if placement.points:
        entries.append(Line2D([], [], color=style.BRANCH, linewidth=1.2, label=branches))
    if placement.remedy:
        entries.append(marker_entry("", f"advised first: {placement.remedy}"))
    return entries


def _draw_points(ax: Axes, grid: Grid, points: Sequence[Point]) -> float:
    """A line for each branch, named above the axes; returns the height of the names in points."""
    places = np.searchsorted(grid.depths, [point.depth for point in points])
    width = float(np.clip(16 / max(len(points), 1), 0.5, 1.2))
    for point, x in zip(points, places, strict=True):
        ax.axvline(x, color=style.BRANCH, linewidth=width, zorder=1.9, gid=f"branch {point.name}")
    if not points:
        return 4
    lay_out(ax)
    labels = [_branch_label(ax, x, point.name) for point, x in zip(points, places, strict=True)]
    rows = label_rows([tuple(text.get_window_extent().intervalx) for text in labels])
    for i, text in enumerate(labels):
        if i in rows:
            text.xyann = (0, 4 + 11 * rows[i])
        else:
            text.remove()
    return 9 + 11 * (max(rows.values()) + 1)


def _branch_label(ax: Axes, x: int, name: str) -> Annotation:
    """A name above the axes, to the right of the line that goes up to it."""
    return ax.annotate(
        " " + style.layer_label(name, ax),
        (x, 1),
        xycoords=ax.get_xaxis_transform(),
        xytext=(0, 4),
        textcoords="offset points",
        fontsize=style.SMALL,
        color=style.BRANCH,
        annotation_clip=False,
        parse_math=False,
        arrowprops={"arrowstyle": "-", "color": style.BRANCH, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 1)},
        gid="branch name",
    )


def label_rows(spans: Sequence[tuple[float, ...]]) -> dict[int, int]:
    """Rows for names at the upper ends of vertical lines, so that none covers another name or another line.

    Where they would take more than a few rows, only every second or third name is kept.

    Args:
        spans: Left and right end of each name, from left to right.

    Returns:
        The row of each name that is kept, the lowest being 0.

    Example:
        >>> label_rows([(0, 5), (3, 8), (9, 12)])
        {0: 1, 1: 0, 2: 0}
    """
    for step in range(1, len(spans) + 1):
        rows = _stack(spans[::step])
        if max(rows) < MAX_NAME_ROWS:
            break
    return dict(zip(range(0, len(spans), step), rows, strict=True))


def _stack(spans: Sequence[tuple[float, ...]]) -> list[int]:
    """The lowest row for each name, where it lies above all names that begin below it."""
    rows = [0] * len(spans)
    for i in reversed(range(len(spans))):
        covered = [row for row, other in zip(rows[i + 1 :], spans[i + 1 :], strict=True) if other[0] < spans[i][1]]
        rows[i] = max(covered, default=-1) + 1
    return rows
