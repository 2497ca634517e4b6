"""Do the chosen points stay where they are if the network is the same and something else is not?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from placement import kept
from placement.arms import NONE
from placement.policies import Case, decide
from placement.tasks import TASKS

FILE = kept.FOLDER / "invariance.csv"
COLUMNS = ("policy", "task", "change", "arm")
SEED = 0
ASKED = ("CNDS", "CNDS on weights", "relative", "auto", "auto (placing only)")
# branches rescue two of these and help others; one learns by SGD without; the last two are held out
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
Asked = tuple[str, str, str]


def changed(task: str, change: str) -> Case:
    """A task under other conditions.

    A loss so many times as large makes SGD's steps as much larger: its learning rate is divided by as much, so
    that the training stays what it was, except in the last change.
    """
    case = Case(task, SEED)
    if change.startswith("batch"):
        return replace(case, size=int(change.split()[1]))
    if change == "bf16":
        return replace(case, bf16=True)
    if change == BASE:
        return case
    summed = change == "sum for mean"
    times = case.batches[0][1].numel() if summed else 1000
    rate = 1 / times if TASKS[task].optimizer == "sgd" and change != LEFT else 1
    return replace(case, reduction="sum", rate=rate) if summed else replace(case, scale=1000, rate=rate)


def asked() -> Iterator[Asked]:
    """Who is asked about what: policy, task and change."""
    for task in CASES:
        for change in CHANGES:
            if change != LEFT or TASKS[task].optimizer == "sgd":
                yield from ((policy, task, change) for policy in ASKED)


def answers(path: Path = FILE) -> dict[Asked, str]:
    """What was chosen, as far as it was asked."""
    return {(line["policy"], line["task"], line["change"]): line["arm"] for line in kept.lines(path)}


def answer(policy: str, task: str, change: str) -> str:
    """What a policy chooses under a change."""
    return decide(policy, changed(task, change)).arm


def stayed(known: Mapping[Asked, str], policy: str, change: str) -> tuple[int, int]:
    """On how many tasks a choice is the same after a change, and of how many where anything is chosen.

    Example:
        >>> task = CASES[0]
        >>> stayed({("CNDS", task, BASE): "3", ("CNDS", task, "bf16"): "3"}, "CNDS", "bf16")
        (1, 1)
    """
    pairs = [
        (known[policy, task, BASE], known[policy, task, change])
        for task in CASES
        if (policy, task, change) in known
    ]
    same = [before == after for before, after in pairs if {before, after} != {NONE}]
    return sum(same), len(same)
