"""The terminal for rich text, to which nothing goes that it would obey."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from gradprobe.record.text import printable


class PrintableConsole(Console):
    r"""A console that shows control characters as their escapes, wherever in a text they come from.

    Example:
        >>> PrintableConsole(width=40).print("a name with \x1b[31m in it")
        a name with \x1b[31m in it
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What rich makes of it; its own codes are no text, and stay."""
        for segment in super().render(renderable, options):
            text = segment.text
            yield segment if segment.control or text.isprintable() else Segment(printable(text), segment.style)
