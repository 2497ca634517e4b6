"""Records in CSV files, kept as they come: what was done is not done again."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

FOLDER = Path(__file__).parent / "results"


def lines(path: Path) -> list[dict[str, str]]:
    """The records of a file, by column; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, columns: Sequence[str], values: Iterable[object]) -> None:
    """Add a record; the file is made at the first one."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(columns)
        writer.writerow(map(text, values))


def text(value: object) -> str:
    """A number in five digits, several with blanks between them, anything else as it is.

    Example:
        >>> text((0.5, 1 / 3)), text("none")
        ('0.5 0.33333', 'none')
    """
    if isinstance(value, tuple):
        return " ".join(map(text, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)
