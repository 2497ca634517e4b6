"""Replacing the files of a run all at once, in its own folder, where the user's files stay untouched.

As a database's write-ahead log: the new files are written into a folder of their own inside the run's,
``.gradprobe-writing``, and flushed to the disk. Then their ``run.json`` gets its name there: from this moment on
the new run counts, and before it the old one does. After that the files move to their places, ``run.json`` last.
If the process is killed, the next one that reads or writes the run does what is left: it moves the files of a run
that counts, and deletes those of one that does not. No torch, no pandas.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gradprobe.record.files.atomic import flush_to_disk
from gradprobe.runs.contents import NAMES, RECORD, TABLES, is_whole, owned, parse, record_in, sealed, sha256

with contextlib.suppress(ImportError):  # Windows has other locks: nothing keeps two processes from one run there
    import fcntl

FOLDER = ".gradprobe-writing"
ROOM = 2**18  # bytes that are kept free for a record while its training runs
_LOCK, _ROOM = "lock", "room"


class BusyError(FileExistsError):
    """Another process writes this run."""


class Draft:
    """What one process, and no other, writes to a run's folder.

    Args:
        folder: The run's folder, which exists.
        only_alone: Refuse where the file system has no locks.

    Attributes:
        path: Where files are put before they are part of the run.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Draft(Path(folder)) as draft:
        ...     record = {"gradprobe": "0", "conditions": {}, "layers": [], "placement": {}}
        ...     draft.replace(record, {"history.csv": b"a"})
        ...     (Path(folder) / "history.csv").read_bytes()
        b'a'
    """

    def __init__(self, folder: Path, *, only_alone: bool = False) -> None:
        self.folder, self.path, self._only_alone = folder, folder / FOLDER, only_alone
        self._lock: int | None = None

    def __enter__(self) -> Draft:
        """Take the lock, and finish or take back what a killed process has left.

        Raises:
            BusyError: If another process has it.
            OSError: If the folder cannot be written.
        """
        self._lock, alone = _locked(self.path)
        try:
            if not alone and self._only_alone:
                raise OSError(f"whether another process writes to {self.folder} is not known")
            _move_into_place(self.folder)
            self._clear()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Leave nothing but the run."""
        if self._lock is None:
            return
        self._clear()
        for remove in ((self.path / _LOCK).unlink, self.path.rmdir):
            with contextlib.suppress(OSError):
                remove()
        os.close(self._lock)
        self._lock = None

    def keep_room(self) -> None:
        """Take up the room on the disk that a record will need.

        Raises:
            OSError: If there is not so much.
        """
        with (self.path / _ROOM).open("wb") as file:
            file.write(bytes(ROOM))
            file.flush()
            os.fsync(file.fileno())

    def replace(self, record: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Make these the run: all its other files go, those of the user stay."""
        before = _record_or_none(self.folder)
        check_names(self.folder, {RECORD, *files}, {} if before is None else owned(before))
        (self.path / _ROOM).unlink(missing_ok=True)
        for name, data in files.items():
            _write(self.path / name, data)
        self._commit(record, {name: sha256(data) for name, data in files.items()})

    def add(self, names: Collection[str]) -> None:
        """Make files that were put into `path` part of the run.

        Raises:
            FileExistsError: If there is one of this name that is not the run's.
        """
        record = record_in(self.folder)
        check_names(self.folder, names, owned(record))
        for name in names:
            flush_to_disk(self.path / name)
        if "files" not in record:  # an older run, which keeps no list
            for name in names:
                (self.path / name).replace(self.folder / name)
            return
        added = {name: sha256((self.path / name).read_bytes()) for name in names}
        self._commit(record, {**record["files"], **added})

    def _commit(self, record: Mapping[str, Any], files: Mapping[str, str]) -> None:
        unnamed = self.path / f"{RECORD}.partial"
        data = sealed(record, files)
        parse(data)  # what could not be read must not count
        _write(unnamed, data)
        flush_to_disk(self.path)
        unnamed.replace(self.path / RECORD)
        flush_to_disk(self.path)
        _move_into_place(self.folder)

    def _clear(self) -> None:
        """Delete what has not become part of the run."""
        for path in list(self.path.iterdir()) if self.path.is_dir() else []:
            if path.name != _LOCK:
                with contextlib.suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def check_names(folder: Path, names: Collection[str], own: Collection[str]) -> None:
    """Raise FileExistsError if a file would be replaced that is not the run's own, or is no file."""
    for name in sorted(names):
        path = folder / name
        if os.path.lexists(path) and (name not in own or (path.is_dir() and not path.is_symlink())):
            what = "a folder" if path.is_dir() else "not gradprobe's"
            raise FileExistsError(f"{path} is {what}: move it, or choose another folder")


def recover(folder: Path, *, refuse_busy: bool = False) -> None:
    """Finish, or take back, what a killed process has begun; nothing where another is at it, or it may not be.

    Raises:
        BusyError: If another process is at it, with ``refuse_busy``.
    """
    if not os.path.lexists(folder):
        _back_from_aside(folder)
    if not os.path.lexists(folder / FOLDER):
        return
    try:
        with Draft(folder, only_alone=True):
            pass
    except BusyError:
        if refuse_busy:
            raise
    except OSError:
        pass


def _back_from_aside(folder: Path) -> None:
    """Put back a run that version 0.1.0 had moved aside when it was killed, with the user's files in it."""
    for aside in folder.parent.glob(f".{glob.escape(folder.name)}.*.old"):
        if (aside / folder.name / RECORD).is_file():
            with contextlib.suppress(OSError):
                (aside / folder.name).replace(folder)
                aside.rmdir()
            return


def snapshot(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The record and the tables of one and the same run, also while another process replaces it.

    Raises:
        OSError: If a file cannot be read.
        KeyError, TypeError, ValueError: If run.json is not one of ours.
    """
    while True:
        data = read(folder, RECORD)
        try:
            record = parse(data)
            own = owned(record)
            tables = {name: read(folder, name) for name in TABLES if name in own}
            if all(not own[name] or own[name] == sha256(table) for name, table in tables.items()):
                return record, tables
        except (OSError, KeyError, TypeError, ValueError):
            if read(folder, RECORD) == data:
                raise
            continue
        if read(folder, RECORD) == data:
            return record, tables


def read(folder: Path, name: str) -> bytes:
    """A file of the run that counts: it may not have moved to its place yet."""
    if (folder / FOLDER / RECORD).is_file():
        with contextlib.suppress(FileNotFoundError):
            return _bytes(folder / FOLDER / name)
    return _bytes(folder / name)


def _bytes(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return path.read_bytes()


def _move_into_place(folder: Path) -> None:
    """Let the files of a run that counts take their places; can be done again whenever it was not finished."""
    draft = folder / FOLDER
    if not (draft / RECORD).is_file():
        return
    record, before = _record_or_none(draft), _record_or_none(folder)
    if record is None or not is_whole(record):
        return
    new, old = owned(record), {} if before is None else owned(before)
    for name in sorted(old.keys() - new.keys()):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            (folder / name).unlink()
    for name in sorted(new.keys() & NAMES, key=lambda name: (name == RECORD, name)):
        with contextlib.suppress(FileNotFoundError):
            (draft / name).replace(folder / name)
    flush_to_disk(folder)


def _locked(draft: Path) -> tuple[int, bool]:
    """An open lock in a draft's folder, and whether it is certain that no other process has it."""
    while True:
        if draft.is_symlink():
            raise FileExistsError(f"{draft} is a link: delete it")
        draft.mkdir(exist_ok=True)
        try:
            lock = os.open(draft / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except FileNotFoundError:  # the one before has just left
            continue
        try:
            alone = lock_now(lock)
            if os.fstat(lock).st_ino == (draft / _LOCK).stat().st_ino:
                return lock, alone
        except BlockingIOError:
            os.close(lock)
            raise BusyError(f"another process writes to {draft.parent}: choose another folder, or wait") from None
        except FileNotFoundError:
            pass
        os.close(lock)


def lock_now(lock: int) -> bool:
    """Lock an open file for this process alone; False where there are no locks.

    Raises:
        BlockingIOError: If another process has it.
    """
    if "fcntl" not in globals():
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks, as some of clusters: there is still no run but a whole one
        return False


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _record_or_none(folder: Path) -> dict[str, Any] | None:
    try:
        return record_in(folder)
    except (OSError, KeyError, TypeError, ValueError):
        return None
