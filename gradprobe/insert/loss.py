"""The joint loss of deep supervision, its schedules and the weights of its branches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradprobe.insert.loss_inputs import loss_like, resized
from gradprobe.insert.model_loss import OWN_LOSSES, branch_loss, is_own, labels_of, matching_losses, own_loss
from gradprobe.network.losses import LossFunction, loss_name
from gradprobe.network.tensors import main_tensor
from gradprobe.record.points import Point

MapTarget = Callable[[Any, Any, int], Any]

WEIGHTS = ("equal", "halving", "depth")


class SupervisedOutput(NamedTuple):
    """What a supervised network returns in training: the trunk's output and each branch's, in forward order."""

    output: Any
    auxiliary: tuple[Any, ...]


def cnds(initial: float, t: int, total: int) -> float:
    """CNDS' recursive decay: ``a_0 = initial``, ``a_t = a_(t-1) * (1 - t/N)``; ``t`` epoch, ``N`` epochs.

    Example:
        >>> f"{cnds(0.3, 20, 60):.4f}"  # where linear decay would still give .20
        '0.0056'
    """
    return initial * math.prod(max(0.0, 1 - step / total) for step in range(1, t + 1))


def dsn(initial: float, t: int, total: int) -> float:
    """DSN's decay: ``initial * 0.1 * (1 - t/N)`` (Lee et al. 2015, arXiv 1409.5185, section 3).

    Example:
        >>> f"{dsn(1.0, 20, 80):.3f}"
        '0.075'
    """
    return 0.1 * linear(initial, t, total)


def linear(initial: float, t: int, total: int) -> float:
    """Linear decay: ``initial * (1 - t/N)``.

    Example:
        >>> f"{linear(0.3, 20, 60):.2f}"
        '0.20'
    """
    return initial * max(0.0, 1 - t / total)


def constant(initial: float, t: int, total: int) -> float:
    """No decay; the released training file of CNDS' authors has a constant 0.4.

    Example:
        >>> constant(0.4, 20, 60)
        0.4
    """
    return initial


SCHEDULES: dict[str, Callable[[float, int, int], float]] = {
    "cnds": cnds,
    "dsn": dsn,
    "linear": linear,
    "constant": constant,
}


def branch_weights(
    weights: str | Sequence[float], count: int, points: Sequence[Point] | None = None
) -> tuple[float, ...]:
    """The weight ``w_i`` of each branch, in forward order.

    Args:
        weights: ``"equal"``: 1 each. ``"halving"``: ``1/2^i``, where ``i`` is 0 for the branch nearest the output,
            divided by their sum (nnU-Net, Isensee et al. 2021, which counts the output itself in; here the
            output's weight stays 1). ``"depth"``: proportional to ``point.depth + 1``, divided by their sum. Or
            the weights themselves.
        count: The number of branches.
        points: For ``"depth"``: the branches' points, such as ``placement.points``.

    Raises:
        ValueError: No such weights, a negative one, or not one for each branch.

    Example:
        >>> branch_weights("halving", 2)
        (0.3333333333333333, 0.6666666666666666)
    """
    if not isinstance(weights, str):
        return _expect_count("weights", _at_least_0(weights), count)
    if weights not in WEIGHTS:
        raise ValueError(f"expected weights= out of {list(WEIGHTS)} or numbers, got {weights!r}")
    if weights == "equal":
        return (1.0,) * count
    if weights == "halving":
        return _normalised(tuple(0.5 ** (count - 1 - index) for index in range(count)))
    if points is None:
        raise ValueError('weights="depth" needs points=, the points of the branches, such as placement.points')
    return _normalised(_expect_count("points", tuple(point.depth + 1.0 for point in points), count))


def _at_least_0(weights: Sequence[float]) -> tuple[float, ...]:
    if not all(weight >= 0 for weight in weights):
        raise ValueError(f"expected weights= of at least 0, got {list(weights)}")
    return tuple(float(weight) for weight in weights)


def _normalised(weights: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(weight / sum(weights) for weight in weights)


def _expect_count(what: str, values: tuple[float, ...], count: int) -> tuple[float, ...]:
    if len(values) != count:
        raise ValueError(
            f"expected {what}= to have one entry for each of the {count} branches, got {len(values)}; where "
            f"branches were removed, set the criterion's {what} to those of the branches left"
        )
    return values


class DeepSupervisionLoss(nn.Module):
    """The joint loss ``L = L0 + a_t * sum of w_i L_i`` (Wang et al. 2015, arXiv 1505.02496, eq. 4-6).

    Works on what a supervised network returns in training and on a plain output alike, so the same
    ``criterion(net(x), y)`` serves training and evaluation.

    Call `step` at the end of every epoch, or of every iteration; ``total`` and ``drop_after`` count the same.

    Where the trunk returns a container (dict, tuple, dataclass, ``ModelOutput``), ``loss_fn`` gets for each branch
    a copy of it with the branch's prediction in the place of the main tensor and without the ``loss``. The trunk's
    own container is not changed.

    A model that computes its own loss (``transformers``: labels in, ``.loss`` out) keeps it as ``L0``. That is so
    without ``loss_fn``, and where ``loss_fn`` returns that very loss. A branch then has the same function of its
    prediction and the labels; the target is the labels, or a mapping that has them as ``labels``. Which function
    it is, is found out from the model's loss, output and labels (see `gradprobe.insert.model_loss.OWN_LOSSES`): tried in
    every batch until only one candidate fits, usually the first batch, then remembered and not checked again.
    Under ``torch.compile(fullgraph=True)`` call the criterion once outside, since finding out reads values.

    Where a branch's weight is 0, its loss stays in the graph, so that DistributedDataParallel still sees its
    parameters, but no gradient is sent back: its parameters have none (zeros under DistributedDataParallel), and
    what is inf or NaN in it harms nothing. To save its forward pass as well there is ``net.remove()``.

    Args:
        loss_fn: ``(output, target) -> scalar``; used for the main output and for every branch. None: the model
            computes its own.
        weight: ``a_0``.
        schedule: ``"cnds"`` (recursive), ``"linear"``, ``"dsn"`` (linear from a tenth) or ``"constant"``.
        total: ``N``, the number of steps; needed unless the schedule is constant.
        weights: ``w_i``: ``"equal"``, ``"halving"``, ``"depth"`` or numbers, see `branch_weights`.
        points: For ``weights="depth"``: the branches' points, such as ``placement.points``.
        map_target: ``(target, prediction, index) -> target`` for the branch of that index, in forward order.
            Without it the target goes to every branch as it is, unless the main output has its spatial size and
            the prediction another: then it is resized to the prediction, see `gradprobe.insert.loss_inputs.resized`.
        drop_after: From this many steps on the branches' weight is 0 (the DSN authors drop their heads so).

    Raises:
        TypeError: A ``loss_fn`` or ``map_target`` that cannot be called.
        ValueError: No such schedule or weights, a negative one, points missing, or a total missing or below 1.

    Example:
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
        self,
        loss_fn: LossFunction | None = None,
        weight: float = 0.3,
        schedule: str = "cnds",
        total: int | None = None,
        *,
        weights: str | Sequence[float] = "equal",
        points: Sequence[Point] | None = None,
        map_target: MapTarget | None = None,
        drop_after: int | None = None,
    ) -> None:
        super().__init__()
        _check_schedule(weight, schedule, total, drop_after)
        branch_weights(weights, len(points or ()) if isinstance(weights, str) else len(weights), points)
        for name, function in (("loss_fn", loss_fn), ("map_target", map_target)):
            if function is not None and not callable(function):
                raise TypeError(f"expected {name} to be callable, got {type(function).__name__}")
        self.loss_fn: LossFunction = own_loss if loss_fn is None else loss_fn
        self.map_target = map_target
        self.initial = weight
        self.schedule = schedule
        self.total = total or 1
        self.drop_after = drop_after
        self.weights = weights if isinstance(weights, str) else tuple(weights)
        self.points = points
        self._own = tuple(OWN_LOSSES)
        self.epoch = 0

    @property
    def __name__(self) -> str:  # what `loss_name` calls it in a record
        return f"{loss_name(self.loss_fn)} + {self.initial:g} x branches"

    @property
    def epoch(self) -> int:
        """How many steps have ended: epochs, or iterations if that is what `step` is called for."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        # for a compiled step, which a Python number would have compiled again for every epoch
        self._compiled_weight = torch.tensor(self.weight, dtype=torch.float64, device="cpu")
        self._off = self.weight == 0

    @property
    def weight(self) -> float:
        """``a_t``, the weight of the branches in this epoch."""
        if self.drop_after is not None and self.epoch >= self.drop_after:
            return 0.0
        return SCHEDULES[self.schedule](self.initial, self.epoch, self.total)

    def step(self) -> None:
        """End an epoch (or an iteration, if ``total`` and ``drop_after`` are in iterations)."""
        self.epoch += 1

    def terms(self, prediction: Any, target: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss of the main output and that of each branch, unweighted."""
        if not isinstance(prediction, SupervisedOutput):
            return self.loss_fn(prediction, target), ()
        main = self.loss_fn(prediction.output, target)
        return main, tuple(self._branch_losses(prediction, target, main)) if prediction.auxiliary else ()

    def _branch_losses(self, prediction: SupervisedOutput, target: Any, main: Tensor) -> Iterator[Tensor]:
        output = prediction.output
        if not is_own(main, output):
            for made, goal in self._with_targets(prediction, target):
                yield loss_like(self.loss_fn, output, made, goal)
            return
        if len(self._own) > 1:
            self._own = matching_losses(self._own, output, target, main)
        for made, goal in self._with_targets(prediction, target if self.map_target else labels_of(target)):
            yield branch_loss(self._own[0], made, goal)

    def _with_targets(self, prediction: SupervisedOutput, target: Any) -> Iterator[tuple[Any, Any]]:
        main = main_tensor(prediction.output)
        for index, made in enumerate(prediction.auxiliary):
            goal = self.map_target(target, made, index) if self.map_target else resized(target, made, main)
            yield made, goal

    def forward(self, prediction: Any, target: Any) -> Tensor:
        """The joint loss, a scalar.

        Every branch stays in the graph even at weight 0: DistributedDataParallel waits for its parameters.
        """
        return self.join(*self.terms(prediction, target))

    def join(self, main: Tensor, auxiliary: tuple[Tensor, ...]) -> Tensor:
        """``L0 + a_t * sum of w_i L_i`` from the terms."""
        weights = branch_weights(self.weights, len(auxiliary), self.points) if auxiliary else ()
        compiling = torch.compiler.is_compiling()
        off = self._off if compiling else self.weight == 0
        weighed: Tensor | None = None
        for weight, loss in zip(weights, auxiliary, strict=True):
            if off or not weight:
                main = _Unweighted.apply(main, loss)  # type: ignore[no-untyped-call]
            else:
                loss = loss if weight == 1 else weight * loss
                weighed = loss if weighed is None else weighed + loss
        if weighed is None:
            return main
        return main + (self._compiled_weight.to(weighed.dtype) if compiling else self.weight) * weighed

    def get_extra_state(self) -> dict[str, int]:
        """The epoch, so that a resumed training goes on with the right weight."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take the epoch from a checkpoint."""
        self.epoch = state["epoch"]


class _Unweighted(torch.autograd.Function):
    """The main loss; the other one is in its graph, but gets no gradient, not even zeros to multiply NaN with."""

    @staticmethod
    def forward(ctx: Any, main: Tensor, loss: Tensor) -> Tensor:
        return main.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _check_schedule(weight: Any, schedule: str, total: int | None, drop_after: int | None) -> None:
    if schedule not in SCHEDULES:
        raise ValueError(f"expected schedule= out of {list(SCHEDULES)}, got {schedule!r}")
    if not (isinstance(weight, Real) and float(weight) >= 0):
        raise ValueError(f"expected a weight of at least 0, got {weight!r}")
    if schedule != "constant" and (total is None or total < 1):
        raise ValueError(f"schedule={schedule!r} needs total=, the number of steps, at least 1; got {total!r}")
    if drop_after is not None and not drop_after >= 0:
        raise ValueError(f"expected drop_after= to be a number of steps, at least 0; got {drop_after!r}")
