"""Which runs there are in a folder, and the latest of them. No torch, no pandas."""

from __future__ import annotations

import os
from pathlib import Path

from gradprobe.runs.contents import RECORD
from gradprobe.runs.folder import RUNS, is_run

_TABLE = "history.csv"  # written with the record, and not again when figures are drawn


def runs_in(parent: str | os.PathLike[str] = RUNS) -> list[Path]:
    """The folders in ``parent`` that hold a run, in the order in which they were recorded.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     for name, seconds in (("second", 20), ("first", 10)):
        ...         folder = Path(parent) / name
        ...         folder.mkdir()
        ...         for file in (RECORD, _TABLE):
        ...             (folder / file).touch()
        ...             os.utime(folder / file, (seconds, seconds))
        ...     [folder.name for folder in runs_in(parent)]
        ['first', 'second']
    """
    try:
        folders = [folder for folder in Path(parent).iterdir() if is_run(folder)]
    except OSError:
        return []
    return sorted(folders, key=lambda folder: (recorded_at(folder), folder.name))


def recorded_at(folder: Path) -> float:
    """When a run was recorded, or decided anew, in seconds since 1970; 0 if that cannot be read."""
    file = folder / _TABLE
    try:
        return (file if file.exists() else folder / RECORD).stat().st_mtime
    except OSError:
        return 0.0
