"""How good a choice of placement was: plain numbers, no torch.

Everything is taken seed by seed. The oracle of a task has on each seed what the placement (or none) that was best
on the other seeds came to on this one. So it never profits from the luck of the seed it is scored on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from placement.arms import NONE, cost, widened

MOST_BRANCHES = 3  # of a set that is grown
DRAWS = 2000  # of the bootstrap
# two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36)
BySeed = Mapping[int, float]
Scores = Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class Trained:
    """What every tested placement of one task came to.

    Attributes:
        placements: Accuracy of each arm that is a placement, ``none`` among them, by seed; all of the same seeds.
        singles: The arms with one branch: what a random place is drawn from.
        chance: Accuracy of a constant answer.
        size: Number of held-out targets.
        grown: For each seed that is scored, the sets that were grown on the others.

    Example:
        >>> task = Trained({"none": {0: 0.1, 1: 0.2}, "3": {0: 0.5, 1: 0.4}}, ("3",), 0.1, 100)
        >>> task.oracle
        {0: 0.5, 1: 0.4}
    """

    placements: Mapping[str, BySeed]
    singles: tuple[str, ...]
    chance: float
    size: int
    grown: Mapping[int, Mapping[str, BySeed]] = field(default_factory=dict)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Those of the arm ``none``."""
        return tuple(sorted(self.placements[NONE]))

    @property
    def none(self) -> BySeed:
        """Without any branch."""
        return self.placements[NONE]

    def tested(self, seed: int) -> Mapping[str, BySeed]:
        """The arms that the oracle may choose from where it is scored on this seed."""
        return {**self.placements, **self.grown.get(seed, {})}

    def ranked(self, seed: int) -> list[str]:
        """The arms, best on the other seeds first; of equally good ones that with fewer branches."""
        others = [other for other in self.seeds if other != seed]
        means = {arm: mean([values[other] for other in others]) for arm, values in self.tested(seed).items()}
        return sorted(means, key=lambda arm: (-means[arm], cost(arm)))

    @cached_property
    def oracle(self) -> dict[int, float]:
        """What the best placement came to on each seed, chosen on the others."""
        return {seed: self.tested(seed)[self.ranked(seed)[0]][seed] for seed in self.seeds}

    @property
    def sensitive(self) -> bool:
        """Whether any placement is better than none beyond two standard errors, picked with hindsight."""
        return any(self.difference(values, self.none).clear for values in self.placements.values())

    @cached_property
    def random(self) -> dict[int, float]:
        """The expectation over the single points."""
        return {seed: mean([self.placements[arm][seed] for arm in self.singles]) for seed in self.seeds}

    @cached_property
    def kind(self) -> str:
        """What the best placement does for it: ``"rescue"``, ``"help"`` or ``"nothing"``."""
        if not self.difference(self.oracle, self.none).clear:
            return "nothing"
        return "rescue" if self.at_chance(self.none) and self.rescued(self.oracle) else "help"

    def difference(self, better: BySeed, worse: BySeed) -> Difference:
        """One thing against another, paired by seed."""
        return difference([better[seed] for seed in self.seeds], [worse[seed] for seed in self.seeds], self.size)

    def at_chance(self, values: BySeed) -> bool:
        """Whether the mean over the seeds is within three standard errors of a constant answer."""
        return mean(list(values.values())) <= self.chance + 3 * binomial(self.chance, self.size)

    def rescued(self, values: BySeed) -> bool:
        """Whether it is off chance and above half of the oracle's accuracy."""
        reached = mean([values[seed] for seed in self.seeds])
        return not self.at_chance(values) and reached > mean(list(self.oracle.values())) / 2

    def regret(self, values: BySeed) -> float:
        """What the oracle has more."""
        return self.difference(self.oracle, values).mean


@dataclass(frozen=True)
class Difference:
    """A paired difference over seeds and its standard error."""

    mean: float
    error: float
    count: int

    @property
    def clear(self) -> bool:
        """Above zero by more than two standard errors."""
        return self.mean > 2 * self.error

    @property
    def harm(self) -> bool:
        """Below zero beyond the noise: Student's t, 95 %."""
        return self.mean < -STUDENT[self.count - 2] * self.error


def difference(better: Sequence[float], worse: Sequence[float], size: int) -> Difference:
    """Pair by pair.

    Few seeds may agree by luck: the error is never below what drawing so many held-out targets leaves.

    Example:
        >>> difference([0.5, 0.7], [0.5, 0.5], 1000).mean
        0.09999999999999998
    """
    pairs = [a - b for a, b in zip(better, worse, strict=True)]
    middle, count = mean(pairs), len(pairs)
    spread = math.sqrt(sum((pair - middle) ** 2 for pair in pairs) / max(1, count - 1) / count)
    within = math.hypot(binomial(mean(better), size), binomial(mean(worse), size)) / math.sqrt(count)
    return Difference(middle, max(spread, within), count)


def mean(values: Sequence[float]) -> float:
    """Of numbers that are there."""
    return sum(values) / len(values)


