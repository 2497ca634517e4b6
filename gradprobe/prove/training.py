"""One training of one arm: what comparisons and trials do again and again, each time from the same seed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.insert.loss import DeepSupervisionLoss
from gradprobe.insert.supervise import supervise
from gradprobe.measure.batches import fingerprint, kind_of
from gradprobe.measure.loop import Step, in_training, make_optimizer, train
from gradprobe.measure.probe import GradientProbe
from gradprobe.measure.scan import Interrupted, TrainingProgress, as_floats, with_conditions, with_losses
from gradprobe.network.preserve import seed_everything
from gradprobe.prove.held_out.measure import HeldOut, Measured
from gradprobe.prove.plan import EPOCHS, Plan
from gradprobe.prove.remedies import REMEDIES, STEP_REMEDIES, Remedy, StepRemedy, apply
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement

CHECKPOINTS = 10  # how many times in a training the metric is measured on held-out data


@dataclass(frozen=True)
class Change:
    """What is done before a training: nothing, a remedy for the network or its optimizer, or branches.

    Attributes:
        remedy: Changes the network.
        placement: Where branches go.
        step_remedy: Changes the optimizer.
        history: What a change of the optimizer goes by.
    """

    remedy: Remedy | None = None
    placement: Placement | None = None
    step_remedy: StepRemedy | None = None
    history: GradientHistory | None = None

    @classmethod
    def by_name(cls, remedy: str | None, placement: Placement | None, history: GradientHistory | None) -> Change:
        """A change from the name of a remedy, which may be of either kind, or of none.

        Example:
            >>> Change.by_name("clipping", None, None).step_remedy.__name__
            'clipping'
        """
        if remedy in STEP_REMEDIES:
            return cls(None, placement, STEP_REMEDIES[remedy], history)
        return cls(None if remedy is None else REMEDIES[remedy], placement)


UNCHANGED = Change()
GoesOn = Callable[[GradientHistory], bool]


@dataclass(frozen=True)
class Trained:
    """What one training gave.

    Attributes:
        history: Gradients over the window.
        losses: Of the main output, by iteration.
        start: The metric of the main output on held-out data before the training, or None.
        measured: The same by the iteration after which it was taken.
        seen: A number that two trainings share if they saw the same batches, and hardly otherwise.
    """

    history: GradientHistory
    losses: list[float]
    start: Measured | None
    measured: dict[int, float]
    seen: float

    def rows(self, seed: int, arm: str) -> list[tuple[int, str, int, float, float]]:
        """The rows of a `gradprobe.verdict.comparison.learning_frame`."""
        return [
            (seed, arm, iteration, loss, self.measured.get(iteration, float("nan")))
            for iteration, loss in enumerate(self.losses)
        ]


def held_out_facts(plain: Mapping[int, Trained]) -> dict[str, Any]:
    """What was measured on held-out data, as plain JSON types, from the trainings without branches by seed."""
    starts = {seed: one.start for seed, one in plain.items() if one.start is not None}
    if not starts:
        return {"held_out": 0, "chance": 0.0}
    first = next(iter(starts.values()))
    before = {str(seed): start.value for seed, start in starts.items() if math.isfinite(start.value)}
    facts = {"metric": {**first.metric.to_dict(), "start": before}, "held_out": first.size}
    return facts if first.chance is None else {**facts, "chance": first.chance}


@dataclass(frozen=True)
class Training:
    """A training that is ready to begin.

    Attributes:
        plan: What it shares with the others.
        model: The user's network.
        net: The network that trains: the user's own, or the same with branches.
        optimizer: Of its parameters and those of the branches.
        criterion: The joint loss.
        seed: Of its random numbers.
    """

    plan: Plan
    model: nn.Module
    net: nn.Module
    optimizer: torch.optim.Optimizer
    criterion: DeepSupervisionLoss
    seed: int

    @property
    def supervised(self) -> bool:
        """Whether there are branches."""
        return self.net is not self.model

    def steps(self) -> Iterator[Step]:
        """Train, one iteration at a time.

        Every iteration is seeded anew, so that a branch which draws (dropout) does not shift what the trunk draws.
        """
        total = self.plan.trainings.iterations
        for step in train(self.net, self.plan.batches, self.criterion, self.optimizer, total, seed=self.seed):
            self.criterion.epoch = (step.iteration + 1) * EPOCHS // total
            yield step


@contextlib.contextmanager
def prepared(plan: Plan, model: nn.Module, seed: int, change: Change = UNCHANGED) -> Iterator[Training]:
    """Change a network, or leave it as it is, and make it ready to train; it is bit-identical afterwards.

    Args:
        plan: What the training shares with the others.
        model: The network.
        seed: Of the training's random numbers.
        change: What is done to the network first.
    """
    with in_training(model, plan.losses), plan.batches.rewound():
        seed_everything(seed)
        if change.remedy is not None:
            apply(change.remedy, model, plan.batches)
        net = model
        if change.placement is not None:
            net = supervise(model, change.placement, branch=plan.supervision.branch)
        optimizer = make_optimizer(plan.optimizer, net)
        if change.step_remedy is not None:
            change.step_remedy(optimizer, change.history)
        criterion = plan.criterion(None if change.placement is None else change.placement.weights)
        yield Training(plan, model, net, optimizer, criterion, seed)


def train_once(
    plan: Plan, model: nn.Module, seed: int, change: Change = UNCHANGED, goes_on: GoesOn | None = None
) -> Trained:
    """Train a network under a probe, changed or as it is; it is bit-identical afterwards.

    Args:
        plan: What the training shares with the others.
        model: The network.
        seed: Of the training's random numbers.
        change: What is done to the network first.
        goes_on: Asked with the record when the window is full: whether the training is to go on to its end.

    Raises:
        ValueError: If the metric cannot be measured on the held-out data; it is tried before the training.
        Interrupted: Ctrl-C; carries the gradients as far as they were recorded.

    Example:
        >>> from gradprobe.measure.batches import Batches
        >>> from gradprobe.prove.plan import Supervision, Trainings
        >>> batches = Batches([(torch.ones(2, 1), torch.ones(2, 1))])
        >>> plan = Plan(batches, nn.functional.mse_loss, Trainings(3, 2, [0]), Supervision("auto", 0.3))
        >>> trained = train_once(plan, nn.Linear(1, 1), seed=0)
        >>> len(trained.losses), trained.history.iterations, trained.losses[-1] < trained.losses[0]
        (3, 2, True)
    """
    with prepared(plan, model, seed, change) as training:
        facts = {**plan.conditions, "seed": seed}
        window = plan.trainings.window
        probe = GradientProbe(model, optimizer=training.optimizer, iterations=window, conditions=facts)
        measurements = _Measurements.begun(training, probe)
        try:
            with probe:
                for step in training.steps():
                    measurements.add(step)
                    if step.iteration + 1 == window and goes_on and not goes_on(measurements.history()):
                        break
        except KeyboardInterrupt:
            raise Interrupted(measurements.interrupted()) from None
        return measurements.trained()


@dataclass
class _Measurements:
    """What one training has given so far; no loss has left the device."""

    training: Training
    probe: GradientProbe
    losses: list[Tensor] = field(default_factory=list)
    inputs: str | None = None
    start: Measured | None = None
    measured: dict[int, float] = field(default_factory=dict)
    seen: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    @classmethod
    def begun(cls, training: Training, probe: GradientProbe) -> _Measurements:
        """With the metric of the network before it trains, if there is one."""
        held_out = training.plan.held_out
        measurements = cls(training, probe)
        if held_out is not None:
            measurements.start = measurements.measure(held_out)
        return measurements

    @property
    def arm(self) -> str:
        return "supervised" if self.training.supervised else "plain"

    def add(self, step: Step) -> None:
        plan, device = self.training.plan, step.main.device
        self.losses.append(step.main)
        self.inputs = kind_of(step.batch[0])
        self.seen = self.seen.to(device) * 0.9 + fingerprint(step.batch).to(device)
        done, total = len(self.losses), plan.trainings.iterations
        if plan.held_out is not None and _is_checkpoint(done, total):
            self.measured[step.iteration] = self.measure(plan.held_out).value
        if plan.on_iteration:
            progress = TrainingProgress(self.arm, self.training.seed, done, total, step.main, self.probe)
            plan.on_iteration(progress)

    def measure(self, held_out: HeldOut) -> Measured:
        """The metric now; a model that draws in eval mode too draws the same in both arms."""
        seed_everything(self.training.seed)
        return held_out.measure(self.training.model)

    def trained(self) -> Trained:
        return Trained(self.history(), as_floats(self.losses), self.start, self.measured, float(self.seen))

    def interrupted(self) -> GradientHistory:
        history, total = self.history(), self.training.plan.trainings.iterations
        stopped = f"interrupted after {len(self.losses)} of {total} iterations of the {self.arm} training"
        return with_conditions(history, complete=False, stopped=stopped)

    def history(self) -> GradientHistory:
        training = self.training
        criterion = training.criterion if training.supervised else training.plan.loss_fn
        losses = self.losses[: training.plan.trainings.window]
        return with_losses(self.probe.history, losses, criterion, training.seed, self.inputs)


def _is_checkpoint(done: int, iterations: int) -> bool:
    return done == iterations or done % max(1, iterations // CHECKPOINTS) == 0
