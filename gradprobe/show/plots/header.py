"""What is around the axes: title, conditions and legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation, Transform
from numpy.typing import NDArray

from gradprobe.show.plots.fitting import header_width, lay_out, text_width, wrap
from gradprobe.show.plots.style import BOX, GREY, INK, SMALL, TITLE, WIDTHS, depth_map, legible

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# of every legend, above the axes or below the figure
_LEGEND_STYLE: dict[str, Any] = {
    "fontsize": SMALL,
    "frameon": False,
    "borderpad": 0,
    "handletextpad": 0.5,
    "labelspacing": 0.3,
    "labelcolor": INK,
}


def figure_header(figure: Figure, title: str, conditions: str, *, size: float = TITLE) -> None:
    """A title above a whole figure, and the conditions below it in small grey letters."""
    heading = figure.suptitle(legible(title), x=0.01, ha="left", fontsize=size, color=INK)
    heading.set(fontweight="bold", parse_math=False)
    foot = figure.supxlabel(legible(conditions), x=0.01, ha="left", fontsize=SMALL, color=GREY)
    foot.set_parse_math(False)
    for text in (heading, foot):
        wrap(text, 0.97 * figure.bbox.width)


def header(
    ax: Axes,
    title: str,
    conditions: str = "",
    entries: Sequence[Artist] = (),
    *,
    start: float = 7,
) -> None:
    """Stack above the axes, from below: the legend, the conditions in small grey letters, the title.

    Args:
        ax: The axes.
        title: Short and factual.
        conditions: What the magnitudes depend on; at most three lines of it.
        entries: Legend entries.
        start: Points above the axes at which the stack begins.
    """
    lay_out(ax)
    width = header_width(ax)
    if entries:
        start += _legend(ax, entries, start, width) + 7
    if conditions:
        text = ax.text(0, 1, legible(conditions), transform=above(ax, start), fontsize=SMALL, color=GREY)
        text.set_parse_math(False)
        wrap(text, width, lines=3)
        start += 11 * (text.get_text().count("\n") + 1)
    heading = ax.set_title(legible(title), loc="left", y=1, pad=start + 2, fontsize=TITLE, color=INK)
    heading.set(fontweight="bold", parse_math=False)
    wrap(heading, width)


def _legend(ax: Axes, entries: Sequence[Artist], start: float, width: float) -> float:
    """Draw the legend in as many columns as fit; returns its height in points."""
    options = {**_LEGEND_STYLE, "columnspacing": 1.4, "borderaxespad": 0}
    if width < WIDTHS["column"] * ax.figure.dpi:
        options.update(columnspacing=0.8, handlelength=1.4)  # so that two columns fit beside each other
    for columns in range(len(entries), 0, -1):
        legend = ax.legend(
            handles=list(entries),
            loc="lower left",
            bbox_to_anchor=(0, 1),
            bbox_transform=above(ax, start),
            ncols=columns,
            **options,
        )
        box = legend.get_window_extent()
        stretch = max(text_width(text) / text.get_window_extent().width for text in legend.get_texts())
        if box.width * stretch <= width:
            break
    return float(box.height * 72 / ax.figure.dpi)


def legend_below(figure: Figure, entries: Sequence[Artist]) -> None:
    """A legend below everything else in a figure, in as many columns as fit."""
    for columns in range(min(len(entries), 8), 0, -1):
        legend = figure.legend(
            list(entries),
            ["layer"]
            * len(entries),  # the texts follow below: matplotlib omits labels that begin with an underscore
            loc="outside lower left",
            ncols=columns,
            handlelength=1.6,
            columnspacing=1.2,
            **_LEGEND_STYLE,
        )
        for text, entry in zip(legend.get_texts(), entries, strict=True):
            text.set(text=str(entry.get_label()), parse_math=False)
        if columns == 1 or legend.get_window_extent().width <= 0.93 * figure.bbox.width:
            break
        legend.remove()


def depth_bar(ax: Axes, depths: Sequence[int], start: float) -> float:
    """A small colour bar by depth above the right end of the axes; returns the points where it ends."""
    width = 0.5 * ax.figure.dpi / ax.bbox.width
    bar = ax.inset_axes((0.97 - width, 1, width, 0.02), transform=above(ax, start + 3))
    bar.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=depth_map())
    bar.set_axis_off()
    for x, side, text in ((-0.04, "right", f"layer depth {depths[0]}"), (1.04, "left", f"{depths[-1]}")):
        words = bar.text(x, 0.5, text, transform=bar.transAxes, va="center", fontsize=SMALL, color=GREY)
        words.set_horizontalalignment(side)  # type: ignore[arg-type]
    return start + 13


def header_start(nonfinite: NDArray[np.bool_]) -> float:
    """Points above the axes at which the header begins: markers at the upper limit need some."""
    return 9 if nonfinite.any() else 7


def above(ax: Axes, points: float) -> Transform:
    """Axes coordinates, moved up by a number of points."""
    return ax.transAxes + ScaledTranslation(0, points / 72, ax.figure.dpi_scale_trans)


def marker_entry(marker: str, text: str, colour: str = GREY) -> Line2D:
    """A legend entry for a marker; an empty marker makes it a note."""
    return Line2D([], [], linestyle="none", marker=marker or "none", color=colour, markersize=5, label=text)


def font_entries(names: Sequence[str]) -> list[Artist]:
    """A legend entry where a letter of these names is in no font."""
    missing = any(legible(name) != name for name in names)
    return [marker_entry("", f"{BOX} a letter that the font does not have")] if missing else []
