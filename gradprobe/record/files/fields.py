"""Values that are read from a file are checked: each has the kind that was written, or the file is refused.

A *reader* takes a value as JSON has it and gives back what is kept of it. It raises TypeError where the value has
another kind, ValueError where it is not possible, and KeyError where it is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Reader = Callable[[Any], Any]
_LARGEST = 2**63  # what a table of pandas can hold


def as_tuples(value: Any) -> Any:
    """Lists, as JSON has them, as the tuples they were.

    Example:
        >>> as_tuples([[2, 3], [2, 5]])
        ((2, 3), (2, 5))
    """
    return tuple(map(as_tuples, value)) if isinstance(value, (list, tuple)) else value


def text(value: Any) -> str:
    """A text."""
    return str(_of_kind(value, str, "a text"))


def flag(value: Any) -> bool:
    """True or false."""
    return bool(_of_kind(value, bool, "true or false"))


def integer(value: Any) -> int:
    """A whole number of 64 bits.

    Example:
        >>> integer(3), integer(10**20)
        Traceback (most recent call last):
        ValueError: expected a whole number of 64 bits, got 100000000000000000000
    """
    _of_kind(value, int, "a whole number")
    if not -_LARGEST <= value < _LARGEST:
        raise ValueError(f"expected a whole number of 64 bits, got {_shown(value)}")
    return int(value)


def count(value: Any) -> int:
    """A whole number that is not negative."""
    if integer(value) < 0:
        raise ValueError(f"expected a whole number of 0 or more, got {value}")
    return int(value)


def number(value: Any) -> float:
    """A number that is finite, as it was: whole or not."""
    _of_kind(value, (int, float), "a number")
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return value  # type: ignore[no-any-return]


def anything(value: Any) -> Any:
    """Whatever JSON can hold."""
    return value


def mapping(value: Any) -> dict[str, Any]:
    """An object of JSON, whatever is in it."""
    return dict(_of_kind(value, Mapping, "an object"))


def optional(read: Reader) -> Reader:
    """None, or what the reader makes of it."""
    return lambda value: None if value is None else read(value)


def tuple_of(read: Reader) -> Reader:
    """A list whose items one reader reads.

    Example:
        >>> tuple_of(count)([8, 2])
        (8, 2)
    """
    return lambda value: tuple(map(read, _of_kind(value, (list, tuple), "a list")))


def list_of(read: Reader) -> Reader:
    """The same as a list."""
    return lambda value: list(map(read, _of_kind(value, (list, tuple), "a list")))


def dict_of(read: Reader) -> Reader:
    """An object of JSON whose values one reader reads."""
    return lambda value: {key: read(one) for key, one in mapping(value).items()}


def one_of(*words: str) -> Reader:
    """One of these words."""

    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(f"expected one of {', '.join(words)}, got {_shown(value)}")
        return str(value)

    return read


def fields(record: Any, required: Mapping[str, Reader], others: Mapping[str, Reader]) -> dict[str, Any]:
    """The values of an object of JSON by their names: all that are required, those of the others that are there.

    Raises:
        KeyError: If one is missing.
        TypeError: If there is another, or one has another kind.
        ValueError: If the value of one is not possible.

    Example:
        >>> fields({"name": "fc", "depth": 0}, {"name": text, "depth": count}, {"kind": text})
        {'name': 'fc', 'depth': 0}
        >>> fields({"name": "fc", "depth": -1}, {"name": text, "depth": count}, {})
        Traceback (most recent call last):
        ValueError: depth: expected a whole number of 0 or more, got -1
    """
    known = {**required, **others}
    for name in mapping(record):
        if name not in known:
            raise TypeError(f"unexpected {_shown(name)}")
    return {name: at(record, name, read) for name, read in known.items() if name in required or name in record}


def at(record: Any, name: str, read: Reader) -> Any:
    """One value of an object of JSON.

    Raises:
        KeyError: If it is missing.
        TypeError: If it has another kind.
        ValueError: If it is not possible.
    """
    value = mapping(record)[name]
    try:
        return read(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def _of_kind(value: Any, kind: Any, words: str) -> Any:
    # to Python True is a number
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"expected {words}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A value in few characters; whole numbers of thousands of digits cannot be printed at all."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    return repr(value) if isinstance(value, (bool, int, float, str)) else f"a {type(value).__name__}"
