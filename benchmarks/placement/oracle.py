"""Which rows the oracle needs: every single point, none, a few sets, and sets that grow greedily."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from placement.measures import NONE, Trained, mean
from placement.policies import BLIND, Case
from placement.rows import Key, Table, arm_of, indices_of
from placement.tasks import TASKS, evenly, points

SEEDS = (0, 1, 2, 3)
MOST_GROWN = 3  # branches of a grown set; larger ones that are tested: every point, every second one


def base_arms(task: str) -> list[str]:
    """The arms that are trained on all seeds: none, at most eight single points, and the blind policies'."""
    singles = [arm_of([index]) for index in evenly(len(points(task)))]
    return list(dict.fromkeys([NONE, *singles, *(policy(Case(task, 0)).arm for policy in BLIND.values())]))


def wanted(task: str, table: Table) -> list[Key]:
    """The rows that are missing next; of growing sets those of one more branch at a time."""
    missing = table.missing((task, arm, seed) for arm in base_arms(task) for seed in SEEDS)
    return missing or list(dict.fromkeys(key for fold in _folds() for key in _growing(task, table, *fold)))


def _folds() -> tuple[tuple[Sequence[int], Sequence[int]], ...]:
    half = len(SEEDS) // 2
    return (SEEDS[:half], SEEDS[half:]), (SEEDS[half:], SEEDS[:half])


def _growing(task: str, table: Table, chosen_on: Sequence[int], scored_on: Sequence[int]) -> Iterator[Key]:
    """Add to the best single point the point that helps most, as long as one does; then score the best of all."""
    pool = evenly(len(points(task)))[::-2]
    best = max(
        ([index] for index in evenly(len(points(task)))), key=lambda arm: _value(task, table, arm, chosen_on)
    )
    while len(best) < MOST_GROWN:
        larger = [sorted({*best, index}) for index in pool if index not in best]
        missing = table.missing((task, arm_of(arm), seed) for arm in larger for seed in chosen_on)
        if missing:
            yield from missing
            return
        grown = max(larger, key=lambda arm: _value(task, table, arm, chosen_on), default=best)
        if _value(task, table, grown, chosen_on) <= _value(task, table, best, chosen_on):
            break
        best = grown
    yield from table.missing((task, trained(task, table).ranked(chosen_on)[0], seed) for seed in scored_on)


def _value(task: str, table: Table, arm: Sequence[int], seeds: Sequence[int]) -> float:
    return mean(table.accuracies(task, arm_of(arm), seeds))


def trained(task: str, table: Table, *, operations: bool = False) -> Trained:
    """What the rows of a task say, for the measures; at equal steps or at equal operations."""
    placements: dict[str, dict[int, float]] = {}
    for (name, arm, seed), row in table.rows.items():
        if name == task and (arm == NONE or indices_of(arm)):
            placements.setdefault(arm, {})[seed] = row.at_operations if operations else row.accuracy
    singles = tuple(arm_of([index]) for index in evenly(len(points(task))))
    size, chance = TASKS[task].chance
    return Trained(placements, singles, chance, size)
