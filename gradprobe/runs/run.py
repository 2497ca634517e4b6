"""A run on disk: a folder of plain text and pictures, written whole or not at all, read back exactly."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from gradprobe.record.csv_tables import read_csv, write_csv
from gradprobe.record.history import GradientHistory, history_html
from gradprobe.record.placement import Placement, placement_html
from gradprobe.runs.folder import check_free, is_first_rank, recover, replacing
from gradprobe.verdict.arms_comparison import ArmsComparison, arms_html
from gradprobe.verdict.comparison import Comparison, comparison_html, read_learning
from gradprobe.version import __version__

SCHEMA = 1


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
        return run_html(self.history, self.placement, self.comparison, self.arms)


def save(
    folder: str | Path,
    history: GradientHistory,
    placement: Placement,
    comparison: Comparison | None = None,
    *,
    arms: ArmsComparison | None = None,
    timings: Mapping[str, float] | None = None,
    figures: bool = True,
    force: bool = False,
) -> Path:
    """Write a run: everything goes to a folder beside it first, which then takes its name in one step.

    Of several ranks only rank 0 writes.

    Args:
        folder: Where; missing parents are made.
        history: The record.
        placement: The decision.
        comparison: With and without, if it was done.
        arms: Several arms, if they were compared; history and placement are theirs, ``plain`` and ``placement``.
        timings: Seconds, by what they were spent on.
        figures: Draw the pictures and write ``report.html`` too.
        force: Replace an existing run. Other files in its folder are kept.

    Raises:
        FileExistsError: There is a run already and ``force`` is not set, or a folder that is no run.
        OSError: The folder cannot be written.

    Example:
        >>> from gradprobe.record.history import tidy
        >>> history = GradientHistory(tidy([]), {"seed": 0}, (), (), None)
        >>> with __import__("tempfile").TemporaryDirectory() as parent:
        ...     folder = save(Path(parent) / "run", history, Placement("none", (), (), "empty"), figures=False)
        ...     load(folder).history == history
        True
    """
    folder = Path(folder)
    if not is_first_rank():
        return folder
    check_free(folder, force=force)
    record = {
        "schema": SCHEMA,
        "gradprobe": __version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **history.to_dict(),
        "placement": placement.to_dict(),
        "comparison": comparison.to_dict() if comparison else None,
        "arms": arms.to_dict() if arms else None,
        "timings": dict(timings or {}),
    }
    texts = {
        "run.json": json.dumps(record, indent=1, allow_nan=False) + "\n",
        "history.csv": write_csv(history.frame),
    }
    if comparison:
        texts["learning.csv"] = write_csv(comparison.frame)
        if comparison.supervised:
            texts["supervised.csv"] = write_csv(comparison.supervised.frame)
    if arms:
        texts["arms.csv"] = write_csv(arms.frame)
    with replacing(folder) as partial:
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8", newline="")
        if figures:
            from gradprobe.show.page import write_page
            from gradprobe.show.plots import save_figures

            save_figures(partial, history, placement, comparison, arms=arms)
            write_page(partial / "report.html", history, placement, comparison, arms=arms, run=str(folder))
    return folder


def load(folder: str | Path) -> Run:
    """Read a run back, exactly as it was saved. Needs neither the model nor torch.

    Raises:
        FileNotFoundError: No run there.
        ValueError: Written by a newer gradprobe, or damaged.
    """
    folder = Path(folder)
    recover(folder)
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(f"no run at {folder}: expected a folder with run.json and history.csv in it")
    try:
        record = json.loads(_text(folder / "run.json"))
        if record["schema"] <= SCHEMA:
            return _loaded(folder, record)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        again = "copy the folder again, or record the run again with --force"
        raise ValueError(f"the run at {folder} cannot be read: {_damage(error)}; {again}") from error
    raise ValueError(
        f"the run at {folder} has schema {record['schema']}, but this gradprobe reads up to {SCHEMA}: update it"
    )


def _loaded(folder: Path, record: Mapping[str, Any]) -> Run:
    history = GradientHistory.from_dict(_table(folder / "history.csv", read_csv), record)
    placement = Placement.from_dict(record["placement"])
    comparison = _comparison(folder, record["comparison"], history, placement)
    arms = _arms(folder, record.get("arms"), history)
    return Run(folder, history, placement, comparison, record["timings"], arms)


def _damage(error: Exception) -> str:
    """What is wrong with the files of a run, in more words than the error has."""
    if isinstance(error, OSError):
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return f"run.json is not whole ({error})"
    if isinstance(error, KeyError):
        return f"run.json has no {error}"
    if isinstance(error, ValueError):
        return str(error)
    return f"run.json is not as gradprobe writes it ({error})"


def _comparison(
    folder: Path, record: Mapping[str, Any] | None, plain: GradientHistory, placement: Placement
) -> Comparison | None:
    if record is None:
        return None
    supervised = None
    if record["supervised"] is not None:
        frame = _table(folder / "supervised.csv", read_csv)
        supervised = GradientHistory.from_dict(frame, record["supervised"])
    frame = _table(folder / "learning.csv", read_learning)
    return Comparison(plain, supervised, placement, frame, record["conditions"])


def _arms(folder: Path, record: Mapping[str, Any] | None, plain: GradientHistory) -> ArmsComparison | None:
    if record is None:
        return None
    return ArmsComparison.from_dict(plain, _table(folder / "arms.csv", read_learning), record)


def _table(path: Path, read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    try:
        return read(_text(path))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _text(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def run_html(
    history: GradientHistory,
    placement: Placement,
    comparison: Comparison | None,
    arms: ArmsComparison | None = None,
) -> str:
    """A saved run: all that it holds."""
    parts = [history_html(history), placement_html(placement)]
    parts += [comparison_html(comparison)] if comparison else []
    return "".join([*parts, *([arms_html(arms)] if arms else [])])
