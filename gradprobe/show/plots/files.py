"""The figures of a run as files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import PIL.PngImagePlugin  # noqa: F401 (matplotlib asks for it only when it saves)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

import gradprobe.show.plots.style as style
from gradprobe.decide.findings import with_default_flags
from gradprobe.record.files.atomic import replacing
from gradprobe.record.history import GradientHistory
from gradprobe.record.quantities import CNDS_THRESHOLD
from gradprobe.show.each import Each, every
from gradprobe.show.grid import recorded_quantity
from gradprobe.show.plots.arms import arms_size, draw_arms
from gradprobe.show.plots.comparison import comparison_size, draw_comparison
from gradprobe.show.plots.depth import plot_profile
from gradprobe.show.plots.fitting import grow_height
from gradprobe.show.plots.heatmap import heatmap_size, plot_heatmap
from gradprobe.show.plots.iterations import plot_history
from gradprobe.show.plots.paper import draw_paper, paper_size
from gradprobe.show.plots.signal import plot_signal

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

    from gradprobe.record.placement import Placement
    from gradprobe.verdict.arms_comparison import ArmsComparison
    from gradprobe.verdict.comparison import Comparison


def save_figures(
    folder: str | os.PathLike[str],
    history: GradientHistory,
    placement: Placement | None = None,
    comparison: Comparison | None = None,
    *,
    arms: ArmsComparison | None = None,
    of: str | None = None,
    threshold: float | None = None,
    suffix: str = "png",
    width: str | float = "screen",
    each: Each = every,
) -> list[Path]:
    """Write ``iterations.png``, ``depth.png``, ``heatmap.png``; of a comparison ``comparison.png``, ``paper.png``.

    With ``stats="all"`` it writes ``signal.png`` too, and of several arms ``arms.png``. No window is opened,
    whatever the backend, and equal data gives equal files.

    Args:
        folder: Folder to write into; made if it does not exist.
        history: What to draw.
        placement: The decision to draw; where its policy never flags a layer, CNDS' rule flags instead.
        comparison: The comparison to draw, if there is one.
        arms: The comparison of several arms to draw, if there is one.
        of: ``"output"`` or ``"weight"``; None takes what the placement looked at.
        threshold: Magnitude to mark; None takes the placement's, or 1e-7.
        suffix: Kind of file: ``"png"``, ``"pdf"`` or ``"svg"``.
        width: ``"screen"``, or for print ``"column"`` (3.4 inches), ``"page"`` (7, both columns), or inches. The
            comparison has five panels and is never narrower than 7.
        each: Draws them one after the other, or several at once.

    Returns:
        The files written.

    Raises:
        ValueError: If it is not a width.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    placement = placement and with_default_flags(history, placement)
    of = of or recorded_quantity(history, "output" if placement is None else placement.of)
    if threshold is None:
        threshold = CNDS_THRESHOLD if placement is None or placement.threshold is None else placement.threshold
    inches = style.inches(width)
    drawings = _of_history(history, placement, of, threshold, inches)
    if comparison is not None:
        wide = "page" if inches < style.WIDTHS["page"] else width
        drawings["comparison"] = lambda: draw_comparison(_figure(*comparison_size(wide)), comparison, threshold)
        drawings["paper"] = lambda: draw_paper(_figure(*paper_size(width)), comparison, threshold)
    if arms is not None:
        values = ("loss", "metric") if arms.held_out else ("loss",)
        drawings["arms"] = lambda: draw_arms(_figure(*arms_size(width, len(values))), arms, values)
    files = {folder / f"{name}.{suffix}": draw for name, draw in drawings.items()}
    each(lambda file: save_figure(files[file](), file), files)
    return list(files)


Drawing = Callable[[], "Axes | Figure"]  # draws when it is called


def _of_history(
    history: GradientHistory, placement: Placement | None, of: str, threshold: float, width: float
) -> dict[str, Drawing]:
    """The figures of a history, by the names of their files."""
    flagged = None if placement is None else placement.flagged
    size, heatmap = style.panel_size(width), heatmap_size(history, width)
    same: dict[str, Any] = {"of": of, "threshold": threshold}
    drawings: dict[str, Callable[[], Axes]] = {
        "iterations": lambda: plot_history(history, flagged=flagged, ax=_axes(*size), **same),
        "depth": lambda: plot_profile(history, placement=placement, ax=_axes(*size), **same),
        "heatmap": lambda: plot_heatmap(history, ax=_axes(*heatmap), **same),
    }
    if history.evidence is not None:
        drawings["signal"] = lambda: plot_signal(history, ax=_axes(*size))
    return {name: functools.partial(_grown, draw) for name, draw in drawings.items()}


