"""The verdict of one window against what the training came to, on the 40 tasks of the placement benchmark.

    python -m benchmarks.diagnosis.tasks [--recorded FOLDER] [--out PAGE]

The window is the first 50 iterations of the very training whose accuracy `benchmarks/placement/results` holds: the
same weights, the same batches. With ``--recorded`` windows that are there are not recorded again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import gradprobe as gp
from benchmarks.diagnosis.windows import EXPLAINED, NUMBERS, Window, window
from benchmarks.placement.arms import NONE
from benchmarks.placement.differences import mean
from benchmarks.placement.oracle import SEEDS
from benchmarks.placement.policies import WINDOW, Case
from benchmarks.placement.rows import Table, measure
from benchmarks.placement.tasks import TASKS
from benchmarks.report import Report
from gradprobe.record.history import GradientHistory

FAILED, LEARNED = 0.6, 0.7  # accuracy: below the one a network should be called sick, above the other healthy
TEXT = f"""\
One window of {WINDOW} iterations each, all statistics; 40 tasks, each with {len(SEEDS)} seeds. Accuracy: of 719
held-out digits, after the 300 or 400 iterations of the training, of which the window is the first part. Wanted: at
least .9 of what comes to less than {FAILED} is called sick, at most one task of what comes to more than {LEARNED}.

{EXPLAINED}"""


@dataclass(frozen=True)
class Judged:
    """A task, what its training came to, and what is said of its first window."""

    task: str
    seed: int
    accuracy: float
    window: Window

    @property
    def wrong(self) -> bool:
        """Whether the verdict is not the one that is wanted."""
        return self.window.sick if self.accuracy > LEARNED else self.accuracy < FAILED and not self.window.sick


def record(task: str, seed: int) -> GradientHistory:
    """The first window of a training."""
    case = Case(task, seed)
    return gp.scan(case.model, case.batches, case.loss, WINDOW, optimizer=case.optimizer, seed=seed)


def judge(table: Table, tasks: Iterable[str], seeds: Iterable[int], folder: Path) -> list[Judged]:
    """Every task and seed; a training whose accuracy is not stored is trained."""
    judged = []
    for task in tasks:
        for seed in seeds:
            for key in table.missing([(task, NONE, seed)]):
                table.add(measure(*key))
            accuracy = table.rows[task, NONE, seed].accuracy
            said = window(folder, f"{task}-{seed}", lambda task=task, seed=seed: record(task, seed))  # type: ignore[misc]
            judged.append(Judged(task, seed, accuracy, said))
    return sorted(judged, key=lambda one: one.accuracy)


def counts(judged: Sequence[Judged]) -> list[object]:
    """How many came to how much, and how many of those are called sick."""
    failed = [one for one in judged if one.accuracy < FAILED]
    learned = [one for one in judged if one.accuracy > LEARNED]
    between = len(judged) - len(failed) - len(learned)
    sick = sum(one.window.sick for one in failed)
    share = f"{sick / len(failed):.0%}" if failed else "-"
    alarms = sum(one.window.sick for one in learned)
    return [len(failed), f"{sick} ({share})", len(learned), alarms, between]


def by_task(judged: Sequence[Judged]) -> list[Judged]:
    """For each task the window of its first seed, and the mean accuracy of all its seeds."""
    tasks: dict[str, list[Judged]] = {}
    for one in sorted(judged, key=lambda one: one.seed):
        tasks.setdefault(one.task, []).append(one)
    return [replace(each[0], accuracy=mean([one.accuracy for one in each])) for each in tasks.values()]


def page(judged: Sequence[Judged]) -> Report:
    """The page: the counts, what is not as it should be with its numbers, and all tasks."""
    report = Report("The verdict of one window, against what the training came to", TEXT)
    report.columns("windows of", f"below {FAILED}", "called sick", f"above {LEARNED}", "called sick", "between")
    report.row("seed 0, mean accuracy of all seeds", *counts(by_task(judged)))
    for seed in sorted({one.seed for one in judged}):
        report.row(f"seed {seed}", *counts([one for one in judged if one.seed == seed]))
    report.row("all seeds", *counts(judged))
    report.add("", "What is not as wanted:", "")
    report.columns("task", "seed", "accuracy", "verdict", "causes", *NUMBERS)
    for one in judged:
        if one.wrong:
            report.row(*_row(one), *one.window.numbers())
    report.add("", "All:", "")
    report.columns("task", "seed", "accuracy", "verdict", "causes", *NUMBERS)
    for one in judged:
        report.row(*_row(one), *one.window.numbers())
    report.add("", "Mean accuracy by the first cause that is named:", "")
    report.columns("first cause", "windows", "mean accuracy", "least", "most")
    for cause in sorted({one.window.cause for one in judged}):
        values = [one.accuracy for one in judged if one.window.cause == cause]
        report.row(cause, len(values), f"{mean(values):.2f}", f"{min(values):.2f}", f"{max(values):.2f}")
    return report


def _row(one: Judged) -> list[object]:
    causes = ", ".join(one.window.causes) or "-"
    return [one.task, one.seed, f"{one.accuracy:.3f}", one.window.diagnosis.verdict, causes]


def main() -> None:
    """Record what is not there, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", default=list(TASKS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--recorded", type=Path, metavar="FOLDER", help="where windows are kept")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = options.recorded or Path(tempfile.mkdtemp())
    judged = judge(Table(), options.tasks, options.seeds, folder)
    page(judged).write(options.out)


if __name__ == "__main__":
    main()
