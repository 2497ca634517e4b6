"""Which of several arms to use, and how sure that is: the honest half of comparing them. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradprobe.arms.arm import NONE, Arm
from gradprobe.verdict import DOUBT, Weighed, weigh

_SIMPLEST = (NONE, "remedy", "branches")


@dataclass(frozen=True)
class Choice:
    """The arm to use.

    Attributes:
        arm: Its name; ``"none"`` where nothing is clearly better than the network as it is.
        verdict: Whether it helps: ``helped``, ``no difference`` or ``cannot tell``.
        sentences: The same in words, with how sure it is.
    """

    arm: str
    verdict: str
    sentences: tuple[str, ...]


class Contest:
    """The arms that were trained on every seed, and the plain one, pair by pair.

    The best of many is the luckiest too, so the doubt of 5 % is divided among all pairs of arms (Bonferroni).

    Args:
        arms: All arms.
        frame: Columns ``seed, arm, iteration, loss, accuracy``.
        conditions: As for `gradprobe.verdict.judge`.

    Attributes:
        arms: Those that take part, by name.
        pairs: How many pairs they make.
    """

    def __init__(self, arms: Sequence[Arm], frame: pd.DataFrame, conditions: Mapping[str, Any]) -> None:
        trained = set(frame["arm"])
        self.arms = {a.name: a for a in arms if a.name in trained and (a.name == NONE or not a.failed)}
        self.pairs = max(1, math.comb(len(self.arms), 2))
        self._frame, self._conditions = frame, conditions
        self._seen: dict[tuple[str, str], Weighed] = {}

    def weigh(self, first: str, second: str) -> Weighed:
        """The second arm in place of the first."""
        if (first, second) not in self._seen:
            self._seen[first, second] = weigh(self._frame, self._conditions, first, second, self.pairs)
        return self._seen[first, second]

    def clearly(self, better: str, worse: str) -> bool:
        """Whether one arm is better than another beyond the noise."""
        return self.weigh(worse, better).verdict == "helped"

    def score(self, name: str) -> float:
        """How an arm fared over the seeds; more is better."""
        measured = self.weigh(NONE, name).second
        return measured.mean if measured.what == "held-out accuracy" else -measured.mean

    def simplicity(self, name: str) -> tuple[int, int, int]:
        """What is easiest to live with sorts first: nothing, then a remedy, then few branches."""
        arm = self.arms[name]
        return _SIMPLEST.index(arm.kind), len(arm.points), list(self.arms).index(name)


def choose(contest: Contest, conditions: Mapping[str, Any]) -> Choice:
    """The simplest arm that no other is clearly better than, if it is itself clearly better than none.

    Args:
        contest: The arms.
        conditions: As for `gradprobe.verdict.judge`.
    """
    names = sorted(contest.arms, key=contest.simplicity)
    ahead = max(names, key=contest.score)
    if not contest.clearly(ahead, NONE):
        return _nothing(contest, ahead, conditions)
    helped = [name for name in names if contest.clearly(name, NONE)]
    chosen = next(name for name in helped if name == ahead or not contest.clearly(ahead, name))
    said = [*_use(contest, chosen, conditions), *_others(contest, chosen, ahead), *_remarks(contest, conditions)]
    return Choice(chosen, "helped", tuple(said))


def _nothing(contest: Contest, ahead: str, conditions: Mapping[str, Any]) -> Choice:
    found = contest.weigh(NONE, ahead)
    what, seeds = found.first.what, _counted(len(found.first.values), "seed")
    after = f"after {conditions['iterations']} iterations the {what} of the main output"
    if not conditions.get("same_batches", True):
        said = (
            "The trainings did not see the same batches, so this cannot tell which arm to use. Give batches that "
            "can be gone through again alike (a list, or a function that seeds what it draws)."
        )
    elif not any(contest.weigh(NONE, name).second.learnt for name in contest.arms):
        said = (
            f"No arm learnt, so this cannot tell which one to use: {after} is {found.second.mean:.3g} at best "
            f"({ahead}, {seeds}). Train longer (--iterations), or look at the learning rate first."
        )
    elif ahead == NONE:
        said = (
            f"Use the network as it is: no arm did better. {after.capitalize()} is {found.first.mean:.3g} "
            f"({seeds})."
        )
    else:
        alone = len(found.first.values) == 1
        more = " One seed cannot tell more: repeat with more (--seeds 3)." if alone else ""
        said = (
            f"Use the network as it is: no arm is better beyond the noise. {after.capitalize()} is "
            f"{found.first.mean:.3g}; {ahead} is ahead by {found.difference:.2g} {_doubt(found)}.{more}"
        )
    return Choice(NONE, found.verdict, (said, *_remarks(contest, conditions)))


def _use(contest: Contest, chosen: str, conditions: Mapping[str, Any]) -> list[str]:
    found = contest.weigh(NONE, chosen)
    first = (
        f"Use {chosen}: after {conditions['iterations']} iterations the {found.first.what} of the main output is "
        f"{found.second.mean:.3g} with it and {found.first.mean:.3g} as it is {_doubt(found)}."
    )
    return [first, f"How sure: {_sure(found, contest.pairs)}"]


def _sure(found: Weighed, pairs: int) -> str:
    seeds = len(found.first.values)
    together = f", for all {pairs} pairs of arms together" if pairs > 1 else ""
    if found.significant:
        return f"the seeds agree (paired, Student's t, {1 - DOUBT:.0%}{together})."
    twice = "it gained at least twice what the network as it is did"
    if seeds == 1:
        return f"{twice}, but on one seed only: repeat with more (--seeds 3)."
    return f"on each of {seeds} seeds {twice}; they are too few for more (Student's t, {1 - DOUBT:.0%}{together})."


def _others(contest: Contest, chosen: str, ahead: str) -> list[str]:
    """What has to be said of the arms that were not chosen."""
    said = []
    if ahead != chosen:
        found = contest.weigh(chosen, ahead)
        said.append(
            f"{ahead} is ahead of it by {found.difference:.2g} {_doubt(found)}: within the noise, and {chosen} is "
            "the simpler one."
        )
    branches = [name for name, arm in contest.arms.items() if arm.kind == "branches"]
    if contest.arms[chosen].kind == "remedy" and branches:
        best = max(branches, key=contest.score)
        how = "better than" if contest.clearly(chosen, best) else "as well as"
        number = contest.weigh(NONE, best).second.mean
        said.append(f"It does {how} branches: the best of them, {best}, came to {number:.3g}.")
    return said


def _remarks(contest: Contest, conditions: Mapping[str, Any]) -> list[str]:
    seen = [contest.weigh(NONE, name).second for name in contest.arms]
    said = []
    if any(measured.improving for measured in seen):
        said.append("At least one arm was still improving: a longer run may turn out otherwise.")
    if len(seen[0].values) > 1 and not conditions.get("own_weights", True):
        said.append(
            "All seeds began from the same weights: give a class or `build_model()` for weights of their own."
        )
    return said


def _doubt(found: Weighed) -> str:
    return f"(standard error of the difference {found.error:.2g}, {_counted(len(found.first.values), 'seed')})"


def _counted(count: int, one: str) -> str:
    return f"{count} {one}" + ("" if count == 1 else "s")
