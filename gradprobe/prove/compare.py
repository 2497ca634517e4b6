"""Train the same network with and without branches: same weights, same batches, same random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gradprobe.decide.policies import Policy, as_policy, place
from gradprobe.insert.branches import BranchFactory
from gradprobe.insert.loss import BranchLoss
from gradprobe.measure.batches import Source
from gradprobe.measure.loop import OptimizerFactory
from gradprobe.measure.scan import Interrupted, OnIteration, with_conditions
from gradprobe.network.losses import LossFunction
from gradprobe.prove.held_out.measure import HeldOut, MetricFunction
from gradprobe.prove.optimizers import as_factory
from gradprobe.prove.plan import ModelSource, Plan, Supervision, Trainings, build
from gradprobe.prove.repeat import decide_repeatedly
from gradprobe.prove.training import Change, Trained, held_out_facts, train_once
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.verdict.comparison import Comparison, learning_frame
from gradprobe.verdict.judge import PLAIN_AND_SUPERVISED
from gradprobe.verdict.metric import ACCURACY

PLAIN, SUPERVISED = PLAIN_AND_SUPERVISED


def compare(
    model: ModelSource,
    batches: Source,
    loss_fn: LossFunction,
    *,
    placement: Placement | None = None,
    policy: Policy | str | None = None,
    repeat: bool = False,
    iterations: int = 300,
    window: int = 50,
    seeds: Sequence[int] = (0,),
    optimizer: OptimizerFactory | torch.optim.Optimizer | None = None,
    held_out: Source | None = None,
    metric: str | MetricFunction | None = None,
    branch: str | BranchFactory = "auto",
    weight: float = 0.3,
    schedule: str = "cnds",
    branch_loss: BranchLoss = None,
    conditions: Mapping[str, Any] | None = None,
    on_iteration: OnIteration | None = None,
) -> Comparison:
    """Train with and without deep supervision, from equal weights on equal batches, and say whether it helped.

    A model that is an instance is bit-identical afterwards. Without a branch the training ends with the window.

    Args:
        model: A module, or a function that builds one: then each seed has its own initial weights.
        batches: See `gradprobe.scan`.
        loss_fn: ``(output, target) -> scalar``.
        placement: What to try; by default the policy's, from the plain arm's own window.
        policy: See `gradprobe.place`.
        repeat: Apply the policy again with the branches in place until it places no new one.
        iterations: Length of each training.
        window: Iterations whose gradients are recorded.
        seeds: One training of both arms for each.
        optimizer: ``model -> Optimizer``, or one of the model, which is copied; SGD with lr 0.01 by default.
        held_out: Batches on which the main output is measured, which then decides instead of the training loss.
        metric: ``"accuracy"`` (by default where the output has a score for each class), ``"loss"`` (else),
            ``"dice"``, ``"mean_iou"``, or ``(output, target) -> number`` (its ``higher_is_better`` counts).
        branch: See `gradprobe.supervise`.
        weight: ``a_0`` of the joint loss.
        schedule: Of the joint loss; it sees the training as 60 equal slices, the paper's number of epochs.
        branch_loss: Of the branches, see `gradprobe.DeepSupervisionLoss`.
        conditions: Facts to keep with the record.
        on_iteration: Called after each iteration, with a `gradprobe.measure.scan.TrainingProgress`.

    Raises:
        TypeError: As `gradprobe.scan`, and if an argument is of a wrong type.
        ValueError: As `gradprobe.scan`, and if an argument is out of range, or the metric cannot be measured.
        Interrupted: Ctrl-C; carries the gradients of the plain training as far as they were recorded.

    Example:
        >>> net, batches = nn.Linear(4, 2), [(torch.randn(16, 4), torch.randint(2, (16,)))]
        >>> compare(net, batches, nn.functional.cross_entropy, iterations=5).verdict
        'nothing to compare'
    """
    lengths, joint = Trainings(iterations, window, seeds), Supervision(branch, weight, schedule, branch_loss)
    measured, factory = HeldOut.checked(held_out, metric, loss_fn), as_factory(optimizer, model, loss_fn)
    plan = Plan.checked(batches, loss_fn, lengths, joint, factory, measured, conditions, on_iteration)
    return _compared(plan, model, _Decision.checked(placement, policy, repeat))


@dataclass(frozen=True)
class _Decision:
    """Where the branches go: as the caller says, or as a policy decides."""

    placement: Placement | None
    policy: Policy | str | None
    repeat: bool

    @classmethod
    def checked(cls, placement: Any, policy: Policy | str | None, repeat: bool) -> _Decision:
        if placement is not None and not isinstance(placement, Placement):
            raise TypeError(
                f"expected placement= to be what gp.place returns, got {type(placement).__name__}: leave it out, "
                "and policy= decides"
            )
        as_policy(policy)
        return cls(placement, policy, repeat)

    def places(self, history: GradientHistory) -> bool:
        """Whether there will be branches; where a policy is repeated, its first round shows that."""
        return bool((self.placement or place(history, self.policy)).points)

    def decide(self, plan: Plan, network: nn.Module, seed: int, history: GradientHistory) -> Placement:
        """Decide from the record of the plain training."""
        if not self.repeat:
            return place(history, self.policy)
        with plan.batches.rewound():
            return decide_repeatedly(plan, network, seed, history, self.policy)


def _compared(plan: Plan, model: ModelSource, decision: _Decision) -> Comparison:
    seeds, placement = plan.trainings.seeds, decision.placement
    trained: dict[tuple[int, str], Trained] = {}
    for seed in seeds:
        network = build(model, seed)
        plain = trained[seed, PLAIN] = train_once(plan, network, seed, goes_on=decision.places)
        if placement is None:
            placement = decision.decide(plan, network, seed, plain.history)
        if not placement.points:
            break
        trained[seed, SUPERVISED] = _supervised(plan, network, seed, placement, plain.history)
        decision = replace(decision, placement=placement)
    assert placement is not None  # seeds is not empty
    supervised = trained.get((seeds[0], SUPERVISED))
    again = place(supervised.history, decision.policy).flagged if supervised else ()
    facts = {
        **held_out_facts({seed: one for (seed, arm), one in trained.items() if arm == PLAIN}),
        "still_flagged": [name for name in placement.flagged if name in again],
        "same_batches": all(one.seen == trained[seed, PLAIN].seen for (seed, _), one in trained.items()),
        "own_weights": not isinstance(model, nn.Module),
    }
    start = trained[seeds[0], PLAIN].start
    return Comparison(
        trained[seeds[0], PLAIN].history,
        supervised.history if supervised else None,
        placement,
        learning_frame(
            [row for (seed, arm), one in trained.items() for row in one.rows(seed, arm)],
            ACCURACY if start is None else start.metric,
        ),
        {**plan.facts(), **facts},
    )


def _supervised(
    plan: Plan, network: nn.Module, seed: int, placement: Placement, plain: GradientHistory
) -> Trained:
    """The training with branches; if it is interrupted, the record of the plain one is kept and says so."""
    try:
        return train_once(plan, network, seed, Change(placement=placement))
    except Interrupted as error:
        stopped = {key: error.history.conditions[key] for key in ("complete", "stopped")}
        raise Interrupted(with_conditions(plain, **stopped)) from None
