"""A short training run under a probe that leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.batches import Batches, Source, kind_of
from gradprobe.branches import BranchFactory
from gradprobe.door import check_loss_fn, check_trainable
from gradprobe.history import GradientHistory
from gradprobe.loop import OptimizerFactory, in_training, make_optimizer, train
from gradprobe.loss import DeepSupervisionLoss, LossFunction
from gradprobe.policies import Placement, Policy, place
from gradprobe.probe import GradientProbe
from gradprobe.snapshot import seed_everything
from gradprobe.supervision import supervise


@dataclass(frozen=True)
class Reached:
    """How far a training is: what ``on_iteration`` is called with. Nothing of it has left the device.

    Attributes:
        arm: ``"plain"``, ``"supervised"``, or ``"repeated"`` in a round of `place_repeatedly`.
        seed: Of this training.
        done: Iterations done.
        total: Of so many.
        loss: The main output's at the last of them, detached.
        probe: What records it.
    """

    arm: str
    seed: int | None
    done: int
    total: int
    loss: Tensor
    probe: GradientProbe


OnIteration = Callable[[Reached], None]


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
    """Train a little under a probe and give back the record; the model is bit-identical afterwards.

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
        on_iteration: Called after each iteration, with a `Reached`.

    Raises:
        TypeError: The loss is no function or not a scalar tensor, or a batch is no ``(inputs, target)``.
        ValueError: Nothing can be trained, or there are no batches.
        Interrupted: Ctrl-C; carries what was recorded.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> batches = [(torch.randn(16, 4), torch.randint(2, (16,)))]
        >>> history = scan(net, batches, nn.functional.cross_entropy, iterations=10)
        >>> history.iterations, history.conditions["batch_size"]
        (10, 16)
    """
    check_trainable(model)
    check_loss_fn(loss_fn)
    with in_training(model):
        return _record(
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


def place_repeatedly(
    model: nn.Module,
    batches: Source,
    loss_fn: LossFunction,
    iterations: int = 50,
    *,
    policy: Policy | None = None,
    branch: str | BranchFactory = "auto",
    weight: float = 0.3,
    optimizer: OptimizerFactory | None = None,
    seed: int = 0,
    rounds: int = 10,
    history: GradientHistory | None = None,
    on_iteration: OnIteration | None = None,
) -> Placement:
    """Apply a policy again with the branches in place until it places no new one.

    Our reading of how CNDS-13 comes to branches after conv 4, 7 and 10: each round scans the supervised
    network from the same initial weights. The joint loss keeps its first weight throughout.

    Args:
        model: Any module; bit-identical afterwards.
        batches: See `scan`.
        loss_fn: See `scan`.
        iterations: Window of each round.
        policy: CNDS' rule by default.
        branch: See `gradprobe.supervise`.
        weight: Weight of the branches' losses.
        optimizer: See `scan`.
        seed: Seeds each round.
        rounds: At most so many.
        history: The record without branches, if it was taken already.
        on_iteration: See `scan`; called in the rounds with branches.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> batches = [(torch.randn(16, 4), torch.randint(2, (16,)))]
        >>> placement = place_repeatedly(net, batches, nn.functional.cross_entropy, iterations=2)
        >>> len(placement.points)
        0
    """
    source = Batches(batches)
    first = history or scan(model, source.once, loss_fn, iterations, optimizer=optimizer, seed=seed)
    placement = place(first, policy)
    said = [placement.reason]
    for _ in range(rounds):
        if not placement.points:
            break
        again = scan_supervised(
            model,
            placement,
            source,
            loss_fn,
            iterations,
            branch=branch,
            weight=weight,
            optimizer=optimizer,
            seed=seed,
            on_iteration=on_iteration,
        )
        found = place(again, policy)
        new = [point for point in found.points if point not in placement.points]
        said.append(f"With {'it' if len(placement.points) == 1 else 'them'} in place: {found.reason}")
        if not new:
            break
        union = sorted({*placement.points, *new}, key=lambda point: point.depth)
        placement = replace(placement, points=tuple(union))
    return replace(placement, policy=f"{placement.policy}, repeated", reason=" ".join(said))


def scan_supervised(
    model: nn.Module,
    placement: Placement,
    batches: Batches,
    loss_fn: LossFunction,
    iterations: int,
    *,
    branch: str | BranchFactory,
    weight: float,
    optimizer: OptimizerFactory | None,
    seed: int,
    on_iteration: OnIteration | None = None,
) -> GradientHistory:
    """Scan the trunk with the placement's branches and the joint loss; the trunk is left as it was."""
    with in_training(model):
        seed_everything(seed)
        net = supervise(model, placement, branch=branch)
        criterion = DeepSupervisionLoss(loss_fn, weight, "constant")
        return _record(
            model,
            net,
            batches,
            criterion,
            arm="repeated",
            iterations=iterations,
            optimizer=optimizer,
            seed=seed,
            probe={},
            on_iteration=on_iteration,
        )


