"""The folder of a run: whether it can be written, keeping it until there is one, and which there are. No torch."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gradprobe.record.text import one_line
from gradprobe.runs import draft
from gradprobe.runs.contents import RECORD, SAVED, owned, record_in
from gradprobe.runs.draft import Draft, check_names, lock_now, recover

RUNS = Path("gradprobe_runs")  # where runs go that name no folder
_TABLE = "history.csv"  # written with the record, and not again when figures are drawn
_PATIENCE = 2.0  # seconds to wait for another process that makes a folder, which takes it milliseconds
_ATTEMPTS = 10  # to make a folder whose parents others delete
_LONGEST = 200  # bytes of the name of a folder that is made up; file systems allow 255


class Reserved(os.PathLike[str]):
    """A folder that is kept for a run: made, locked, and with room on the disk. It can be used as a path.

    Attributes:
        shown: As it was asked for.
        folder: Where that is: links and the working directory count once, when it is reserved.
        parent: The folder that it is in, as it was asked for.
        saved: Whether there is a run in it by now.
    """

    def __init__(self, shown: Path, force: bool) -> None:
        self.shown, self.folder, self._force = shown, Path(os.path.realpath(shown)), force
        self.parent = Path(os.path.abspath(shown)).parent  # noqa: PTH100 (without following links)
        self._process = os.getpid()
        self._made: list[Path] = []
        self.saved = False
        self.draft = Draft(self.folder)
        self._enter()

    def _enter(self) -> None:
        try:
            _check_link(self.shown, self.folder)
            self._made = []
            _make(self.folder.parent, self._made)
            with _alone_in(self.folder.parent):  # so that who makes the folder also holds it
                _check(self.shown, self.folder, self._force)
                _make(self.folder, self._made)
                self.draft.__enter__()
            self.draft.keep_room()
        except OSError as error:
            self.close()
            if error.errno is None:  # a sentence of ours
                raise
            raise type(error)(f"{self.shown} cannot be written: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def ensure(self) -> None:
        """Reserve it again if it was deleted."""
        if not self.draft.path.is_dir():
            self.close()
            self.draft = Draft(self.folder)
            self._enter()

    def close(self) -> None:
        """Give it back: without a run in it a folder that was made for one is gone again."""
        if os.getpid() != self._process:  # a child that the user's script has forked
            return
        with _alone_in(self.folder.parent):
            self.draft.__exit__()
            for folder in reversed(self._made):
                with contextlib.suppress(OSError):
                    folder.rmdir()  # no other than an empty one

    def __enter__(self) -> Reserved:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __fspath__(self) -> str:
        return str(self.shown)

    def __str__(self) -> str:
        return str(self.shown)

    def __reduce__(self) -> tuple[Any, ...]:  # a copy, or one in another process, has no lock
        return Path, (str(self.shown),)


def reserve(folder: str | os.PathLike[str], *, force: bool = False) -> Reserved:
    """Make a folder for a run, and keep it from other processes until the run is saved.

    Args:
        folder: Where; missing parents are made.
        force: There may be a run, which the new one will replace.

    Raises:
        FileExistsError: If something is there that must not be replaced, or another process writes there.
        OSError: If it cannot be made or written, or the disk is full.

    Example:
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with reserve(Path(parent) / "run") as folder:
        ...         (Path(parent) / "run").is_dir()
        ...     (Path(parent) / "run").exists()
        True
        False
    """
    if "\0" in os.fspath(folder):
        raise FileNotFoundError(f"{one_line(os.fspath(folder))} cannot be the name of a folder")
    return Reserved(Path(folder), force)


def reserve_free(parent: str | os.PathLike[str], name: str) -> Reserved:
    """Reserve ``parent/name``; where that is taken ``name-2``, ``name-3``, ..."""
    for folder in _numbered(Path(parent), name):
        with contextlib.suppress(FileExistsError):
            return reserve(folder)
    raise AssertionError


def check_free(folder: str | os.PathLike[str], *, force: bool = False) -> None:
    """Raise an error if a run cannot be written to a folder; nothing stays created.

    Raises:
        FileExistsError: If something is there that must not be replaced.
        OSError: If it cannot be made or written.
    """
    reserve(folder, force=force).close()


def free_folder(parent: str | Path, name: str) -> Path:
    """A folder that does not exist yet: ``parent/name``, else ``name-2``, ``name-3``, ..."""
    return next(folder for folder in _numbered(Path(parent), name) if not os.path.lexists(folder))


def _numbered(parent: Path, name: str) -> Iterator[Path]:
    name = name.encode(errors="surrogateescape")[:_LONGEST].decode(errors="ignore") or "_"
    return (parent / (name if number == 1 else f"{name}-{number}") for number in range(1, 10**6))


def kept_elsewhere(folder: str | os.PathLike[str], error: OSError, write: Callable[[Reserved], object]) -> Path:
    """Write a run that its own folder has no place for to a temporary one, so that no training is lost.

    Args:
        folder: Where it should have gone.
        error: Why it cannot; raised if there is no other place either.
        write: Writes the run.

    Returns:
        Where it is.
    """
    try:
        name = f"gradprobe-{Path(folder).name}"
        with reserve_free(tempfile.gettempdir(), name) as instead:
            write(instead)
            return instead.shown
    except OSError:
        raise error from None


def is_run(folder: Path) -> bool:
    """Whether there is a run.json in a folder, or one that is about to take its place."""
    paths = (folder / RECORD, folder / draft.FOLDER / RECORD)
    return any(os.path.isfile(path) for path in paths)  # noqa: PTH113 (raises no error for any path)


def is_first_rank() -> bool:
    """Whether this process is the only one or rank 0 of several. Does not import torch."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return True
    return bool(distributed.get_rank() == 0)


