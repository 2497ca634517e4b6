"""What can be done about a task, by name: ``"none"``, a placement (``"2+5"``, indices of points) or a remedy."""

from __future__ import annotations

from collections.abc import Iterable

NONE = "none"
MOST_BRANCHES = 3  # of a set that is grown


def arm_of(indices: Iterable[int]) -> str:
    """The arm that has branches at these points.

    Example:
        >>> arm_of([5, 2]), arm_of([])
        ('2+5', 'none')
    """
    return "+".join(map(str, sorted(set(indices)))) or NONE


def indices_of(arm: str) -> tuple[int, ...]:
    """The reverse of `arm_of`; a remedy has no points.

    Example:
        >>> indices_of("2+5"), indices_of("lsuv")
        ((2, 5), ())
    """
    return tuple(map(int, arm.split("+"))) if arm[0].isdigit() else ()


def cost(arm: str) -> int:
    """How many branches an arm has.

    Example:
        >>> cost("none"), cost("2+5")
        (0, 2)
    """
    return len(indices_of(arm))


def widened(arm: str, singles: Iterable[str]) -> list[str]:
    """The arms that have one more of these single points.

    Example:
        >>> widened("5", ["2", "5", "11"])
        ['2+5', '5+11']
    """
    indices = indices_of(arm)
    more = [indices_of(single) for single in singles]
    return [arm_of([*indices, *new]) for new in more if not set(new) <= set(indices)]


def described(arm: str, points: int) -> str:
    """The arm of a network with so many points, as a table shows it: a large set by how many it has.

    Example:
        >>> described("2+5", 9), described("0+2+4+6", 7), described("0+1+2+3", 4)
        ('2+5', '4 of 7', 'every')
    """
    branches = cost(arm)
    if branches <= MOST_BRANCHES:
        return arm
    return "every" if branches == points else f"{branches} of {points}"
