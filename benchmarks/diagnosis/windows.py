"""A recorded window: where it is kept, what the diagnosis says of it, and the numbers that the rules look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gradprobe as gp
from gradprobe.decide.causes.facts import Reading
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.runs.run import save

NUMBERS = ("spread at end", "share at start", "update", "turn", "loss", "constant")
EXPLAINED = """\
*spread at end*: RMS over the batch of (a - mean of a), over RMS of a, of the outputs where the network ends.
*share at start*: L2 norm of the gradient where the network begins, over that where it ends. *update*: the median
step over the norm of the weight. *turn*: squared mean gradient over mean squared gradient. *constant*: the loss of
the best answer that does not depend on the input."""


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


def keep(folder: Path, name: str, history: GradientHistory) -> None:
    """Keep a window as a run, so that rules can be tried again without training."""
    save(folder / name, history, Placement("none", (), (), ""), figures=False, force=True)


def read(folder: Path, name: str) -> Window:
    """A window that was kept, and what is said of it."""
    history = gp.load(folder / name).history
    return Window(history, gp.diagnose(history))


def window(folder: Path, name: str, record: Callable[[], GradientHistory]) -> Window:
    """A window, recorded and kept unless it is there already.

    Args:
        folder: Where windows are kept, one run each.
        name: Of the window, and of its folder.
        record: Trains, and returns the record.
    """
    if not (folder / name / "run.json").exists():
        keep(folder, name, record())
    return read(folder, name)
