"""A run on disk: a folder of plain text and figures, written in one step and read back exactly."""

from __future__ import annotations

import contextlib
import datetime
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gradprobe.record.csv_tables import write_csv
from gradprobe.record.history import GradientHistory, check_history, history_html
from gradprobe.record.placement import Placement, placement_html
from gradprobe.record.text import one_line
from gradprobe.runs.contents import PAGE, NewerError
from gradprobe.runs.draft import Draft, recover, snapshot
from gradprobe.runs.folder import Reserved, is_first_rank, is_run, reserve
from gradprobe.runs.read_run import damage, read_parts
from gradprobe.show.each import Each, every
from gradprobe.verdict.arms_comparison import ArmsComparison, arms_html
from gradprobe.verdict.comparison import Comparison, comparison_html
from gradprobe.version import __version__


class PictureWarning(UserWarning):
    """A run was kept, but not all of its figures or its page."""


@dataclass(frozen=True)
class Run:
    """A saved run: what was recorded, what was decided, and what was compared, if anything was.

    Attributes:
        folder: Where it was read from.
        history: The record; for a comparison that of the plain arm.
        placement: The decision.
        comparison: The comparison, or None.
        timings: Seconds, by what they were spent on.
        arms: The comparison of several arms, or None.
    """

    folder: Path = field(compare=False)
    history: GradientHistory
    placement: Placement
    comparison: Comparison | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    arms: ArmsComparison | None = None

    def __str__(self) -> str:
        parts = [self.history, self.placement, *filter(None, [self.comparison, self.arms])]
        return "\n\n".join(map(str, parts))

    def _repr_html_(self) -> str:
        return run_html(self)


def save(
    folder: str | os.PathLike[str],
    history: GradientHistory,
    placement: Placement,
    comparison: Comparison | None = None,
    *,
    arms: ArmsComparison | None = None,
    timings: Mapping[str, float] | None = None,
    figures: bool = True,
    force: bool = False,
) -> Path:
    """Write a run: the record first, which takes its place in one step; then its figures, in another.

    A process that is killed leaves the run that was there or this one, and in either case the user's files. An
    error while the figures are drawn is a `PictureWarning`: the record is kept. Of several ranks only rank 0
    writes.

    Args:
        folder: Where; missing parents are made. Or a folder that `gradprobe.runs.folder.reserve` keeps.
        history: The record.
        placement: The decision.
        comparison: The comparison with and without deep supervision, if there is one.
        arms: The comparison of several arms, if there is one; history and placement are its ``plain`` and
            ``placement``.
        timings: Seconds, by what they were spent on.
        figures: Draw the figures and write ``report.html`` too.
        force: Replace an existing run: the files that its own list names, and no others.

    Raises:
        TypeError: If ``history`` is not one.
        FileExistsError: If there is a run already and ``force`` is not set, or a folder that is not a run.
        OSError: If the folder cannot be written.

    Example:
        >>> from gradprobe.record.history import tidy
        >>> history = GradientHistory(tidy([]), {"seed": 0}, (), (), None)
        >>> with __import__("tempfile").TemporaryDirectory() as parent:
        ...     folder = save(Path(parent) / "run", history, Placement("none", (), (), "empty"), figures=False)
        ...     load(folder).history == history
        True
    """
    check_history(history)
    shown = Path(folder)
    if not is_first_rank():
        return shown
    run = Run(shown, history, placement, comparison, timings or {}, arms)
    with folder if isinstance(folder, Reserved) else reserve(folder, force=force) as reserved:
        record, tables = _record(run), _tables(run)
        reserved.ensure()
        reserved.draft.replace(record, tables)
        reserved.saved = True
        if figures:
            _draw(run, reserved.draft)
    return shown


def add_pictures(
    folder: str | os.PathLike[str], shown: str | os.PathLike[str] | None = None, each: Each = every
) -> None:
    """Draw the figures and the page of a run that was saved without them; nothing where there is no run any more.

    Args:
        folder: Where the run is.
        shown: How the page names it; None for ``folder``.
        each: Draws the figures one after the other, or several at once.

    Raises:
        OSError: If it cannot be written.
        ValueError: If the run cannot be read.
    """
    if is_run(Path(folder)):
        run = replace(load(Path(folder)), folder=Path(shown or folder))
        with Draft(Path(os.path.realpath(folder))) as draft:
            _draw(run, draft, each)


def _draw(run: Run, draft: Draft, each: Each = every) -> None:
    """Add the figures and the page to a run that is kept; what cannot be drawn is left out."""
    with _or_warn(run.folder, "figures"):
        from gradprobe.show.plots import own_style, save_figures

        with own_style():
            files = save_figures(draft.path, run.history, run.placement, run.comparison, arms=run.arms, each=each)
        draft.add([file.name for file in files])
    with _or_warn(run.folder, PAGE):
        from gradprobe.show.page import write_page

        shown = str(run.folder)
        write_page(draft.path / PAGE, run.history, run.placement, run.comparison, arms=run.arms, run=shown)
        draft.add([PAGE])


@contextlib.contextmanager
def _or_warn(folder: Path, what: str) -> Iterator[None]:
    """Turn an error into a warning: no picture is worth a record."""
    try:
        yield
    except Exception as error:
        why = one_line(str(error.strerror if isinstance(error, OSError) else error)) or type(error).__name__
        message = f"the record is kept in {one_line(str(folder))}, but without its {what}: {why}"
        warnings.warn(message, PictureWarning, stacklevel=4)


def _record(run: Run) -> dict[str, Any]:
    """What run.json holds."""
    return {
        "gradprobe": __version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **run.history.to_dict(),
        "placement": run.placement.to_dict(),
        "comparison": run.comparison.to_dict() if run.comparison else None,
        "arms": run.arms.to_dict() if run.arms else None,
        "timings": dict(run.timings),
    }


def _tables(run: Run) -> dict[str, bytes]:
    """The tables of a run as files."""
    frames = {"history.csv": run.history.frame}
    if run.comparison:
        frames["learning.csv"] = run.comparison.frame
        if run.comparison.supervised:
            frames["supervised.csv"] = run.comparison.supervised.frame
    if run.arms:
        frames["arms.csv"] = run.arms.frame
    return {name: write_csv(frame).encode("utf-8") for name, frame in frames.items()}


def load(folder: str | Path) -> Run:
    """Read a run back, exactly as it was saved. Needs neither the model nor torch.

    Raises:
        FileNotFoundError: If there is no run.
        ValueError: If it was written by a newer gradprobe, or is damaged.
    """
    folder = Path(folder)
    recover(folder)
    shown = one_line(str(folder))
    if not is_run(folder):
        raise FileNotFoundError(f"no run at {shown}: expected a folder with run.json and history.csv in it")
    try:
        record, tables = snapshot(folder)
        return Run(folder, **read_parts(record, tables))
    except NewerError as error:
        raise ValueError(f"the run at {shown} {error}") from error
    except Exception as error:  # whatever is in the files, there is no other error than this
        again = "copy the folder again, or record the run again"
        raise ValueError(f"the run at {shown} cannot be read: {damage(error)}; {again}") from error


def run_html(run: Run) -> str:
    """All that a run holds: the history, the placement and the comparisons."""
    parts = [history_html(run.history), placement_html(run.placement)]
    if run.comparison:
        parts.append(comparison_html(run.comparison))
    if run.arms:
        parts.append(arms_html(run.arms))
    return "".join(parts)
