"""What the figures have in common: colours, axes, the threshold, and the header above the axes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, ListedColormap, to_rgb
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation, Transform
from numpy.typing import NDArray

from gradprobe.history import shorten
from gradprobe.magnitude import short
from gradprobe.policies import CNDS_THRESHOLD

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Text

INK, GREY, PALE = "#222222", "#666666", "#e4e4e4"
# vermillion, blue and green of Okabe and Ito's palette: told apart by every kind of colour vision
FLAGGED, FINE, BRANCH = "#d55e00", "#0072b2", "#007a5a"
ZERO, NONFINITE = "v", "X"
BOX = "\N{WHITE SQUARE}"
SMALL, NAME, TITLE = 7.5, 8.5, 9.0
SCREEN = 7.4
# inches: one column and the whole text width of a two-column paper
WIDTHS = {"column": 3.4, "page": 7.0}


def depth_map() -> Colormap:
    """Viridis without its light end, which is lost on white."""
    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.8, 256)), name="depth")


def depth_colours(count: int) -> list[tuple[float, ...]]:
    """One colour for each of the layers drawn, from the first to the last."""
    return [tuple(colour) for colour in depth_map()(np.linspace(0, 1, max(count, 2)))[:count]]


def darker(colour: str | tuple[float, ...]) -> tuple[float, ...]:
    """A colour for text: thin strokes look lighter than lines."""
    return tuple(0.8 * channel for channel in to_rgb(colour))  # type: ignore[arg-type]


def inches(width: str | float, screen: float = SCREEN) -> float:
    """A width in inches: a number of them, or ``"screen"``, ``"column"`` or ``"page"``.

    Raises:
        ValueError: It is neither.

    Example:
        >>> inches("column"), inches("screen"), inches(5)
        (3.4, 7.4, 5.0)
    """
    if isinstance(width, str):
        known = {"screen": screen, **WIDTHS}
        if width not in known:
            raise ValueError(f"expected a width out of {list(known)} or a number of inches, got {width!r}")
        return known[width]
    if not width > 0:
        raise ValueError(f"expected a width above 0 inches, got {width!r}")
    return float(width)


def size(width: float) -> tuple[float, float]:
    """Width and height of a figure with one panel, in inches."""
    return width, float(np.clip(0.62 * width, 3.2, 4.6))


def axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes to draw into: the given ones, or those of a new figure."""
    if ax is not None:
        return ax
    return new_figure(*size).subplots()


def new_figure(width: float, height: float) -> Figure:
    """A figure that pyplot knows, so that a notebook shows it."""
    from matplotlib import pyplot  # only here: it chooses a backend

    return pyplot.figure(figsize=(width, height), layout="constrained")


