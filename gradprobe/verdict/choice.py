"""Which of several arms to use, and how sure that is: the honest half of comparing them. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradprobe.record.text import counted
from gradprobe.verdict.arm import NONE, Arm
from gradprobe.verdict.judge import Weighed, weigh

_SIMPLEST = (NONE, "remedy", "branches")


@dataclass(frozen=True)
class Choice:
    """The arm to use.

    Attributes:
        arm: Its name; ``"none"`` where nothing is clearly better than the network as it is.
        verdict: Whether it helps: ``helped``, ``likely helped``, ``no difference`` or ``cannot tell``.
        sentences: The same in words, with how sure it is.
    """

    arm: str
    verdict: str
    sentences: tuple[str, ...]


class Contest:
    """The arms that were trained on every seed, and the plain one, pair by pair.

    The best of many is the luckiest too. So a difference is sure where it is beyond the noise with the doubt of
    5 % divided among all pairs of arms (Bonferroni), and likely where it would be if that pair were the only one.

    Args:
        arms: All arms.
        frame: Columns ``seed, arm, iteration, loss, accuracy``.
        conditions: As for `gradprobe.verdict.judge`.

    Attributes:
        arms: Those that take part, by name.
        pairs: How many pairs they make.
        conditions: As given.
    """

    def __init__(self, arms: Sequence[Arm], frame: pd.DataFrame, conditions: Mapping[str, Any]) -> None:
        trained = set(frame["arm"])
        self.arms = {a.name: a for a in arms if a.name in trained and (a.name == NONE or not a.failed)}
        self.pairs = max(1, math.comb(len(self.arms), 2))
        self.conditions = conditions
        self._frame = frame
        self._seen: dict[tuple[str, str, int], Weighed] = {}

    def weigh(self, first: str, second: str, *, alone: bool = False) -> Weighed:
        """The second arm in place of the first, as one of all pairs or as if they were alone."""
        key = first, second, 1 if alone else self.pairs
        if key not in self._seen:
            self._seen[key] = weigh(self._frame, self.conditions, *key)
        return self._seen[key]

    def verdict(self, name: str) -> str:
        """What an arm did in place of none: one of `gradprobe.verdict.judge.VERDICTS`, or ``likely`` one of them."""
        sure, likely = (self.weigh(NONE, name, alone=alone).verdict for alone in (False, True))
        return f"likely {likely}" if likely != sure and likely in ("helped", "harmed") else likely

    def better(self, one: str, other: str, *, alone: bool) -> bool:
        """Whether one arm is better than another beyond the noise."""
        return self.weigh(other, one, alone=alone).verdict == "helped"

    def score(self, name: str) -> float:
        """How an arm fared over the seeds; more is better."""
        measured = self.weigh(NONE, name).second
        return measured.mean if measured.what == "held-out accuracy" else -measured.mean

    def simplicity(self, name: str) -> tuple[int, int]:
        """What is easiest to live with sorts first: nothing, then a remedy, then few branches."""
        arm = self.arms[name]
        return _SIMPLEST.index(arm.kind), len(arm.points)


def choose_arm(contest: Contest) -> Choice:
    """The simplest arm that none is better than, out of those that are better than the network as it is.

    Of those that are surely better, if there are some, else of those that are likely to be; of arms as simple as
    each other the one that fared best.
    """
    names = sorted(contest.arms, key=lambda name: (contest.simplicity(name), -contest.score(name)))
    for alone in (False, True):
        helped = [name for name in names if contest.better(name, NONE, alone=alone)]
        unbeaten = (a for a in helped if not any(contest.better(b, a, alone=alone) for b in helped))
        if chosen := next(unbeaten, None):
            return Choice(chosen, contest.verdict(chosen), (*_use(contest, chosen, alone), *_remarks(contest)))
    return _nothing(contest, max(names, key=contest.score))


def _nothing(contest: Contest, ahead: str) -> Choice:
    conditions = contest.conditions
    found = contest.weigh(NONE, ahead)
    what, seeds = found.first.what, counted(len(found.first.values), "seed")
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
    return Choice(NONE, found.verdict, (said, *_remarks(contest)))


def _use(contest: Contest, chosen: str, alone: bool) -> list[str]:
    found = contest.weigh(NONE, chosen, alone=alone)
    first = (
        f"Use {chosen}: {found.first.what} {found.second.mean:.3g} with it, {found.first.mean:.3g} as it is "
        f"(main output, after {contest.conditions['iterations']} iterations)."
    )
    doubt = f"{found.difference:.2g} better {_doubt(found)}"
    return [first, f"How sure: {doubt}; {_sure(found, contest.pairs, alone)}", *_others(contest, chosen, alone)]


def _sure(found: Weighed, pairs: int, alone: bool) -> str:
    """How sure it is that an arm is better than none."""
    seeds = len(found.first.values)
    if alone and pairs > 1:
        return (
            "likely, not settled. Were it the only arm, this would be beyond the noise (paired, 95 %); as one of "
            f"{pairs} pairs of arms it is not. Repeat with more seeds."
        )
    if found.significant:
        together = f", for all {pairs} pairs of arms together" if pairs > 1 else ""
        return f"the seeds agree (paired, Student's t, 95 %{together})."
    twice = "it gained at least twice what the network as it is did"
    if seeds == 1:
        return f"{twice}, but on one seed only: repeat with more (--seeds 3)."
    return f"on each of {seeds} seeds {twice}."


def _others(contest: Contest, chosen: str, alone: bool) -> list[str]:
    """What has to be said of the arms that were not chosen."""
    said = []
    ahead = max(contest.arms, key=contest.score)
    if contest.score(ahead) > contest.score(chosen):
        found = contest.weigh(chosen, ahead)
        said.append(
            f"{ahead} is ahead of it by {found.difference:.2g} {_doubt(found)}: within the noise, and {chosen} is "
            "the simpler one."
        )
    branches = [name for name, arm in contest.arms.items() if arm.kind == "branches"]
    if contest.arms[chosen].kind == "remedy" and branches:
        best = max(branches, key=contest.score)
        how = "better than" if contest.better(chosen, best, alone=alone) else "as well as"
        within = "" if how == "better than" else ", a difference within the noise"
        number = contest.weigh(NONE, best).second.mean
        said.append(f"It does {how} branches: the best of them, {best}, came to {number:.3g}{within}.")
    return said


def _remarks(contest: Contest) -> list[str]:
    seen = [contest.weigh(NONE, name).second for name in contest.arms]
    said = []
    if any(measured.improving for measured in seen):
        said.append("At least one arm was still improving: a longer run may turn out otherwise.")
    if len(seen[0].values) > 1 and not contest.conditions.get("own_weights", True):
        said.append(
            "All seeds began from the same weights: give a class or `build_model()` for weights of their own."
        )
    return said


def _doubt(found: Weighed) -> str:
    return f"(standard error of the difference {found.error:.2g}, {counted(len(found.first.values), 'seed')})"
