"""The start of a command that needs a model: what is large is imported once, and what draws in another process."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

import click

from gradprobe.cli.terminal import say
from gradprobe.runs.drawing import DrawingProcess

_DRAWING = "gradprobe.drawing"


def say_loading(*, quiet: bool) -> None:
    """Say at once what will take seconds."""
    if not quiet and "torch" not in sys.modules:
        say("loading torch ...")


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Leave the garbage collector off: imports make no garbage, and looking for it takes a tenth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def draw_beside() -> None:
    """Start the process that draws the figures of this command, unless this one has matplotlib already."""
    if "matplotlib" not in sys.modules:
        context = click.get_current_context()
        context.meta[_DRAWING] = context.with_resource(DrawingProcess())


def drawing_beside() -> DrawingProcess | None:
    """The process that draws the figures of this command, or None where this one does."""
    process: DrawingProcess | None = click.get_current_context().meta.get(_DRAWING)
    return process
