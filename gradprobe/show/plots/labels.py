"""Labels at the ends of lines, moved apart where they would touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist
from matplotlib.transforms import ScaledTranslation

from gradprobe.show.grid import Floats
from gradprobe.show.plots.style import SMALL, darker, evenly

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.text import Annotation


@dataclass(frozen=True)
class End:
    """A text and the place, in data coordinates, that it belongs to."""

    text: str
    x: float
    y: float
    colour: str | tuple[float, ...]


class EndLabels(Artist):
    """Labels in a column to the right of the axes, each tied to its place by a thin line.

    They are arranged whenever the figure is laid out or drawn, because only then is the height known. Where
    there is no room for all, some are left out, but never the first or the last.
    """

    def __init__(self, ax: Axes, ends: Sequence[End]) -> None:
        super().__init__()
        ax.add_artist(self)  # before its labels, so that they are arranged before they are drawn
        self.set_clip_on(False)
        self._ends = np.array([(end.x, end.y) for end in ends]).reshape(-1, 2)
        self._labels = [_label(ax, end) for end in ends]

    def draw(self, renderer: RendererBase) -> None:
        """Arrange the labels; they are drawn by the axes."""
        self._arrange()

    def get_tightbbox(self, renderer: RendererBase | None = None) -> None:
        """Arrange the labels; this artist takes no space itself."""
        self._arrange()

    def _arrange(self) -> None:
        ax, figure = self.axes, self.figure
        if ax is None or figure is None or not self._labels:
            return
        line = 1.3 * SMALL * figure.dpi / 72 / ax.bbox.height
        shown = evenly(len(self._labels), max(2, 1 + int(1 / line)))
        for label in self._labels:
            label.set_visible(False)
        pixels = ax.transData.transform(self._ends[shown])
        wanted = ax.transAxes.inverted().transform(pixels)[:, 1]
        for row, height in zip(shown, move_apart(wanted, line), strict=True):
            self._labels[row].xyann = (1.0, height)
            self._labels[row].set_visible(True)


def _label(ax: Axes, end: End) -> Annotation:
    column = ax.transAxes + ScaledTranslation(13 / 72, 0, ax.figure.dpi_scale_trans)
    leader = {"arrowstyle": "-", "linewidth": 0.6, "color": end.colour, "alpha": 0.7}
    return ax.annotate(
        end.text,
        (end.x, end.y),
        xytext=(1, 0.5),
        textcoords=column,
        va="center",
        fontsize=SMALL,
        color=darker(end.colour),
        annotation_clip=False,
        parse_math=False,
        arrowprops={**leader, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)},
    )


def move_apart(wanted: Floats, gap: float, low: float = 0.0, high: float = 1.0) -> Floats:
    """Heights at least a gap apart and as near to the wanted ones as possible (least squares).

    With the gaps taken out this is isotonic regression: neighbours in the wrong order share their mean.
    Where there is no room for all, the gap shrinks.

    Example:
        >>> move_apart(np.array([0.5, 0.5, 0.9]), 0.1).round(3).tolist()
        [0.45, 0.55, 0.9]
    """
    order = np.argsort(wanted, kind="stable")
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    steps = gap * np.arange(len(wanted))
    blocks: list[tuple[float, int]] = []
    for height in wanted[order] - steps:
        mean, size = float(height), 1
        while blocks and blocks[-1][0] > mean:
            other, members = blocks.pop()
            mean, size = (mean * size + other * members) / (size + members), size + members
        blocks.append((mean, size))
    level = np.concatenate([np.full(size, mean) for mean, size in blocks])
    heights = np.empty(len(wanted))
    heights[order] = np.clip(level, low, high - gap * (len(wanted) - 1)) + steps
    return heights