def _grown(draw: Callable[[], Axes]) -> Axes:
    """A figure as high as it needs to be."""
    ax = draw()
    figure = ax.figure.figure
    grow_height(figure, [ax], figure.get_figheight())
    return ax


def save_side_by_side(
    folder: str | os.PathLike[str],
    histories: Mapping[str, GradientHistory] | Sequence[tuple[str, GradientHistory]],
    *,
    of: str | None = None,
    threshold: float | None = None,
    suffix: str = "png",
    width: str | float = "screen",
) -> list[Path]:
    """Write ``iterations.png`` and ``depth.png`` with a panel for each history, on the same scale.

    Args:
        folder: Folder to write into; made if it does not exist.
        histories: What to draw, by the name to put above it; as pairs where a name may occur twice.
        of: ``"output"`` or ``"weight"``; None takes ``"output"``.
        threshold: Magnitude to mark; None takes 1e-7.
        suffix: Kind of file.
        width: Of the whole figure, as in `save_figures`; panels that do not fit side by side go below each other.

    Returns:
        The files written.

    Raises:
        ValueError: If it is not a width.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = list(histories.items() if isinstance(histories, Mapping) else histories)
    wide = style.inches(width, style.SCREEN * len(pairs))
    columns = int(np.clip(wide // style.WIDTHS["column"], 1, len(pairs)))
    rows = -(-len(pairs) // columns)
    files = []
    for kind, draw in (("iterations", plot_history), ("depth", plot_profile)):
        high = rows * (style.panel_size(wide / columns)[1] + 0.4)
        figure = _figure(wide, 2 * high)  # room for every header while it is drawn
        parts = figure.subfigures(rows, columns, squeeze=False).ravel()[: len(pairs)]
        panels = [part.subplots() for part in parts]
        for part, panel, (name, history) in zip(parts, panels, pairs, strict=True):
            part.suptitle(style.legible(name), fontsize=style.NAME, color=style.GREY, parse_math=False)
            draw(history, of=of or "output", threshold=threshold or CNDS_THRESHOLD, ax=panel)
        lows, highs = zip(*(panel.get_ylim() for panel in panels), strict=True)
        for panel in panels:
            panel.set_ylim(min(lows), max(highs))
        grow_height(figure, panels, high, rows)
        files.append(save_figure(figure, folder / f"{kind}.{suffix}"))
    return files


def _figure(width: float, height: float) -> Figure:
    """A figure that pyplot does not know of, so that nobody has to close it."""
    # at the resolution that it is saved with: text is measured once
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure


def _axes(width: float, height: float) -> Axes:
    return _figure(width, height).subplots()


def save_figure(drawn: Figure | SubFigure | Axes, path: str | os.PathLike[str], *, dpi: float = 150) -> Path:
    """Write a figure as it is printed: exactly its size, and in a PDF with its fonts embedded (TrueType).

    Equal data gives equal files. A file that is there is replaced whole or not at all. matplotlib's settings are
    restored afterwards.

    Args:
        drawn: A figure, or any axes in it.
        path: Where to; its suffix decides the kind of file (``.pdf``, ``.svg``, ``.png``, ...).
        dpi: Dots per inch of a picture, and of the cells of a heat map.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_figure(Figure(figsize=(3.4, 2.9)), Path(folder) / "empty.pdf")
        ...     path.read_bytes()[:5]
        b'%PDF-'
    """
    path = Path(path)
    if not path.suffix:  # as matplotlib would do
        path = path.with_name(f"{path.name}.{matplotlib.rcParams['savefig.format']}")
    figure = drawn.figure.figure  # the whole figure, also of axes in a subfigure
    # without dates, versions and random numbers equal data gives equal files
    undated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    settings: dict[Any, Any] = {
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.hashsalt": "gradprobe",
        "savefig.bbox": None,
    }
    with matplotlib.rc_context(settings), replacing(path) as file:
        figure.savefig(file, dpi=dpi, metadata=undated.get(path.suffix))
    return path
