"""What the figures share: colours and sizes, axes, the threshold, and how names are printed."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
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
from gradprobe.show.colours import BRANCH as BRANCH
from gradprobe.show.colours import FINE as FINE
from gradprobe.show.colours import FLAGGED as FLAGGED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Text

INK, GREY, PALE = "#222222", "#666666", "#e4e4e4"
ZERO, NONFINITE = "v", "X"
THRESHOLD_LINE: dict[str, Any] = {"color": FLAGGED, "linestyle": (0, (5, 3)), "linewidth": 1.2}
_FONTS = ("family", "sans-serif", "serif", "monospace")  # chosen for the letters in layers' names
BOX = "\N{WHITE SQUARE}"
SMALL, NAME, TITLE = 7.5, 8.5, 9.0
SCREEN = 7.4
# inches: one column and the whole text width of a two-column paper
WIDTHS = {"column": 3.4, "page": 7.0}


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Draw with the settings of matplotlib's own file, apart from the fonts, whatever the program has set.

    A training script that plots with a dark style, or through LaTeX, does not want that for the figures of a run.

    Example:
        >>> with matplotlib.rc_context({"text.usetex": True}), own_style():
        ...     print(matplotlib.rcParams["text.usetex"])
        False
    """
    settings: Any = matplotlib.rcParams
    fonts = {f"font.{name}": settings[f"font.{name}"] for name in _FONTS}
    # a program may have made errors of numpy's notes, and of warnings
    with matplotlib.rc_context(), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matplotlib.rc_file_defaults()
        settings.update(fonts)
        yield


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
    """A width in inches: given as a number, or as ``"screen"``, ``"column"`` or ``"page"``.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> inches("column"), inches("screen"), inches(5)
        (3.4, 7.4, 5.0)
    """
    if isinstance(width, str):
        known = {"screen": screen, **WIDTHS}
        if width not in known:
            raise ValueError(f"expected a width: one of {list(known)} or a number of inches, got {width!r}")
        return known[width]
    if not width > 0:
        raise ValueError(f"expected a width above 0 inches, got {width!r}")
    return float(width)


def panel_size(width: float) -> tuple[float, float]:
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


def strip_axes(ax: Axes, *, grid: str = "y") -> None:
    """Remove what is not data: the upper and right spine, dark ticks, all but a pale grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(which="both", colors=GREY, labelcolor=INK, labelsize=SMALL)
    ax.grid(visible=False)
    if grid:
        ax.grid(axis=grid, color=PALE, linewidth=0.7)  # type: ignore[arg-type]
    ax.set_axisbelow(True)


def log_axis(ax: Axes, low: float, high: float, name: str) -> None:
    """A log y axis with these limits, extended to those of axes that share it and already hold data."""
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
    """A dashed line, and a faint shade of its colour over everything below."""
    if threshold is None:
        return
    line = ax.axhline(threshold, **THRESHOLD_LINE, zorder=2.5, gid="threshold")
    line.set_path_effects([withStroke(linewidth=2.6, foreground="white", alpha=0.7)])
    lowest = np.finfo(np.float64).tiny  # below whatever the axes' lower limit becomes
    ax.axhspan(lowest, threshold, color=FLAGGED, alpha=0.05, linewidth=0, zorder=0.1)


def threshold_label(threshold: float, of: str) -> str:
    """The threshold in words; only the CNDS rule on outputs carries its name.

    Example:
        >>> threshold_label(1e-7, "output"), threshold_label(1e-7, "weight")
        ('threshold 1e-7 (CNDS)', 'threshold 1e-7')
    """
    rule = " (CNDS)" if (of, threshold) == ("output", CNDS_THRESHOLD) else ""
    return f"threshold {short(threshold)}{rule}"


def flagged_phrase(flagged: int, count: int, threshold: float | None) -> str:
    """How many layers are flagged or, without a placement, below the threshold; for a title.

    Example:
        >>> flagged_phrase(2, 8, None), flagged_phrase(1, 1, 1e-7), flagged_phrase(0, 8, 1e-7)
        (': 2 of 8 layers flagged', ': 1 of 1 layer below 1e-7', '')
    """
    return f": {flagged} of {counted(count, 'layer')} {flagged_word(threshold)}" if flagged else ""


def flagged_word(threshold: float | None) -> str:
    """What such layers are called: flagged or, without a placement, below the threshold."""
    return "flagged" if threshold is None else f"below {short(threshold)}"


def draw_off_scale(ax: Axes, x: NDArray[Any], colour: Any, *, zero: bool) -> None:
    """Markers at the limits of the log axis: exact zeros at the lower, non-finite values at the upper one."""
    if not len(x):
        return
    marker, gid = (ZERO, "exact zero") if zero else (NONFINITE, "non-finite")
    look: dict[str, Any] = {"s": 32, "marker": marker, "linewidths": 0, "clip_on": False, "zorder": 4, "gid": gid}
    # y is a fraction of the axes' height, because panels drawn side by side get their limits afterwards
    ax.scatter(x, np.full(len(x), 0 if zero else 1), c=colour, transform=ax.get_xaxis_transform(), **look)


def name_axis(axis: Axis, name: str) -> None:
    """The name of an axis."""
    axis.set_label_text(name, color=INK, fontsize=NAME)


def layer_label(layer: str, ax: Axes, most: int = 24) -> str:
    """A layer's name, no longer than these axes have room for, in letters that the font has."""
    room = 4.2 * ax.bbox.width / ax.figure.dpi
    return legible(shorten(layer, int(np.clip(room, 14, most))))


def legible(text: str) -> str:
    r"""A text with a box in place of every letter that none of matplotlib's fonts has.

    The fonts are those of ``rcParams["font.family"]``, which may be a list.

    Example:
        >>> legible("conv1 µ"), legible("\u5c42.1")
        ('conv1 µ', '□.1')
    """
    if text.isascii():
        return text
    known = _known_letters(tuple(matplotlib.rcParams["font.family"]))
    return "".join(letter if letter in known or letter == "\n" else BOX for letter in text)


@lru_cache(maxsize=8)
def _known_letters(families: tuple[str, ...]) -> frozenset[str]:
    letters: set[str] = set()
    for family in families:
        file = findfont(FontProperties(family=[family]))
        letters.update(map(chr, get_font(file).get_charmap()))
    return frozenset(letters)


def named_phrase(shown: int, count: int) -> str:
    """What an axis adds to its name where not every layer is named."""
    return "" if shown == count else f" ({shown} of {count} named)"


def colour_ticks(ticks: Sequence[Text], flagged: Sequence[bool]) -> None:
    """Colour the names of flagged layers."""
    for text, is_flagged in zip(ticks, flagged, strict=True):
        text.set_color(FLAGGED if is_flagged else INK)


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """At most so many positions out of ``range(count)``, spread evenly from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def tick_positions(count: int, room: float) -> NDArray[np.int64]:
    """Positions out of ``range(count)`` for labels of 12 points each: the first, the last, and equal steps.

    Example:
        >>> tick_positions(60, 240).tolist()
        [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45, 48, 51, 54, 59]
    """
    step = max(1, int(np.ceil(count / max(2, room / 12))))
    positions = np.arange(0, count, step)
    positions[-1:] = count - 1  # the last gap gets wider: adding a label instead would make two touch
    return positions
