"""The policies that are measured: rules of thumb, rules from a history, remedies, and trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import gradprobe as gp
from benchmarks.placement import ten_windows
from benchmarks.placement.arms import NONE, arm_of, indices_of
from benchmarks.placement.rows import WEIGHT, WINDOW
from benchmarks.placement.tasks import BATCH_SIZE, TASKS, Batch, evenly, points
from gradprobe.decide import policies as rules
from gradprobe.network.preserve import seed_everything
from gradprobe.prove.trials import place_by_trials
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement


@dataclass(frozen=True)
class Decision:
    """What a policy chose.

    Attributes:
        arm: What to do.
        windows: What the choice cost, in windows of 50 iterations.
        scores: Of the arms that were compared.
    """

    arm: str
    windows: float = 0
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One task and one seed: what a policy may use.

    Attributes:
        task: Its name.
        seed: Of the weights and the batches.
        size: Of a batch.
        scale: Factor of the loss.
        reduction: Of the loss over the targets of a batch.
        rate: Factor of the learning rate.
        bf16: Whether the forward pass is autocast to bfloat16.
    """

    task: str
    seed: int
    size: int = BATCH_SIZE
    scale: float = 1
    reduction: str = "mean"
    rate: float = 1
    bf16: bool = False

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
    def batches(self) -> list[Batch]:
        """The batches of its training."""
        return TASKS[self.task].batches(self.seed, self.size)

    @property
    def history(self) -> GradientHistory:
        """The record of one window without branches."""
        return _history(self)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """That of the task, scaled and reduced as the case is."""
        return self.scale * TASKS[self.task].loss(output, target, reduction=self.reduction)

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """The task's optimizer over a network's parameters."""
        optimizer = TASKS[self.task].make_optimizer(net)
        for group in optimizer.param_groups:
            group["lr"] *= self.rate
        return optimizer

    def decision(self, placement: Placement, windows: float) -> Decision:
        """A placement as a decision for its arm, or for its remedy."""
        names = [point.name for point in self.points]
        arm = arm_of(names.index(point.name) for point in placement.points)
        return Decision(placement.remedy or arm, windows)


@cache
def _history(case: Case) -> GradientHistory:
    return gp.scan(case.model, case.batches, case.loss, WINDOW, optimizer=case.optimizer, seed=case.seed)


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
    """A branch at each point or, with step 2, at each second one, counted from the output."""

    def choose(case: Case) -> Decision:
        return Decision(arm_of(range(len(case.points) - 1, -1, -step)))

    return choose


def ruled(policy: rules.Policy) -> Policy:
    """A policy of gradprobe on the history of one window."""
    return lambda case: case.decision(gp.place(case.history, policy), 1)


def repeated(policy: rules.Policy) -> Policy:
    """A policy of gradprobe, again with the branches in place until it places no new one."""

    def choose(case: Case) -> Decision:
        iterations: list[object] = []  # that the rounds with branches made
        placement = gp.place_repeatedly(
            case.model,
            case.batches,
            case.loss,
            WINDOW,
            policy=policy,
            branch=TASKS[case.task].branch,
            weight=WEIGHT,
            optimizer=case.optimizer,
            seed=case.seed,
            history=case.history,
            on_iteration=iterations.append,
        )
        return case.decision(placement, 1 + len(iterations) / WINDOW)

    return choose


def by_trials(**options: Any) -> Policy:
    """The trials of `gradprobe.prove.trials.place_by_trials`, after the window that is measured."""

    def choose(case: Case) -> Decision:
        iterations: dict[str, int] = {"the window": WINDOW}  # that each trial made
        placement = place_by_trials(
            case.model,
            case.batches,
            case.loss,
            WINDOW,
            branch=TASKS[case.task].branch,
            weight=WEIGHT,
            optimizer=case.optimizer,
            seed=case.seed,
            history=case.history,
            on_iteration=lambda name, done, total: iterations.update({name: done}),
            **options,
        )
        return case.decision(placement, sum(iterations.values()) / WINDOW)

    return choose


def in_ten_windows(case: Case) -> Decision:
    """What ``auto`` was before."""
    placement, windows = ten_windows.decide(
        case.model,
        case.batches,
        case.loss,
        WINDOW,
        branch=TASKS[case.task].branch,
        weight=WEIGHT,
        optimizer=case.optimizer,
        seed=case.seed,
        history=case.history,
    )
    return case.decision(placement, windows)


def always(arm: str) -> Policy:
    """The same arm whatever the network."""
    return lambda case: Decision(arm)


def normalised(case: Case) -> Decision:
    """Normalisation in the networks that have none: plain ones and U-Nets."""
    plain = TASKS[case.task].family in ("mlp", "conv", "narrow", "unet")
    return Decision("normalised" if plain else NONE)


# chosen without looking at gradients; a random point is not here: it is an expectation, not a choice
BLIND: dict[str, Policy] = {
    "none": always(NONE),
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
TRIALS: dict[str, Policy] = {
    "usual branches": ruled(rules.BranchesPolicy()),
    "diagnosis": ruled(rules.AutoPolicy()),
    "auto": by_trials(),
    "auto before": in_ten_windows,
}
POLICIES: dict[str, Policy] = {**BLIND, **RULES, **TRIALS}


def decide(policy: str, case: Case) -> Decision:
    """The decision of a policy."""
    # without the cache of autocast, which keeps the first weights until autocast ends
    with torch.autocast("cpu", torch.bfloat16, enabled=case.bf16, cache_enabled=False):
        return POLICIES[policy](case)


def as_tested(decision: Decision, task: str) -> Decision:
    """The decision, with a single point that was not trained moved to the nearest that was."""
    indices = indices_of(decision.arm)
    if len(indices) != 1:
        return decision
    nearest = min(evenly(len(points(task))), key=lambda index: abs(index - indices[0]))
    return replace(decision, arm=arm_of([nearest]))
