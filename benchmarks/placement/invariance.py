"""Does a policy choose the same if the network is the same and something else is not?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.placement import records
from benchmarks.placement.arms import NONE
from benchmarks.placement.policies import Case, decide
from benchmarks.placement.tasks import TASKS

FILE = records.FOLDER / "invariance.csv"
COLUMNS = ("policy", "task", "change", "arm")
SEED = 0
POLICIES = ("CNDS", "CNDS on weights", "relative", "auto before")
# branches rescue two of these and help others; one learns by SGD without any; the last two are held out
CASES = (
    "mlp24-default-relu-adam",
    "mlp16-gaussian-relu-adam",
    "conv8-default-relu-adam",
    "mlp16-xavier-tanh-sgd",
    "narrow12-default-tanh-adam",
    "vit4-default-adam",
)
BASE, LEFT = "as it is", "loss x 1000, SGD's lr left"
CHANGES = (BASE, "loss x 1000", "sum for mean", "batch 128", "batch 512", "bf16", LEFT)
Question = tuple[str, str, str]  # policy, task and change


def changed(task: str, change: str) -> Case:
    """A task under other conditions.

    A larger loss makes the steps of SGD larger by the same factor. Its learning rate is divided by that factor, so
    that the training stays the same, except in the last change.
    """
    case = Case(task, SEED)
    if change.startswith("batch"):
        return replace(case, size=int(change.split()[1]))
    if change == "bf16":
        return replace(case, bf16=True)
    if change == BASE:
        return case
    summed = change == "sum for mean"
    factor = case.batches[0][1].numel() if summed else 1000
    rate = 1 / factor if TASKS[task].optimizer == "sgd" and change != LEFT else 1
    return replace(case, reduction="sum", rate=rate) if summed else replace(case, scale=1000, rate=rate)


def questions() -> Iterator[Question]:
    """Every policy, task and change."""
    for task in CASES:
        for change in CHANGES:
            if change != LEFT or TASKS[task].optimizer == "sgd":
                yield from ((policy, task, change) for policy in POLICIES)


def read_answers(path: Path = FILE) -> dict[Question, str]:
    """The arms that were chosen so far."""
    return {(line["policy"], line["task"], line["change"]): line["arm"] for line in records.read(path)}


def add_answer(question: Question, arm: str, path: Path = FILE) -> None:
    """Add an arm that was chosen to the file."""
    records.append(path, COLUMNS, [*question, arm])


def answer(policy: str, task: str, change: str) -> str:
    """The arm that a policy chooses under a change."""
    return decide(policy, changed(task, change)).arm


def same_choices(answers: Mapping[Question, str], policy: str, change: str) -> tuple[int, int]:
    """On how many tasks the choice is the same after a change, of how many where anything is chosen.

    Example:
        >>> task = CASES[0]
        >>> same_choices({("CNDS", task, BASE): "3", ("CNDS", task, "bf16"): "3"}, "CNDS", "bf16")
        (1, 1)
    """
    pairs = [
        (answers[policy, task, BASE], answers[policy, task, change])
        for task in CASES
        if (policy, task, change) in answers
    ]
    same = [before == after for before, after in pairs if {before, after} != {NONE}]
    return sum(same), len(same)
