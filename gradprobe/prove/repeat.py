"""TODO."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from gradprobe.decide.policies import Policy, place
from gradprobe.insert.branches import BranchFactory
from gradprobe.insert.loss import DeepSupervisionLoss
from gradprobe.insert.supervise import supervise
from gradprobe.measure.batches import Batches, Source
from gradprobe.measure.loop import OptimizerFactory, in_training
from gradprobe.measure.scan import OnIteration, scan, train_and_record
from gradprobe.network.losses import LossFunction
from gradprobe.network.preserve import seed_everything
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement


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
        return train_and_record(
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
