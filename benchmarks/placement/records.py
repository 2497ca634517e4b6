"""Records in CSV files, written one by one, so that an interrupted run continues where it stopped."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

FOLDER = Path(__file__).parent / "results"


def read(path: Path) -> list[dict[str, str]]:
    """The records of a file, each by column; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, columns: Sequence[str], values: Iterable[object]) -> None:
    """Add a record, and create the file with the first one."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(columns)
        writer.writerow(map(text, values))


def text(value: object) -> str:
    """A number with five digits, several with spaces between them, anything else as it is.

    Example:
        >>> text((0.5, 1 / 3)), text("none")
        ('0.5 0.33333', 'none')
    """
    if isinstance(value, tuple):
        return " ".join(map(text, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)
