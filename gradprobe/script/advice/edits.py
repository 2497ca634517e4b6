"""A change of a script: where, and what stands there afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gradprobe.script.advice.source import SourceLine

AFTER, BEFORE, INSTEAD = "after", "before", "in place of"


@dataclass(frozen=True)
class Edit:
    """Lines for one place; they are indented as the statement there.

    Attributes:
        where: `AFTER`, `BEFORE` or `INSTEAD`.
        place: The statement.
        code: The lines.
    """

    where: str
    place: SourceLine
    code: tuple[str, ...]

    @property
    def line(self) -> int:
        """The number of the line that it goes by."""
        return self.place.end if self.where == AFTER else self.place.line


def shown(edits: Iterable[Edit]) -> list[str]:
    """The edits as text, from the first line of a file to the last.

    Example:
        >>> for line in shown([Edit(AFTER, SourceLine("train.py", 2, "net = Net()"), ("net.train()",))]):
        ...     print(line)
          after line 2 of train.py, `net = Net()`:
            net.train()
    """
    lines = []
    for edit in sorted(edits, key=lambda one: (one.place.file, one.line, one.where == AFTER)):
        lines += [f"  {edit.where} {edit.place}:", *(f"    {line}" for line in edit.code)]
    return lines
