"""How good a choice of placement was: plain numbers, no torch.

Everything is taken seed by seed. The oracle of a task has on each seed what the placement (or none) that was best
on the other seeds came to on this one. So it never profits from the luck of the seed it is scored on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

NONE = "none"
# two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36)
BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Trained:
    """What every tested placement of one task came to.

    Attributes:
        placements: Accuracy of each arm that is a placement, ``none`` among them, by seed; all of the same seeds.
        singles: The arms with one branch: what a random place is drawn from.
        chance: Accuracy of a constant answer.
        size: Number of held-out targets.

    Example:
        >>> task = Trained({"none": {0: 0.1, 1: 0.2}, "3": {0: 0.5, 1: 0.4}}, ("3",), 0.1, 100)
        >>> task.oracle
        {0: 0.5, 1: 0.4}
    """

    placements: Mapping[str, BySeed]
    singles: tuple[str, ...]
    chance: float
    size: int

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Those of the arm ``none``."""
        return tuple(sorted(self.placements[NONE]))

    @property
    def none(self) -> BySeed:
        """Without any branch."""
        return self.placements[NONE]

    @property
    def folds(self) -> tuple[tuple[Sequence[int], int], ...]:
        """For each seed to score on: the others, to choose on."""
        return tuple(([other for other in self.seeds if other != seed], seed) for seed in self.seeds)

    def ranked(self, seeds: Sequence[int]) -> list[str]:
        """The arms, best on these seeds first; of equally good ones that with fewer branches."""
        return sorted(
            self.placements, key=lambda arm: (-mean([self.placements[arm][seed] for seed in seeds]), cost(arm))
        )

    @cached_property
    def oracle(self) -> dict[int, float]:
        """What the best placement came to on each seed, chosen on the others."""
        return {seed: self.placements[self.ranked(chosen_on)[0]][seed] for chosen_on, seed in self.folds}

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


def cost(arm: str) -> int:
    """How many branches an arm has.

    Example:
        >>> cost("none"), cost("2+5")
        (0, 2)
    """
    return 0 if arm == NONE else arm.count("+") + 1


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
    scores: Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class Summary:
    """A policy over a number of tasks.

    Attributes:
        tasks: How many.
        lost: Accuracy lost against the oracle; mean over the tasks where that gains more than two standard errors.
        regret: Normalised: 0 as the oracle, 1 as a random single point; over the same tasks, the sum of what it
            loses over the sum of what a random point loses. NaN where a random point loses nothing.
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
    regret: float
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
    lost = sum(named[name].regret(choices[name].values) for name in clear)
    at_random = sum(named[name].regret(named[name].random) for name in clear)
    stuck = [name for name, task in named.items() if task.at_chance(task.none)]
    return Summary(
        len(named),
        lost / len(clear) if clear else math.nan,
        lost / at_random if at_random > 0 else math.nan,
        mean([gain.mean for gain in gains]),
        _spread([gain.mean for gain in gains]),
        sum(named[name].rescued(choices[name].values) for name in rescuable),
        len(rescuable),
        sum(not named[name].at_chance(choices[name].values) for name in stuck),
        len(stuck),
        sum(gain.harm for gain in gains),
        _abstained([choices[name] for name in named if name not in clear]),
        _abstained([choices[name] for name in clear]),
        mean([mean(list(chosen.windows.values())) for chosen in choices.values()]),
    )


def correlation(task: Trained, chosen: Choices) -> float | None:
    """Spearman's rank correlation of a policy's scores with what the arms came to, the mean over the seeds."""
    found = []
    for seed, scores in chosen.scores.items():
        arms = [arm for arm in scores if seed in task.placements.get(arm, {})]
        if len(arms) > 2:
            by_score = pd.Series([scores[arm] for arm in arms]).rank()
            by_value = pd.Series([task.placements[arm][seed] for arm in arms]).rank()
            if by_score.nunique() > 1 and by_value.nunique() > 1:
                found.append(float(by_score.corr(by_value)))
    return mean(found) if found else None


def _abstained(chosen: Sequence[Choices]) -> float:
    flags = [flag for each in chosen for flag in each.abstained.values()]
    return mean(flags) if flags else math.nan


def _spread(values: Sequence[float]) -> float:
    middle = mean(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / max(1, len(values) - 1) / len(values))
