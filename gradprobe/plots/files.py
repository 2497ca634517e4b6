"""The figures of a run as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import PIL.PngImagePlugin  # noqa: F401 (matplotlib asks for it only when it saves)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from gradprobe.history import GradientHistory
from gradprobe.plots import style
from gradprobe.plots.comparison import PAGE, draw_page
from gradprobe.plots.depth import plot_profile
from gradprobe.plots.heatmap import heatmap_size, plot_heatmap
from gradprobe.plots.iterations import plot_history
from gradprobe.policies import CNDS_THRESHOLD

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from gradprobe.comparison import Comparison
    from gradprobe.policies import Placement


def save_figures(
    folder: str | os.PathLike[str],
    history: GradientHistory,
    placement: Placement | None = None,
    comparison: Comparison | None = None,
    *,
    of: str | None = None,
    threshold: float | None = None,
    suffix: str = "png",
) -> list[Path]:
    """Write ``iterations.png``, ``depth.png``, ``heatmap.png`` and, with a comparison, ``comparison.png``.

    No window is opened, whatever the backend is, and equal data gives equal files.

    Args:
        folder: Folder to write into; made if it does not exist.
        history: What to draw.
        placement: The decision to draw with it.
        comparison: The comparison to draw, if there is one.
        of: ``"output"`` or ``"weight"``; None takes what the placement looked at.
        threshold: Magnitude to mark; None takes the placement's, or 1e-7.
        suffix: Kind of file: ``"png"``, ``"pdf"`` or ``"svg"``.

    Returns:
        The files written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    of = of or _quantity(history, placement)
    if threshold is None:
        threshold = CNDS_THRESHOLD if placement is None or placement.threshold is None else placement.threshold
    flagged = None if placement is None else placement.flagged
    size = (style.WIDTH, style.HEIGHT)
    axes = {
        "iterations": plot_history(history, of=of, threshold=threshold, flagged=flagged, ax=_axes(*size)),
        "depth": plot_profile(history, of=of, threshold=threshold, placement=placement, ax=_axes(*size)),
        "heatmap": plot_heatmap(history, of=of, threshold=threshold, ax=_axes(*heatmap_size(history))),
    }
    files = [_save(ax.figure, folder / f"{name}.{suffix}") for name, ax in axes.items()]
    if comparison is not None:
        figure = _figure(*PAGE)
        draw_page(figure, comparison, threshold)
        files.append(_save(figure, folder / f"comparison.{suffix}"))
    return files


def save_side_by_side(
    folder: str | os.PathLike[str],
    histories: Mapping[str, GradientHistory],
    *,
    of: str | None = None,
    threshold: float | None = None,
    suffix: str = "png",
) -> list[Path]:
    """Write ``iterations.png`` and ``depth.png`` with a panel for each history, on the same scale.

    Args:
        folder: Folder to write into; made if it does not exist.
        histories: What to draw, by the name to put over it.
        of: ``"output"`` or ``"weight"``; None takes ``"output"``.
        threshold: Magnitude to mark; None takes 1e-7.
        suffix: Kind of file.

    Returns:
        The files written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind, draw in (("iterations", plot_history), ("depth", plot_profile)):
        figure = _figure(style.WIDTH * len(histories), style.HEIGHT + 0.4)
        parts = figure.subfigures(1, len(histories), squeeze=False)[0]
        panels = [part.subplots() for part in parts]
        for part, panel, (name, history) in zip(parts, panels, histories.items(), strict=True):
            part.suptitle(name, fontsize=9, color=style.GREY, parse_math=False)
            draw(history, of=of or "output", threshold=threshold or CNDS_THRESHOLD, ax=panel)
        low, high = zip(*(panel.get_ylim() for panel in panels), strict=True)
        for panel in panels:
            panel.set_ylim(min(low), max(high))
        files.append(_save(figure, folder / f"{kind}.{suffix}"))
    return files


def _quantity(history: GradientHistory, placement: Placement | None) -> str:
    looked_at = "output" if placement is None else placement.of
    return looked_at if looked_at in history.of or not history.of else history.of[0]


def _figure(width: float, height: float) -> Figure:
    """A figure that pyplot does not know, so that there is nothing to close."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _axes(width: float, height: float) -> Axes:
    return _figure(width, height).subplots()


def _save(figure: Figure | SubFigure, path: Path) -> Path:
    # without dates and versions equal data gives equal files
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[path.suffix[1:]]
    figure.figure.savefig(path, dpi=150, bbox_inches="tight", metadata=metadata)
    return path
