"""What all trainings of a comparison share, checked before the first of them begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gradprobe.insert.branches import BranchFactory, check_branch
from gradprobe.insert.loss import BranchLoss, DeepSupervisionLoss
from gradprobe.measure.batches import Batches, Source
from gradprobe.measure.loop import OptimizerFactory
from gradprobe.measure.scan import OnIteration
from gradprobe.network.checks import check_trainable, check_trainings
from gradprobe.network.losses import LossFunction, check_loss_fn, loss_name
from gradprobe.network.preserve import seed_everything
from gradprobe.prove.held_out.measure import HeldOut

ModelSource = nn.Module | Callable[[], nn.Module]
EPOCHS = 60  # the paper's N: the schedule sees a training as this many equal slices


@dataclass(frozen=True)
class Trainings:
    """How many trainings each arm gets, and how long they are.

    Attributes:
        iterations: Length of each training.
        window: Iterations whose gradients are recorded.
        seeds: One training for each.
    """

    iterations: int
    window: int
    seeds: Sequence[int]


@dataclass(frozen=True)
class Supervision:
    """Which branches and which joint loss are tried.

    Attributes:
        branch: See `gradprobe.supervise`.
        weight: ``a_0`` of the joint loss.
        schedule: Of the joint loss.
        branch_loss: See `gradprobe.DeepSupervisionLoss`.
    """

    branch: str | BranchFactory
    weight: float
    schedule: str = "constant"
    branch_loss: BranchLoss = None

    @property
    def names(self) -> dict[str, str]:
        """The kind of branch, and the loss of the branches where they have one of their own."""
        kind = self.branch if isinstance(self.branch, str) else loss_name(self.branch)
        losses = self.branch_loss if isinstance(self.branch_loss, Sequence) else [self.branch_loss]
        own = ", ".join(loss_name(each) for each in losses if each is not None)
        return {"branch": kind, "branch_loss": own} if own else {"branch": kind}

    def criterion(
        self, loss_fn: LossFunction, weights: str | None = None, total: int = EPOCHS
    ) -> DeepSupervisionLoss:
        """The joint loss of one training; the weights of its branches are equal unless a placement has others."""
        return DeepSupervisionLoss(
            loss_fn, self.weight, self.schedule, total, weights=weights or "equal", branch_loss=self.branch_loss
        )


@dataclass(frozen=True)
class Plan:
    """What all trainings of a comparison share.

    Attributes:
        batches: The same for all.
        loss_fn: ``(output, target) -> scalar``.
        trainings: How many and how long.
        supervision: The branches and the joint loss.
        optimizer: ``model -> Optimizer``, or None for the default.
        held_out: Batches to measure a metric on, and which one, or None.
        conditions: Facts to keep with the record.
        on_iteration: Called after each iteration, or None.
    """

    batches: Batches
    loss_fn: LossFunction
    trainings: Trainings
    supervision: Supervision
    optimizer: OptimizerFactory | None = None
    held_out: HeldOut | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    on_iteration: OnIteration | None = None

    @classmethod
    def checked(
        cls,
        batches: Source,
        loss_fn: LossFunction,
        trainings: Trainings,
        supervision: Supervision,
        optimizer: OptimizerFactory | None,
        held_out: HeldOut | None,
        conditions: Mapping[str, Any] | None,
        on_iteration: OnIteration | None = None,
    ) -> Plan:
        """A plan from the arguments of a comparison.

        Raises:
            TypeError: If the batches, the loss or the seeds are of a wrong type.
            ValueError: If a length, a seed or the branch is out of range.

        Example:
            >>> import torch
            >>> batches = [(torch.ones(2, 1), torch.ones(2, 1))]
            >>> trainings, supervision = Trainings(3, 50, [0]), Supervision("auto", 0.3)
            >>> plan = Plan.checked(batches, nn.functional.mse_loss, trainings, supervision, None, None, None)
            >>> plan.trainings.window
            3
        """
        check_loss_fn(loss_fn)
        iterations, window, seeds = trainings.iterations, trainings.window, trainings.seeds
        check_trainings(iterations, window, seeds)
        check_branch(supervision.branch)
        return cls(
            Batches(batches),
            loss_fn,
            Trainings(iterations, min(window, iterations), seeds),
            supervision,
            optimizer,
            held_out,
            conditions or {},
            on_iteration,
        )

    def criterion(self, weights: str | None = None) -> DeepSupervisionLoss:
        """The joint loss of one training; see `Supervision.criterion`."""
        return self.supervision.criterion(self.loss_fn, weights)

    @property
    def losses(self) -> tuple[Any, ...]:
        """The user's loss functions, which a training puts back as they were."""
        return self.loss_fn, self.supervision.branch_loss

    def facts(self) -> dict[str, Any]:
        """What the result of a comparison depends on, as plain JSON types."""
        return {
            "iterations": self.trainings.iterations,
            "window": self.trainings.window,
            "seeds": list(self.trainings.seeds),
            "weight": self.supervision.weight,
            "schedule": self.supervision.schedule,
            **self.supervision.names,
        }


def build(model: ModelSource, seed: int) -> nn.Module:
    """The network itself, or one that the function builds, its weights drawn from the seed.

    Raises:
        TypeError: If it is neither a network nor a function that builds one.
        ValueError: If nothing in the network can be trained.
    """
    if not isinstance(model, nn.Module):
        if not callable(model):
            raise TypeError(
                f"expected a torch.nn.Module or a function that builds one, got {type(model).__name__}"
            )
        seed_everything(seed)
        model = model()
    check_trainable(model)
    return model
