"""The accuracies of the placements of a task, and the oracle that chooses the best: plain numbers, no torch.

Everything is compared seed by seed. On each seed the oracle of a task has the accuracy of the placement (or none)
that was best on the other seeds, so it never profits from the luck of the seed that it is scored on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from benchmarks.placement.arms import NONE, cost
from benchmarks.placement.differences import Difference, binomial, difference, mean

BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Trained:
    """The accuracies of every tested placement of one task.

    Attributes:
        placements: Accuracy of each arm that is a placement, ``none`` among them, by seed; all of the same seeds.
        singles: The arms with one branch: what a random point is drawn from.
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
        """The seeds of the arm ``none``."""
        return tuple(sorted(self.placements[NONE]))

    @property
    def none(self) -> BySeed:
        """The accuracies without any branch."""
        return self.placements[NONE]

    def tested(self, seed: int) -> Mapping[str, BySeed]:
        """The arms that the oracle may choose from when it is scored on this seed."""
        return {**self.placements, **self.grown.get(seed, {})}

    def ranked(self, seed: int) -> list[str]:
        """The arms, the best on the other seeds first; of equally good ones, the one with fewer branches."""
        others = [other for other in self.seeds if other != seed]
        means = {arm: mean([values[other] for other in others]) for arm, values in self.tested(seed).items()}
        return sorted(means, key=lambda arm: (-means[arm], cost(arm)))

    @cached_property
    def oracle(self) -> dict[int, float]:
        """The accuracy on each seed of the placement that was best on the others."""
        return {seed: self.tested(seed)[self.ranked(seed)[0]][seed] for seed in self.seeds}

    @property
    def sensitive(self) -> bool:
        """Whether any placement, chosen in hindsight, is better than none by more than two standard errors."""
        return any(self.difference(values, self.none).clear for values in self.placements.values())

    @cached_property
    def random(self) -> dict[int, float]:
        """The expectation over the single points."""
        return {seed: mean([self.placements[arm][seed] for arm in self.singles]) for seed in self.seeds}

    @cached_property
    def kind(self) -> str:
        """What the best placement does for the task: ``"rescue"``, ``"help"`` or ``"nothing"``."""
        if not self.difference(self.oracle, self.none).clear:
            return "nothing"
        return "rescue" if self.at_chance(self.none) and self.rescued(self.oracle) else "help"

    def difference(self, better: BySeed, worse: BySeed) -> Difference:
        """One arm against another, paired by seed."""
        return difference([better[seed] for seed in self.seeds], [worse[seed] for seed in self.seeds], self.size)

    def at_chance(self, values: BySeed) -> bool:
        """Whether the mean over the seeds is within three standard errors of a constant answer."""
        return mean(list(values.values())) <= self.chance + 3 * binomial(self.chance, self.size)

    def rescued(self, values: BySeed) -> bool:
        """Whether the accuracy is off chance and above half of the oracle's."""
        accuracy = mean([values[seed] for seed in self.seeds])
        return not self.at_chance(values) and accuracy > mean(list(self.oracle.values())) / 2

    def regret(self, values: BySeed) -> float:
        """How much more accuracy the oracle has."""
        return self.difference(self.oracle, values).mean
