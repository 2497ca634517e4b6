"""Text fitted to the space that the layout gives the axes: lines are broken to that width."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.textpath import text_to_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_PAD = 3 / 72  # inches that a constrained layout leaves around everything


def lay_out(ax: Axes) -> None:
    """Let the figure's layout give the axes their size, so that text can be fitted to it."""
    engine = ax.figure.get_layout_engine()
    root = ax.figure.figure
    if engine is not None and root is not None:
        engine.execute(root)


def grow_height(figure: Figure, panels: Sequence[Axes], least: float, rows: int = 1) -> None:
    """Give a figure a height in inches, or more where its headers would leave the axes less than half of it.

    Args:
        figure: The figure; its rows are equally high.
        panels: The axes, one in each subfigure, laid out before their header was drawn.
        least: The height in inches where that is enough.
        rows: Number of rows.
    """
    rest = max(_height_around(panel) for panel in panels)
    figure.set_figheight(max(least, rows * 2 * rest / figure.dpi))


def _height_around(ax: Axes) -> float:
    """Pixels of the height of a subfigure that the axes do not take, once there is a header."""
    part, box = ax.figure, ax.get_tightbbox()
    below = ax.bbox.y0 - part.bbox.y0
    above = 0.0 if box is None else box.y1 - ax.bbox.y1
    names = sum(text.get_window_extent().height for text in part.texts)
    return float(below + above + names) + 2 * _PAD * (1 + len(part.texts)) * ax.figure.dpi


def header_width(ax: Axes) -> float:
    """Pixels from the left end of the axes to the right end of the labels beside them, less a reserve.

    A figure may be saved at another resolution than it was laid out for, which moves both ends a little.
    """
    box = ax.get_tightbbox()
    return 0.96 * float(max(ax.bbox.x1, ax.bbox.x1 if box is None else box.x1) - ax.bbox.x0)


def wrap(text: Text, width: float, lines: int = 2) -> None:
    """Break a text into lines of at most so many pixels; the rest is cut off."""
    words = text.get_text()
    columns = len(words)
    while columns > 12 and text_width(text) > width:
        columns = int(columns * 0.94)
        text.set_text("\n".join(textwrap.wrap(words, columns, max_lines=lines, placeholder=" …")))


def text_width(text: Text) -> float:
    """Pixels that a text takes, as it is here or without hinting, which may be wider by a tenth."""
    font, dpi = text.get_fontproperties(), text.get_figure(root=True).dpi  # type: ignore[union-attr]
    lines = text.get_text().split("\n")
    points = max(text_to_path.get_text_width_height_descent(line, font, False)[0] for line in lines)
    return float(max(text.get_window_extent().width, points * dpi / 72))
