"""How the weight of the branches changes from epoch to epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any


def cnds(initial: float, t: int, total: int) -> float:
    """CNDS' recursive decay: ``a_0 = initial``, ``a_t = a_(t-1) * (1 - t/N)`` in epoch ``t`` of ``N``.

    Example:
        >>> f"{cnds(0.3, 20, 60):.4f}"  # where linear decay would still give .20
        '0.0056'
    """
    return initial * math.prod(max(0.0, 1 - step / total) for step in range(1, t + 1))


def dsn(initial: float, t: int, total: int) -> float:
    """DSN's decay: ``initial * 0.1 * (1 - t/N)`` (Lee et al. 2015, arXiv 1409.5185, section 3).

    Example:
        >>> f"{dsn(1.0, 20, 80):.3f}"
        '0.075'
    """
    return 0.1 * linear(initial, t, total)


def linear(initial: float, t: int, total: int) -> float:
    """Linear decay: ``initial * (1 - t/N)``.

    Example:
        >>> f"{linear(0.3, 20, 60):.2f}"
        '0.20'
    """
    return initial * max(0.0, 1 - t / total)


def constant(initial: float, t: int, total: int) -> float:
    """No decay; the training file that CNDS' authors released has a constant 0.4.

    Example:
        >>> constant(0.4, 20, 60)
        0.4
    """
    return initial


SCHEDULES: dict[str, Callable[[float, int, int], float]] = {
    "cnds": cnds,
    "dsn": dsn,
    "linear": linear,
    "constant": constant,
}


def check_schedule(weight: Any, schedule: str, total: int | None, drop_after: int | None) -> None:
    """Raise ValueError if there is no such schedule, or a number in it makes no sense."""
    if schedule not in SCHEDULES:
        raise ValueError(f"expected schedule= out of {list(SCHEDULES)}, got {schedule!r}")
    if not (isinstance(weight, Real) and float(weight) >= 0):
        raise ValueError(f"expected a weight of at least 0, got {weight!r}")
    if schedule != "constant" and (total is None or total < 1):
        raise ValueError(f"schedule={schedule!r} needs total=, the number of steps, at least 1; got {total!r}")
    if drop_after is not None and not drop_after >= 0:
        raise ValueError(f"expected drop_after= to be a number of steps, at least 0; got {drop_after!r}")
