"""A run on disk: a folder of plain text and figures, written in one step and read back exactly."""

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
        return run_html(self)


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
    """Write a run: first everything goes to a temporary folder, which then takes the run's name in one step.

    Of several ranks only rank 0 writes.

    Args:
        folder: Where; missing parents are made.
        history: The record.
        placement: The decision.
        comparison: The comparison with and without deep supervision, if there is one.
        arms: The comparison of several arms, if there is one; history and placement are its ``plain`` and
            ``placement``.
        timings: Seconds, by what they were spent on.
        figures: Draw the figures and write ``report.html`` too.
        force: Replace an existing run. Other files in its folder are kept.

    Raises:
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
    folder = Path(folder)
    if not is_first_rank():
        return folder
    check_free(folder, force=force)
    run = Run(folder, history, placement, comparison, timings or {}, arms)
    with replacing(folder) as partial:
        for name, text in _texts(run).items():
            (partial / name).write_text(text, encoding="utf-8", newline="")
        if figures:
            from gradprobe.show.page import write_page
            from gradprobe.show.plots import save_figures

            save_figures(partial, history, placement, comparison, arms=arms)
            write_page(partial / "report.html", history, placement, comparison, arms=arms, run=str(folder))
    return folder


def _texts(run: Run) -> dict[str, str]:
    """The text files of a run, by name."""
    record = {
        "schema": SCHEMA,
        "gradprobe": __version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **run.history.to_dict(),
        "placement": run.placement.to_dict(),
        "comparison": run.comparison.to_dict() if run.comparison else None,
        "arms": run.arms.to_dict() if run.arms else None,
        "timings": dict(run.timings),
    }
    texts = {"run.json": json.dumps(record, indent=1, allow_nan=False) + "\n"}
    texts["history.csv"] = write_csv(run.history.frame)
    if run.comparison:
        texts["learning.csv"] = write_csv(run.comparison.frame)
        if run.comparison.supervised:
            texts["supervised.csv"] = write_csv(run.comparison.supervised.frame)
    if run.arms:
        texts["arms.csv"] = write_csv(run.arms.frame)
    return texts


def load(folder: str | Path) -> Run:
    """Read a run back, exactly as it was saved. Needs neither the model nor torch.

    Raises:
        FileNotFoundError: If there is no run.
        ValueError: If it was written by a newer gradprobe, or is damaged.
    """
    folder = Path(folder)
    recover(folder)
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(f"no run at {folder}: expected a folder with run.json and history.csv in it")
    try:
        record = json.loads(_read_text(folder / "run.json"))
        if record["schema"] <= SCHEMA:
            return _read_run(folder, record)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        again = "copy the folder again, or record the run again with --force"
        raise ValueError(f"the run at {folder} cannot be read: {_damage(error)}; {again}") from error
    raise ValueError(
        f"the run at {folder} has schema {record['schema']}, but this gradprobe reads up to {SCHEMA}: update it"
    )


def _read_run(folder: Path, record: Mapping[str, Any]) -> Run:
    history = GradientHistory.from_dict(_read_table(folder / "history.csv", read_csv), record)
    placement = Placement.from_dict(record["placement"])
    comparison = _read_comparison(folder, record["comparison"], history, placement)
    arms = _read_arms(folder, record.get("arms"), history)
    return Run(folder, history, placement, comparison, record["timings"], arms)


def _damage(error: Exception) -> str:
    """What is wrong with the files of a run, in a clause."""
    if isinstance(error, OSError):
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return f"run.json is incomplete ({error})"
    if isinstance(error, KeyError):
        return f"run.json has no {error}"
    if isinstance(error, ValueError):
        return str(error)
    return f"run.json is not what gradprobe writes ({error})"


def _read_comparison(
    folder: Path, record: Mapping[str, Any] | None, plain: GradientHistory, placement: Placement
) -> Comparison | None:
    if record is None:
        return None
    supervised = None
    if record["supervised"] is not None:
        frame = _read_table(folder / "supervised.csv", read_csv)
        supervised = GradientHistory.from_dict(frame, record["supervised"])
    frame = _read_table(folder / "learning.csv", read_learning)
    return Comparison(plain, supervised, placement, frame, record["conditions"])


def _read_arms(folder: Path, record: Mapping[str, Any] | None, plain: GradientHistory) -> ArmsComparison | None:
    if record is None:
        return None
    return ArmsComparison.from_dict(plain, _read_table(folder / "arms.csv", read_learning), record)


def _read_table(path: Path, read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    try:
        return read(_read_text(path))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _read_text(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def run_html(run: Run) -> str:
    """All that a run holds: the history, the placement and the comparisons."""
    parts = [history_html(run.history), placement_html(run.placement)]
    if run.comparison:
        parts.append(comparison_html(run.comparison))
    if run.arms:
        parts.append(arms_html(run.arms))
    return "".join(parts)
