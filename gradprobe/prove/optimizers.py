"""An optimizer that was built already, as a function that gives each training a copy of its own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.measure.loop import OptimizerFactory


class CopiedOptimizer:
    """Builds copies of an optimizer, for a model with or without branches.

    A copy has the class, the parameter groups, the state and the other attributes of the original, and holds the
    same parameters. What a network has besides (the parameters of branches, of normalisation that was put in) gets
    a group with the settings that the optimizer was built with. What the original leaves out stays out.

    Args:
        optimizer: Of parameters of the model, and of the loss function if it has some; left as it is.
        model: The model.
        loss_fn: The loss function.

    Raises:
        ValueError: If it holds other parameters.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD([{"params": net.weight, "lr": 0.5}, {"params": net.bias}], lr=0.1)
        >>> copied = CopiedOptimizer(optimizer, net)(net)
        >>> [group["lr"] for group in copied.param_groups], copied.param_groups[1]["params"][0] is net.bias
        ([0.5, 0.1], True)
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module, loss_fn: Any = None) -> None:
        self._optimizer = optimizer
        held = {id(parameter) for parameter in _held(optimizer)}
        own = list(model.parameters())
        of_loss = list(loss_fn.parameters()) if isinstance(loss_fn, nn.Module) else []
        foreign = held - {id(parameter) for parameter in (*own, *of_loss)}
        if foreign:
            raise ValueError(
                f"expected an optimizer of the model's parameters, got one of {len(held)} parameters of which "
                f"{len(foreign)} are none of the model's: give a function from a model to its optimizer"
            )
        # objects, not their ids: in another process both come out of one pickle
        self._left_out = [parameter for parameter in own if id(parameter) not in held]

    def __call__(self, net: nn.Module) -> torch.optim.Optimizer:
        """A copy for a network of the same parameters and more."""
        held = _held(self._optimizer)
        # the copy is of everything but the parameters
        memo: dict[int, Any] = {id(parameter): parameter for parameter in held}
        copied = copy.deepcopy(self._optimizer, memo)
        # as pickle has it, an optimizer's copy lacks the attributes that a subclass has of its own; a scheduler's
        # wrapper of step() is bound to the original
        for name in set(vars(self._optimizer)) - set(vars(copied)) - {"step"}:
            setattr(copied, name, copy.deepcopy(vars(self._optimizer)[name], memo))
        known = {id(parameter) for parameter in (*held, *self._left_out)}
        if new := [one for one in net.parameters() if id(one) not in known and one.requires_grad]:
            copied.add_param_group({"params": new})
        return copied


def as_factory(optimizer: Any, model: Any, loss_fn: Any = None) -> OptimizerFactory | None:
    """An optimizer as a function that builds it for a model; a function is one already, and None stays None.

    Args:
        optimizer: What the user gave.
        model: The model, or a function that builds one.
        loss_fn: The loss function, which may have parameters of its own.

    Raises:
        ValueError: If it is an optimizer of something else.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        factory: OptimizerFactory | None = optimizer
        return factory
    if not isinstance(model, nn.Module):
        raise ValueError(
            "expected a function from a model to its optimizer, as the model is built anew for each seed, got an "
            f"optimizer of another one ({type(optimizer).__name__}): give the model itself, or such a function"
        )
    return CopiedOptimizer(optimizer, model, loss_fn)


def _held(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
