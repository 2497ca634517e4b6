"""The figures of a run as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import PIL.PngImagePlugin  # noqa: F401 (matplotlib asks for it only when it saves)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from gradprobe.decide.findings import with_default_flags
from gradprobe.record.history import GradientHistory
from gradprobe.record.quantities import CNDS_THRESHOLD
from gradprobe.show.plots import style
from gradprobe.show.plots.arms import arms_size, draw_arms_page
from gradprobe.show.plots.comparison import draw_page, page_size
from gradprobe.show.plots.depth import plot_profile
from gradprobe.show.plots.fitting import heighten
from gradprobe.show.plots.heatmap import heatmap_size, plot_heatmap
from gradprobe.show.plots.iterations import plot_history
from gradprobe.show.plots.paper import draw_paper, paper_size

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
) -> list[Path]:
    """Write ``iterations.png``, ``depth.png``, ``heatmap.png``; of a comparison ``comparison.png``, ``paper.png``.

    Of several arms ``arms.png``. No window is opened, whatever the backend is, and equal data gives equal files.

    Args:
        folder: Folder to write into; made if it does not exist.
        history: What to draw.
        placement: The decision to draw with it; where it flags nothing whatever the gradients, CNDS' rule does.
        comparison: The comparison to draw, if there is one.
        arms: The comparison of several arms to draw, if there is one.
        of: ``"output"`` or ``"weight"``; None takes what the placement looked at.
        threshold: Magnitude to mark; None takes the placement's, or 1e-7.
        suffix: Kind of file: ``"png"``, ``"pdf"`` or ``"svg"``.
        width: ``"screen"``, or for print ``"column"`` (3.4 inches), ``"page"`` (7, both columns), or inches. The
            comparison, which has five panels, is never narrower than 7.

    Returns:
        The files written.

    Raises:
        ValueError: The width is none.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    placement = placement and with_default_flags(history, placement)
    of = of or _quantity(history, placement)
    if threshold is None:
        threshold = CNDS_THRESHOLD if placement is None or placement.threshold is None else placement.threshold
    flagged = None if placement is None else placement.flagged
    size = style.size(style.inches(width))
    axes = {
        "iterations": plot_history(history, of=of, threshold=threshold, flagged=flagged, ax=_axes(*size)),
        "depth": plot_profile(history, of=of, threshold=threshold, placement=placement, ax=_axes(*size)),
        "heatmap": plot_heatmap(history, of=of, threshold=threshold, ax=_axes(*heatmap_size(history, size[0]))),
    }
    for ax in axes.values():
        whole = ax.figure.figure
        heighten(whole, [ax], whole.get_figheight())
    files = [save_figure(ax, folder / f"{name}.{suffix}") for name, ax in axes.items()]
    if comparison is not None:
        page = page_size("page" if size[0] < style.WIDTHS["page"] else width)
        for name, inches, draw in (("comparison", page, draw_page), ("paper", paper_size(width), draw_paper)):
            figure = _figure(*inches)
            draw(figure, comparison, threshold)
            files.append(save_figure(figure, folder / f"{name}.{suffix}"))
    if arms is not None:
        files.append(_save_arms(arms, folder / f"arms.{suffix}", width))
    return files


def _save_arms(arms: ArmsComparison, path: Path, width: str | float) -> Path:
    values = ("loss", "accuracy") if arms.held_out else ("loss",)
    figure = _figure(*arms_size(width, len(values)))
    draw_arms_page(figure, arms, values)
    return save_figure(figure, path)


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
        histories: What to draw, by the name to put over it; as pairs where a name may come twice.
        of: ``"output"`` or ``"weight"``; None takes ``"output"``.
        threshold: Magnitude to mark; None takes 1e-7.
        suffix: Kind of file.
        width: Of the whole figure, as in `save_figures`; in print the panels that do not fit beside each other
            stand below each other.

    Returns:
        The files written.

    Raises:
        ValueError: The width is none.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = list(histories.items() if isinstance(histories, Mapping) else histories)
    wide = style.inches(width, style.SCREEN * len(pairs))
    columns = int(np.clip(wide // style.WIDTHS["column"], 1, len(pairs)))
    rows = -(-len(pairs) // columns)
    files = []
    for kind, draw in (("iterations", plot_history), ("depth", plot_profile)):
        high = rows * (style.size(wide / columns)[1] + 0.4)
        figure = _figure(wide, 2 * high)  # while it is drawn there must be room for every header
        parts = figure.subfigures(rows, columns, squeeze=False).ravel()[: len(pairs)]
        panels = [part.subplots() for part in parts]
        for part, panel, (name, history) in zip(parts, panels, pairs, strict=True):
            part.suptitle(style.legible(name), fontsize=style.NAME, color=style.GREY, parse_math=False)
            draw(history, of=of or "output", threshold=threshold or CNDS_THRESHOLD, ax=panel)
        lows, highs = zip(*(panel.get_ylim() for panel in panels), strict=True)
        for panel in panels:
            panel.set_ylim(min(lows), max(highs))
        heighten(figure, panels, high, rows)
        files.append(save_figure(figure, folder / f"{kind}.{suffix}"))
    return files


def _quantity(history: GradientHistory, placement: Placement | None) -> str:
    looked_at = "output" if placement is None else placement.of
    return looked_at if looked_at in history.of or not history.of else history.of[0]


def _figure(width: float, height: float) -> Figure:
    """A figure that pyplot does not know, so that there is nothing to close."""
    # as it will be saved: no text is measured for another resolution
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure


def _axes(width: float, height: float) -> Axes:
    return _figure(width, height).subplots()


def save_figure(drawn: Figure | SubFigure | Axes, path: str | os.PathLike[str], *, dpi: float = 150) -> Path:
    """Write a figure as it is printed: exactly its size, and in a PDF with its fonts embedded (TrueType).

    Equal data gives equal files. matplotlib's settings are as before afterwards.

    Args:
        drawn: A figure, or any axes in it.
        path: Where; its suffix says the kind of file (``.pdf``, ``.svg``, ``.png``, ...).
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
    figure = drawn.figure.figure  # of axes in a part of a figure, the whole
    # without dates, versions and random numbers equal data gives equal files
    undated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    settings: dict[Any, Any] = {
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.hashsalt": "gradprobe",
        "savefig.bbox": None,
    }
    with matplotlib.rc_context(settings):
        figure.savefig(path, dpi=dpi, metadata=undated.get(path.suffix))
    return path
