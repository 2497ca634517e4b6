"""Deciding by trying: a few short trainings of what could be done, from the same weights and on the same batches.

A history says how small a gradient is, but not whether a branch would then help (`benchmarks/placement`). The loss
of the main output says so, after some windows: the trials are compared by it, and by nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from gradprobe.insert.branches import BranchFactory
from gradprobe.insert.loss import BranchLoss
from gradprobe.measure.batches import Batches, Source
from gradprobe.measure.loop import OptimizerFactory
from gradprobe.measure.scan import Interrupted, as_floats, scan
from gradprobe.network.checks import check_trainable
from gradprobe.network.losses import LossFunction, check_loss_fn
from gradprobe.prove.plan import Plan, Supervision, Trainings
from gradprobe.prove.remedies import Remedy, lsuv, normalised
from gradprobe.prove.training import Change, prepared
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.verdict.judge import standard_error

NAME = "auto, by short trials"
NO_BRANCH, LAST, SECOND = "no branch", "the last point", "every second point"  # names of trials
BUDGET = 10  # windows
COMPARED = 20  # iterations at the end of a trial whose losses are compared, pair by pair
CLEAR = 3.0  # standard errors of the mean difference
WORTH = 0.02  # and this fraction of the other's loss
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

    def beats(self, other: Trial) -> bool:
        """Whether its main loss is lower in the end: beyond the noise, and by a fraction of the other's.

        Both had the same batches, so the differences are looked at: iteration by iteration, over as many as both
        have.
        """
        length = min(len(self.losses), len(other.losses))
        mine, theirs = self.end(length), other.end(length)
        if not (math.isfinite(mine) and math.isfinite(theirs)):
            return mine < theirs
        pairs = zip(self.losses[:length][-COMPARED:], other.losses[:length][-COMPARED:], strict=True)
        gains = [their_loss - my_loss for my_loss, their_loss in pairs]
        gain = sum(gains) / len(gains)
        return gain > CLEAR * standard_error(gains) and gain > WORTH * abs(theirs)


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
    branch_loss: BranchLoss = None,
) -> Placement:
    """Decide by short trainings, at the cost of at most ten windows: the policy ``auto``.

    The network is trained as it is, and for one window each with other initial weights and with normalisation:
    where the loss is clearly lower with one of these, that is the advice (`Placement.remedy`), and no branch is
    placed. Otherwise a branch at the last point, and branches at every second one, are tried for as long as the
    budget allows, and placed if the loss of the main output is then clearly lower. In the first hundred iterations
    branches may distract more than they help.

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
        branch_loss: Of the branches, see `gradprobe.DeepSupervisionLoss`.

    Raises:
        TypeError: As `gradprobe.scan`.
        ValueError: As `gradprobe.scan`.
        Interrupted: Ctrl-C; carries the record without branches.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> batches = [(torch.randn(16, 4), torch.randint(2, (16,)))]
        >>> len(place_by_trials(net, batches, nn.functional.cross_entropy, iterations=2).points)
        0
    """
    check_trainable(model)
    check_loss_fn(loss_fn)
    source, trainings = Batches(batches), Trainings(iterations, iterations, (seed,))
    with source.rewound():
        first = history or scan(model, source.once, loss_fn, 1, optimizer=optimizer, seed=seed)
    plan = Plan(source, loss_fn, trainings, Supervision(branch, weight, branch_loss=branch_loss), optimizer)
    return decide_by_trials(plan, model, seed, first, remedies, on_iteration)


def decide_by_trials(
    plan: Plan,
    model: nn.Module,
    seed: int,
    history: GradientHistory,
    remedies: Mapping[str, Remedy] = TRIED,
    on_iteration: OnTrial | None = None,
) -> Placement:
    """What `place_by_trials` decides, from the record without branches and windows as the plan has them."""
    constant = replace(plan.supervision, schedule="constant")
    trials = _Trials(replace(plan, supervision=constant), model, seed, history, on_iteration)
    try:
        return _decide(trials, trial_lengths(plan.trainings.window, remedies), remedies)
    except KeyboardInterrupt:
        raise Interrupted(history) from None


@dataclass(frozen=True)
class _Trials:
    """What all trials of one network share."""

    plan: Plan
    model: nn.Module
    seed: int
    history: GradientHistory
    on_iteration: OnTrial | None

    def run(
        self, name: str, iterations: int, points: tuple[Point, ...] = (), remedy: Remedy | None = None
    ) -> Trial:
        """Train for some iterations with branches at these points, or after this remedy."""
        placement = Placement(name, (), points, "", **self.history.output) if points else None
        plan = replace(self.plan, trainings=replace(self.plan.trainings, iterations=iterations))
        losses: list[Tensor] = []
        with prepared(plan, self.model, self.seed, Change(remedy, placement)) as training:
            for step in training.steps():
                losses.append(step.main)
                if self.on_iteration:
                    self.on_iteration(name, step.iteration + 1, iterations)
        return Trial(name, points, tuple(as_floats(losses)))


def trial_lengths(window: int, remedies: Iterable[str] = TRIED) -> dict[str, int]:
    """How many iterations each trial has: a window for each remedy, the rest of the budget for the others.

    Example:
        >>> trial_lengths(50)
        {'no branch': 133, 'lsuv': 50, 'normalised': 50, 'the last point': 133, 'every second point': 133}
    """
    windows = dict.fromkeys(remedies, window)
    rest = (BUDGET * window - sum(windows.values())) // 3
    return {NO_BRANCH: rest, **windows, LAST: rest, SECOND: rest}


def _decide(trials: _Trials, lengths: Mapping[str, int], remedies: Mapping[str, Remedy]) -> Placement:
    plain = trials.run(NO_BRANCH, lengths[NO_BRANCH])
    changed = [trials.run(name, lengths[name], remedy=remedy) for name, remedy in remedies.items()]
    best = min(changed, key=lambda trial: trial.end(), default=plain)
    if best.beats(plain):
        return _placement(trials.history, _advice(best, plain), remedy=best.name)
    points = tuple(trials.history.points)
    if not points:
        return _placement(trials.history, "The network has no supervision point.")
    sets = {LAST: points[-1:], SECOND: _every_second(points)}
    if len(points) < 3:  # every second point would be the last one
        del sets[SECOND]
    branched = [trials.run(name, lengths[name], tried) for name, tried in sets.items()]
    best = min(branched, key=lambda trial: trial.end())
    chosen = best.points if best.beats(plain) else ()
    return _placement(trials.history, _reason(bool(chosen), branched, plain, changed), chosen)


def _every_second(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Every second point in forward order, the last one among them."""
    backwards = points[::-1][::2]
    return backwards[::-1]


