"""Whose code an error comes from: the user's own, gradprobe's, or a library's."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

_OURS = str(Path(__file__).parent) + os.sep
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_PASSES_CALLS_ON = "gradprobe.network.input_tracker"  # its frame is the innermost where the user's own call fails


def is_users_frame(filename: str) -> bool:
    """Whether a frame in this file is the user's own: not gradprobe's, nor an installed library's.

    Example:
        >>> is_users_frame("/home/me/train.py"), is_users_frame(__file__), is_users_frame(traceback.__file__)
        (True, False, False)
    """
    installed = "site-packages" in filename or "dist-packages" in filename
    return not installed and not filename.startswith((_OURS, "<frozen", *_LIBRARIES))


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an error that are the user's own, outermost first."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if is_users_frame(frame.filename)]


def raised_by_gradprobe(error: BaseException) -> bool:
    """Whether gradprobe itself raised an error, so that its message is meant for the user as it is.

    Example:
        >>> raised_by_gradprobe(ValueError("never raised"))
        False
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return module.split(".")[0] == "gradprobe" and module != _PASSES_CALLS_ON


def in_a_line(error: BaseException) -> str:
    """What an error is, and where in the user's own code it was raised.

    Example:
        >>> in_a_line(ValueError("expected a number"))
        'ValueError: expected a number'
    """
    frames = own_frames(error)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return traceback.format_exception_only(type(error), error)[0].splitlines()[0] + where
