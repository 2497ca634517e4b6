"""Failures planted in the package's own functions while a user's code runs."""

import contextlib
import sys
from collections import Counter
from pathlib import Path

PACKAGE = str(Path(__file__).parents[2] / "gradprobe")


class PlantedError(Exception):
    """Nothing catches it by its name."""


def place_of(code):
    """File, first line and name of a function."""
    return str(Path(code.co_filename).relative_to(PACKAGE)), code.co_firstlineno, code.co_name


@contextlib.contextmanager
def _on_calls(see):
    def trace(frame, event, argument):
        if frame.f_code.co_filename.startswith(PACKAGE):
            see(place_of(frame.f_code))

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@contextlib.contextmanager
def called():
    """Count the calls of every function of the package."""
    counts = Counter()
    with _on_calls(lambda place: counts.update([place])):
        yield counts


@contextlib.contextmanager
def planted(place, number):
    """The call of this number, from 1 on, of a function raises `PlantedError` at once."""
    counts = Counter()

    def see(seen):
        if seen == place:
            counts[place] += 1
            if counts[place] == number:
                raise PlantedError(f"in {place[2]}")

    with _on_calls(see):
        yield
