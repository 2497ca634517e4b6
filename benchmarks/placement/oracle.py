"""Which rows the oracle needs: none, single points, sets chosen without having looked, and sets that are grown."""

from __future__ import annotations

from placement.arms import NONE, arm_of, indices_of
from placement.measures import Trained, grow, mean
from placement.policies import BLIND, Case
from placement.rows import Key, Table
from placement.tasks import TASKS, evenly, points

SEEDS = (0, 1, 2)


def singles(task: str) -> tuple[str, ...]:
    """The arms with one branch: at most six."""
    return tuple(arm_of([index]) for index in evenly(len(points(task))))


def arms(task: str) -> list[str]:
    """The arms that are trained on all seeds: none, the single points, and the blind policies'."""
    return list(dict.fromkeys([NONE, *singles(task), *(policy(Case(task, 0)).arm for policy in BLIND.values())]))


def trained(task: str, table: Table, *, operations: bool = False, grown: bool = True) -> Trained:
    """What the rows of a task say, for the measures; at equal steps or at equal operations."""

    def values(arm: str) -> dict[int, float]:
        return dict(zip(SEEDS, table.accuracies(task, arm, SEEDS, operations=operations), strict=True))

    blind = {arm: values(arm) for arm in arms(task) if arm == NONE or indices_of(arm)}
    sets, keys = growth(task, table) if grown else ({}, [])
    whole = {} if table.missing(keys) else sets  # half of a search is none
    more = {seed: {arm: values(arm) for arm in found} for seed, found in whole.items()}
    size, chance = TASKS[task].chance
    return Trained(blind, singles(task), chance, size, more)


def growth(task: str, table: Table) -> tuple[dict[int, list[str]], list[Key]]:
    """Grow sets of points, as far as the rows go, where any placement makes a difference.

    Returns:
        For each seed the sets that were grown on the others, by accuracy at equal steps; and the rows that it
        takes to go on and to score them.
    """
    if not trained(task, table, grown=False).sensitive:
        return {}, []
    sets: dict[int, list[str]] = {}
    keys: list[Key] = []
    for seed in SEEDS:
        others = [other for other in SEEDS if other != seed]
        scores = {arm: mean(table.accuracies(task, arm, others)) for arm in table.arms(task, others)}
        sets[seed], wanted = grow(singles(task), scores)
        keys += [(task, arm, other) for arm in wanted for other in others]
        keys += [(task, arm, seed) for arm in sets[seed]]
    return sets, keys