def dress(ax: Axes, *, grid: str = "y") -> None:
    """Take away what is not data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(which="both", colors=GREY, labelcolor=INK, labelsize=SMALL)
    ax.grid(visible=False)
    if grid:
        ax.grid(axis=grid, color=PALE, linewidth=0.7)  # type: ignore[arg-type]
    ax.set_axisbelow(True)


def log_axis(ax: Axes, low: float, high: float, name: str) -> None:
    """A log y axis with these limits, widened to those of the axes that share it and hold something already."""
    sharing = [other for other in ax.get_shared_y_axes().get_siblings(ax) if other is not ax and other.has_data()]
    if sharing:
        low, high = min(low, ax.get_ylim()[0]), max(high, ax.get_ylim()[1])
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    ax.minorticks_off()
    name_axis(ax.yaxis, name)


def iteration_axis(ax: Axes, iterations: NDArray[np.int64]) -> None:
    """An x axis that ends where the lines end, so that their labels can follow."""
    first, last = (int(iterations[0]), int(iterations[-1])) if len(iterations) else (0, 1)
    ax.set_xlim(*((first, last) if first < last else (first - 0.5, last + 0.5)))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    name_axis(ax.xaxis, "iteration")


def draw_threshold(ax: Axes, threshold: float | None) -> None:
    """A dashed line, and a breath of its colour over everything below."""
    if threshold is None:
        return
    line = ax.axhline(threshold, color=FLAGGED, linestyle=(0, (5, 3)), linewidth=1.2, zorder=2.5, gid="threshold")
    line.set_path_effects([withStroke(linewidth=2.6, foreground="white", alpha=0.7)])
    ax.axhspan(ax.get_ylim()[0], threshold, color=FLAGGED, alpha=0.05, linewidth=0, zorder=0.1)


def threshold_label(threshold: float, of: str) -> str:
    """The threshold in words; only the CNDS rule on outputs carries its name.

    Example:
        >>> threshold_label(1e-7, "output"), threshold_label(1e-7, "weight")
        ('threshold 1e-7 (CNDS)', 'threshold 1e-7')
    """
    name = " (CNDS)" if (of, threshold) == ("output", CNDS_THRESHOLD) else ""
    return f"threshold {short(threshold)}{name}"


def found(flagged: int, count: int, threshold: float | None) -> str:
    """How many layers are flagged or, where nobody decided yet, below the threshold; for a title.

    Example:
        >>> found(2, 8, None), found(1, 1, 1e-7), found(0, 8, 1e-7)
        (': 2 of 8 layers flagged', ': 1 of 1 layer below 1e-7', '')
    """
    word = "flagged" if threshold is None else f"below {short(threshold)}"
    return f": {flagged} of {counted(count, 'layer')} {word}" if flagged else ""


def mark(marker: str, text: str, colour: str = GREY) -> Line2D:
    """A legend entry for a marker; an empty marker makes it a note."""
    return Line2D([], [], linestyle="none", marker=marker or "none", color=colour, markersize=5, label=text)


def mark_lane(ax: Axes, x: NDArray[Any], colour: Any, *, zero: bool) -> None:
    """Markers on a limit of the log axis: exact zeros on the lower, non-finite values on the upper."""
    if not len(x):
        return
    marker, gid = (ZERO, "exact zero") if zero else (NONFINITE, "non-finite")
    y = np.full(len(x), ax.get_ylim()[0 if zero else 1])
    ax.scatter(x, y, s=32, c=colour, marker=marker, linewidths=0, clip_on=False, zorder=4, gid=gid)


def lane(nonfinite: NDArray[np.bool_]) -> float:
    """Points above the axes at which the header begins: markers on the upper limit need some."""
    return 9 if nonfinite.any() else 7


def name_axis(axis: Axis, name: str) -> None:
    """The name of an axis."""
    axis.set_label_text(name, color=INK, fontsize=NAME)


def name(layer: str, ax: Axes, most: int = 24) -> str:
    """A layer's name as it is printed: as long as these axes have room for, in letters that the font has."""
    room = 4.2 * ax.bbox.width / ax.figure.dpi
    return legible(shorten(layer, int(np.clip(room, 14, most))))


def legible(text: str) -> str:
    r"""A text with a box in place of every letter that none of matplotlib's fonts has.

    Which fonts those are says ``rcParams["font.family"]``; it may be a list, tried in its order.

    Example:
        >>> legible("conv1 µ"), legible("\u5c42.1")
        ('conv1 µ', '□.1')
    """
    if text.isascii():
        return text
    known = _letters(tuple(matplotlib.rcParams["font.family"]))
    return "".join(letter if letter in known or letter == "\n" else BOX for letter in text)


@lru_cache(maxsize=8)
def _letters(families: tuple[str, ...]) -> frozenset[str]:
    found: set[str] = set()
    for family in families:
        file = findfont(FontProperties(family=[family]))
        found.update(map(chr, get_font(file).get_charmap()))
    return frozenset(found)


def named(shown: int, count: int) -> str:
    """What to say where not every layer is named."""
    return "" if shown == count else f" ({shown} of {count} named)"


