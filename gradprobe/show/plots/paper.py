"""The two figures of the CNDS paper, alone and side by side, as they go into a paper."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D

import gradprobe.show.plots.style as style
from gradprobe.show.grid import Grid, limits, recorded_quantity
from gradprobe.show.plots.comparison import draw_reason
from gradprobe.show.plots.header import header, header_start, legend_below
from gradprobe.show.plots.iterations import MAX_NAMED, draw_iterations, emphasis_entry, grid_entries

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradprobe.verdict.comparison import Comparison


def paper_figure(comparison: Comparison, *, threshold: float | None = 1e-7, width: str | float = "page") -> Figure:
    """Draw the gradient of every layer without and, beside it, with deep supervision: the figures of CNDS.

    Both have the same scale and share a legend. It names up to 14 layers; for more there is a colour bar by
    depth. Title and conditions are left to the caption; `describe_conditions` gives the latter.

    Args:
        comparison: What to draw.
        threshold: Magnitude to draw a dashed line at, or None.
        width: ``"column"`` (3.4 inches), ``"page"`` (7, both columns), ``"screen"`` (7.4), or inches.

    Returns:
        A new figure, made with pyplot, so that a notebook shows it. `save_figure` writes it for print.

    Raises:
        ValueError: If it is not a width.
    """
    figure = style.new_figure(*paper_size(width))
    draw_paper(figure, comparison, threshold)
    return figure


def paper_size(width: str | float) -> tuple[float, float]:
    """Width and height of the figure in inches; in a column the legend takes more of the height."""
    wide = style.inches(width)
    return wide, float(np.clip(0.3 * wide + 1.4, 3.0, 4.2))


def draw_paper(figure: Figure, comparison: Comparison, threshold: float | None) -> Figure:
    """Draw both arms into an empty figure, and return it."""
    of, flagged = recorded_quantity(comparison.plain), comparison.placement.flagged
    arms = {"Without deep supervision": comparison.plain, "With deep supervision": comparison.supervised}
    grids = {title: Grid.of(arm, of) for title, arm in arms.items() if arm is not None}
    span = limits(list(grids.values()), threshold)
    panels = figure.subplots(1, 2, sharey=len(grids) == 2)
    for ax, grid in zip(panels, grids.values(), strict=False):
        draw_iterations(ax, grid, span, of=of, threshold=threshold, flagged=flagged, labelled=False)
    if comparison.supervised is None:
        draw_reason(panels[1], comparison.placement.reason)
    else:
        panels[1].set_ylabel("")
    _legend(figure, list(panels), list(grids.values()), threshold, of, flagged)
    for ax, title in zip(panels, grids, strict=False):
        header(ax, title, start=header_start(grids[title].nonfinite))
    return figure


def _legend(
    figure: Figure,
    panels: list[Axes],
    grids: list[Grid],
    threshold: float | None,
    of: str,
    flagged: Collection[str],
) -> None:
    """A legend below both panels: layers by colour, thick lines, the threshold, and what is not drawn."""
    reached = grids[0].without_unreached()
    entries: list[Any] = []
    if len(reached.names) <= MAX_NAMED:
        colours = style.depth_colours(len(reached.names))
        entries += [
            Line2D([], [], color=colour, linewidth=1.5, label=style.layer_label(layer, panels[0]))  # type: ignore[arg-type]
            for layer, colour in zip(reached.names, colours, strict=True)
        ]
    else:
        _depth_bar(figure, panels, reached.depths)
    entries += emphasis_entry(flagged, reached.names)
    if threshold is not None:
        label = style.threshold_label(threshold, of)
        entries.append(Line2D([], [], **style.THRESHOLD_LINE, label=label))
    legend_below(figure, [*entries, *grid_entries(*grids)])


def _depth_bar(figure: Figure, panels: list[Axes], depths: tuple[int, ...]) -> None:
    mappable = ScalarMappable(Normalize(depths[0], depths[-1]), style.depth_map())
    bar = figure.colorbar(mappable, ax=panels, location="bottom", aspect=50, fraction=0.05, ticks=[])
    bar.set_ticks([depths[0], depths[-1]])
    bar.ax.tick_params(labelsize=style.SMALL, labelcolor=style.INK, length=0)
    bar.outline.set_visible(False)
    bar.set_label("layer, by depth", color=style.INK, fontsize=style.NAME, labelpad=-8)
