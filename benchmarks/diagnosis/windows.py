"""A recorded window: where it is kept, what the diagnosis says of it, and the numbers that the rules look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import gradprobe as gp
from gradprobe.decide.causes.facts import Reading
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.runs.run import save

NUMBERS = ("spread at end", "share at start", "update", "turn", "loss", "constant")


@dataclass(frozen=True)
class Window:
    """What was recorded, and what is said of it.

    Attributes:
        history: The record.
        diagnosis: What `gradprobe.diagnose` makes of it.
    """

    history: GradientHistory
    diagnosis: gp.Diagnosis

    @property
    def sick(self) -> bool:
        """Whether something is said to be wrong."""
        return self.diagnosis.verdict == "sick"

    @property
    def cause(self) -> str:
        """The code of the first cause, or a dash."""
        return self.diagnosis.findings[0].cause if self.diagnosis.findings else "-"

    @property
    def causes(self) -> tuple[str, ...]:
        """The codes of all causes."""
        return tuple(finding.cause for finding in self.diagnosis.findings)

    def numbers(self) -> list[str]:
        """The values of `NUMBERS`, each as text."""
        if self.history.evidence is None:
            return ["?"] * len(NUMBERS)
        reading = Reading(self.history)
        turns = sorted(reading.fact("turn").values())
        constant = "?" if reading.constant is None else f"{reading.constant:.3g}"
        return [
            f"{reading.spread_at_end:.2g}",
            f"{reading.share_at_start:.2g}",
            f"{reading.median_update():.1e}",
            f"{turns[len(turns) // 2]:.2f}" if turns else "?",
            f"{reading.start:.3g} to {reading.end:.3g}",
            constant,
        ]


def window(folder: Path | None, name: str, record: Callable[[], GradientHistory]) -> Window:
    """A window, recorded now or, where it is kept, read: rules can be tried again without training.

    Args:
        folder: Where windows are kept, one run each; None keeps none.
        name: Of the window, and of its folder.
        record: Trains, and returns the record.
    """
    if folder is not None and (folder / name / "run.json").exists():
        history = gp.load(folder / name).history
    else:
        history = record()
        if folder is not None:
            save(folder / name, history, Placement("none", (), (), ""), figures=False, force=True)
    return Window(history, gp.diagnose(history))


def table(names: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """The lines of a table in Markdown."""
    heads = list(names)
    return [f"| {' | '.join(map(str, row))} |" for row in (heads, ["---"] * len(heads), *rows)]
