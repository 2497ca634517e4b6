"""Magnitudes as bars of text on a log scale: all of them in one line, or one line for each. Plain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

_BLOCKS = "▁▂▃▄▅▆▇█"
_STEPS = len(_BLOCKS)
_LEAST = 1.0  # power of ten that a row of bars spans at least: what hardly differs looks level


def sparkline(values: Sequence[float | None], threshold: float | None, width: int) -> tuple[str, str]:
    """A bar for each magnitude, and a second line with a mark under each that is below the threshold.

    Args:
        values: In depth order. None is no gradient (`·`), 0 is an exact zero (`0`), inf is not finite (`!`).
        threshold: The magnitude below which there is a mark; None for no marks.
        width: Number of columns at most; where there are more magnitudes, a column shows the smallest of several.

    Returns:
        The bars on a log scale from the smallest magnitude to the largest, and the marks.

    Example:
        >>> for line in sparkline([1e-9, 1e-8, None, 1e-7, 1e-6, 1e-5], 1e-7, 80): print(line)
        ▁▃·▅▇█
        ^^
        >>> sparkline([0.0, float("inf"), 1.0], None, 80)
        ('0!▅', '')
    """
    columns = _columns(values, width)
    low, high = log_range(columns)
    middle, span = (low + high) / 2, max(high - low, _LEAST)
    bars = "".join(_cell(value, middle - span / 2, span) for value in columns)
    marks = "".join("^" if _below(value, threshold) else " " for value in columns)
    return bars, marks.rstrip()


def _below(value: float | None, threshold: float | None) -> bool:
    return value is not None and threshold is not None and value < threshold


def log_range(values: Iterable[float | None]) -> tuple[float, float]:
    """The powers of ten of the smallest and the largest positive, finite value.

    Example:
        >>> log_range([None, 0.0, 1e-3, 100.0])
        (-3.0, 2.0)
    """
    logs = [math.log10(value) for value in values if value is not None and 0 < value < math.inf]
    return (min(logs), max(logs)) if logs else (0.0, 0.0)


def _columns(values: Sequence[float | None], width: int) -> list[float | None]:
    count = min(len(values), max(1, width))
    edges = [len(values) * index // count for index in range(count + 1)] if count else []
    return [_smallest(values[start:end]) for start, end in pairwise(edges)]


def _smallest(values: Sequence[float | None]) -> float | None:
    reached = [value for value in values if value is not None]
    return min(reached) if reached else None


def _cell(value: float | None, low: float, span: float) -> str:
    if value is None:
        return "·"
    if not math.isfinite(value):
        return "!"
    if value == 0:
        return "0"
    return _BLOCKS[min(_STEPS - 1, int(_STEPS * (math.log10(value) - low) / span))]


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
        low, high = log_range((*values, threshold))
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