def _placement(
    history: GradientHistory, reason: str, points: tuple[Point, ...] = (), remedy: str | None = None
) -> Placement:
    return Placement(NAME, (), points, reason, remedy=remedy, rule="trials", **history.output)


def _advice(better: Trial, plain: Trial) -> str:
    count = len(better.losses)
    return (
        f"Change the network before anything is placed: after {count} iterations the loss of the main output is "
        f"{better.end():.3g} with gradprobe.remedies.{better.name} and {plain.end(count):.3g} as it is."
    )


def _reason(helped: bool, branched: Sequence[Trial], plain: Trial, changed: Sequence[Trial]) -> str:
    """Why branches are placed, or not, in the losses that the trials came to."""
    learnt = any(trial.learnt for trial in (plain, *branched, *changed))
    if helped:
        head = "Branches help"
    elif learnt:
        head = "None needed, or none would help"
    else:
        head = "Nothing that was tried learnt, so this cannot tell"
    numbers = ", ".join(f"{trial.end():.3g} with branches at {trial.name}" for trial in branched)
    sentences = [
        f"{head}: after {len(plain.losses)} iterations the loss of the main output is {plain.end():.3g} without, "
        f"{numbers}."
    ]
    if changed:
        names = " or ".join(trial.name for trial in changed)
        sentences.append(f"{names}, each for one window, was not clearly better either.")
    if not learnt:
        sentences.append("Give it more iterations.")
    return " ".join(sentences)
