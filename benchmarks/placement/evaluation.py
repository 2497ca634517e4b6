"""Rows and decisions together: which tasks are complete, and how good each policy was on them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from benchmarks.placement.arms import NONE
from benchmarks.placement.decisions import Decisions
from benchmarks.placement.differences import mean
from benchmarks.placement.oracle import SEEDS, arms, growth, trained
from benchmarks.placement.rows import Table
from benchmarks.placement.summary import Choices, Summary, summarise
from benchmarks.placement.tasks import DEVELOPMENT, TASKS
from benchmarks.placement.trained import Trained

EXPECTED = ("oracle", "random point")  # they do not choose
Tasks = Mapping[str, Trained]


class Evaluation:
    """The tasks and the policies, at equal steps or at equal operations.

    Args:
        table: The rows.
        decisions: The policies' decisions.
        operations: Whether at equal operations.
    """

    def __init__(self, table: Table, decisions: Decisions, *, operations: bool = False) -> None:
        self.table, self.decisions, self.operations = table, decisions, operations

    @cached_property
    def tasks(self) -> Tasks:
        """The tasks that have all of their rows and decisions."""
        return {
            name: trained(name, self.table, operations=self.operations)
            for name in TASKS
            if self._is_complete(name)
        }

    def of_families(self, *, developed: bool) -> Tasks:
        """The tasks that the policies were chosen on, or those that were held out."""
        return {name: task for name, task in self.tasks.items() if is_developed(name) is developed}

    def clear(self) -> Tasks:
        """The tasks that the oracle helps or rescues."""
        return {name: task for name, task in self.tasks.items() if task.kind != "nothing"}

    @property
    def grown(self) -> list[str]:
        """The tasks on which sets were grown to the end."""
        sensitive = [name for name, task in self.tasks.items() if task.sensitive]
        return [name for name in sensitive if not self.table.missing(growth(name, self.table)[1])]

    def summary(self, who: str, tasks: Tasks) -> Summary | None:
        """How good a policy was on these tasks; None if it did not decide on all of them."""
        choices = {name: self._choices(who, name, task) for name, task in tasks.items()}
        complete = all(len(choice.values) == len(SEEDS) for choice in choices.values())
        return summarise(tasks, choices) if tasks and complete else None

    def windows(self, who: str) -> float:
        """What choosing cost a policy, the mean over all tasks."""
        decisions = self.decisions.by_question.items()
        return mean(
            [each.windows for (policy, name, _), each in decisions if policy == who and name in self.tasks]
        )

    def _choices(self, who: str, name: str, task: Trained) -> Choices:
        if who == "oracle":
            return _expected(task.oracle, {seed: task.ranked(seed)[0] == NONE for seed in SEEDS})
        if who == "random point":
            return _expected(task.random, dict.fromkeys(SEEDS, False))
        return self.decisions.choices(who, name, self.table, operations=self.operations)

    def _is_complete(self, name: str) -> bool:
        """Whether the oracle's rows are there, and every policy's decisions with their rows."""
        questions = [(policy, name, seed) for policy in self.decisions.policies for seed in SEEDS]
        if any(question not in self.decisions.by_question for question in questions):
            return False
        needed = [(name, arm, seed) for arm in arms(name) for seed in SEEDS]
        decided = [(name, self.decisions.by_question[each].arm, each[2]) for each in questions]
        return not self.table.missing([*needed, *decided])


def is_developed(name: str) -> bool:
    """Whether the policies were chosen on this task's family."""
    return TASKS[name].family in DEVELOPMENT


def _expected(values: Mapping[int, float], abstained: Mapping[int, bool]) -> Choices:
    return Choices(values, abstained, dict.fromkeys(values, 0.0), {})
