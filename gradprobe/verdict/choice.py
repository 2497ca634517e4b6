"""Which of several arms to use, and how sure that is. Plain numbers, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradprobe.decide.remedies import REMEDIES
from gradprobe.record.text import counted
from gradprobe.verdict.arm import NONE, Arm
from gradprobe.verdict.judge import SAME_BATCHES, SHARED_WEIGHTS, ArmResult, PairOutcome, judge_pair

_SIMPLEST = (NONE, "remedy", "branches")


@dataclass(frozen=True)
class Choice:
    """The arm to use.

    Attributes:
        arm: Its name; ``"none"`` where nothing is clearly better than the network as it is.
        verdict: Whether it helps: ``helped``, ``likely helped``, ``no difference`` or ``cannot tell``.
        sentences: The same in words, with how sure it is.
        best: The arm that fared best, whether or not that is beyond the noise.
        lacks: What would tell more: ``"seeds"``, ``"longer"`` trainings, the same ``"batches"``; or empty.
    """

    arm: str
    verdict: str
    sentences: tuple[str, ...]
    best: str = NONE
    lacks: str = ""


class Contest:
    """The arms that were trained on every seed, and the plain one, pair by pair.

    The best of many arms may just be the luckiest. So a difference is sure if it is beyond the noise with the
    significance level of 5 % divided among all pairs of arms (Bonferroni), and likely if it would be beyond the
    noise were that pair the only one.

    Args:
        arms: All arms.
        frame: Columns ``seed, arm, iteration, loss, metric``.
        conditions: As for `gradprobe.verdict.judge`.

    Attributes:
        arms: Those that take part, by name.
        pairs: How many pairs they make.
        conditions: As given.
    """

    def __init__(self, arms: Sequence[Arm], frame: pd.DataFrame, conditions: Mapping[str, Any]) -> None:
        trained = set(frame["arm"])
        self.arms = {arm.name: arm for arm in arms if arm.name in trained and (arm.name == NONE or not arm.failed)}
        self.pairs = max(1, math.comb(len(self.arms), 2))
        self.conditions = conditions
        self._frame = frame
        self._outcomes: dict[tuple[str, str, int], PairOutcome] = {}

    def judge_pair(self, first: str, second: str, *, alone: bool = False) -> PairOutcome:
        """The second arm in place of the first, as one of all pairs or as if they were alone."""
        key = first, second, 1 if alone else self.pairs
        if key not in self._outcomes:
            self._outcomes[key] = judge_pair(self._frame, self.conditions, *key)
        return self._outcomes[key]

    def result(self, name: str) -> ArmResult:
        """How an arm fared over the seeds that the plain one was trained on too."""
        return self.judge_pair(NONE, name).second

    def verdict(self, name: str) -> str:
        """What an arm did in place of none: one of `gradprobe.verdict.judge.VERDICTS`, or ``likely`` and one."""
        sure, likely = (self.judge_pair(NONE, name, alone=alone).verdict for alone in (False, True))
        return f"likely {likely}" if likely != sure and likely in ("helped", "harmed") else likely

    def better(self, one: str, other: str, *, alone: bool) -> bool:
        """Whether one arm is better than another beyond the noise."""
        return self.judge_pair(other, one, alone=alone).verdict == "helped"

    def score(self, name: str) -> float:
        """How well an arm fared over the seeds; more is better."""
        result = self.result(name)
        return result.metric.sign * result.mean

    def simplicity(self, name: str) -> tuple[int, int, int]:
        """Sorts the simplest arm first: nothing, then remedies by what stays of them, then few branches."""
        arm = self.arms[name]
        stays = REMEDIES[arm.remedy].stays if arm.remedy in REMEDIES else 0
        return _SIMPLEST.index(arm.kind), stays, len(arm.points)


def choose_arm(contest: Contest) -> Choice:
    """The simplest arm that no other is better than, out of those that are better than the network as it is.

    It is taken from the arms that are surely better, or from those that are likely better if there are none. Of
    arms that are equally simple the one that fared best is taken.
    """
    names = sorted(contest.arms, key=lambda name: (contest.simplicity(name), -contest.score(name)))
    for alone in (False, True):
        helped = [name for name in names if contest.better(name, NONE, alone=alone)]
        unbeaten = (a for a in helped if not any(contest.better(b, a, alone=alone) for b in helped))
        if chosen := next(unbeaten, None):
            sentences = *_why_chosen(contest, chosen, alone), *_reservations(contest)
            lacks = "" if contest.judge_pair(NONE, chosen).significant else "seeds"
            return Choice(chosen, contest.verdict(chosen), sentences, chosen, lacks)
    best = max(names, key=contest.score)
    sentences = _why_none(contest, best), *_reservations(contest)
    return Choice(NONE, contest.judge_pair(NONE, best).verdict, sentences, best, _lacks(contest, best))


def _lacks(contest: Contest, best: str) -> str:
    """What would tell more where no arm is chosen."""
    if not contest.conditions.get("same_batches", True):
        return "batches"
    if not any(contest.result(name).learnt for name in contest.arms):
        return "longer"
    return "seeds" if best != NONE and len(contest.result(best).values) == 1 else ""


def _why_none(contest: Contest, best: str) -> str:
    """Why no arm is chosen; ``best`` is the one with the highest score."""
    conditions, pair = contest.conditions, contest.judge_pair(NONE, best)
    seeds = counted(len(pair.first.values), "seed")
    after = f"after {conditions['iterations']} iterations the {pair.first.metric.described} of the main output"
    if not conditions.get("same_batches", True):
        return f"The trainings did not see the same batches, so this cannot tell which arm to use. {SAME_BATCHES}"
    if not any(contest.result(name).learnt for name in contest.arms):
        return (
            f"No arm learnt, so this cannot tell which one to use: {after} is {pair.second.shown} at best "
            f"({best}, {seeds}). Train longer (--iterations), or look at the learning rate first."
        )
    if len(contest.arms) == 1:
        return f"Use the network as it is: no arm changes it. A{after[1:]} is {pair.first.shown} ({seeds})."
    if best == NONE:
        mean = pair.first.shown
        return f"Use the network as it is: no arm did better. A{after[1:]} is {mean} ({seeds})."
    more = " One seed cannot tell more: repeat with more (--seeds 3)." if len(pair.first.values) == 1 else ""
    return (
        f"Use the network as it is: no arm is better beyond the noise. A{after[1:]} is "
        f"{pair.first.shown}; {best} is ahead by {_difference(pair)}.{more}"
    )


def _why_chosen(contest: Contest, chosen: str, alone: bool) -> list[str]:
    pair = contest.judge_pair(NONE, chosen, alone=alone)
    numbers = (
        f"Use {chosen}: {pair.first.metric.described} {pair.second.shown} with it, {pair.first.shown} as it is "
        f"(main output, after {contest.conditions['iterations']} iterations)."
    )
    difference = f"{pair.difference:.2g} better {_uncertainty(pair)}"
    sure = f"How sure: {difference}; {_how_sure(pair, contest.pairs, alone)}"
    return [numbers, sure, *_compared_to_others(contest, chosen, alone)]


def _how_sure(pair: PairOutcome, pairs: int, alone: bool) -> str:
    """How sure it is that an arm is better than none."""
    seeds = len(pair.first.values)
    if alone and pairs > 1:
        return (
            "likely, not settled. Were it the only arm, this would be beyond the noise (paired, 95 %); as one of "
            f"{pairs} pairs of arms it is not. Repeat with more seeds."
        )
    if pair.significant:
        together = f", for all {pairs} pairs of arms together" if pairs > 1 else ""
        return f"the seeds agree (paired, Student's t, 95 %{together})."
    twice = "it gained at least twice what the network as it is did"
    if seeds == 1:
        return f"{twice}, but on one seed only: repeat with more (--seeds 3)."
    return f"on each of {seeds} seeds {twice}."


def _compared_to_others(contest: Contest, chosen: str, alone: bool) -> list[str]:
    """The chosen arm beside one that did better, if one did, and a chosen remedy beside the branches."""
    sentences = []
    best = max(contest.arms, key=contest.score)
    if contest.score(best) > contest.score(chosen):
        difference = _difference(contest.judge_pair(chosen, best))
        sentences.append(
            f"{best} is ahead of it by {difference}: within the noise, and {chosen} is the simpler one."
        )
    branches = [name for name, arm in contest.arms.items() if arm.kind == "branches"]
    if contest.arms[chosen].kind == "remedy" and branches:
        best = max(branches, key=contest.score)
        result = f"branches: the best of them, {best}, came to {contest.result(best).shown}"
        if contest.better(chosen, best, alone=alone):
            sentences.append(f"It does better than {result}.")
        else:
            sentences.append(f"It does as well as {result}, a difference within the noise.")
    return sentences


def _reservations(contest: Contest) -> list[str]:
    """What limits the conclusion, whichever it is."""
    results = [contest.result(name) for name in contest.arms]
    sentences = []
    if any(result.improving for result in results):
        sentences.append("At least one arm was still improving: a longer run may turn out otherwise.")
    if len(results[0].values) > 1 and not contest.conditions.get("own_weights", True):
        sentences.append(SHARED_WEIGHTS)
    return sentences


def _difference(pair: PairOutcome) -> str:
    return f"{pair.difference:.2g} {_uncertainty(pair)}"


def _uncertainty(pair: PairOutcome) -> str:
    return f"(standard error of the difference {pair.error:.2g}, {counted(len(pair.first.values), 'seed')})"
