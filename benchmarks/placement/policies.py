"""The policies that are measured: rules of thumb, rules from a history, remedies, and trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import nn

import gradprobe as gp
from gradprobe.history import GradientHistory
from gradprobe.policies import Placement
from gradprobe.snapshot import seed_everything
from gradprobe.trials import place_by_trials
from placement.rows import WEIGHT, arm_of
from placement.tasks import TASKS, evenly, points

WINDOW = 50


@dataclass(frozen=True)
class Decision:
    """What a policy chose.

    Attributes:
        arm: What to do.
        windows: What it cost, in windows of 50 iterations.
        scores: Of the arms that it weighed.
    """

    arm: str
    windows: float = 0
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One task and one seed: what a policy may look at."""

    task: str
    seed: int

    @property
    def points(self) -> tuple[gp.Point, ...]:
        """Where branches can be."""
        return points(self.task)

    @property
    def model(self) -> nn.Module:
        """The network as its training will begin."""
        seed_everything(self.seed)
        return TASKS[self.task].build()

    @property
    def history(self) -> GradientHistory:
        """The record of one window without branches."""
        return _history(self)

    def decided(self, placement: Placement, windows: float) -> Decision:
        """A placement as the arm it is, or its remedy; single points as the nearest that was trained."""
        names = [point.name for point in self.points]
        chosen = [names.index(point.name) for point in placement.points]
        if len(chosen) == 1:
            chosen = [min(evenly(len(names)), key=lambda index: abs(index - chosen[0]))]
        return Decision(placement.remedy or arm_of(chosen), windows)


@cache
def _history(case: Case) -> GradientHistory:
    task = TASKS[case.task]
    return gp.scan(
        case.model,
        task.batches(case.seed),
        nn.functional.cross_entropy,
        WINDOW,
        optimizer=task.make_optimizer,
        seed=case.seed,
    )


Policy = Callable[[Case], Decision]


def single(share: float) -> Policy:
    """One branch at the tested point nearest to this share of the way."""

    def choose(case: Case) -> Decision:
        tested = evenly(len(case.points))
        return Decision(arm_of([tested[round(share * (len(tested) - 1))]]))

    return choose


def thirds(case: Case) -> Decision:
    """Two branches, a third and two thirds of the way."""
    last = len(case.points) - 1
    return Decision(arm_of([round(last / 3), round(2 * last / 3)]))


def every(step: int) -> Policy:
    """A branch at each point, or each second one, counted from the output."""

    def choose(case: Case) -> Decision:
        return Decision(arm_of(range(len(case.points) - 1, -1, -step)))

    return choose


def ruled(policy: gp.policies.Policy) -> Policy:
    """A policy of gradprobe, from one window."""
    return lambda case: case.decided(gp.place(case.history, policy), 1)


def repeated(policy: gp.policies.Policy) -> Policy:
    """The same, again with the branches in place until it places no new one."""

    def choose(case: Case) -> Decision:
        task = TASKS[case.task]
        placement = gp.place_repeatedly(
            case.model,
            task.batches(case.seed),
            nn.functional.cross_entropy,
            WINDOW,
            policy=policy,
            branch=task.branch,
            weight=WEIGHT,
            optimizer=task.make_optimizer,
            seed=case.seed,
            history=case.history,
        )
        return case.decided(placement, 1 + placement.reason.count("in place:"))

    return choose


def tried(**options: Any) -> Policy:
    """Gradprobe's trials, `gradprobe.trials.place_by_trials`."""

    def choose(case: Case) -> Decision:
        task = TASKS[case.task]
        done: dict[str, int] = {}
        placement = place_by_trials(
            case.model,
            task.batches(case.seed),
            nn.functional.cross_entropy,
            WINDOW,
            branch=task.branch,
            weight=WEIGHT,
            optimizer=task.make_optimizer,
            seed=case.seed,
            on_iteration=lambda name, iterations, total: done.update({name: iterations}),
            **options,
        )
        return case.decided(placement, sum(done.values()) / WINDOW)

    return choose


def always(arm: str) -> Policy:
    """The same arm whatever the network."""
    return lambda case: Decision(arm)


def normalised(case: Case) -> Decision:
    """Normalisation where there is none: plain networks and U-Nets."""
    return Decision("normalised" if TASKS[case.task].family in ("mlp", "conv", "narrow", "unet") else "none")


# what to choose without having looked; "random" is not here: it is an expectation, not a choice
BLIND: dict[str, Policy] = {
    "none": always("none"),
    "middle": single(0.5),
    "thirds": thirds,
    "last point": single(1.0),
    "every point": every(1),
    "every second": every(2),
    "kaiming": always("kaiming"),
    "lsuv": always("lsuv"),
    "normalised": normalised,
}
RULES: dict[str, Policy] = {
    "CNDS": ruled(gp.ThresholdPolicy()),
    "CNDS repeated": repeated(gp.ThresholdPolicy()),
    "CNDS on weights": ruled(gp.ThresholdPolicy(of="weight")),
    "CNDS on weights repeated": repeated(gp.ThresholdPolicy(of="weight")),
    "relative": ruled(gp.RelativePolicy()),
    "relative repeated": repeated(gp.RelativePolicy()),
}
TRIALS: dict[str, Policy] = {"auto": tried(), "auto (placing only)": tried(remedies={})}
POLICIES: dict[str, Policy] = {**BLIND, **RULES, **TRIALS}
