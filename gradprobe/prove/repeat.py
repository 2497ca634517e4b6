"""A policy applied again with the branches in place, until it places no new one: the policy ``repeated``."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from gradprobe.decide.policies import Policy, place
from gradprobe.insert.branches import BranchFactory
from gradprobe.insert.loss import BranchLoss
from gradprobe.insert.supervise import supervise
from gradprobe.measure.batches import Batches, Source
from gradprobe.measure.loop import OptimizerFactory, in_training
from gradprobe.measure.scan import OnIteration, scan, train_and_record
from gradprobe.network.losses import LossFunction
from gradprobe.network.preserve import seed_everything
from gradprobe.prove.plan import Plan, Supervision, Trainings
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement


def place_repeatedly(
    model: nn.Module,
    batches: Source,
    loss_fn: LossFunction,
    iterations: int = 50,
    *,
    policy: Policy | str | None = None,
    branch: str | BranchFactory = "auto",
    weight: float = 0.3,
    optimizer: OptimizerFactory | None = None,
    seed: int = 0,
    rounds: int = 10,
    history: GradientHistory | None = None,
    on_iteration: OnIteration | None = None,
    branch_loss: BranchLoss = None,
) -> Placement:
    """Apply a policy again with the branches in place until it places no new one.

    Our reading of how CNDS-13 comes to branches after conv 4, 7 and 10: each round scans the supervised
    network from the same initial weights. The joint loss keeps its first weight throughout.

    Args:
        model: Any module; bit-identical afterwards.
        batches: See `gradprobe.scan`.
        loss_fn: See `gradprobe.scan`.
        iterations: Window of each round.
        policy: See `gradprobe.place`.
        branch: See `gradprobe.supervise`.
        weight: Weight of the branches' losses.
        optimizer: See `gradprobe.scan`.
        seed: Seeds each round.
        rounds: At most this many.
        history: The record without branches, if it was taken already.
        on_iteration: See `gradprobe.scan`; called in the rounds with branches.
        branch_loss: Of the branches, see `gradprobe.DeepSupervisionLoss`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> batches = [(torch.randn(16, 4), torch.randint(2, (16,)))]
        >>> placement = place_repeatedly(net, batches, nn.functional.cross_entropy, iterations=2)
        >>> len(placement.points)
        0
    """
    source = Batches(batches)
    first = history or scan(model, source.once, loss_fn, iterations, optimizer=optimizer, seed=seed)
    trainings = Trainings(iterations, iterations, (seed,))
    supervision = Supervision(branch, weight, branch_loss=branch_loss)
    plan = Plan(source, loss_fn, trainings, supervision, optimizer, on_iteration=on_iteration)
    return decide_repeatedly(plan, model, seed, first, policy, rounds)


def decide_repeatedly(
    plan: Plan,
    model: nn.Module,
    seed: int,
    history: GradientHistory,
    policy: Policy | str | None = None,
    rounds: int = 10,
) -> Placement:
    """What `place_repeatedly` decides, from the record without branches and windows as the plan has them."""
    placement = place(history, policy)
    reasons = [placement.reason]
    for _ in range(rounds):
        if not placement.points:
            break
        again = place(_scan_supervised(plan, model, seed, placement), policy)
        new = [point for point in again.points if point not in placement.points]
        reasons.append(f"With {'it' if len(placement.points) == 1 else 'them'} in place: {again.reason}")
        if not new:
            break
        union = sorted({*placement.points, *new}, key=lambda point: point.depth)
        placement = replace(placement, points=tuple(union))
    return replace(placement, policy=f"{placement.policy}, repeated", reason=" ".join(reasons))


def _scan_supervised(plan: Plan, model: nn.Module, seed: int, placement: Placement) -> GradientHistory:
    """Scan the trunk with the placement's branches and the joint loss; the trunk is left as it was."""
    with in_training(model, plan.losses):
        seed_everything(seed)
        net = supervise(model, placement, branch=plan.supervision.branch)
        return train_and_record(
            model,
            net,
            plan.batches,
            replace(plan.supervision, schedule="constant").criterion(plan.loss_fn),
            arm="repeated",
            iterations=plan.trainings.window,
            optimizer=plan.optimizer,
            seed=seed,
            probe={},
            on_iteration=plan.on_iteration,
        )
