"""The companion objective of deeply-supervised nets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradprobe.insert.loss import DeepSupervisionLoss, MapTarget, SupervisedOutput
from gradprobe.insert.model_loss import labels_of
from gradprobe.network.layers import own_parameters, unwrap, weight_names
from gradprobe.network.losses import LossFunction


class CompanionObjective(DeepSupervisionLoss):
    """Deeply-supervised nets: a companion objective at every branch (Lee et al. 2015, arXiv 1409.5185, section 2).

    The joint loss is ``L0 + sum of alpha_m(t) * [ ||w_m||^2 + l_m - gamma ]_+`` with ``l_m`` the squared hinge
    loss of branch ``m`` and, by default, ``alpha_m(t) = alpha_m * 0.1 * (1 - t/N)``.

    As in the paper, ``||w_m||^2`` is the sum of squares of all parameters of the branch but the biases, without a
    factor 1/2, and where a branch's objective falls to gamma it is 0 and has no gradient. There a branch is one
    linear classifier; of a deeper branch all weights are in the sum. Unlike in the paper, ``||w||^2`` of the
    output layer is left to the optimizer's weight decay, and `squared_hinge` is the mean over the batch.

    Args:
        net: The supervised network; ``net.branches`` is read at every call, so a branch may be removed later. It
            does not become a part of the criterion: no parameters, no state.
        loss_fn: ``(output, target) -> scalar`` for the main output; None: the model computes its own.
        alpha: ``alpha_m``: one for all branches, or one for each in forward order.
        gamma: The threshold.
        total: ``N``, the number of steps; needed unless the schedule is constant.
        schedule: As for `DeepSupervisionLoss`.
        drop_after: From this many steps on the branches' weight is 0.
        companion: ``(scores, labels) -> scalar``, ``l_m``.
        map_target: As for `DeepSupervisionLoss`.

    Raises:
        TypeError: If ``net`` has no branches.
        ValueError: As for `DeepSupervisionLoss`.

    Example:
        >>> net = nn.Module()
        >>> net.branches = nn.ModuleDict({"at_0": nn.Linear(1, 2)})
        >>> _ = nn.init.constant_(net.branches["at_0"].weight, 0.5)
        >>> criterion = CompanionObjective(net, F.cross_entropy, gamma=1.0, schedule="constant")
        >>> scores = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
        >>> criterion.terms(SupervisedOutput(scores, (scores,)), torch.tensor([0, 1]))[1]  # 0.5 + (0 + 9) / 2 - 1
        (tensor(4., grad_fn=<ReluBackward0>),)
    """

    def __init__(
        self,
        net: nn.Module,
        loss_fn: LossFunction | None = None,
        alpha: float | Sequence[float] = 1.0,
        gamma: float = 0.0,
        total: int | None = None,
        schedule: str = "dsn",
        drop_after: int | None = None,
        companion: LossFunction | None = None,
        *,
        map_target: MapTarget | None = None,
    ) -> None:
        weight, weights = (alpha, "equal") if isinstance(alpha, (int, float)) else (1.0, alpha)
        super().__init__(
            loss_fn, weight, schedule, total, weights=weights, map_target=map_target, drop_after=drop_after
        )
        # in a tuple, where nn.Module does not look for submodules
        self._net = (net,)
        self.gamma = gamma
        self.companion = companion or squared_hinge
        _branches(net)

    def _terms(
        self, prediction: SupervisedOutput, target: Any, on: tuple[bool, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        branches = _branches(self._net[0])
        if len(branches) != len(on):
            raise ValueError(
                f"expected a prediction from each of net's {len(branches)} branches, got {len(on)}: pass the "
                "criterion the network that made the prediction"
            )
        return super()._terms(prediction, target, on)

    def _compiles(self) -> bool:
        return True

    def _branch_term(self, index: int, prediction: SupervisedOutput, target: Any, main: Tensor) -> Tensor:
        target = self._target_of(index, prediction, target if self.map_target else labels_of(target))
        norm = squared_norm(_branches(self._net[0])[index])

        def objective(scores: Any) -> Tensor:
            return F.relu(norm + self.companion(scores, labels_of(target)) - self.gamma)

        return self._branches.unless_empty(index, prediction.auxiliary[index], main, objective)


def _branches(net: nn.Module) -> list[nn.Module]:
    branches = getattr(unwrap(net), "branches", None)
    if not isinstance(branches, nn.ModuleDict):
        raise TypeError(f"expected a network from gradprobe.supervise, got {type(net).__name__} without branches")
    return list(branches.values())


def squared_norm(branch: nn.Module) -> Tensor:
    """``||w||^2``: the sum of squares of all parameters of a module other than biases.

    Example:
        >>> squared_norm(nn.BatchNorm1d(3)).item()  # its weight is ones
        3.0
    """
    # each once and in one order: in another the sum may have another last bit
    weights = dict.fromkeys(
        own_parameters(module)[name] for module in branch.modules() for name in weight_names(module)
    )
    return torch.stack([weight.square().sum() for weight in weights]).sum() if weights else torch.zeros(())


def squared_hinge(scores: Tensor, target: Tensor) -> Tensor:
    """The L2-SVM loss of DSN: sum over the wrong classes of ``[1 - (s_y - s_k)]_+^2``, mean over the batch.

    From Lee et al. 2015, arXiv 1409.5185, section 2. ``torch.nn.functional.multi_margin_loss(p=2)`` is this
    divided by the number of classes.

    Args:
        scores: ``(N, K)`` or ``(N, K, *S)``.
        target: The classes, ``(N,)`` or ``(N, *S)``.

    Example:
        >>> squared_hinge(torch.tensor([[2.0, 1.5, -3.0]]), torch.tensor([0]))  # 0.5^2 + 0
        tensor(0.2500)
    """
    right = target.long().unsqueeze(1)
    margins = F.relu(1 - scores.gather(1, right) + scores).square()
    return margins.scatter(1, right, 0.0).sum(1).mean()