def _record(
    trunk: nn.Module,
    net: nn.Module,
    batches: Batches,
    criterion: LossFunction,
    *,
    arm: str,
    iterations: int,
    optimizer: OptimizerFactory | None,
    seed: int | None,
    probe: Mapping[str, Any],
    on_iteration: OnIteration | None = None,
) -> GradientHistory:
    steps = make_optimizer(optimizer, net)
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
                    on_iteration(Reached(arm, seed, step.iteration + 1, iterations, step.main, attached))
    except KeyboardInterrupt:
        history = concluded(attached.history, losses, criterion, seed, inputs)
        stopped = f"interrupted after {history.iterations} of {iterations} iterations"
        raise Interrupted(_with_conditions(history, complete=False, stopped=stopped)) from None
    return concluded(attached.history, losses, criterion, seed, inputs)


def concluded(
    history: GradientHistory,
    losses: list[Tensor],
    criterion: LossFunction,
    seed: int | None,
    inputs: str | None = None,
) -> GradientHistory:
    """The history with its losses and kind of inputs; it ends at the first loss not finite, and says so."""
    values = torch.stack([loss.float().reshape(()) for loss in losses]).tolist() if losses else []
    finite = [value if abs(value) < float("inf") else None for value in values]
    found: dict[str, Any] = {"loss": loss_name(criterion), "losses": finite, "seed": seed, "inputs": inputs}
    if None in finite:
        # what comes behind says nothing more, and would outweigh the rest
        bad = finite.index(None)
        history = _truncated(history, bad + 1)
        found["losses"] = finite[: bad + 1]
        found |= {"complete": False, "stopped": f"the loss became {values[bad]} at iteration {bad}"}
    said = ("loss", "seed", "inputs")  # by the caller: that stands
    given = {key: history.conditions[key] for key in said if history.conditions.get(key) is not None}
    return _with_conditions(history, **(found | given))


def _with_conditions(history: GradientHistory, **more: Any) -> GradientHistory:
    return replace(history, conditions={**history.conditions, **more})


def _truncated(history: GradientHistory, iterations: int) -> GradientHistory:
    kept = history.frame[history.frame["iteration"] < iterations].reset_index(drop=True)
    return replace(history, frame=kept)


def loss_name(criterion: Any) -> str:
    """What to call a loss function in a record: its name, and its reduction where it tells one.

    Example:
        >>> loss_name(nn.CrossEntropyLoss()), loss_name(nn.functional.cross_entropy)
        ('CrossEntropyLoss (mean)', 'cross_entropy')
    """
    if isinstance(criterion, DeepSupervisionLoss):
        return f"{loss_name(criterion.loss_fn)} + {criterion.initial:g} x branches"
    reduction = getattr(criterion, "reduction", None)
    name = getattr(criterion, "__name__", type(criterion).__name__)
    return f"{name} ({reduction})" if isinstance(reduction, str) else str(name)
