"""What the figures have in common: colours and sizes, axes, the threshold, and names as they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, ListedColormap, to_rgb
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gradprobe.record.quantities import CNDS_THRESHOLD, short
from gradprobe.record.text import counted, shorten

if TYPE_CHECKING:
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
    below = np.finfo(np.float64).tiny  # whatever the axes' lower limit becomes
    ax.axhspan(below, threshold, color=FLAGGED, alpha=0.05, linewidth=0, zorder=0.1)


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


def mark_lane(ax: Axes, x: NDArray[Any], colour: Any, *, zero: bool) -> None:
    """Markers on a limit of the log axis: exact zeros on the lower, non-finite values on the upper."""
    if not len(x):
        return
    marker, gid = (ZERO, "exact zero") if zero else (NONFINITE, "non-finite")
    look: dict[str, Any] = {"s": 32, "marker": marker, "linewidths": 0, "clip_on": False, "zorder": 4, "gid": gid}
    # in parts of the height: axes that are drawn side by side get their limits afterwards
    ax.scatter(x, np.full(len(x), 0 if zero else 1), c=colour, transform=ax.get_xaxis_transform(), **look)


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
