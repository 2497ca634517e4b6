"""Which rows the oracle needs: none, single points, and the sets that are chosen without having looked."""

from __future__ import annotations

from placement.measures import NONE, Trained
from placement.policies import BLIND, Case
from placement.rows import Table, arm_of, indices_of
from placement.tasks import TASKS, evenly, points

SEEDS = (0, 1, 2)


def arms(task: str) -> list[str]:
    """The arms that are trained on all seeds: none, at most six single points, and the blind policies'."""
    singles = [arm_of([index]) for index in evenly(len(points(task)))]
    return list(dict.fromkeys([NONE, *singles, *(policy(Case(task, 0)).arm for policy in BLIND.values())]))


def trained(task: str, table: Table, *, operations: bool = False) -> Trained:
    """What the rows of a task say, for the measures; at equal steps or at equal operations."""
    placements = {
        arm: dict(zip(SEEDS, table.accuracies(task, arm, SEEDS, operations=operations), strict=True))
        for arm in arms(task)
        if arm == NONE or indices_of(arm)
    }
    singles = tuple(arm_of([index]) for index in evenly(len(points(task))))
    size, chance = TASKS[task].chance
    return Trained(placements, singles, chance, size)
