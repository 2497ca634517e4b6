"""A file that is replaced whole or not at all: written beside it under another name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

_NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.EROFS, errno.ENOSYS}  # of this file system


@contextlib.contextmanager
def replacing(file: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write to, which takes the place of ``file`` at the end, or is deleted if an error comes first.

    Where ``file`` is a link, its target is replaced and the link stays. What is no regular file (a device, a pipe)
    is written to as it is.

    Raises:
        OSError: If it cannot be written, or is a folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "note.txt") as file:
        ...         _ = file.write_text("whole")
        ...     [(path.name, path.read_text()) for path in Path(folder).iterdir()]
        [('note.txt', 'whole')]
    """
    target = Path(os.path.realpath(file))
    if target.exists() and not target.is_file() and not target.is_dir():
        yield target
        return
    partial = target.with_name(f".{uuid.uuid4().hex}.partial{target.suffix}")  # which decides the kind of a figure
    try:
        yield partial
        flush_to_disk(partial)
        partial.replace(target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, where the system has a way to."""
    with contextlib.suppress(PermissionError):  # Windows opens no folder
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if path.is_file() and error.errno not in _NO_FSYNC:
                raise
        finally:
            os.close(handle)
