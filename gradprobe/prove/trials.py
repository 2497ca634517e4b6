"""Deciding by trying what the evidence leaves open: short trainings from the same weights and on the same batches.

The record of one window says what is wrong, and which remedies may mend it (`gradprobe.decide.auto`), but not
always which does best. The loss of the main output says so after a window: trials are compared by that alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from gradprobe.decide.auto import AutoPolicy, only_gradient_lost, open_remedies
from gradprobe.decide.diagnosis import Diagnosis, diagnose
from gradprobe.decide.remedies import REMEDIES
from gradprobe.decide.usual import along_chain
from gradprobe.insert.branches import BranchFactory
from gradprobe.insert.loss import BranchLoss
from gradprobe.measure.batches import Batches, Source
from gradprobe.measure.loop import OptimizerFactory
from gradprobe.measure.scan import Interrupted, TrainingProgress, as_floats, scan
from gradprobe.network.checks import check_trainable
from gradprobe.network.losses import LossFunction, check_loss_fn
from gradprobe.prove.plan import Plan, Supervision, Trainings
from gradprobe.prove.remedies import Remedy
from gradprobe.prove.training import UNCHANGED, Change, prepared
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point
from gradprobe.verdict.judge import standard_error

NAME = "auto, by short trials"
NO_BRANCH, MEASURED, SECOND = "no branch", "points by the gradient", "every second point"  # names of trials
BUDGET = 10  # windows, where nothing but branches may be tried
COMPARED = 20  # iterations at the end of a trial whose losses are compared, pair by pair
CLEAR = 3.0  # standard errors of the mean difference
WORTH = 0.02  # and this fraction of the other's loss

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
    remedies: Mapping[str, Remedy] | None = None,
    branch: str | BranchFactory = "auto",
    weight: float = 0.3,
    optimizer: OptimizerFactory | None = None,
    seed: int = 0,
    history: GradientHistory | None = None,
    on_iteration: OnTrial | None = None,
    branch_loss: BranchLoss = None,
) -> Placement:
    """Decide after the diagnosis, and by short trainings where it leaves something open: the policy ``auto``.

    One window is measured. Where nothing is wrong, or the cause is in the script, that is all. Where one remedy
    mends the cause, that is the advice (`Placement.remedy`). Where several may, each is tried for a window, and so
    are branches if the signal arrives and the gradient alone does not; the one with the lowest loss of the main
    output is the advice, if that is clearly lower than without.

    Args:
        model: Any module; bit-identical afterwards.
        batches: See `gradprobe.scan`.
        loss_fn: See `gradprobe.scan`.
        iterations: One window.
        remedies: What to try, by name, in place of what the diagnosis leaves open. With none (``{}``), where the
            network and its weights are given, branches are tried if something is wrong, within ten windows: in the
            first hundred iterations they may distract more than they help.
        branch: See `gradprobe.supervise`.
        weight: Weight of the branches' losses, constant.
        optimizer: See `gradprobe.scan`.
        seed: Seeds each trial alike.
        history: The record of the window, if it was taken already.
        on_iteration: Called with the name of a trial, the iterations done and their total.
        branch_loss: Of the branches, see `gradprobe.DeepSupervisionLoss`.

    Raises:
        TypeError: As `gradprobe.scan`.
        ValueError: As `gradprobe.scan`.
        Interrupted: Ctrl-C; carries the record of the window.

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
    plan = Plan(source, loss_fn, trainings, Supervision(branch, weight, branch_loss=branch_loss), optimizer)
    if history is None or not _losses(history):
        history = _window(plan, model, seed, on_iteration)
    return decide_by_trials(plan, model, seed, history, remedies, on_iteration)


def _window(plan: Plan, model: nn.Module, seed: int, on_iteration: OnTrial | None) -> GradientHistory:
    """The record of one window of the network as it is; the batches are put back."""

    def report(progress: TrainingProgress) -> None:
        if on_iteration:
            on_iteration(NO_BRANCH, progress.done, progress.total)

    length, optimizer = plan.trainings.window, plan.optimizer
    with plan.batches.rewound():
        return scan(
            model, plan.batches.once, plan.loss_fn, length, optimizer=optimizer, seed=seed, on_iteration=report
        )


def decide_by_trials(
    plan: Plan,
    model: nn.Module,
    seed: int,
    history: GradientHistory,
    remedies: Mapping[str, Remedy] | None = None,
    on_iteration: OnTrial | None = None,
) -> Placement:
    """What `place_by_trials` decides, from the record without branches and windows as the plan has them."""
    constant = replace(plan.supervision, schedule="constant")
    trials = _Trials(replace(plan, supervision=constant), model, seed, history, diagnose(history), on_iteration)
    try:
        if remedies is None:
            return _decide(trials)
        return _best_of(trials, {name: Change(one) for name, one in remedies.items()} or None)
    except KeyboardInterrupt:
        raise Interrupted(history) from None