@contextlib.contextmanager
def _alone_in(parent: Path) -> Iterator[None]:
    """Keep other processes from making folders in ``parent``, or deleting theirs, where the file system can."""
    held = None
    with contextlib.suppress(OSError):
        held = os.open(parent, os.O_RDONLY)
    try:
        if held is not None:
            _wait_for(held)
        yield
    finally:
        if held is not None:
            os.close(held)


def _wait_for(held: int) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        with contextlib.suppress(BlockingIOError):
            lock_now(held)
            return
        time.sleep(0.01)


def _check_link(shown: Path, folder: Path) -> None:
    """Raise an error if a link leads nowhere."""
    if shown.is_symlink() and not os.path.lexists(folder):
        raise FileNotFoundError(f"{shown} is a link to {folder}, which is not there: choose another folder")


def _check(shown: Path, folder: Path, force: bool) -> None:
    """Raise an error if there is something in a folder that must not be replaced."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise FileExistsError(f"{shown} is a file: choose another folder")
    recover(folder, refuse_busy=True)  # the files of a run that is just moving to its place are no others
    names = {path.name for path in folder.iterdir()} - {draft.FOLDER}
    if not names:
        return
    if RECORD not in names:
        raise FileExistsError(f"{shown} is not empty and not a run: choose another folder")
    try:
        own = owned(record_in(folder))
    except (OSError, KeyError, TypeError, ValueError) as error:
        why = one_line(str(error))
        raise FileExistsError(
            f"{shown} is not empty and not a run (its {RECORD} is not gradprobe's, or damaged: {why}): choose "
            "another folder"
        ) from None
    if not force:
        raise FileExistsError(f"there is a run at {shown} already: choose another folder or pass --force")
    check_names(folder, names & SAVED, own)


def _make(folder: Path, made: list[Path]) -> None:
    """Make a folder and its parents, and note those that were not there, the outermost first."""
    for attempt in range(_ATTEMPTS):
        missing = [parent for parent in (folder, *folder.parents) if not os.path.lexists(parent)]
        existing = missing[-1].parent if missing else folder
        if not existing.is_dir():
            raise NotADirectoryError(f"{folder} cannot be made: {existing} is a file")
        try:
            for parent in reversed(missing):
                with contextlib.suppress(FileExistsError):  # another process was quicker
                    parent.mkdir()
                    made.append(parent)
            return
        except FileNotFoundError:  # another process has just deleted a parent that it had made
            if attempt == _ATTEMPTS - 1:
                raise


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
