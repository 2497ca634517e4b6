"""The joint loss of deep supervision and its schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

LossFunction = Callable[[Any, Any], Tensor]


class SupervisedOutput(NamedTuple):
    """What a supervised network returns in training: the trunk's output and each branch's, in forward order."""

    output: Any
    auxiliary: tuple[Tensor, ...]


def cnds(initial: float, t: int, total: int) -> float:
    """CNDS' recursive decay: ``a_0 = initial``, ``a_t = a_(t-1) * (1 - t/N)``; ``t`` epoch, ``N`` epochs.

    Example:
        >>> f"{cnds(0.3, 20, 60):.4f}"  # where linear decay would still give .20
        '0.0056'
    """
    return initial * math.prod(max(0.0, 1 - step / total) for step in range(1, t + 1))


def linear(initial: float, t: int, total: int) -> float:
    """Linear decay: ``initial * (1 - t/N)``.

    Example:
        >>> f"{linear(0.3, 20, 60):.2f}"
        '0.20'
    """
    return initial * max(0.0, 1 - t / total)


def constant(initial: float, t: int, total: int) -> float:
    """No decay; the authors' released training file has a constant 0.4.

    Example:
        >>> constant(0.4, 20, 60)
        0.4
    """
    return initial


SCHEDULES: dict[str, Callable[[float, int, int], float]] = {
    "cnds": cnds,
    "linear": linear,
    "constant": constant,
}


class DeepSupervisionLoss(nn.Module):
    """The joint loss ``L = L0 + a_t * sum of Ls`` (Wang et al. 2015, arXiv 1505.02496, eq. 4-6).

    Works on what a supervised network returns in training and on a plain output alike, so the same
    ``criterion(net(x), y)`` serves training and evaluation. Call `step` once at the end of every epoch.

    Args:
        loss_fn: ``(output, target) -> scalar``; used for the main output and for every branch.
        weight: ``a_0``.
        schedule: ``"cnds"`` (recursive), ``"linear"`` or ``"constant"``.
        total: ``N``, the number of epochs; needed unless the schedule is constant.

    Raises:
        ValueError: No such schedule, a negative weight, or a total missing or below 1.

    Example:
        >>> import torch
        >>> criterion = DeepSupervisionLoss(nn.functional.mse_loss, weight=0.5, schedule="linear", total=2)
        >>> prediction = SupervisedOutput(torch.tensor([1.0]), (torch.tensor([2.0]),))
        >>> criterion(prediction, torch.tensor([0.0]))  # 1 + 0.5 * 4
        tensor(3.)
        >>> criterion.step()
        >>> criterion(prediction, torch.tensor([0.0]))  # 1 + 0.25 * 4
        tensor(2.)
        >>> criterion(torch.tensor([1.0]), torch.tensor([0.0]))  # a plain output
        tensor(1.)
    """

    def __init__(
        self, loss_fn: LossFunction, weight: float = 0.3, schedule: str = "cnds", total: int | None = None
    ) -> None:
        super().__init__()
        if not callable(loss_fn):
            raise TypeError(f"expected loss_fn to be callable, got {type(loss_fn).__name__}")
        if schedule not in SCHEDULES:
            raise ValueError(f"expected schedule= out of {list(SCHEDULES)}, got {schedule!r}")
        if not weight >= 0:
            raise ValueError(f"expected a weight of at least 0, got {weight!r}")
        if schedule != "constant" and (total is None or total < 1):
            raise ValueError(
                f"schedule={schedule!r} needs total=, the number of epochs, at least 1; got {total!r}"
            )
        self.loss_fn = loss_fn
        self.initial = weight
        self.schedule = schedule
        self.total = total or 1
        self.epoch = 0

    @property
    def weight(self) -> float:
        """``a_t``, the weight of the branches in this epoch."""
        return SCHEDULES[self.schedule](self.initial, self.epoch, self.total)

    def step(self) -> None:
        """End an epoch."""
        self.epoch += 1

    def terms(self, prediction: Any, target: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss of the main output and that of each branch, unweighted."""
        if not isinstance(prediction, SupervisedOutput):
            return self.loss_fn(prediction, target), ()
        auxiliary = tuple(self.loss_fn(output, target) for output in prediction.auxiliary)
        return self.loss_fn(prediction.output, target), auxiliary

    def forward(self, prediction: Any, target: Any) -> Tensor:
        """The joint loss, a scalar.

        Every branch stays in the graph even at weight 0: DistributedDataParallel needs its gradient.
        """
        return self.join(*self.terms(prediction, target))

    def join(self, main: Tensor, auxiliary: tuple[Tensor, ...]) -> Tensor:
        """``L0 + a_t * sum of Ls`` from the terms."""
        for loss in auxiliary:
            main = main + self.weight * loss
        return main

    def get_extra_state(self) -> dict[str, int]:
        """The epoch, so that a resumed training goes on with the right weight."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take the epoch from a checkpoint."""
        self.epoch = state["epoch"]
