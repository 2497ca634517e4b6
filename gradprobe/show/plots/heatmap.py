"""Every layer and every iteration at once, in colour."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.patches import Patch

import gradprobe.show.plots.style as style
from gradprobe.record.conditions import describe_conditions
from gradprobe.record.history import GradientHistory
from gradprobe.record.quantities import label
from gradprobe.record.text import counted
from gradprobe.show.grid import Floats, Grid, Mask, limits
from gradprobe.show.plots.header import font_entries, header
from gradprobe.show.plots.iterations import layers_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

ZERO_COLOUR, NONFINITE_COLOUR = "#000000", style.FLAGGED
UNREACHED_LOOK: dict[str, Any] = {"facecolor": "white", "hatch": "////", "edgecolor": "#b5b5b5"}


def plot_heatmap(
    history: GradientHistory,
    *,
    of: str = "output",
    threshold: float | None = 1e-7,
    ax: Axes | None = None,
) -> Axes:
    """Draw the magnitude as the colour of a cell: a row for each layer, a column for each iteration.

    The first layer is at the top. Exact zeros are black, gradients with NaN or inf vermillion, and cells without
    a gradient hatched; a legend says so where they occur. The threshold is marked on the colour bar, and the
    names of layers whose median is below it have its colour.

    Args:
        history: What to draw.
        of: ``"output"`` or ``"weight"``.
        threshold: Magnitude to mark on the colour bar, or None.
        ax: Axes to draw into; None makes a figure.

    Returns:
        The axes.

    Raises:
        ValueError: If the quantity was not recorded.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from gradprobe.record.history import Layer, tidy
        >>> rows = [(i, "conv", 0, "output", 2e-9, 3e-9, 1e-8, 0.0, 0) for i in range(10)]
        >>> history = GradientHistory(tidy(rows), {}, (Layer("conv", 0, "Conv2d", 9),), (), None)
        >>> [text.get_text() for text in plot_heatmap(history, ax=Figure().subplots()).get_yticklabels()]
        ['conv']
    """
    grid = Grid.of(history, of)
    ax = style.axes(ax, heatmap_size(history))
    style.strip_axes(ax, grid="")
    ax.patch.set(**UNREACHED_LOOK, linewidth=0)
    mesh = _draw_cells(ax, grid, threshold)
    _axes_of_cells(ax, grid, layers_below(history, of, threshold))
    _colour_bar(ax, mesh, label(of), threshold, of)
    title = f"Gradient of {counted(len(grid.names), 'layer')} by iteration"
    header(ax, title, describe_conditions(history.conditions), _entries(grid))
    return ax


def heatmap_size(history: GradientHistory, width: float = style.SCREEN) -> tuple[float, float]:
    """Width and height of the figure in inches: higher for more layers, up to a page."""
    return width, float(np.clip(2.6 + 0.2 * len(history.layers), min(3.6, width), min(8, 1.4 * width)))


def _draw_cells(ax: Axes, grid: Grid, threshold: float | None) -> QuadMesh:
    x, y = _edges(grid.iterations.astype(float)), np.arange(len(grid.names) + 1) - 0.5
    clean = np.ma.masked_where(np.isnan(grid.values) | grid.zero, grid.values)
    # without the dark end, which would look like an exact zero
    colours = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.08, 1, 256)))
    low, high = limits([grid.without_unreached()], threshold)
    mesh = ax.pcolormesh(x, y, clean, cmap=colours, norm=LogNorm(low, high), rasterized=True)
    for mask, colour, gid in (
        (grid.zero, ZERO_COLOUR, "exact zero"),
        (grid.nonfinite, NONFINITE_COLOUR, "non-finite"),
    ):
        if mask.any():
            ones = np.ma.masked_where(~mask, np.ones(mask.shape))
            ax.pcolormesh(x, y, ones, cmap=ListedColormap([colour]), rasterized=True).set_gid(gid)
    return mesh


def _edges(centres: Floats) -> Floats:
    """Borders halfway between the centres."""
    if not len(centres):
        return np.array([-0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[centres[0] - 0.5], middles, [centres[-1] + 0.5]])


def _axes_of_cells(ax: Axes, grid: Grid, low: Collection[str]) -> None:
    style.iteration_axis(ax, grid.iterations)
    ax.set_xlim(*_edges(grid.iterations.astype(float))[[0, -1]])
    count = len(grid.names)
    ax.set_ylim(count - 0.5, -0.5)
    ticks = style.tick_positions(count, ax.bbox.height * 72 / ax.figure.dpi)
    ax.set_yticks(ticks, [style.layer_label(grid.names[tick], ax) for tick in ticks], parse_math=False)
    ax.spines[:].set_visible(False)
    style.colour_ticks(ax.get_yticklabels(), [grid.names[tick] in low for tick in ticks])
    style.name_axis(ax.yaxis, "layer, first on top" + style.named_phrase(len(ticks), count))


def _colour_bar(ax: Axes, mesh: QuadMesh, name: str, threshold: float | None, of: str) -> None:
    """A colour bar with a tick for every few powers of ten, and one for the threshold."""
    place = ax.inset_axes((1.03, 0, 0.03, 1))
    bar = ax.figure.colorbar(mesh, cax=place)
    low, high = (math.log10(float(end)) for end in mesh.get_clim())
    powers = np.arange(math.ceil(low), math.floor(high) + 1)
    powers = powers[:: max(1, math.ceil(len(powers) / 8))]
    if threshold is not None:
        powers = powers[abs(powers - math.log10(threshold)) > 0.04 * (high - low)]
    ticks: list[tuple[float, str]] = [(10.0**power, f"$10^{{{power}}}$") for power in powers]
    if threshold is not None:
        ticks.append((threshold, style.threshold_label(threshold, of).replace("threshold ", "threshold\n")))
        place.axhline(threshold, color="white", linewidth=2.4)
        place.axhline(threshold, color=style.FLAGGED, linewidth=1.4, gid="threshold")
    bar.set_ticks([value for value, _ in ticks], labels=[text for _, text in ticks])
    bar.minorticks_off()
    bar.outline.set_visible(False)
    place.tick_params(labelsize=style.SMALL, labelcolor=style.INK, color=style.GREY)
    if threshold is not None:
        place.get_yticklabels()[-1].set_color(style.FLAGGED)
    bar.set_label(name, color=style.INK, fontsize=style.NAME)


def _entries(grid: Grid) -> list[Any]:
    """Legend entries for the kinds of cells without a magnitude that occur."""
    missing: Mask = np.isnan(grid.values) & ~grid.nonfinite
    kinds: tuple[tuple[Mask, str, dict[str, Any]], ...] = (
        (grid.zero, "exact zero", {"facecolor": ZERO_COLOUR}),
        (grid.nonfinite, "NaN or inf", {"facecolor": NONFINITE_COLOUR}),
        (missing, "unreached", UNREACHED_LOOK),
    )
    entries: list[Any] = [Patch(label=text, **options) for mask, text, options in kinds if mask.any()]
    return entries + font_entries(grid.names)
