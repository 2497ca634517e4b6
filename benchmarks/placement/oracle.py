"""Which rows the oracle needs: none, single points, sets that are chosen blindly, and sets that are grown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.placement.arms import MOST_BRANCHES, NONE, arm_of, cost, indices_of, widened
from benchmarks.placement.differences import mean
from benchmarks.placement.policies import BLIND, Case
from benchmarks.placement.rows import Key, Table
from benchmarks.placement.tasks import TASKS, evenly, points
from benchmarks.placement.trained import Trained

SEEDS = (0, 1, 2)


def singles(task: str) -> tuple[str, ...]:
    """The arms with one branch, at most six."""
    return tuple(arm_of([index]) for index in evenly(len(points(task))))


def arms(task: str) -> list[str]:
    """The arms that are trained on all seeds: none, the single points, and the blind policies'."""
    return list(dict.fromkeys([NONE, *singles(task), *(policy(Case(task, 0)).arm for policy in BLIND.values())]))


def trained(task: str, table: Table, *, operations: bool = False, grown: bool = True) -> Trained:
    """The accuracies of a task from its rows, at equal steps or at equal operations."""

    def values(arm: str) -> dict[int, float]:
        return dict(zip(SEEDS, table.accuracies(task, arm, SEEDS, operations=operations), strict=True))

    blind = {arm: values(arm) for arm in arms(task) if arm == NONE or indices_of(arm)}
    sets, keys = growth(task, table) if grown else ({}, [])
    complete = {} if table.missing(keys) else sets  # a search that was interrupted does not count
    by_seed = {seed: {arm: values(arm) for arm in grown_sets} for seed, grown_sets in complete.items()}
    size, chance = TASKS[task].chance
    return Trained(blind, singles(task), chance, size, by_seed)


def growth(task: str, table: Table) -> tuple[dict[int, list[str]], list[Key]]:
    """Grow sets of points, as far as the rows go, where any placement makes a difference.

    Returns:
        For each seed the sets that were grown on the others, by accuracy at equal steps; and the rows that are
        needed to continue and to score them.
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


def grow(
    singles: Sequence[str], scores: Mapping[str, float], most: int = MOST_BRANCHES
) -> tuple[list[str], list[str]]:
    """Add to the best single point the point that adds most, while any does, as far as there are scores.

    Returns:
        The sets of two points and more that were best in turn, and the arms that have to be scored to continue.

    Example:
        >>> grow(["1", "2", "3"], {"1": 0.2, "2": 0.5, "3": 0.1})
        ([], ['1+2', '2+3'])
        >>> grow(["1", "2", "3"], {"1": 0.2, "2": 0.5, "3": 0.1, "1+2": 0.4, "2+3": 0.6, "1+2+3": 0.6})
        (['2+3'], [])
    """
    best, sets = max(singles, key=scores.__getitem__), []
    while cost(best) < min(most, len(singles)):
        wider = widened(best, singles)
        if unknown := [arm for arm in wider if arm not in scores]:
            return sets, unknown
        widest = max(wider, key=scores.__getitem__)
        if scores[widest] <= scores[best]:
            break
        best = widest
        sets.append(best)
    return sets, []
