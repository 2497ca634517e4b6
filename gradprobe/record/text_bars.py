"""Magnitudes as bars of text on a log scale: all of them over two lines, or one line for each. Plain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

_BLOCKS = " ▁▂▃▄▅▆▇█"
_STEPS = 8  # of a block


def sparkline(values: Sequence[float | None], threshold: float | None, width: int) -> tuple[str, str]:
    """A bar for each magnitude, over two lines; the threshold lies between them.

    So a bar that stays in the lower line is below the threshold, with or without colour. Without a threshold, or
    where it is outside the range of a bar, both lines show the range of the magnitudes.

    Args:
        values: In depth order. None is no gradient (`·`), 0 is an exact zero (`0`), inf is not finite (`!`).
        threshold: The magnitude that divides them.
        width: Number of columns at most; where there are more magnitudes, a column shows the smallest of several.

    Returns:
        The upper and the lower line.

    Example:
        >>> for line in sparkline([1e-9, 1e-8, None, 1e-7, 1e-6, 1e-5], 1e-7, 80): print(line)
           ▁▅█
        ▁▄·███
        >>> sparkline([0.0, float("inf"), 1.0], None, 80)
        (' !▁', '0██')
    """
    columns = _columns(values, width)
    low, high = _log_range(columns)
    middle = math.log10(threshold) if threshold else (low + high) / 2
    # one scale for both lines; the smallest and the largest may fill them
    step = max(high - middle, middle - low, 0.5) / _STEPS
    border = threshold or 10.0**middle
    levels = [_level(value, border, step) for value in columns]
    return "".join(map(_upper_cell, columns, levels)), "".join(map(_lower_cell, columns, levels))


def _log_range(values: Iterable[float | None]) -> tuple[float, float]:
    """The powers of ten of the smallest and the largest positive, finite value."""
    logs = [math.log10(value) for value in values if value is not None and 0 < value < math.inf]
    return (min(logs), max(logs)) if logs else (0.0, 0.0)


def _columns(values: Sequence[float | None], width: int) -> list[float | None]:
    count = min(len(values), max(1, width))
    edges = [len(values) * index // count for index in range(count + 1)] if count else []
    return [_smallest(values[start:end]) for start, end in pairwise(edges)]


def _smallest(values: Sequence[float | None]) -> float | None:
    reached = [value for value in values if value is not None]
    return min(reached) if reached else None


def _level(value: float | None, border: float, step: float) -> int:
    """How many of 16 steps high; up to 8 is below the border, and nothing is lower than 1."""
    if not value or not math.isfinite(value):
        return 0
    steps = math.floor((math.log10(value) - math.log10(border)) / step)
    # near the border the logarithm is not exact enough to tell the side, so the values are compared
    return max(1, _STEPS + min(steps, -1)) if value < border else min(2 * _STEPS, _STEPS + 1 + max(steps, 0))


def _upper_cell(value: float | None, level: int) -> str:
    if value is not None and math.isinf(value):
        return "!"
    return _BLOCKS[max(level - _STEPS, 0)]


def _lower_cell(value: float | None, level: int) -> str:
    if value is None:
        return "·"
    if math.isinf(value):
        return "█"
    return "0" if value == 0 else _BLOCKS[min(level, _STEPS)]


class RowBars:
    """Bars of which each has a line of its own, on one scale that holds every positive value and the threshold.

    Attributes:
        mark: The column of the threshold, which every bar shows as ``|``, or None.

    Example:
        >>> bars = RowBars([1e-9, 1e-2], 1e-7, width=12)
        >>> [bars.bar(value) for value in (1e-9, 1e-2, None)]
        ['█  |        ', '███|███████ ', '   |        ']
    """

    def __init__(self, values: Sequence[float], threshold: float | None, width: int) -> None:
        low, high = _log_range((*values, threshold))
        pad = max(0.04 * (high - low), 0.25)  # so that the smallest one has a bar too
        self._low, self._span, self._width = low - pad, high - low + 2 * pad, width
        self.mark = None if threshold is None else self._column(threshold)

    def _column(self, value: float) -> int:
        return int(self._width * (math.log10(value) - self._low) / self._span)

    def bar(self, value: float | None) -> str:
        """The bar: none for no gradient or an exact zero, the whole width for NaN and inf."""
        cells = list("█" * self._length(value) + " " * (self._width - self._length(value)))
        if self.mark is not None:
            cells[self.mark] = "|"
        return "".join(cells)

    def _length(self, value: float | None) -> int:
        if not value:
            return 0
        return self._width if math.isinf(value) else max(1, self._column(value))
