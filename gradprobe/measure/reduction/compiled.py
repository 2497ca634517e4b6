"""The compiled form of `sums.c`: a file whose name says what it was made from, and what is in it.

So one of another version is not found, and one that is truncated or foreign is known before it is loaded, which
may end the process. ``hatch_build.py`` makes it at installation; nothing here needs torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "sums.c"
# not linked with OpenMP: the library calls the one that torch has loaded
FLAGS = ("-O3", "-fPIC", "-fopenmp" if sys.platform == "linux" else "-fopenmp-simd")
_PREFIX, _SUFFIX = "_sums-", ".so"


def origin(source: Path = SOURCE) -> str:
    """A digest of what a library is made from: the source, the options, and the kind of machine.

    Example:
        >>> len(origin())
        16
    """
    machine = f"{sys.platform} {platform.machine()} {8 * struct.calcsize('P')}"
    return _digest(b"\0".join([source.read_bytes(), " ".join(FLAGS).encode(), machine.encode()]))


def find(folder: Path = FOLDER, source: Path = SOURCE) -> Path | None:
    """The library in a folder that was made from this source and is whole; None if there is none.

    Raises:
        OSError: If a file cannot be read.
    """
    start = f"{_PREFIX}{origin(source)}-"
    for path in sorted(folder.glob(f"{start}*{_SUFFIX}")):
        if path.name == f"{start}{_digest(path.read_bytes())}{_SUFFIX}":
            return path
    return None


def build(folder: Path = FOLDER, source: Path = SOURCE) -> Path | None:
    """Compile the source, unless that is done; several processes may do so at once.

    The compiler is that in the environment's ``CC``, which may have arguments, or the first that is there.

    Args:
        folder: Gets the library, whole or not at all; those of other versions are deleted from it.
        source: What to compile.

    Returns:
        The library, or None where there is no compiler, it fails, or the folder cannot be written to.
    """
    try:
        found = find(folder, source) or _written(_compile(source), folder, origin(source))
        _delete_others(folder, origin(source))
    except (OSError, ValueError, subprocess.SubprocessError):  # ValueError: an open quotation mark in CC
        return None
    return found


def _compile(source: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        object_file, library = Path(folder, "sums.o"), Path(folder, "sums.so")
        for arguments in (
            [*FLAGS, "-c", str(source), "-o", str(object_file)],
            ["-shared", str(object_file), "-lm", "-o", str(library)],
        ):
            subprocess.run([*_compiler(), *arguments], capture_output=True, check=True)
        return library.read_bytes()


def _compiler() -> list[str]:
    """The words with which a compiler's command begins."""
    named = shlex.split(os.environ.get("CC", ""))
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if not named and found is None:
        raise FileNotFoundError("there is no C compiler")
    return named or [str(found)]


def _written(library: bytes, folder: Path, made_from: str) -> Path:
    path = folder / f"{_PREFIX}{made_from}-{_digest(library)}{_SUFFIX}"
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        part = Path(beside, path.name)
        part.write_bytes(library)
        return part.replace(path)


def _delete_others(folder: Path, made_from: str) -> None:
    for path in folder.glob(f"_sums*{_SUFFIX}"):
        if not path.name.startswith(f"{_PREFIX}{made_from}-"):
            with contextlib.suppress(OSError):
                path.unlink()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
