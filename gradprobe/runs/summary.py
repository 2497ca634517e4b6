"""A saved run in one line: when, what it found, how the loss went. No torch."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gradprobe.record.text import one_line
from gradprobe.runs.folder import RUNS, recorded_at
from gradprobe.runs.run import Run, load
from gradprobe.show.formats import ends_of_loss
from gradprobe.show.headline import verdict

COLUMNS = ("run", "recorded", "verdict", "flagged", "iterations", "loss", "of")


@dataclass(frozen=True)
class Summary:
    """One run of a list.

    Attributes:
        run: Its folder.
        recorded: When, in UTC, to the second.
        verdict: In a few words; of a run that cannot be read, why not.
        flagged: How many layers its placement flagged; None if it cannot be read.
        layers: How many layers there are; None likewise.
        iterations: How many were recorded; None likewise.
        losses: At the first and at the last iteration, None where not finite; empty where they are not known.
        of: What was recorded: the target, or the script with its arguments; empty if that is not known.
    """

    run: str
    recorded: datetime.datetime
    verdict: str
    flagged: int | None = None
    layers: int | None = None
    iterations: int | None = None
    losses: tuple[float | None, ...] = ()
    of: str = ""

    @property
    def cells(self) -> dict[str, str]:
        """What a table shows, by column: a run in `RUNS` by its name, as commands take it; the local time."""
        local = self.recorded.astimezone().strftime("%Y-%m-%d %H:%M")
        flagged = "" if self.layers is None else f"{self.flagged} of {self.layers}"
        iterations = "" if self.iterations is None else str(self.iterations)
        losses = ["not finite" if loss is None else f"{loss:.4g}" for loss in self.losses]
        name = self.run if Path(self.run).parent != RUNS else Path(self.run).name
        cells = (name, local, self.verdict, flagged, iterations, " to ".join(losses), self.of)
        return dict(zip(COLUMNS, cells, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        losses = list(self.losses)
        return {**vars(self), "recorded": self.recorded.isoformat(timespec="seconds"), "losses": losses}


def summarise(folder: Path) -> Summary:
    """The run in a folder in one line; no error is raised for one that cannot be read.

    Example:
        >>> summarise(Path("nowhere")).verdict
        'no run at nowhere: expected a folder with run.json and history.csv in it'
    """
    when = datetime.datetime.fromtimestamp(int(recorded_at(folder)), datetime.timezone.utc)
    try:
        return _summary(load(folder), when)
    except (OSError, ValueError) as error:
        return Summary(str(folder), when, one_line(str(error)))


def _summary(run: Run, when: datetime.datetime) -> Summary:
    history = run.history
    return Summary(
        str(run.folder),
        when,
        verdict(history, run.placement, run.comparison, run.arms).look.badge,
        len(run.placement.flagged),
        len(history.layers),
        history.iterations,
        ends_of_loss(history),
        str(history.conditions.get("target") or ""),
    )


def as_frame(summaries: Sequence[Summary]) -> pd.DataFrame:
    """One row for each run.

    Returns:
        Columns ``run, recorded, verdict, flagged, layers, iterations, first_loss, last_loss, of``; a number that
        is not known, or not finite, is NaN.
    """
    rows = []
    for summary in summaries:
        record = summary.to_dict()
        first, last = record.pop("losses") or (None, None)
        of = record.pop("of")
        rows.append({**record, "first_loss": first, "last_loss": last, "of": of})
    names = ["run", "recorded", "verdict", "flagged", "layers", "iterations", "first_loss", "last_loss", "of"]
    numbers = dict.fromkeys(names[3:8], "float64")
    return pd.DataFrame(rows, columns=names).astype(numbers)