@dataclass(frozen=True)
class _Trials:
    """What all trials of one network share."""

    plan: Plan
    model: nn.Module
    seed: int
    history: GradientHistory
    diagnosis: Diagnosis
    on_iteration: OnTrial | None

    @property
    def measured(self) -> Trial:
        """The window that was measured, as a trial."""
        return Trial(NO_BRANCH, (), tuple(_losses(self.history)))

    def run(self, name: str, change: Change, iterations: int) -> Trial:
        """Train for some iterations after a change."""
        plan = replace(self.plan, trainings=replace(self.plan.trainings, iterations=iterations))
        losses: list[Tensor] = []
        with prepared(plan, self.model, self.seed, change) as training:
            for step in training.steps():
                losses.append(step.main)
                if self.on_iteration:
                    self.on_iteration(name, step.iteration + 1, iterations)
        return Trial(name, change.placement.points if change.placement else (), tuple(as_floats(losses)))

    def attempt(self, name: str, change: Change, iterations: int) -> Trial | None:
        """The same; None if the network cannot be trained after the change, as an unusual layout may refuse it."""
        try:
            return self.run(name, change, iterations)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return None

    def branches(self, name: str, points: Sequence[Point]) -> Change:
        """A change that puts branches at these points."""
        return Change(placement=Placement(name, (), tuple(points), "", **self.history.output))


def _losses(history: GradientHistory) -> list[float]:
    """The loss of each iteration of a window; infinite where it was not finite."""
    return [math.inf if loss is None else loss for loss in history.conditions.get("losses") or ()]


def _decide(trials: _Trials) -> Placement:
    """By the record; and by trials between remedies, and branches, if it leaves several open."""
    history, diagnosis = trials.history, trials.diagnosis
    names = open_remedies(history, diagnosis)
    changes = {name: Change.by_name(name, None, history) for name in names}
    if names and only_gradient_lost(history, diagnosis) and (points := along_chain(history)[0]):
        changes[MEASURED] = trials.branches(MEASURED, points)
    if len(changes) < 2:
        return AutoPolicy()(history)
    return _best_of(trials, changes)


def _best_of(trials: _Trials, changes: Mapping[str, Change] | None) -> Placement:
    """The change after which the loss ends lowest, if it is clearly lower than without any; None for branches."""
    if changes is None:
        return _best_branches(trials)
    plain, window = trials.measured, trials.plan.trainings.window
    tried = [trial for name, change in changes.items() if (trial := trials.attempt(name, change, window))]
    if not tried:
        return _placement(trials, f"{trials.diagnosis.sentence} No remedy can be applied to this network.")
    return _decided(trials, plain, tried)


def _best_branches(trials: _Trials) -> Placement:
    """The best set of points, where nothing but branches may be tried: within the budget of ten windows."""
    history = trials.history
    points = tuple(history.points)
    if not points:
        return _placement(trials, "The network has no supervision point.")
    if trials.diagnosis.verdict == "healthy":
        return _placement(trials, f"None needed. {trials.diagnosis.sentence}")
    sets = {MEASURED: along_chain(history)[0] or points[-1:], SECOND: _every_second(points)}
    if sets[MEASURED] == sets[SECOND]:
        del sets[MEASURED]
    length = (BUDGET - 1) * trials.plan.trainings.window // (1 + len(sets))
    plain = trials.run(NO_BRANCH, UNCHANGED, length)
    return _decided(
        trials, plain, [trials.run(name, trials.branches(name, one), length) for name, one in sets.items()]
    )


def _every_second(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Every second point in forward order, the last one among them."""
    backwards = points[::-1][::2]
    return backwards[::-1]


def _decided(trials: _Trials, plain: Trial, tried: Sequence[Trial]) -> Placement:
    """The placement for the best trial, or for none."""
    best = min(tried, key=Trial.end)
    helped = best.beats(plain)
    reason = _reason(trials.diagnosis, plain, tried, best if helped else None)
    if not helped:
        return _placement(trials, reason)
    remedy = None if best.points else best.name
    return replace(_placement(trials, reason), points=best.points, remedy=remedy)


def _placement(trials: _Trials, reason: str) -> Placement:
    return Placement(NAME, (), (), reason, rule="trials", **trials.history.output)


def _reason(diagnosis: Diagnosis, plain: Trial, tried: Sequence[Trial], best: Trial | None) -> str:
    """Why a remedy is advised, or branches are placed, or neither, in the losses that the trials came to."""
    count = len(tried[0].losses)
    numbers = ", ".join(f"{trial.end():.3g} with {_named(trial)}" for trial in tried)
    losses = f"after {count} iterations the loss of the main output is {plain.end(count):.3g} as it is, {numbers}."
    said = "" if diagnosis.verdict == "healthy" else f"{diagnosis.sentence} "
    if best is not None and best.points:
        return f"{said}Branches help: {losses}"
    if best is not None:
        return f"{said}Change the network before anything is placed: {losses}"
    if any(trial.learnt for trial in (plain, *tried)):
        return f"{said}None needed, or none would help: {losses}"
    return f"{said}Nothing that was tried learnt, so this cannot tell: {losses} Give it more iterations."


def _named(trial: Trial) -> str:
    if trial.points:
        return f"branches at {trial.name}"
    return f"{REMEDIES[trial.name].change} ({trial.name})" if trial.name in REMEDIES else trial.name