def binomial(share: float, size: int) -> float:
    """Standard error of a share that was counted.

    Example:
        >>> binomial(0.5, 100)
        0.05
    """
    return math.sqrt(share * (1 - share) / size)


def grow(
    singles: Sequence[str], scores: Mapping[str, float], most: int = MOST_BRANCHES
) -> tuple[list[str], list[str]]:
    """Greedy addition as far as the scores go: to the best single point the one that adds most, while any does.

    Returns:
        The sets of two points and more that were best in turn, and the arms that have to be scored to go on.

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
        lost: Accuracy lost against the oracle; mean over the tasks where that gains more than two standard errors.
        lost_interval: Of that, 95 %, if the tasks had been others of their kind: see `bootstrap`.
        regret: Normalised: 0 as the oracle, 1 as a random single point; over the same tasks, the sum of what it
            loses over the sum of what a random point loses. NaN where a random point loses nothing.
        interval: Of the regret.
        gain: Mean accuracy over that without a branch, over all tasks.
        gain_error: Its standard error over the tasks.
        rescued: Tasks at chance without, and above half of the oracle's accuracy with.
        rescuable: Those that the oracle rescues.
        off_chance: Tasks at chance without, and not with.
        at_chance: Those at chance without.
        harmed: Tasks that are worse than without beyond the noise.
        abstentions: Share of right ones: of the seeds of tasks where the oracle gains nothing clear.
        missed: Share of wrong ones: of the seeds of tasks where it does.
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
    gains = [task.difference(choices[name].values, task.none) for name, task in named.items()]
    lost = [named[name].regret(choices[name].values) for name in clear]
    at_random = [named[name].regret(named[name].random) for name in clear]
    stuck = [name for name, task in named.items() if task.at_chance(task.none)]
    return Summary(
        len(named),
        mean(lost) if clear else math.nan,
        bootstrap(lost, [1.0] * len(lost)),
        ratio(lost, at_random),
        bootstrap(lost, at_random),
        mean([gain.mean for gain in gains]),
        spread([gain.mean for gain in gains]),
        sum(named[name].rescued(choices[name].values) for name in rescuable),
        len(rescuable),
        sum(not named[name].at_chance(choices[name].values) for name in stuck),
        len(stuck),
        sum(gain.harm for gain in gains),
        _abstained([choices[name] for name in named if name not in clear]),
        _abstained([choices[name] for name in clear]),
        mean([mean(list(chosen.windows.values())) for chosen in choices.values()]),
    )


def ratio(lost: Sequence[float], at_random: Sequence[float]) -> float:
    """The normalised regret; NaN where a random point loses nothing."""
    return sum(lost) / sum(at_random) if sum(at_random) > 0 else math.nan


def bootstrap(lost: Sequence[float], at_random: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of `ratio` over tasks drawn again with replacement, as many as there are.

    NaN where that says nothing: fewer than three tasks, or a random point loses nothing in one draw of forty.

    Example:
        >>> bootstrap([0.1, 0.1, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2])
        (0.5, 0.5)
    """
    drawn, count = random.Random(0), len(lost)
    picks = [drawn.choices(range(count), k=count) for _ in range(DRAWS if count > 2 else 0)]
    ratios = [ratio([lost[each] for each in pick], [at_random[each] for each in pick]) for pick in picks]
    defined = sorted(value for value in ratios if value == value)
    if not defined or len(ratios) - len(defined) > len(ratios) / 40:
        return math.nan, math.nan
    return defined[len(defined) // 40], defined[-len(defined) // 40]


def correlation(task: Trained, scores: Scores) -> float | None:
    """Spearman's rank correlation of scores with what the arms came to, the mean over the seeds."""
    found = []
    for seed, by_arm in scores.items():
        arms = [arm for arm in by_arm if seed in task.placements.get(arm, {})]
        if len(arms) > 2:
            by_score = pd.Series([by_arm[arm] for arm in arms]).rank()
            by_value = pd.Series([task.placements[arm][seed] for arm in arms]).rank()
            if by_score.nunique() > 1 and by_value.nunique() > 1:
                found.append(float(by_score.corr(by_value)))
    return mean(found) if found else None


def correlations(tasks: Mapping[str, Trained], scores: Mapping[str, Scores]) -> list[float]:
    """The `correlation` of every task where it is defined."""
    found = [correlation(tasks[name], of_task) for name, of_task in scores.items() if name in tasks]
    return [value for value in found if value is not None]


def described(values: Sequence[float]) -> str:
    """The mean with its standard error, and of how many.

    Example:
        >>> described([0.5, 0.7])
        '0.60 ± 0.10 (2)'
    """
    return f"{mean(values):.2f} ± {spread(values):.2f} ({len(values)})" if values else ""


def _abstained(chosen: Sequence[Choices]) -> float:
    flags = [flag for each in chosen for flag in each.abstained.values()]
    return mean(flags) if flags else math.nan


def spread(values: Sequence[float]) -> float:
    """Standard error of their mean."""
    middle = mean(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / max(1, len(values) - 1) / len(values))
