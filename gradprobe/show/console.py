"""The terminal for rich text, to which nothing goes that it would obey, and how its paragraphs are set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from gradprobe.record.text import printable

_NARROWEST = 0.6  # of the width that a paragraph may be set to, for the sake of its last line
_SHORT = 0.15  # of the width: a last line below it is too short, even of several words


class PrintableConsole(Console):
    r"""A console that shows control characters as their escapes, wherever in a text they come from.

    Lines end with their last character: the blanks that fill up the columns of a table are left out.

    Example:
        >>> PrintableConsole(width=40).print("a name with \x1b[31m in it")
        a name with \x1b[31m in it
    """

    def print(self, *objects: Any, **how: Any) -> None:
        """Print as rich does."""
        super().print(*(_Trimmed(one) if isinstance(one, ConsoleRenderable) else one for one in objects), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What rich makes of it; its own codes are no text, and stay."""
        for segment in super().render(renderable, options):
            text = segment.text
            yield segment if segment.control or text.isprintable() else Segment(printable(text), segment.style)


class _Trimmed:
    """Something printed without the blanks at the ends of its lines."""

    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for line in Segment.split_lines(console.render(self._renderable, options)):
            while line and not line[-1].control and not line[-1].text.rstrip(" "):
                line.pop()
            yield from line[:-1]
            yield from (Segment(last.text.rstrip(" "), last.style, last.control) for last in line[-1:])
            yield Segment.line()


class Paragraph:
    """Text of which no line ends up with a single word alone at its end, where another width avoids that.

    Args:
        text: The words; a line break in them stays one.
        style: As rich writes it.

    Example:
        >>> PrintableConsole(width=24).print(Text("one two three four five six"))
        one two three four five
        six
        >>> PrintableConsole(width=24).print(Paragraph("one two three four five six"))
        one two three
        four five six
    """

    def __init__(self, text: str | Text, style: str | Style = "") -> None:
        self._text = text if isinstance(text, Text) else Text(text, style=style)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for part in self._text.split(allow_blank=True):
            yield from _set(part, console, options.max_width)


def _set(text: Text, console: Console, width: int) -> list[Text]:
    """The lines of a text without line breaks: as few as its width allows, the last of them no orphan."""
    full = _lines(text, console, width)
    if len(full) < 2 or not _is_orphan(full[-1], width):
        return full
    for narrower in range(width - 1, int(_NARROWEST * width), -1):
        lines = _lines(text, console, narrower)
        if len(lines) > len(full):
            return full
        if not _is_orphan(lines[-1], width):
            return lines
    return full


def _lines(text: Text, console: Console, width: int) -> list[Text]:
    return list(text.wrap(console, width))


def _is_orphan(line: Text, width: int) -> bool:
    return len(line.plain.split()) < 2 or line.cell_len < _SHORT * width
