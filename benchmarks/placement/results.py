"""All that is kept, together: which tasks are complete, and what each policy came to on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

from placement.arms import NONE
from placement.decisions import Decisions
from placement.measures import Choices, Summary, Trained, mean, summarise
from placement.oracle import SEEDS, arms, growth, trained
from placement.rows import Table
from placement.tasks import DEVELOPMENT, TASKS

EXPECTED = ("oracle", "random point")  # they do not choose
Tasks = Mapping[str, Trained]


class Results:
    """Rows and decisions, at equal steps or at equal operations.

    Args:
        table: The rows.
        decisions: Of the policies.
        operations: Whether at equal operations.
    """

    def __init__(self, table: Table, decisions: Decisions, *, operations: bool = False) -> None:
        self.table, self.decisions, self.operations = table, decisions, operations

    @cached_property
    def tasks(self) -> Tasks:
        """Those that have all of their rows and decisions."""
        return {
            name: trained(name, self.table, operations=self.operations)
            for name in TASKS
            if self._is_complete(name)
        }

    def of_families(self, *, developed: bool) -> Tasks:
        """The tasks that policies were chosen on, or those that were held out."""
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
        """What a policy came to on these tasks; None if it was not asked on all of them."""
        choices = {name: self._choices(who, name, task) for name, task in tasks.items()}
        asked = all(len(chosen.values) == len(SEEDS) for chosen in choices.values())
        return summarise(tasks, choices) if tasks and asked else None

    def summary_of(self, choose: Callable[[str, int], str], tasks: Tasks) -> Summary:
        """What it comes to to choose arms by task and seed."""
        return summarise(tasks, {name: self._chosen(name, choose) for name in tasks})

    def _chosen(self, name: str, choose: Callable[[str, int], str]) -> Choices:
        arms = {seed: choose(name, seed) for seed in SEEDS}
        values = {
            seed: self.table.accuracies(name, arm, [seed], operations=self.operations)[0]
            for seed, arm in arms.items()
        }
        return _expected(values, {seed: arm == NONE for seed, arm in arms.items()})

    def windows(self, who: str) -> float:
        """What choosing cost a policy, the mean over all tasks."""
        return mean(
            [
                made.windows
                for (policy, name, _), made in self.decisions.made.items()
                if (policy == who and name in self.tasks)
            ]
        )

    def _choices(self, who: str, name: str, task: Trained) -> Choices:
        if who == "oracle":
            return _expected(task.oracle, {seed: task.ranked(seed)[0] == NONE for seed in SEEDS})
        if who == "random point":
            return _expected(task.random, dict.fromkeys(SEEDS, False))
        return self.decisions.choices(who, name, self.table, operations=self.operations)

    def _is_complete(self, name: str) -> bool:
        """Whether all is there: the oracle's rows, and every deciding policy's decisions, trained."""
        asked = [(who, name, seed) for who in self.decisions.policies for seed in SEEDS]
        if any(each not in self.decisions.made for each in asked):
            return False
        chosen = [(name, self.decisions.made[each].arm, each[2]) for each in asked]
        return not self.table.missing([*((name, arm, seed) for arm in arms(name) for seed in SEEDS), *chosen])


def is_developed(name: str) -> bool:
    """Whether policies were chosen on this task's family."""
    return TASKS[name].family in DEVELOPMENT


def _expected(values: Mapping[int, float], abstained: Mapping[int, bool]) -> Choices:
    return Choices(values, abstained, dict.fromkeys(values, 0.0), {})
