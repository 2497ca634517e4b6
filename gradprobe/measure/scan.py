"""A short training run under a probe that leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.measure.batches import Batches, Source, kind_of
from gradprobe.measure.loop import OptimizerFactory, in_training, make_optimizer, train
from gradprobe.measure.probe import GradientProbe
from gradprobe.network.checks import check_trainable
from gradprobe.network.losses import JointLoss, LossFunction, check_loss_fn, loss_name, loss_reduction
from gradprobe.network.preserve import seed_everything
from gradprobe.record.history import GradientHistory


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training has come: what ``on_iteration`` is called with. Nothing in it has left the device.

    Attributes:
        arm: ``"plain"``, ``"supervised"``, or ``"repeated"`` in a round of `place_repeatedly`.
        seed: The seed of this training.
        done: Number of iterations done.
        total: Number of iterations in all.
        loss: The main output's loss in the last iteration, detached.
        probe: The probe that records it.
    """

    arm: str
    seed: int | None
    done: int
    total: int
    loss: Tensor
    probe: GradientProbe


OnIteration = Callable[[TrainingProgress], None]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a scan. What was recorded until then is in ``history``, marked as incomplete."""

    def __init__(self, history: GradientHistory) -> None:
        super().__init__("interrupted")
        self.history = history


def scan(
    model: nn.Module,
    batches: Source,
    loss_fn: LossFunction,
    iterations: int = 50,
    *,
    optimizer: OptimizerFactory | None = None,
    of: str | Iterable[str] = ("output", "weight"),
    stats: str = "all",
    layers: Iterable[str] | None = None,
    seed: int | None = None,
    conditions: Mapping[str, Any] | None = None,
    on_iteration: OnIteration | None = None,
) -> GradientHistory:
    """Train a little under a probe and return the record; model and loss are bit-identical afterwards.

    The model runs in training mode as it comes; ``train()`` is called only if its root is in eval mode. At a
    loss that is NaN or infinite the record ends: ``history.conditions["stopped"]`` says so.

    Args:
        model: Any module.
        batches: Iterable of ``(inputs, target)`` or a function returning one; repeated when it is shorter than
            the window. A dict of inputs is passed as keywords, a tuple as positional arguments.
        loss_fn: ``(output, target) -> scalar``.
        iterations: Optimizer steps to record; the paper uses 10 to 50.
        optimizer: ``model -> Optimizer``; SGD with lr 0.01 by default.
        of: Quantities to record, see `GradientProbe`.
        stats: See `GradientProbe`.
        layers: See `GradientProbe`.
        seed: Seeds every generator before the first iteration; None leaves them as they are.
        conditions: Facts to keep with the record.
        on_iteration: Called after each iteration, with a `TrainingProgress`.

    Raises:
        TypeError: If the loss is not a function or not a scalar tensor, or a batch is not ``(inputs, target)``.
        ValueError: If nothing can be trained, or there are no batches.
        Interrupted: On Ctrl-C; carries what was recorded.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> batches = [(torch.randn(16, 4), torch.randint(2, (16,)))]
        >>> history = scan(net, batches, nn.functional.cross_entropy, iterations=10)
        >>> history.iterations, history.conditions["batch_size"]
        (10, 16)
    """
    check_trainable(model)
    check_loss_fn(loss_fn)
    with in_training(model, loss_fn):
        return train_and_record(
            model,
            model,
            Batches(batches),
            loss_fn,
            arm="plain",
            iterations=iterations,
            optimizer=optimizer,
            seed=seed,
            on_iteration=on_iteration,
            probe={"of": of, "stats": stats, "layers": layers, "conditions": conditions},
        )


def train_and_record(
    trunk: nn.Module,
    net: nn.Module,
    batches: Batches,
    criterion: LossFunction | JointLoss,
    *,
    arm: str,
    iterations: int,
    optimizer: OptimizerFactory | None,
    seed: int | None,
    probe: Mapping[str, Any],
    on_iteration: OnIteration | None = None,
) -> GradientHistory:
    """Train a network under a probe, and give the record its losses.

    Args:
        trunk: The network to record.
        net: The network to train: the trunk, or the trunk with branches.
        batches: Where the batches come from.
        criterion: A loss function or a joint loss.
        arm: For ``on_iteration``, see `TrainingProgress`.
        iterations: Optimizer steps to record.
        optimizer: ``model -> Optimizer``, or None for the default.
        seed: Seeds every generator before the first iteration; None leaves them as they are.
        probe: More arguments of `GradientProbe`.
        on_iteration: Called after each iteration.

    Raises:
        Interrupted: On Ctrl-C; carries what was recorded.
    """
    steps = make_optimizer(optimizer, net)
    if optimizer is None:  # nobody chose its rate: the diagnosis does not judge it
        probe = {**probe, "conditions": {**(probe.get("conditions") or {}), "default_optimizer": True}}
    attached = GradientProbe(trunk, optimizer=steps, iterations=iterations, **probe)
    if seed is not None:
        seed_everything(seed)
    losses: list[Tensor] = []
    inputs: str | None = None
    try:
        with attached:
            for step in train(net, batches, criterion, steps, iterations):
                losses.append(step.loss)
                inputs = kind_of(step.batch[0])
                if on_iteration:
                    on_iteration(TrainingProgress(arm, seed, step.iteration + 1, iterations, step.main, attached))
    except KeyboardInterrupt:
        history = with_losses(attached.history, losses, criterion, seed, inputs)
        stopped = f"interrupted after {history.iterations} of {iterations} iterations"
        raise Interrupted(with_conditions(history, complete=False, stopped=stopped)) from None
    return with_losses(attached.history, losses, criterion, seed, inputs)


def with_losses(
    history: GradientHistory,
    losses: list[Tensor],
    criterion: LossFunction | JointLoss,
    seed: int | None,
    inputs: str | None = None,
) -> GradientHistory:
    """The history with its losses and kind of inputs; it ends at the first loss that is not finite."""
    values = as_floats(losses) if losses else []
    finite = [value if abs(value) < float("inf") else None for value in values]
    more: dict[str, Any] = {"loss": loss_name(criterion), "losses": finite, "seed": seed, "inputs": inputs}
    if reduction := loss_reduction(criterion):
        more["reduction"] = reduction
    if None in finite:
        # what follows means nothing, and would outweigh the rest
        bad = finite.index(None)
        history = _truncated(history, bad + 1)
        more["losses"] = finite[: bad + 1]
        more |= {"complete": False, "stopped": f"the loss became {values[bad]} at iteration {bad}"}
    # the caller's own conditions are kept
    kept = {
        key: history.conditions[key]
        for key in ("loss", "reduction", "seed", "inputs")
        if history.conditions.get(key) is not None
    }
    return with_conditions(history, **(more | kept))


def as_floats(losses: Sequence[Tensor]) -> list[float]:
    """Losses that stayed on the device until now, at least one, as numbers."""
    values: list[float] = torch.stack([loss.float().reshape(()) for loss in losses]).tolist()
    return values


def with_conditions(history: GradientHistory, **more: Any) -> GradientHistory:
    """The history with more conditions, or others in place of those of the same names."""
    return replace(history, conditions={**history.conditions, **more})


def _truncated(history: GradientHistory, iterations: int) -> GradientHistory:
    kept = history.frame[history.frame["iteration"] < iterations].reset_index(drop=True)
    return replace(history, frame=kept)
