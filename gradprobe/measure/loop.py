"""The training loop of scans, comparisons and trials, and the user's loss and optimizer in it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.measure.batches import Batches, describe, forward, to_device
from gradprobe.network.losses import JointLoss, LossFunction, check_loss
from gradprobe.network.mismatch import Attempt
from gradprobe.network.preserve import preserved, seed_everything

OptimizerFactory = Callable[[nn.Module], torch.optim.Optimizer]
_SEED_STRIDE = 1_000_003  # more than a training has iterations, so that no two seeds share that of an iteration


@contextlib.contextmanager
def in_training(model: nn.Module, losses: Any = None) -> Iterator[None]:
    """Call ``train()`` only if the model's root is in eval mode; afterwards model and loss are as they were.

    Example:
        >>> net = nn.Linear(2, 1).eval()
        >>> with in_training(net):
        ...     net.training, nn.init.zeros_(net.weight).sum().item()
        (True, 0.0)
        >>> net.training, bool(net.weight.any())
        (False, True)
    """
    with preserved(model, losses):
        if not model.training:
            model.train()
        yield


@dataclass(frozen=True)
class Step:
    """One iteration of `train`: its index, the joint loss and the main output's (both detached), and its batch."""

    iteration: int
    loss: Tensor
    main: Tensor
    batch: tuple[Any, Any]


def train(
    net: nn.Module,
    batches: Batches,
    criterion: LossFunction | JointLoss,
    optimizer: torch.optim.Optimizer,
    iterations: int,
    *,
    seed: int | None = None,
) -> Iterator[Step]:
    """The training loop, one iteration at a time; no value leaves the device.

    Args:
        net: A network, supervised or not.
        batches: Where the batches come from.
        criterion: A loss function or a joint loss.
        optimizer: Over the network's parameters.
        iterations: How many.
        seed: Every iteration is seeded anew, from this: so two networks that draw a different number of random
            numbers still get the same batches, and the same dropout in the trunk. None: nothing is seeded.
    """
    device = next(net.parameters()).device
    stream = batches.stream()
    for iteration in range(iterations):
        if seed is not None:
            seed_everything(_SEED_STRIDE * (seed + 1) + iteration)
        inputs, target = to_device(next(stream), device)
        optimizer.zero_grad()
        with explained_errors(Attempt(net, inputs, target), f"iteration {iteration}") as attempt:
            attempt.outputs = (forward(net, inputs),)
            main, auxiliary = _terms(criterion, *attempt.outputs, target)
        del attempt
        check_loss(main)
        loss = criterion.join(main, auxiliary) if isinstance(criterion, JointLoss) else main
        loss.backward()
        optimizer.step()
        yield Step(iteration, loss.detach(), main.detach(), (inputs, target))


def _terms(criterion: LossFunction | JointLoss, output: Any, target: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss of the main output, and those of the branches."""
    if isinstance(criterion, JointLoss):
        return criterion.terms(output, target)
    return criterion(output, target), ()


@contextlib.contextmanager
def explained_errors(attempt: Attempt, where: str) -> Iterator[Attempt]:
    """Add to an error in the user's forward or loss the shapes of the batch, and what does not fit in it."""
    try:
        yield attempt
    except Exception as error:
        if hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(f"{where}, inputs of shape {describe(attempt.inputs)}")
            way_out = attempt.way_out(error)
            if way_out:
                error.add_note(way_out)
        raise


def make_optimizer(factory: OptimizerFactory | None, net: nn.Module) -> torch.optim.Optimizer:
    """The user's optimizer, or SGD with lr 0.01 over all trainable parameters.

    Raises:
        TypeError: If the factory is not one, or its optimizer needs a closure in every step.
    """
    if factory is None:
        return torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.01)
    if not callable(factory) or isinstance(factory, type):
        got = f"the class {factory.__name__}" if isinstance(factory, type) else type(factory).__name__
        raise TypeError(
            "expected optimizer= to be a function from a model to its optimizer, such as "
            f"lambda model: torch.optim.Adam(model.parameters()), got {got}"
        )
    optimizer: Any = factory(net)
    kind = type(optimizer)
    if not isinstance(optimizer, torch.optim.Optimizer):
        hint = ": the function ends without a return" if optimizer is None else ""
        hint = ": return the optimizer alone" if isinstance(optimizer, (tuple, list)) else hint
        raise TypeError(f"expected optimizer(model) to return a torch.optim.Optimizer, got {kind.__name__}{hint}")
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise TypeError(
            f"{kind.__name__} needs a closure in every step, which scan and compare do not give it: use "
            "GradientProbe(model, optimizer=...) in your own loop"
        )
    made: torch.optim.Optimizer = optimizer
    return made
