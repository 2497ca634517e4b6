"""A run on disk: a folder of plain text and pictures, written whole or not at all, read back exactly."""

from __future__ import annotations

import contextlib
import datetime
import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from gradprobe.arms import ArmsComparison
from gradprobe.comparison import Comparison, read_learning
from gradprobe.history import GradientHistory, read_csv, write_csv
from gradprobe.markup import run_html
from gradprobe.policies import Placement
from gradprobe.version import __version__

SCHEMA = 1
_OURS = {
    "run.json",
    "history.csv",
    "supervised.csv",
    "learning.csv",
    "arms.csv",
    "iterations.png",
    "depth.png",
    "heatmap.png",
    "comparison.png",
    "paper.png",
    "arms.png",
    "report.html",
}


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
        >>> from gradprobe.history import tidy
        >>> history = GradientHistory(tidy([]), {"seed": 0}, (), (), None)
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     folder = save(Path(parent) / "run", history, Placement("none", (), (), "empty"), figures=False)
        ...     load(folder).history == history
        True
    """
    folder = Path(folder)
    if not _writes():
        return folder
    check_free(folder, force=force)
    record = {
        "schema": SCHEMA,
        "gradprobe": __version__,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **history.record(),
        "placement": placement.record(),
        "comparison": comparison.record() if comparison else None,
        "arms": arms.record() if arms else None,
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
    with _whole(folder) as partial:
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8", newline="")
        if figures:
            from gradprobe.page import write_page
            from gradprobe.plots import save_figures

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
    _recover(folder)
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
    history = GradientHistory.from_record(_table(folder / "history.csv", read_csv), record)
    placement = Placement.from_record(record["placement"])
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


def check_free(folder: str | Path, *, force: bool = False) -> None:
    """Raise the sentence for a folder that a run cannot go to; nothing is left behind.

    Raises:
        FileExistsError: Something is there that must not be replaced.
        OSError: It cannot be made or written.
    """
    folder = Path(folder)
    _recover(folder)
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / "run.json").is_file():
            raise FileExistsError(f"{folder} is not empty and not a run: choose another folder")
        if not force:
            raise FileExistsError(f"there is a run at {folder} already: choose another folder or pass --force")
    elif folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: choose another folder")
    existing = next(parent for parent in folder.absolute().parents if parent.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{folder} cannot be made: {existing} is a file")
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"{folder} cannot be written: no permission in {existing}")


def free_folder(parent: str | Path, name: str) -> Path:
    """A folder that does not exist yet: ``parent/name``, else ``name-2``, ``name-3``, ..."""
    parent = Path(parent)
    numbered = (parent / (name if number == 1 else f"{name}-{number}") for number in range(1, 10**6))
    return next(folder for folder in numbered if not folder.exists())


def _writes() -> bool:
    """Whether this process is the only one, or rank 0 of several; asked without importing torch."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return True
    return bool(distributed.get_rank() == 0)


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        partial.chmod(0o755)
        yield partial
        _swap(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, folder: Path) -> None:
    if not folder.exists():
        partial.replace(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent)) / folder.name
    folder.replace(old)
    partial.replace(folder)
    for path in old.iterdir():
        if path.name not in _OURS:
            shutil.move(path, folder / path.name)
    shutil.rmtree(old.parent, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Put a run back that was moved aside when the process that meant to replace it was killed."""
    if folder.exists() or not folder.parent.is_dir():
        return
    for aside in folder.parent.glob(f".{glob.escape(folder.name)}.*.old"):
        if (aside / folder.name / "run.json").is_file():
            (aside / folder.name).replace(folder)
            shutil.rmtree(aside, ignore_errors=True)
            return


def _comparison(
    folder: Path, record: Mapping[str, Any] | None, plain: GradientHistory, placement: Placement
) -> Comparison | None:
    if record is None:
        return None
    supervised = None
    if record["supervised"] is not None:
        frame = _table(folder / "supervised.csv", read_csv)
        supervised = GradientHistory.from_record(frame, record["supervised"])
    frame = _table(folder / "learning.csv", read_learning)
    return Comparison(plain, supervised, placement, frame, record["conditions"])


def _arms(folder: Path, record: Mapping[str, Any] | None, plain: GradientHistory) -> ArmsComparison | None:
    if record is None:
        return None
    return ArmsComparison.from_record(plain, _table(folder / "arms.csv", read_learning), record)


def _table(path: Path, read: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    try:
        return read(_text(path))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _text(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()
