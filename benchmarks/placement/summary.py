"""How good the choices of a policy were over a number of tasks: plain numbers, no torch."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.placement.differences import mean, standard_error
from benchmarks.placement.trained import BySeed, Trained

DRAWS = 2000  # of the bootstrap
Scores = Mapping[int, Mapping[str, float]]  # by seed and arm


@dataclass(frozen=True)
class Choices:
    """What a policy chose on one task.

    Attributes:
        values: Accuracy of what it chose, by seed.
        abstained: For each seed whether it chose no branch.
        windows: For each seed what it cost, in windows of 50 iterations.
        scores: For each seed the score of each arm that it weighed, if it scores them.
    """

    values: BySeed
    abstained: Mapping[int, bool]
    windows: BySeed
    scores: Scores


@dataclass(frozen=True)
class Summary:
    """A policy over a number of tasks.

    Attributes:
        tasks: How many.
        lost: Accuracy lost against the oracle; mean over the tasks where it gains more than two standard errors.
        lost_interval: Its 95 % interval over tasks of the same kind: see `bootstrap`.
        regret: Normalised: 0 as the oracle, 1 as a random single point; over the same tasks, the sum of what it
            loses over the sum of what a random point loses. NaN where a random point loses nothing.
        interval: The 95 % interval of the regret.
        gain: Accuracy gained over no branch, mean over all tasks.
        gain_error: Its standard error over the tasks.
        rescued: Tasks at chance without, and above half of the oracle's accuracy with.
        rescuable: Those that the oracle rescues.
        off_chance: Tasks at chance without, and not with.
        at_chance: Tasks at chance without.
        harmed: Tasks that are worse than without beyond the noise.
        abstentions: Share of abstentions, which are right, on the tasks where the oracle gains nothing clear.
        missed: Share of abstentions, which are wrong, on the tasks where it does.
        windows: Mean cost.
    """

    tasks: int
    lost: float
    lost_interval: tuple[float, float]
    regret: float
    interval: tuple[float, float]
    gain: float
    gain_error: float
    rescued: int
    rescuable: int
    off_chance: int
    at_chance: int
    harmed: int
    abstentions: float
    missed: float
    windows: float


def summarise(tasks: Mapping[str, Trained], choices: Mapping[str, Choices]) -> Summary:
    """A policy's `Summary` over the tasks that it chose on."""
    named = {name: tasks[name] for name in choices}
    clear = [name for name, task in named.items() if task.kind != "nothing"]
    rescuable = [name for name in clear if named[name].kind == "rescue"]
    differences = [task.difference(choices[name].values, task.none) for name, task in named.items()]
    gains = [difference.mean for difference in differences]
    lost = [named[name].regret(choices[name].values) for name in clear]
    at_random = [named[name].regret(named[name].random) for name in clear]
    stuck = [name for name, task in named.items() if task.at_chance(task.none)]
    return Summary(
        tasks=len(named),
        lost=mean(lost) if clear else math.nan,
        lost_interval=bootstrap(lost, [1.0] * len(lost)),
        regret=ratio(lost, at_random),
        interval=bootstrap(lost, at_random),
        gain=mean(gains),
        gain_error=standard_error(gains),
        rescued=sum(named[name].rescued(choices[name].values) for name in rescuable),
        rescuable=len(rescuable),
        off_chance=sum(not named[name].at_chance(choices[name].values) for name in stuck),
        at_chance=len(stuck),
        harmed=sum(difference.harm for difference in differences),
        abstentions=_abstained([choices[name] for name in named if name not in clear]),
        missed=_abstained([choices[name] for name in clear]),
        windows=mean([mean(list(choice.windows.values())) for choice in choices.values()]),
    )


def ratio(lost: Sequence[float], at_random: Sequence[float]) -> float:
    """The normalised regret; NaN if a random point loses nothing."""
    return sum(lost) / sum(at_random) if sum(at_random) > 0 else math.nan


def bootstrap(lost: Sequence[float], at_random: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of `ratio` over tasks drawn again with replacement, as many as there are.

    NaN if there are fewer than three tasks, or if a random point loses nothing in one draw of forty.

    Example:
        >>> bootstrap([0.1, 0.1, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2])
        (0.5, 0.5)
    """
    rng, count = random.Random(0), len(lost)
    draws = [rng.choices(range(count), k=count) for _ in range(DRAWS if count > 2 else 0)]
    ratios = [ratio([lost[task] for task in draw], [at_random[task] for task in draw]) for draw in draws]
    defined = sorted(value for value in ratios if not math.isnan(value))
    if not defined or len(ratios) - len(defined) > len(ratios) / 40:
        return math.nan, math.nan
    return defined[len(defined) // 40], defined[-len(defined) // 40]


def _abstained(choices: Sequence[Choices]) -> float:
    flags = [flag for choice in choices for flag in choice.abstained.values()]
    return mean(flags) if flags else math.nan
