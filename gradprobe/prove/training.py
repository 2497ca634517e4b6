"""One training of one arm: what a comparison does again and again, each time from the same seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.insert.branches import BranchFactory, check_branch
from gradprobe.insert.loss import DeepSupervisionLoss
from gradprobe.insert.supervise import supervise
from gradprobe.measure.batches import Batches, Source, fingerprint, forward, kind_of, to_device
from gradprobe.measure.loop import OptimizerFactory, Step, in_training, make_optimizer, shapes_told, train
from gradprobe.measure.probe import GradientProbe
from gradprobe.measure.scan import Interrupted, OnIteration, TrainingProgress, with_losses
from gradprobe.network.checks import check_trainable, check_trainings
from gradprobe.network.losses import LossFunction, check_loss_fn, loss_name
from gradprobe.network.preserve import seed_everything
from gradprobe.network.tensors import main_tensor
from gradprobe.prove.remedies import REMEDIES, apply
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement

ModelSource = nn.Module | Callable[[], nn.Module]
EPOCHS = 60  # the paper's N: the schedule sees the run as so many equal slices
CHECKPOINTS = 10


@dataclass(frozen=True)
class Plan:
    """What all trainings of a comparison share.

    Attributes:
        batches: The same for all.
        loss_fn: ``(output, target) -> scalar``.
        iterations: Length of each training.
        window: Iterations whose gradients are recorded.
        optimizer: ``model -> Optimizer``, or None for the default.
        held_out: Batches to take the accuracy on, or None.
        branch: See `gradprobe.supervise`.
        weight: ``a_0`` of the joint loss.
        schedule: Of the joint loss.
        conditions: Facts to keep with the record.
        on_iteration: Called after each iteration, or None.
    """

    batches: Batches
    loss_fn: LossFunction
    iterations: int
    window: int
    optimizer: OptimizerFactory | None
    held_out: Batches | None
    branch: str | BranchFactory
    weight: float
    schedule: str
    conditions: Mapping[str, Any]
    on_iteration: OnIteration | None = None

    @classmethod
    def checked(
        cls,
        batches: Source,
        loss_fn: LossFunction,
        seeds: Sequence[int],
        *,
        iterations: int,
        window: int,
        optimizer: OptimizerFactory | None,
        held_out: Source | None,
        branch: str | BranchFactory,
        weight: float,
        schedule: str,
        conditions: Mapping[str, Any] | None,
        on_iteration: OnIteration | None = None,
    ) -> Plan:
        """A plan from what a comparison was asked for, checked before the first training and not behind it.

        Raises:
            TypeError: Batches, a loss or seeds that are none.
            ValueError: A length, seeds or a branch that cannot be.

        Example:
            >>> batches = [(torch.ones(2, 1), torch.ones(2, 1))]
            >>> plan = Plan.checked(
            ...     batches, nn.functional.mse_loss, [0], iterations=3, window=50, optimizer=None, held_out=None,
            ...     branch="auto", weight=0.3, schedule="cnds", conditions=None,
            ... )
            >>> plan.window
            3
        """
        check_loss_fn(loss_fn)
        check_trainings(iterations, window, seeds)
        check_branch(branch)
        return cls(
            Batches(batches),
            loss_fn,
            iterations,
            min(window, iterations),
            optimizer,
            None if held_out is None else Batches(held_out, "held_out"),
            branch,
            weight,
            schedule,
            conditions or {},
            on_iteration,
        )

    def facts(self, seeds: Sequence[int]) -> dict[str, Any]:
        """What the result of a comparison depends on, as plain JSON types."""
        size, chance = _held_out_facts(self.held_out)
        return {
            "iterations": self.iterations,
            "window": self.window,
            "seeds": list(seeds),
            "weight": self.weight,
            "schedule": self.schedule,
            "branch": self.branch if isinstance(self.branch, str) else loss_name(self.branch),
            "held_out": size,
            "chance": chance,
        }


@dataclass(frozen=True)
class Change:
    """What is done to a network before it trains: nothing, a remedy, or branches."""

    remedy: str | None = None
    placement: Placement | None = None


@dataclass(frozen=True)
class Trained:
    """What one training gave.

    Attributes:
        history: Gradients over the window.
        losses: Of the main output, by iteration.
        accuracies: Of the main output on held-out data, by the iteration after which it was taken.
        seen: A number that tells whether two trainings saw the same batches.
    """

    history: GradientHistory
    losses: list[float]
    accuracies: dict[int, float]
    seen: float

    def rows(self, seed: int, arm: str) -> list[tuple[int, str, int, float, float]]:
        """The rows of a `gradprobe.verdict.comparison.learning_frame`."""
        return [
            (seed, arm, iteration, loss, self.accuracies.get(iteration, float("nan")))
            for iteration, loss in enumerate(self.losses)
        ]


def build(model: ModelSource, seed: int) -> nn.Module:
    """The network itself, or one that the function builds, its weights drawn from the seed."""
    if isinstance(model, nn.Module):
        return model
    if not callable(model):
        raise TypeError(f"expected a torch.nn.Module or a function that builds one, got {type(model).__name__}")
    seed_everything(seed)
    built = model()
    check_trainable(built)
    return built


def train_once(plan: Plan, model: nn.Module, seed: int, change: Change | None = None) -> Trained:
    """Train a network, changed or as it is; it is bit-identical afterwards.

    Every iteration is seeded anew, so that a branch which draws (dropout) does not shift what the trunk draws.

    Args:
        plan: What it shares with the other trainings.
        model: The network.
        seed: Of its random numbers.
        change: What is done to it first; None for nothing.

    Raises:
        Interrupted: Ctrl-C; carries the gradients as far as they were recorded.

    Example:
        >>> batches = Batches([(torch.ones(2, 1), torch.ones(2, 1))])
        >>> plan = Plan(batches, nn.functional.mse_loss, 3, 2, None, None, "auto", 0.3, "cnds", {})
        >>> net = nn.Linear(1, 1)
        >>> trained = train_once(plan, net, seed=0)
        >>> len(trained.losses), trained.history.iterations, trained.losses[-1] < trained.losses[0]
        (3, 2, True)
    """
    change = change or Change()
    check_trainable(model)
    with in_training(model), plan.batches.rewound():
        seed_everything(seed)
        if change.remedy is not None:
            apply(REMEDIES[change.remedy], model, plan.batches)
        net = supervise(model, change.placement, branch=plan.branch) if change.placement else model
        return _train(plan, model, net, seed, "supervised" if change.placement else "plain")


def _train(plan: Plan, model: nn.Module, net: nn.Module, seed: int, arm: str) -> Trained:
    criterion = DeepSupervisionLoss(plan.loss_fn, plan.weight, plan.schedule, EPOCHS)
    optimizer = make_optimizer(plan.optimizer, net)
    facts = {**plan.conditions, "seed": seed}
    probe = GradientProbe(model, optimizer=optimizer, iterations=plan.window, conditions=facts)
    record = _Measurements(plan, probe, plan.loss_fn if net is model else criterion, seed)
    steps = train(net, plan.batches, criterion, optimizer, plan.iterations, seed=seed)
    try:
        with probe:
            for step in steps:
                record.add(step)
                criterion.epoch = record.done * EPOCHS // plan.iterations
                if plan.held_out is not None and _is_checkpoint(record.done, plan.iterations):
                    record.accuracies[step.iteration] = accuracy(model, plan.held_out)
                if plan.on_iteration:
                    plan.on_iteration(TrainingProgress(arm, seed, record.done, plan.iterations, step.main, probe))
    except KeyboardInterrupt:
        raise Interrupted(record.stopped(arm)) from None
    return record.trained()


@dataclass
class _Measurements:
    """What one training has given so far; nothing of it has left the device."""

    plan: Plan
    probe: GradientProbe
    criterion: LossFunction
    seed: int
    main: list[Tensor] = field(default_factory=list)
    inputs: str | None = None
    accuracies: dict[int, float] = field(default_factory=dict)
    seen: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    @property
    def done(self) -> int:
        return len(self.main)

    def add(self, step: Step) -> None:
        self.main.append(step.main)
        self.inputs = kind_of(step.batch[0])
        self.seen = self.seen.to(step.main.device) * 0.9 + fingerprint(step.batch).to(step.main.device)

    def trained(self) -> Trained:
        losses = torch.stack([loss.float().reshape(()) for loss in self.main]).tolist()
        return Trained(self._history(self.criterion), losses, self.accuracies, float(self.seen))

    def stopped(self, arm: str) -> GradientHistory:
        history = self._history(self.plan.loss_fn)
        words = f"interrupted after {self.done} of {self.plan.iterations} iterations of the {arm} training"
        return replace(history, conditions={**history.conditions, "complete": False, "stopped": words})

    def _history(self, criterion: LossFunction) -> GradientHistory:
        return with_losses(self.probe.history, self.main[: self.plan.window], criterion, self.seed, self.inputs)


def _is_checkpoint(done: int, iterations: int) -> bool:
    return done == iterations or done % max(1, iterations // CHECKPOINTS) == 0


def accuracy(model: nn.Module, held_out: Batches) -> float:
    """Fraction of held-out targets that the largest output names; NaN where that has no meaning.

    The model is in eval mode meanwhile; every module's own flag is put back.

    Example:
        >>> accuracy(nn.Identity(), Batches([(torch.eye(2), torch.tensor([0, 0]))]))
        0.5
    """
    flags = {module: module.training for module in model.modules()}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    right = total = 0
    try:
        model.eval()
        with torch.no_grad():
            for inputs, target in (to_device(batch, device) for batch in held_out.once()):
                with shapes_told(inputs, "held-out batch"):
                    output = main_tensor(forward(model, inputs))
                target = _labels(target)
                if output is None or not isinstance(target, Tensor) or not is_classified(output, target):
                    return float("nan")
                right += int((output.argmax(1) == target).sum())
                total += target.numel()
    finally:
        for module, flag in flags.items():
            module.training = flag
    return right / total if total else float("nan")


def _labels(target: Any) -> Any:
    """What a batch asks for: a batch that is a dict is its own target."""
    return target.get("labels") if isinstance(target, dict) else target


def is_classified(output: Tensor, target: Any) -> bool:
    """Whether the output has one score for each class and the target names one class for each score vector."""
    return (
        isinstance(target, Tensor)
        and not target.is_floating_point()
        and output.dim() == target.dim() + 1
        and output.shape[:1] + output.shape[2:] == target.shape
    )


def _held_out_facts(held_out: Batches | None) -> tuple[int, float]:
    """Number of held-out targets, and the share of the commonest: what a constant answer gets."""
    if held_out is None:
        return 0, 0.0
    targets: Iterable[Any] = (_labels(target) for _, target in held_out.once())
    counted = [
        target.flatten() for target in targets if isinstance(target, Tensor) and not target.is_floating_point()
    ]
    if not counted:
        return 0, 0.0
    together = torch.cat(counted)
    return together.numel(), together.unique(return_counts=True)[1].max().item() / together.numel()
