"""Whose code an error comes from: the user's own frames, without ours and those of libraries."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of an error that are the user's own, outermost first."""
    return [frame for frame in traceback.extract_tb(error.__traceback__) if not _foreign(frame.filename)]


def in_a_line(error: BaseException) -> str:
    """What an error is, and where in the user's own code it was raised.

    Example:
        >>> in_a_line(ValueError("expected a number"))
        'ValueError: expected a number'
    """
    frames = own_frames(error)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return traceback.format_exception_only(type(error), error)[0].splitlines()[0] + where


def _foreign(filename: str) -> bool:
    installed = "site-packages" in filename or "dist-packages" in filename
    return installed or filename.startswith((str(Path(__file__).parent), "<frozen", sys.base_prefix))
