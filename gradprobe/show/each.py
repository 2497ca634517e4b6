"""How several figures are drawn: one after the other, unless somebody has a better way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Each = Callable[[Callable[[Any], object], Iterable[Any]], None]


def every(call: Callable[[Any], object], items: Iterable[Any]) -> None:
    """Make a call with each item, in order."""
    for item in items:
        call(item)
