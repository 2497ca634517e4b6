"""Deciding by trying: a few short trainings of what could be done, from the same weights and on the same batches.

A history tells how small a gradient is; whether a branch then helps, it does not (`benchmarks/placement.py`). The
loss of the main output tells, after some windows: these trials are compared by it, and by nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradprobe.insert.branches import BranchFactory
from gradprobe.insert.loss import DeepSupervisionLoss
from gradprobe.insert.supervise import supervise
from gradprobe.measure.batches import Batches, Source
from gradprobe.measure.loop import OptimizerFactory, in_training, make_optimizer, train
from gradprobe.measure.scan import Interrupted, scan
from gradprobe.network.checks import check_trainable
from gradprobe.network.losses import LossFunction, check_loss_fn
from gradprobe.network.preserve import seed_everything
from gradprobe.prove.remedies import Remedy, apply, lsuv, normalised
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point

NAME = "auto, by short trials"
NO_BRANCH, LAST, SECOND = "no branch", "the last point", "every second point"  # names of trials
BUDGET = 10  # windows
COMPARED = 20  # iterations at the end of a trial whose losses are compared, pair by pair
CLEAR = 3.0  # standard errors of the mean difference
WORTH = 0.02  # and so much of the loss without
TRIED: Mapping[str, Remedy] = {"lsuv": lsuv, "normalised": normalised}

OnTrial = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Trial:
    """A short training.

    Attributes:
        name: What was tried: ``"no branch"``, a remedy, or a set of points in words.
        points: Where branches were.
        losses: Of the main output, by iteration.
    """

    name: str
    points: tuple[Point, ...]
    losses: tuple[float, ...]

    def end(self, iterations: int | None = None) -> float:
        """Mean loss of the main output over the last iterations; infinite if one of them was not finite."""
        compared = self.losses[:iterations][-COMPARED:]
        return sum(compared) / len(compared) if all(map(math.isfinite, compared)) else math.inf

    @property
    def learnt(self) -> bool:
        """Whether its loss fell at all: by a few percent of what it was at first."""
        return self.end() < (1 - WORTH) * self.losses[0]

    def beats(self, other: Trial, worth: float = WORTH) -> bool:
        """Whether its main loss is lower in the end: beyond the noise, and by so much of the other's.

        Both had the same batches, so the differences are looked at: iteration by iteration, over as many as both
        have.
        """
        length = min(len(self.losses), len(other.losses))
        mine, theirs = self.end(length), other.end(length)
        if not (math.isfinite(mine) and math.isfinite(theirs)):
            return mine < theirs
        pairs = zip(self.losses[:length][-COMPARED:], other.losses[:length][-COMPARED:], strict=True)
        differences = [b - a for a, b in pairs]
        middle = sum(differences) / len(differences)
        spread = sum((difference - middle) ** 2 for difference in differences) / max(1, len(differences) - 1)
        return middle > CLEAR * math.sqrt(spread / len(differences)) and middle > worth * abs(theirs)


def place_by_trials(
    model: nn.Module,
    batches: Source,
    loss_fn: LossFunction,
    iterations: int = 50,
    *,
    remedies: Mapping[str, Remedy] = TRIED,
    branch: str | BranchFactory = "auto",
    weight: float = 0.3,
    optimizer: OptimizerFactory | None = None,
    seed: int = 0,
    history: GradientHistory | None = None,
    on_iteration: OnTrial | None = None,
) -> Placement:
    """Decide by short trainings, at the cost of at most ten windows: the policy ``auto``.

    As it is, and with other initial weights and with normalisation for one window: where the loss is clearly
    lower with one of these, that is the advice (`Placement.remedy`), and no branch is placed. Else a branch at
    the last point, and branches at every second one, are tried for as long as the budget allows, and placed if
    the loss of the main output is then clearly lower. In the first hundred iterations branches may distract more
    than they help.

    Args:
        model: Any module; bit-identical afterwards.
        batches: See `gradprobe.scan`.
        loss_fn: See `gradprobe.scan`.
        iterations: One window.
        remedies: What else to try, by name; nothing (``{}``) where the network and its weights are given.
        branch: See `gradprobe.supervise`.
        weight: Weight of the branches' losses, constant.
        optimizer: See `gradprobe.scan`.
        seed: Seeds each trial alike.
        history: The record without branches, if it was taken already.
        on_iteration: Called with the name of a trial, the iterations done and their total.

    Raises:
        TypeError: As `gradprobe.scan`.
        ValueError: As `gradprobe.scan`.
        Interrupted: Ctrl-C; carries the record without branches.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> batches = [(torch.randn(16, 4), torch.randint(2, (16,)))]
        >>> len(place_by_trials(net, batches, nn.functional.cross_entropy, iterations=2).points)
        0
    """
    check_trainable(model)
    check_loss_fn(loss_fn)
    source = Batches(batches)
    with source.rewound():
        found = history or scan(model, source.once, loss_fn, 1, optimizer=optimizer, seed=seed)
    trials = _Trials(model, source, loss_fn, found, branch, weight, optimizer, seed, on_iteration)
    try:
        return _decide(trials, plan(iterations, remedies), remedies)
    except KeyboardInterrupt:
        raise Interrupted(found) from None


@dataclass(frozen=True)
class _Trials:
    """What all trials of one network share."""

    model: nn.Module
    batches: Batches
    loss_fn: LossFunction
    history: GradientHistory
    branch: str | BranchFactory
    weight: float
    optimizer: OptimizerFactory | None
    seed: int
    on_iteration: OnTrial | None

    def run(
        self, name: str, iterations: int, points: tuple[Point, ...] = (), remedy: Remedy | None = None
    ) -> Trial:
        """Train so long with branches at these points, or after this remedy."""
        with in_training(self.model), self.batches.rewound():
            seed_everything(self.seed)
            if remedy is not None:
                apply(remedy, self.model, self.batches)
            placement = Placement(name, (), points, "", **self.history.output)
            net = supervise(self.model, placement, branch=self.branch) if points else self.model
            losses = self._train(name, net, iterations)
        return Trial(name, points, tuple(torch.stack(losses).tolist()))

    def _train(self, name: str, net: nn.Module, iterations: int) -> list[Tensor]:
        criterion = DeepSupervisionLoss(self.loss_fn, self.weight, "constant")
        optimizer = make_optimizer(self.optimizer, net)
        losses: list[Tensor] = []
        # seeded in every iteration, as a comparison is: dropout in a branch must not shift the trunk's
        for step in train(net, self.batches, criterion, optimizer, iterations, seed=self.seed):
            losses.append(step.main.float().reshape(()))
            if self.on_iteration:
                self.on_iteration(name, step.iteration + 1, iterations)
        return losses


def plan(iterations: int, remedies: Iterable[str] = TRIED) -> dict[str, int]:
    """How many iterations each trial has: a window for each remedy, the rest of the budget for the others.

    Example:
        >>> plan(50)
        {'no branch': 133, 'lsuv': 50, 'normalised': 50, 'the last point': 133, 'every second point': 133}
    """
    windows = dict.fromkeys(remedies, iterations)
    rest = (BUDGET * iterations - sum(windows.values())) // 3
    return {NO_BRANCH: rest, **windows, LAST: rest, SECOND: rest}


def _decide(trials: _Trials, lengths: Mapping[str, int], remedies: Mapping[str, Remedy]) -> Placement:
    plain = trials.run(NO_BRANCH, lengths[NO_BRANCH])
    changed = [trials.run(name, lengths[name], remedy=remedy) for name, remedy in remedies.items()]
    best = min(changed, key=lambda trial: trial.end(), default=plain)
    if best.beats(plain):
        return _advised(best, plain, trials.history)
    points = tuple(trials.history.points)
    if not points:
        return Placement(NAME, (), (), "The network has no supervision point.", **trials.history.output)
    sets = {LAST: points[-1:], **({SECOND: points[::-2][::-1]} if len(points) > 2 else {})}
    placed = [trials.run(name, lengths[name], chosen) for name, chosen in sets.items()]
    return _placed(placed, plain, changed, trials.history)


def _advised(better: Trial, plain: Trial, history: GradientHistory) -> Placement:
    count = len(better.losses)
    reason = (
        f"Change the network before anything is placed: after {count} iterations the loss of the main output is "
        f"{better.end():.3g} with gradprobe.prove.remedies.{better.name} and {plain.end(count):.3g} as it is."
    )
    return Placement(NAME, (), (), reason, remedy=better.name, **history.output)


def _placed(
    placed: Sequence[Trial], plain: Trial, changed: Sequence[Trial], history: GradientHistory
) -> Placement:
    best = min(placed, key=lambda trial: trial.end())
    points = best.points if best.beats(plain) else ()
    learnt = any(trial.learnt for trial in (plain, *placed, *changed))
    head = "None needed, or none would help" if learnt else "Nothing that was tried learnt, so this cannot tell"
    head = "Branches help" if points else head
    numbers = ", ".join(f"{trial.end():.3g} with branches at {trial.name}" for trial in placed)
    others = " or ".join(trial.name for trial in changed)
    reason = (
        f"{head}: after {len(plain.losses)} iterations the loss of the main output is {plain.end():.3g} without, "
        f"{numbers}.{f' {others}, each for one window, was not clearly better either.' if others else ''}"
        f"{'' if learnt else ' Give it more iterations.'}"
    )
    return Placement(NAME, (), points, reason, **history.output)
