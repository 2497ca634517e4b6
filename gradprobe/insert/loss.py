"""The joint loss of deep supervision, and the weights of its branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradprobe.insert.branch_losses import BranchLosses, silent
from gradprobe.insert.loss_inputs import resized_target
from gradprobe.insert.model_loss import is_own, labels_of, own_loss
from gradprobe.insert.schedules import SCHEDULES, check_schedule
from gradprobe.network.losses import LossFunction, loss_name
from gradprobe.network.tensors import main_tensor
from gradprobe.record.points import Point

MapTarget = Callable[[Any, Any, int], Any]
BranchLoss = LossFunction | Sequence[LossFunction] | None

WEIGHTS = ("equal", "halving", "depth")


class SupervisedOutput(NamedTuple):
    """What a supervised network returns in training: the trunk's output and each branch's, in forward order."""

    output: Any
    auxiliary: tuple[Any, ...]


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
        ValueError: If the weights do not exist, one is negative, or there is not one for each branch.

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
    a copy of it with the branch's prediction in the place of the main tensor and without the ``loss``. (What a
    branch returns as a dict replaces the parts of these names.) Of that loss only those terms count that depend on
    the branch's prediction: the others, such as boxes beside classes, a KL term, heads of the trunk's own or a
    penalty on weights, are in ``L0`` already, and count once. A term that needs both what the branch predicts and
    something else that is trained, such as parameters of the loss itself, is refused: ``branch_loss`` is the way
    out. ``str(criterion)`` and ``branches_have`` say which loss the branches have.

    A loss function with a running state (counts, means, a memory bank, in a module or anywhere else) has one for
    the main output, which is that of a training without branches, and one for each branch. At weight 0 it is not
    called for a branch.

    A branch whose target is empty at its resolution, so that its loss is NaN although its prediction and the main
    loss are not, adds nothing in that batch; a warning says so once (on an accelerator: in `step`).

    A model that computes its own loss (``transformers``: labels in, ``.loss`` out) keeps it as ``L0``. That is so
    without ``loss_fn``, and where ``loss_fn`` returns that very loss. A branch then has the same function of its
    prediction and the labels; the target is the labels, or a mapping that has them as ``labels``. Which function
    that is follows from the model's loss, output and labels: the candidates in
    `gradprobe.insert.model_loss.OWN_LOSSES` are tried in every batch until only one fits, usually in the first;
    that one is not checked again. Under ``torch.compile(fullgraph=True)`` call the criterion once outside first,
    since this reads values.

    Where a branch's weight is 0, its prediction stays in the graph, so that DistributedDataParallel still sees its
    parameters, but no gradient is sent back: its parameters have none (zeros under DistributedDataParallel), and
    an inf or NaN in it does no harm. ``net.remove()`` saves its forward pass as well.

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
            the prediction another: then it is resized to the prediction, see
            `gradprobe.insert.loss_inputs.resized_target`.
        drop_after: From this many steps on the branches' weight is 0 (as the DSN authors drop their heads).
        branch_loss: ``(prediction, target) -> scalar`` of what a branch returns, in the place of ``loss_fn``: one
            for all branches, or one for each. Their parameters are among ``criterion.parameters()``.

    Raises:
        TypeError: If ``loss_fn``, ``map_target`` or ``branch_loss`` cannot be called.
        ValueError: If the schedule or the weights do not exist, a number is negative, the points are missing, or
            the total is missing or below 1.

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
        branch_loss: BranchLoss = None,
    ) -> None:
        super().__init__()
        check_schedule(weight, schedule, total, drop_after)
        branch_weights(weights, len(points or ()) if isinstance(weights, str) else len(weights), points)
        of_branches = tuple(branch_loss) if isinstance(branch_loss, Sequence) else (branch_loss,)
        named = (
            ("loss_fn", loss_fn),
            ("map_target", map_target),
            *(("branch_loss", each) for each in of_branches),
        )
        for name, function in named:
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
        # here for the sake of its parameters; a list of functions is no module
        modules = [each for each in of_branches if isinstance(each, nn.Module)]
        if modules:
            self.branch_losses = nn.ModuleList(modules)
        self._branches = BranchLosses(branch_loss)
        self.epoch = 0

    @property
    def __name__(self) -> str:  # for `loss_name`
        left_out = ", ".join(sorted(self._branches.left_out))
        how = "by branch_loss" if self._branches.given is not None else f"without {left_out}" if left_out else ""
        return f"{loss_name(self.loss_fn)} + {self.initial:g} x branches{f' ({how})' if how else ''}"

    @property
    def epoch(self) -> int:
        """How many epochs have ended, or iterations if `step` is called after each of those."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        # a tensor for compiled steps: with a Python number they would be compiled again in every epoch
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
        self._branches.tell_empty()

    @property
    def branches_have(self) -> str:
        """Which loss the branches have, and what was left out of it; empty before the first call with branches.

        Example:
            >>> criterion = DeepSupervisionLoss(lambda out, y: out["y"].sum() + out["kl"], schedule="constant")
            >>> output = {"y": torch.ones(2), "kl": torch.ones((), requires_grad=True)}
            >>> _ = criterion(SupervisedOutput(output, (torch.ones(2, requires_grad=True),)), None)
            >>> criterion.branches_have
            "loss_fn, without the terms of output['kl'], which count once"
        """
        return self._branches.taken

    def extra_repr(self) -> str:
        """The weight, and which loss the branches have."""
        empty = {index: int(count) for index, count in self._branches.empty.items() if count > 0}
        have = f", branches: {self.branches_have}" if self.branches_have else ""
        said = f", batches in which the target of a branch was empty: {empty}" if empty else ""
        return f"weight={self.initial:g}, schedule={self.schedule!r}{have}{said}"

    def terms(self, prediction: Any, target: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss of the main output and that of each branch, unweighted; 0 for a branch whose weight is 0."""
        if not isinstance(prediction, SupervisedOutput):
            return self.loss_fn(prediction, target), ()
        on = self._are_on(len(prediction.auxiliary))
        if torch.compiler.is_compiling() and any(on) and not self._compiles():
            outside: Callable[..., tuple[Tensor, tuple[Tensor, ...]]] = _outside_the_graph
            return outside(self, prediction, target, on)
        return self._terms(prediction, target, on)

    def _terms(
        self, prediction: SupervisedOutput, target: Any, on: tuple[bool, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not any(on):
            main = self.loss_fn(prediction.output, target)
        else:
            main = self._branches.main(self.loss_fn, prediction.output, target)
        return main, tuple(
            self._branch_term(index, prediction, target, main) if is_on else silent(prediction.auxiliary[index])
            for index, is_on in enumerate(on)
        )

    def _are_on(self, count: int) -> tuple[bool, ...]:
        """Of each branch, whether it has a weight."""
        if not count:
            return ()
        off = self._off if torch.compiler.is_compiling() else self.weight == 0
        return tuple(weight > 0 and not off for weight in branch_weights(self.weights, count, self.points))

    def _compiles(self) -> bool:
        return self._branches.settled

    def _branch_term(self, index: int, prediction: SupervisedOutput, target: Any, main: Tensor) -> Tensor:
        """The loss of a branch."""
        output, predicted = prediction
        if is_own(main, output) and not self.map_target and self._branches.given is None:
            target = labels_of(target)
        targets = target, self._target_of(index, prediction, target)
        return self._branches.branch(index, self.loss_fn, output, predicted[index], targets, main)

    def _target_of(self, index: int, prediction: SupervisedOutput, target: Any) -> Any:
        predicted = prediction.auxiliary[index]
        if self.map_target:
            return self.map_target(target, predicted, index)
        return resized_target(target, predicted, main_tensor(prediction.output))

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
        weighted: Tensor | None = None
        for weight, loss in zip(weights, auxiliary, strict=True):
            if off or not weight:
                main = _Unweighted.apply(main, loss)  # type: ignore[no-untyped-call]
            else:
                loss = loss if weight == 1 else weight * loss
                weighted = loss if weighted is None else weighted + loss
        if weighted is None:
            return main
        return main + (self._compiled_weight.to(weighted.dtype) if compiling else self.weight) * weighted

    def get_extra_state(self) -> dict[str, int]:
        """The epoch, so that a resumed training continues with the right weight."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take the epoch from a checkpoint."""
        self.epoch = state["epoch"]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _outside_the_graph(
    criterion: DeepSupervisionLoss, prediction: SupervisedOutput, target: Any, on: tuple[bool, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The terms, computed outside a compiled step: values and graphs are looked at, which that cannot do."""
    return criterion._terms(prediction, target, on)


class _Unweighted(torch.autograd.Function):
    """The main loss; the branch's is in its graph, but gets no gradient, not even zeros to multiply a NaN with."""

    @staticmethod
    def forward(ctx: Any, main: Tensor, loss: Tensor) -> Tensor:
        return main.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
