"""Numbers and lists of names in words, the same wherever something is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def counted(count: int, one: str, many: str = "") -> str:
    """The number and the noun that goes with it.

    Example:
        >>> counted(1, "layer"), counted(3, "layer"), counted(2, "branch", "branches")
        ('1 layer', '3 layers', '2 branches')
    """
    return f"{count} {one if count == 1 else many or one + 's'}"


def few(names: Sequence[str], most: int = 6) -> str:
    """The first of some names, and how many more there are.

    Example:
        >>> few(["a", "b", "c"], 2), few(["a", "b"], 2)
        ('a, b and 1 more', 'a, b')
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def span(names: Sequence[str], order: Sequence[str], said: Callable[[str], str]) -> str:
    """Layers in few words: the first to the last, only where none between them is left out.

    Args:
        names: At least one layer.
        order: The names of all layers, in depth order.
        said: How a name is printed.

    Example:
        >>> span(["b", "c", "d"], "abcde", str.upper), span(["a", "e"], "abcde", str.upper)
        ('B to D', 'A and E')
        >>> span(["e", "a", "d"], "abcde", str.upper), span(["a", "c", "d", "e"], "abcde", str.upper)
        ('A, D and E', 'A, C and 2 more')
    """
    places = {name: place for place, name in enumerate(order)}
    ordered = sorted(names, key=lambda name: places.get(name, -1))
    printed = [said(name) for name in ordered]
    first = places.get(ordered[0], 0)
    if len(ordered) > 2 and list(order[first : first + len(ordered)]) == ordered:
        return f"{printed[0]} to {printed[-1]}"
    if len(printed) > 3:
        return few(printed, 2)
    return " and ".join(filter(None, [", ".join(printed[:-1]), printed[-1]]))