def colour_ticks(ticks: Sequence[Text], flagged: Sequence[bool]) -> None:
    """Give the names of flagged layers their colour."""
    for text, is_flagged in zip(ticks, flagged, strict=True):
        text.set_color(FLAGGED if is_flagged else INK)


def counted(count: int, one: str, many: str = "") -> str:
    """The number and the noun that goes with it.

    Example:
        >>> counted(1, "layer"), counted(3, "layer"), counted(2, "branch", "branches")
        ('1 layer', '3 layers', '2 branches')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"


def notes(*, zeros: bool, nonfinite: bool, unreached: int, names: Sequence[str] = ()) -> list[Artist]:
    """Legend entries for what a log axis and a font cannot show; only for what occurs."""
    entries: list[Artist] = []
    if zeros:
        entries.append(mark(ZERO, "exact zero"))
    if nonfinite:
        entries.append(mark(NONFINITE, "NaN or inf"))
    if unreached:
        entries.append(mark("", f"{counted(unreached, 'layer')} unreached: not drawn"))
    return entries + letters_note(names)


def letters_note(names: Sequence[str]) -> list[Artist]:
    """A legend entry where letters of these names are in no font."""
    missing = any(legible(name) != name for name in names)
    return [mark("", f"{BOX} a letter that the font has not")] if missing else []


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """So many positions out of ``range(count)``, or all, spread evenly from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def tick_positions(count: int, room: float) -> NDArray[np.int64]:
    """Positions out of ``range(count)`` for labels of 12 points each: the first, the last, and equal steps.

    Example:
        >>> tick_positions(60, 240).tolist()
        [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45, 48, 51, 54, 59]
    """
    step = max(1, int(np.ceil(count / max(2, room / 12))))
    positions = np.arange(0, count, step)
    positions[-1:] = count - 1  # widens the last gap: two labels next to each other would touch
    return positions


def above(ax: Axes, points: float) -> Transform:
    """Axes coordinates, moved up by a number of points."""
    return ax.transAxes + ScaledTranslation(0, points / 72, ax.figure.dpi_scale_trans)


def header(
    ax: Axes,
    title: str,
    conditions: str = "",
    entries: Sequence[Artist] = (),
    *,
    start: float = 7,
) -> None:
    """Stack above the axes, from below: the legend, the conditions in small grey, the title.

    Args:
        ax: The axes.
        title: Short and factual.
        conditions: What the magnitudes depend on; wrapped, and cut after three lines.
        entries: Legend entries.
        start: Points above the axes at which the stack begins.
    """
    settle(ax)
    room = _room(ax)
    if entries:
        start += _legend(ax, entries, start, room) + 7
    if conditions:
        text = ax.text(0, 1, legible(conditions), transform=above(ax, start), fontsize=SMALL, color=GREY)
        text.set_parse_math(False)
        wrap(text, room, lines=3)
        start += 11 * (text.get_text().count("\n") + 1)
    heading = ax.set_title(legible(title), loc="left", y=1, pad=start + 2, fontsize=TITLE, color=INK)
    heading.set(fontweight="bold", parse_math=False)
    wrap(heading, room)


def settle(ax: Axes) -> None:
    """Let the figure's layout give the axes their size, which what follows is fitted to."""
    engine = ax.figure.get_layout_engine()
    root = ax.figure.figure
    if engine is not None and root is not None:
        engine.execute(root)


def heighten(figure: Figure, panels: Sequence[Axes], least: float, rows: int = 1) -> None:
    """Give a figure the least height in inches, or more where a header would leave axes less than half of it.

    Args:
        figure: The figure, of which the rows take equal parts.
        panels: One axes for each part.
        least: Its height in inches where that is enough.
        rows: Number of rows.
    """
    figure.set_figheight(2 * least)  # in which any header has room
    settle(panels[0])
    part = figure.bbox.height / rows
    rest = max(part - panel.bbox.height for panel in panels)
    figure.set_figheight(max(least, rows * 2 * rest / figure.dpi))


