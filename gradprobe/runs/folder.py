"""The folder of a run: whether it can be written, and replacing it in one step. No torch, no pandas."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

RUNS = Path("gradprobe_runs")  # where runs go that name no folder

_FILES = {
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
    """Raise an error if a run cannot be written to a folder; nothing is created.

    Raises:
        FileExistsError: If something is there that must not be replaced.
        OSError: If it cannot be made or written.
    """
    folder = Path(folder)
    recover(folder)
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


def is_first_rank() -> bool:
    """Whether this process is the only one or rank 0 of several. Does not import torch."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return True
    return bool(distributed.get_rank() == 0)


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` at the end, or is deleted if an error comes first.

    Files in ``folder`` that gradprobe did not write stay there.
    """
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
        if path.name not in _FILES:
            shutil.move(path, folder / path.name)
    shutil.rmtree(old.parent, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put back a run that was moved aside by a process that was killed before it had replaced it."""
    if folder.exists() or not folder.parent.is_dir():
        return
    for aside in folder.parent.glob(f".{glob.escape(folder.name)}.*.old"):
        if (aside / folder.name / "run.json").is_file():
            (aside / folder.name).replace(folder)
            shutil.rmtree(aside, ignore_errors=True)
            return
