"""Numbers and lists of names in words, the same in every report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence


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


def layer_span(names: Sequence[str], order: Sequence[str], shown: Callable[[str], str]) -> str:
    """Layers in few words: "first to last" where no layer between them is missing, else their names.

    Args:
        names: At least one layer.
        order: The names of all layers, in depth order.
        shown: How a name is printed.

    Example:
        >>> layer_span(["b", "c", "d"], "abcde", str.upper), layer_span(["a", "e"], "abcde", str.upper)
        ('B to D', 'A and E')
        >>> layer_span(["e", "a", "d"], "abcde", str.upper), layer_span(["a", "c", "d", "e"], "abcde", str.upper)
        ('A, D and E', 'A, C and 2 more')
    """
    places = {name: place for place, name in enumerate(order)}
    ordered = sorted(names, key=lambda name: places.get(name, -1))
    printed = [shown(name) for name in ordered]
    first = places.get(ordered[0], 0)
    if len(ordered) > 2 and list(order[first : first + len(ordered)]) == ordered:
        return f"{printed[0]} to {printed[-1]}"
    if len(printed) > 3:
        return few(printed, 2)
    return " and ".join(filter(None, [", ".join(printed[:-1]), printed[-1]]))


def shorten(name: str, width: int) -> str:
    r"""Shorten a layer name so that the layer can still be told from others; the root is ``(root)``.

    Leading parts are cut to the first letters of their words and their numbers, from the left, as far as it takes;
    then letters of the last part are left out, all but three if need be; if that is not enough the rest is cut in
    the middle.
    What cannot be printed (a line break, an escape) becomes ``\ufffd``.

    Example:
        >>> shorten("encoder.layers.11.attention.output.dense", 24)
        'e.l.11.a.output.dense'
        >>> shorten("features.denseblock4.denselayer16.norm1", 20)
        'f.d4.d16.norm1'
        >>> shorten("blocks.0.attention.proj_l", 20), shorten("blocks_token_only.0.attention.proj_l", 20)
        ('b.0.attention.proj_l', 'bto.0.a.proj_l')
        >>> shorten("resnet.encoder.stages.0.layers.2.layer.1.normalization", 24)
        'r.e.s.0.l.2.l.1.normali…'
    """
    name = "".join(char if char.isprintable() else "\ufffd" for char in name) or "(root)"
    parts = name.split(".")
    for i, part in enumerate(parts[:-1]):
        if len(".".join(parts)) <= width:
            break
        parts[i] = "".join(map(_first_letter, part.split("_")))
    short = ".".join(parts)
    if len(short) <= width:
        return short
    room = width - len(short) + len(parts[-1])  # for the last part
    tail = max(0, room // 6 * 2 - 2) if room >= 4 and len(parts) > 1 else (width - 1) // 2
    return f"{short[: width - 1 - tail]}…{short[len(short) - tail :]}"


def _first_letter(word: str) -> str:
    """The first letter of a word and the number after it; a word that begins with a digit stays whole."""
    return word if word[:1].isdigit() else word[:1] + word[len(word.rstrip("0123456789")) :]


def middle(name: str, width: int) -> str:
    """A name, or its beginning and its end.

    Example:
        >>> middle("encoder.layer.11.attention.output.dense", 24)
        'encoder.laye…utput.dense'
    """
    printable = shorten(name, max(len(name), len("(root)")))
    tail = (width - 1) // 2
    return printable if len(printable) <= width else f"{printable[: width - 1 - tail]}…{printable[-tail:]}"


def names_by_reason(reasons: Mapping[str, str]) -> list[tuple[str, str]]:
    """Each reason once, with the names that have it, the first few of them.

    Example:
        >>> names_by_reason({"a": "never called", "b": "detached", "c": "never called"})
        [('never called', 'a, c'), ('detached', 'b')]
    """
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(shorten(name, 40))
    return [(reason, few(several, 4)) for reason, several in names.items()]


def printable(words: str) -> str:
    r"""A text without the characters that a terminal obeys or hides, each shown as its escape; lines stay lines.

    Names, conditions and sentences come from files and from other people's code: what they hold must not set the
    title of a window, delete a line, or turn the direction of writing.

    Example:
        >>> printable("a\x1b[31mb\u202ec"), printable("two\nlines")
        ('a\\x1b[31mb\\u202ec', 'two\nlines')
    """
    if words.isprintable():
        return words
    return "".join(_escaped(char) for char in words)


def _escaped(char: str) -> str:
    if char.isprintable() or char in "\n\t":
        return char
    return char.encode("unicode_escape").decode("ascii")


def one_line(words: str) -> str:
    r"""The same for a text that has to stay on one line.

    Example:
        >>> one_line("a\nb")
        'a\\nb'
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in words)


def quoted(words: str) -> str:
    r"""A text as a literal of Python, in double quotes: for code to paste.

    Example:
        >>> print(quoted('runs/"a\\b"'), quoted("a\nb\x9b"))
        "runs/\"a\\b\"" "a\nb\x9b"
    """
    return one_line(json.dumps(words, ensure_ascii=False))
