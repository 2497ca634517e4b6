"""Is the diagnosis the same where only the loss' scale, its reduction or the batch size differs?

    python -m benchmarks.diagnosis.invariance [CASE ...] [--recorded FOLDER] [--out PAGE]

Faulty and sound trainings, by Adam and by SGD, whose rate is divided by what the loss is multiplied with, so that
the training stays the same. With ``--recorded`` windows that are there are not recorded again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import gradprobe as gp
from benchmarks.diagnosis.invariance_cases import CASES, Case
from benchmarks.diagnosis.windows import EXPLAINED, NUMBERS, Window, window
from benchmarks.report import Report
from gradprobe.record.history import GradientHistory

WINDOW = 50
BATCH = 32
OPTIMIZERS = ("Adam", "SGD")
BASE = "as it is"
TEXT = f"""\
Windows of {WINDOW} iterations. As it is: batches of {BATCH}, mean over the batch. Under *sum* and where the loss
is multiplied, SGD's rate is divided by the same factor; for other batch sizes it stays.

{EXPLAINED}"""


@dataclass(frozen=True)
class Change:
    """What is different.

    Attributes:
        name: Of the change.
        scale: The loss is multiplied by it.
        reduction: Of the loss.
        batch: Its size.
    """

    name: str
    scale: float = 1.0
    reduction: str = "mean"
    batch: int = BATCH


CHANGES = (
    Change(BASE),
    Change("loss x 1000", scale=1000.0),
    Change("loss / 1000", scale=1 / 1000),
    Change("sum", reduction="sum"),
    Change("batch 8", batch=8),
    Change("batch 512", batch=512),
)


@dataclass(frozen=True)
class Answer:
    """What is said of one case under one change."""

    case: Case
    optimizer: str
    change: Change
    window: Window

    @property
    def right(self) -> bool:
        """Whether the cause that was put in is named, or a sound training is called healthy."""
        causes = self.window.causes
        return self.case.cause in causes if self.case.cause else self.window.diagnosis.verdict == "healthy"


def record(case: Case, optimizer: str, change: Change) -> GradientHistory:
    """The first window of a training."""
    torch.manual_seed(0)
    model = case.build()
    factor = change.scale * (case.batch(change.batch)[1].numel() if change.reduction == "sum" else 1)
    adam, sgd = case.rates
    parameters = case.parameters(model)
    steps: torch.optim.Optimizer
    if optimizer == "Adam":
        steps = torch.optim.Adam(parameters, lr=adam)
    else:
        steps = torch.optim.SGD(parameters, lr=sgd / factor, momentum=0.9)
    torch.manual_seed(1)
    with gp.GradientProbe(model, optimizer=steps, iterations=WINDOW) as probe:
        for _ in range(WINDOW):
            x, y = case.batch(change.batch)
            steps.zero_grad()
            loss = case.loss(model(x), y, reduction=change.reduction)
            (loss if change.scale == 1 else loss * change.scale).backward()
            steps.step()
    return probe.history


def answers(cases: Sequence[str], folder: Path) -> list[Answer]:
    """Every case with each optimizer under each change."""
    found = []
    for change in CHANGES:
        for case in map(CASES.__getitem__, cases):
            for optimizer in OPTIMIZERS:
                name = f"{case.name}-{optimizer}-{change.name}".replace(" ", "_").replace("/", "over")
                said = window(folder, name, lambda how=(case, optimizer, change): record(*how))  # type: ignore[misc]
                found.append(Answer(case, optimizer, change, said))
    return found


def page(every: Sequence[Answer]) -> Report:
    """The page: how often the answer stays, all answers, and those that differ with their numbers."""
    report = Report("The same training with another scale, reduction or batch size", TEXT)
    base = {(one.case.name, one.optimizer): one for one in every if one.change.name == BASE}
    report.columns("change", "trainings", "same verdict", "same first cause", "cause that was put in is named")
    for change in CHANGES:
        mine = [one for one in every if one.change == change]
        pairs = [(one.window, base[one.case.name, one.optimizer].window) for one in mine]
        verdicts = sum(one.diagnosis.verdict == other.diagnosis.verdict for one, other in pairs)
        causes = sum(one.cause == other.cause for one, other in pairs)
        report.row(change.name, len(mine), verdicts, causes, sum(one.right for one in mine))
    report.add("", "The first cause that is named (- is healthy):", "")
    report.columns("training", "put in", "optimizer", *(change.name for change in CHANGES))
    for (name, optimizer), first in base.items():
        cells = [one.window.cause for one in every if (one.case.name, one.optimizer) == (name, optimizer)]
        report.row(name, first.case.cause or "-", optimizer, *cells)
    report.add("", "What differs from the training as it is, or is not what was put in:", "")
    report.columns("training", "optimizer", "change", "causes", *NUMBERS)
    for one in every:
        first = base[one.case.name, one.optimizer]
        if one.window.cause != first.window.cause or not one.right:
            causes = ", ".join(one.window.causes) or "-"
            report.row(one.case.name, one.optimizer, one.change.name, causes, *one.window.numbers())
    return report


def main() -> None:
    """Record what is not there, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", default=list(CASES))
    parser.add_argument("--recorded", type=Path, metavar="FOLDER", help="where windows are kept")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = options.recorded or Path(tempfile.mkdtemp())
    page(answers(options.cases, folder)).write(options.out)


if __name__ == "__main__":
    main()
