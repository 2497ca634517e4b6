"""Two sections of the page: what shows early where branches help, and under what changes a choice stays."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.placement import invariance
from benchmarks.placement.arms import cost, described
from benchmarks.placement.correlation import correlations, mean_and_error
from benchmarks.placement.evaluation import Evaluation, Tasks
from benchmarks.placement.leads import QUANTITIES, Lead, Leads
from benchmarks.placement.oracle import SEEDS
from benchmarks.placement.rows import EARLY, Key, Table
from benchmarks.placement.tasks import points
from benchmarks.report import Report

Score = Callable[[str, str, int], float]  # of a task, an arm and a seed
LEADS = """
Spearman's rank correlation, over the placements of a task (none, the single points and the blind sets), of a
score with the accuracy in the end; mean over the tasks where it is defined with its standard error, and how many
these are. The loss is the main output's with the branches in place, mean over 20 iterations, in the training
itself; `auto` decides by the same loss after 50 iterations. The others come from one window of 50
iterations with the branches in place (`leads.csv`), on the tasks that the oracle helps or rescues: the
smallest magnitude of a layer of the trunk as a share of the largest, and how far the signs of a weight's gradients
agree between batches, in the layer where they do least.
"""


def add_leads(report: Report, evaluation: Evaluation) -> None:
    """How well the losses, and the numbers of one window, rank the placements."""
    report.add("", "## What shows early where branches help", "", *textwrap.wrap(LEADS.strip(), 113), "")
    report.columns("score", "all tasks", "tasks that the oracle helps or rescues")
    leads, clear = Leads().by_key, evaluation.clear()
    measured = {
        name: task
        for name, task in clear.items()
        if all((name, arm, seed) in leads for arm in task.placements for seed in SEEDS)
    }
    for index, done in enumerate(EARLY):
        score = _loss(evaluation.table, index)
        report.row(f"loss after {done} iterations", _ranks(evaluation.tasks, score), _ranks(clear, score))
    for quantity, description in QUANTITIES.items():
        report.row(f"{description}, in one window", "", _ranks(measured, _lead(leads, quantity)))
    report.row("number of branches", _ranks(evaluation.tasks, _branches), _ranks(clear, _branches))


def _loss(table: Table, index: int) -> Score:
    def score(*key: Any) -> float:
        loss = table.rows[key].early[index]
        return -loss if math.isfinite(loss) else -1e9

    return score


def _lead(leads: Mapping[Key, Lead], quantity: str) -> Score:
    return lambda *key: float(getattr(leads[key], quantity))


def _branches(task: str, arm: str, seed: int) -> float:
    return cost(arm)


def _ranks(tasks: Tasks, score: Score) -> str:
    scores = {
        name: {seed: {arm: score(name, arm, seed) for arm in task.placements} for seed in SEEDS}
        for name, task in tasks.items()
    }
    return mean_and_error(correlations(tasks, scores))


INVARIANCE = """
The policies applied again where the network and its first weights are the same and something else is not
(`invariance.csv`; seed 0 of {count} tasks): on how many the choice is the same, of those where anything is chosen
before or after. A loss a thousand times as large, or a sum for a mean, makes the steps of SGD as much larger: its
learning rate is divided by as much, so that it is the same training; in the last column it is not, and that is
another training. Adam divides the scale out, but for its epsilon of 1e-8, which matters where gradients are that
small. A larger batch is another training too, with other batches and less noise; bf16 is autocast. Below, each
choice that changed: the indices of the points or the remedy as it is, and after the change.
"""


def add_invariance(report: Report) -> None:
    """How often a policy chooses the same under other conditions, and each choice that changed."""
    answers = invariance.read_answers()
    text = INVARIANCE.strip().format(count=len(invariance.CASES))
    report.add("", "## Does the choice stay?", "", *textwrap.wrap(text, 113), "")
    changes = [change for change in invariance.CHANGES if change != invariance.BASE]
    report.columns("policy", *changes)
    for policy in invariance.POLICIES:
        counted = (invariance.same_choices(answers, policy, change) for change in changes)
        report.row(policy, *(f"{same} of {count}" if count else "" for same, count in counted))
    report.add("")
    report.columns("policy", "task", "as it is", "after the change")
    for policy in invariance.POLICIES:
        for task in invariance.CASES:
            base = answers.get((policy, task, invariance.BASE), "")
            others = {change: answers.get((policy, task, change), base) for change in changes}
            count = len(points(task))
            if cells := [f"{change}: {described(arm, count)}" for change, arm in others.items() if arm != base]:
                report.row(policy, task, described(base, count), "; ".join(cells))