def _room(ax: Axes) -> float:
    """Pixels from the left end of the axes to the right end of what stands beside them, less a reserve.

    A figure is saved at another resolution than it is laid out for, at which both ends lie a little elsewhere.
    """
    box = ax.get_tightbbox()
    return 0.96 * float(max(ax.bbox.x1, ax.bbox.x1 if box is None else box.x1) - ax.bbox.x0)


def wrap(text: Text, room: float, lines: int = 2) -> None:
    """Break a text into lines that fit into so many pixels; what does not fit is cut off."""
    words = text.get_text()
    columns = len(words)
    while columns > 12 and _wide(text) > room:
        columns = int(columns * 0.94)
        text.set_text("\n".join(textwrap.wrap(words, columns, max_lines=lines, placeholder=" …")))


def _wide(text: Text) -> float:
    """Pixels that a text takes: as it is here or, which may be wider by a tenth, in letters without hinting."""
    font, dpi = text.get_fontproperties(), text.get_figure(root=True).dpi  # type: ignore[union-attr]
    lines = text.get_text().split("\n")
    points = max(text_to_path.get_text_width_height_descent(line, font, False)[0] for line in lines)
    return float(max(text.get_window_extent().width, points * dpi / 72))


def _legend(ax: Axes, entries: Sequence[Artist], start: float, room: float) -> float:
    """Draw the legend in as many columns as fit; gives its height in points."""
    options: dict[str, Any] = {"handletextpad": 0.5, "columnspacing": 1.4, "labelspacing": 0.3}
    if room < WIDTHS["column"] * ax.figure.dpi:
        options.update(columnspacing=0.8, handlelength=1.4)  # so that two columns fit beside each other
    for columns in range(len(entries), 0, -1):
        legend = ax.legend(
            handles=list(entries),
            loc="lower left",
            bbox_to_anchor=(0, 1),
            bbox_transform=above(ax, start),
            ncols=columns,
            fontsize=SMALL,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            labelcolor=INK,
            **options,
        )
        box = legend.get_window_extent()
        stretch = max(_wide(text) / text.get_window_extent().width for text in legend.get_texts())
        if box.width * stretch <= room:
            break
    return float(box.height * 72 / ax.figure.dpi)


def legend_below(figure: Figure, entries: Sequence[Artist]) -> None:
    """A legend under everything else of a figure, in as many columns as fit."""
    for columns in range(min(len(entries), 8), 0, -1):
        legend = figure.legend(
            list(entries),
            ["layer"] * len(entries),  # the text follows: matplotlib leaves out what begins with an underscore
            loc="outside lower left",
            ncols=columns,
            fontsize=SMALL,
            frameon=False,
            borderpad=0,
            handlelength=1.6,
            handletextpad=0.5,
            columnspacing=1.2,
            labelspacing=0.3,
            labelcolor=INK,
        )
        for text, entry in zip(legend.get_texts(), entries, strict=True):
            text.set(text=str(entry.get_label()), parse_math=False)
        if columns == 1 or legend.get_window_extent().width <= 0.93 * figure.bbox.width:
            break
        legend.remove()


def depth_bar(ax: Axes, depths: Sequence[int], start: float) -> float:
    """A small colour bar by depth above the right end of the axes; gives the points above which there is room."""
    width = 0.5 * ax.figure.dpi / ax.bbox.width
    bar = ax.inset_axes((0.97 - width, 1, width, 0.02), transform=above(ax, start + 3))
    bar.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=depth_map())
    bar.set_axis_off()
    for x, side, text in ((-0.04, "right", f"layer depth {depths[0]}"), (1.04, "left", f"{depths[-1]}")):
        words = bar.text(x, 0.5, text, transform=bar.transAxes, va="center", fontsize=SMALL, color=GREY)
        words.set_horizontalalignment(side)  # type: ignore[arg-type]
    return start + 13
