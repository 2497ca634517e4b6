"""The folder of a run: whether one may be written there, and writing it whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
