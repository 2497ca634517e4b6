"""Magnitudes by depth as two lines of text: what is above a threshold stands in the upper one. Plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

_BLOCKS = " ▁▂▃▄▅▆▇█"
_STEPS = 8  # of a block


def sparkline(values: Sequence[float | None], threshold: float | None, width: int) -> tuple[str, str]:
    """A bar for each magnitude on a log scale, over two lines; the threshold lies between them.

    So a bar that stays in the lower line is below the threshold, with or without colour. Without a threshold, or
    where it is outside the range of a bar, both lines show the range of the magnitudes.

    Args:
        values: In depth order. None is no gradient (`·`), 0 is an exact zero (`0`), inf is not finite (`!`).
        threshold: The magnitude that divides them.
        width: At most so many columns; where there are more magnitudes, a column shows the smallest of several.

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
    positive = [math.log10(value) for value in columns if value and math.isfinite(value)]
    low, high = (min(positive), max(positive)) if positive else (0.0, 0.0)
    middle = math.log10(threshold) if threshold else (low + high) / 2
    # one scale for both lines; the smallest and the largest may fill them
    step = max(high - middle, middle - low, 0.5) / _STEPS
    border = threshold or 10.0**middle
    levels = [_level(value, border, step) for value in columns]
    upper = "".join(_cell(value, level - _STEPS, " ", "!") for value, level in zip(columns, levels, strict=True))
    lower = "".join(_cell(value, level, "·", "█") for value, level in zip(columns, levels, strict=True))
    return upper, lower


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
    # at the border a logarithm is not exact enough to tell the side
    return max(1, _STEPS + min(steps, -1)) if value < border else min(2 * _STEPS, _STEPS + 1 + max(steps, 0))


def _cell(value: float | None, level: int, missing: str, infinite: str) -> str:
    if value is None:
        return missing
    if math.isinf(value):
        return infinite
    if value == 0:
        return " " if missing == " " else "0"
    return _BLOCKS[min(max(level, 0), _STEPS)]
