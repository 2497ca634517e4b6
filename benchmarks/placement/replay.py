"""What other ways to decide by trials would have chosen, replayed from the losses that the rows have kept.

A row has the branches' weight fall as in a training, a trial keeps it: replayed is not run, but costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from placement.arms import NONE
from placement.policies import BLIND, Case
from placement.rows import EARLY, Table
from placement.tasks import TASKS

CLEAR = 0.02  # of the loss without
SECOND = "every second"
LOOKED = EARLY.index(150)
Losses = Mapping[str, float]  # by blind policy; without any branch under "none"


def clear_or(default: str) -> Callable[[Losses, float], str]:
    """The lowest loss, if it is clearly below that of the default."""

    def choose(losses: Losses, first: float) -> str:
        best = min(losses, key=losses.__getitem__)
        return best if losses[best] < (1 - CLEAR) * losses[default] else default

    return choose


def lowest(losses: Losses, first: float) -> str:
    """Whatever has the lowest loss."""
    return min(losses, key=losses.__getitem__)


def bold_if_stuck(losses: Losses, first: float) -> str:
    """Every second point where nothing learnt: there is nothing to lose. Else what is clearly better, or none."""
    stuck = min(losses.values()) > (1 - CLEAR) * first
    return SECOND if stuck else clear_or(NONE)(losses, first)


@dataclass(frozen=True)
class Rule:
    """How to decide.

    Attributes:
        choose: From the losses in the end of the trials and the loss of a net that has not learnt.
        tried: What is tried, besides none.
        first: Trials of one window before, of which the best two of all go on; none without any.
    """

    choose: Callable[[Losses, float], str]
    tried: tuple[str, ...] = ("last point", SECOND)
    first: tuple[str, ...] = ()

    @property
    def windows(self) -> float:
        """What it costs."""
        if self.first:
            return len(self.first) + 1 + 2 * (EARLY[LOOKED] - EARLY[0]) / EARLY[0]
        return (len(self.tried) + 1) * EARLY[LOOKED] / EARLY[0]

    def arm(self, task: str, seed: int, table: Table) -> str:
        """What it would have chosen."""
        tried = self._survivors(task, seed, table) if self.first else (NONE, *self.tried)
        losses = {who: _loss(who, task, seed, table, LOOKED) for who in tried}
        return BLIND[self.choose(losses, math.log(11 if TASKS[task].dense else 10))](Case(task, seed)).arm

    def _survivors(self, task: str, seed: int, table: Table) -> list[str]:
        return sorted((NONE, *self.first), key=lambda who: _loss(who, task, seed, table, 0))[:2]


def _loss(who: str, task: str, seed: int, table: Table, index: int) -> float:
    found = table.rows[task, BLIND[who](Case(task, seed)).arm, seed].early[index]
    return found if math.isfinite(found) else math.inf


RULES = {
    "the last point or every second, if clearly better (as `auto`)": Rule(clear_or(NONE)),
    "the same, and every second where nothing learnt": Rule(bold_if_stuck),
    "every second, unless another is clearly better": Rule(clear_or(SECOND)),
    "the lowest loss of these": Rule(lowest),
    "middle in place of last": Rule(clear_or(NONE), ("middle", SECOND)),
    "every point in place of last": Rule(clear_or(NONE), ("every point", SECOND)),
    "halving: five for a window, the best two for two more": Rule(
        lowest, first=("middle", "thirds", SECOND, "every point")
    ),
}
