"""Train the same network with and without branches: same weights, same batches, same random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from gradprobe.decide.policies import Policy, as_policy, place
from gradprobe.insert.branches import BranchFactory
from gradprobe.measure.batches import Source
from gradprobe.measure.loop import OptimizerFactory
from gradprobe.measure.scan import Interrupted, OnIteration
from gradprobe.network.losses import LossFunction
from gradprobe.prove.repeat import place_repeatedly
from gradprobe.prove.training import Change, ModelSource, Plan, Trained, build, train_once
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.verdict.comparison import Comparison, learning_frame


def compare(
    model: ModelSource,
    batches: Source,
    loss_fn: LossFunction,
    *,
    placement: Placement | None = None,
    policy: Policy | None = None,
    repeat: bool = False,
    iterations: int = 300,
    window: int = 50,
    seeds: Sequence[int] = (0,),
    optimizer: OptimizerFactory | None = None,
    held_out: Source | None = None,
    branch: str | BranchFactory = "auto",
    weight: float = 0.3,
    schedule: str = "cnds",
    conditions: Mapping[str, Any] | None = None,
    on_iteration: OnIteration | None = None,
) -> Comparison:
    """Train with and without deep supervision and say whether it helped.

    Both arms have the same initial weights, the same batches and the same random numbers: every iteration is
    seeded anew, so that a branch which draws (dropout) does not shift what the trunk draws. The schedule sees
    the run as 60 equal slices, the paper's number of epochs. A model that is given as an instance is
    bit-identical afterwards.

    Args:
        model: A module, or a function that builds one: then each seed has its own initial weights.
        batches: See `gradprobe.scan`.
        loss_fn: ``(output, target) -> scalar``.
        placement: What to try; by default the policy's, from the plain arm's own window.
        policy: CNDS' rule by default.
        repeat: Apply the policy again with the branches in place until it places no new one.
        iterations: Length of each training.
        window: Iterations whose gradients are recorded.
        seeds: One training of both arms for each.
        optimizer: ``model -> Optimizer``; SGD with lr 0.01 by default.
        held_out: Batches on which the accuracy of the main output is taken.
        branch: See `gradprobe.supervise`.
        weight: ``a_0`` of the joint loss.
        schedule: Of the joint loss.
        conditions: Facts to keep with the record.
        on_iteration: Called after each iteration of each training, with a `gradprobe.measure.scan.TrainingProgress`.

    Raises:
        TypeError: As `gradprobe.scan`, and for a placement, policy or seeds that are none.
        ValueError: As `gradprobe.scan`, and for a length, seeds, schedule, weight or branch that cannot be.
        Interrupted: Ctrl-C; carries the gradients of the plain training as far as they were recorded.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> batches = [(torch.randn(16, 4), torch.randint(2, (16,)))]
        >>> compare(net, batches, nn.functional.cross_entropy, iterations=5).verdict
        'nothing to compare'
    """
    plan = Plan.checked(
        batches,
        loss_fn,
        seeds,
        iterations=iterations,
        window=window,
        optimizer=optimizer,
        held_out=held_out,
        branch=branch,
        weight=weight,
        schedule=schedule,
        conditions=conditions,
        on_iteration=on_iteration,
    )
    _check_deciding(placement, policy)
    arms: dict[tuple[int, str], Trained] = {}
    for seed in seeds:
        built = build(model, seed)
        arms[seed, "plain"] = plain = train_once(plan, built, seed)
        if placement is None:
            placement = _decide(plan, built, plain.history, policy, repeat, seed)
        if placement.points:
            try:
                arms[seed, "supervised"] = train_once(plan, built, seed, Change(placement=placement))
            except Interrupted as error:
                stopped = {key: error.history.conditions[key] for key in ("complete", "stopped")}
                history = replace(plain.history, conditions={**plain.history.conditions, **stopped})
                raise Interrupted(history) from None
    assert placement is not None  # seeds is not empty
    supervised = arms.get((seeds[0], "supervised"))
    again = place(supervised.history, policy).flagged if supervised else ()
    found = {
        "still_flagged": [name for name in placement.flagged if name in again],
        "same_batches": all(arm.seen == arms[seed, "plain"].seen for (seed, _), arm in arms.items()),
        "own_weights": not isinstance(model, nn.Module),
    }
    return _compared(plan, arms, placement, seeds, found)


def _check_deciding(placement: Any, policy: Policy | None) -> None:
    if placement is not None and not isinstance(placement, Placement):
        raise TypeError(
            f"expected placement= to be what gp.place returns, got {type(placement).__name__}: leave it out, and "
            "policy= decides"
        )
    as_policy(policy)


def _decide(
    plan: Plan, model: nn.Module, history: GradientHistory, policy: Policy | None, repeat: bool, seed: int
) -> Placement:
    if not repeat:
        return place(history, policy)
    with plan.batches.rewound():
        return place_repeatedly(
            model,
            plan.batches.source,
            plan.loss_fn,
            plan.window,
            policy=policy,
            branch=plan.branch,
            weight=plan.weight,
            optimizer=plan.optimizer,
            seed=seed,
            history=history,
            on_iteration=plan.on_iteration,
        )


def _compared(
    plan: Plan,
    arms: Mapping[tuple[int, str], Trained],
    placement: Placement,
    seeds: Sequence[int],
    found: Mapping[str, Any],
) -> Comparison:
    supervised = arms.get((seeds[0], "supervised"))
    return Comparison(
        arms[seeds[0], "plain"].history,
        supervised.history if supervised else None,
        placement,
        learning_frame([row for (seed, arm), trained in arms.items() for row in trained.rows(seed, arm)]),
        {**plan.facts(seeds), **found},
    )
