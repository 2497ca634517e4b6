"""Train the same network with and without branches: same weights, same batches, same random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradprobe.batches import Batches, Source, fingerprint, forward, kind_of, to_device
from gradprobe.branches import BranchFactory, check_branch
from gradprobe.comparison import Comparison, learning_frame
from gradprobe.door import check_loss_fn, check_trainable, check_trainings
from gradprobe.history import GradientHistory
from gradprobe.layers import main_tensor
from gradprobe.loop import OptimizerFactory, make_optimizer, shapes_told, train
from gradprobe.loss import DeepSupervisionLoss, LossFunction
from gradprobe.policies import Placement, Policy, as_policy, place
from gradprobe.probe import GradientProbe
from gradprobe.scanning import Interrupted, OnIteration, Reached, concluded, loss_name, place_repeatedly
from gradprobe.snapshot import preserved, seed_everything
from gradprobe.supervision import supervise

ModelSource = nn.Module | Callable[[], nn.Module]
EPOCHS = 60  # the paper's N: the schedule sees the run as so many equal slices
CHECKPOINTS = 10


@dataclass(frozen=True)
class _Arm:
    """What one training of one arm gave."""

    history: GradientHistory
    losses: list[float]
    accuracies: dict[int, float]
    seen: float


@dataclass(frozen=True)
class _Plan:
    """What both arms share."""

    batches: Batches
    loss_fn: LossFunction
    iterations: int
    window: int
    optimizer: OptimizerFactory | None
    held_out: Batches | None
    weight: float
    schedule: str
    branch: str | BranchFactory
    conditions: Mapping[str, Any]
    on_iteration: OnIteration | None


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
        on_iteration: Called after each iteration of each training, with a `gradprobe.scanning.Reached`.

    Raises:
        TypeError: As `gradprobe.scan`, and for a placement, policy or seeds that are none.
        ValueError: As `gradprobe.scan`, and for a length, seeds, schedule, weight or branch that cannot be.
        Interrupted: Ctrl-C; carries the gradients of the plain training as far as they were recorded.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> batches = [(torch.randn(16, 4), torch.randint(2, (16,)))]
        >>> compare(net, batches, nn.functional.cross_entropy, iterations=5).verdict
        'nothing to compare'
    """
    # before the first training, not behind it
    check_loss_fn(loss_fn)
    check_trainings(iterations, window, seeds)
    check_branch(branch)
    _check_deciding(placement, policy)
    plan = _Plan(
        Batches(batches),
        loss_fn,
        iterations,
        min(window, iterations),
        optimizer,
        None if held_out is None else Batches(held_out, "held_out"),
        weight,
        schedule,
        branch,
        conditions or {},
        on_iteration,
    )
    arms: dict[tuple[int, str], _Arm] = {}
    for seed in seeds:
        built = _build(model, seed)
        arms[seed, "plain"] = plain = _train_arm(plan, built, None, seed)
        if placement is None:
            placement = _decide(plan, built, plain.history, policy, repeat, seed)
        if placement.points:
            try:
                arms[seed, "supervised"] = _train_arm(plan, built, placement, seed)
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


def _build(model: ModelSource, seed: int) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    if not callable(model):
        raise TypeError(f"expected a torch.nn.Module or a function that builds one, got {type(model).__name__}")
    seed_everything(seed)
    built = model()
    check_trainable(built)
    return built


def _decide(
    plan: _Plan, model: nn.Module, history: GradientHistory, policy: Policy | None, repeat: bool, seed: int
) -> Placement:
    if not repeat:
        return place(history, policy)
    return place_repeatedly(
        model,
        plan.batches.once,
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


def _train_arm(plan: _Plan, model: nn.Module, placement: Placement | None, seed: int) -> _Arm:
    arm = "supervised" if placement else "plain"
    check_trainable(model)
    generators = {generator: generator.get_state() for generator in plan.batches.generators()}
    with preserved(model):
        if not model.training:
            model.train()
        seed_everything(seed)
        criterion = DeepSupervisionLoss(plan.loss_fn, plan.weight, plan.schedule, EPOCHS)
        net = supervise(model, placement, branch=plan.branch) if placement else model
        optimizer = make_optimizer(plan.optimizer, net)
        facts = {**plan.conditions, "seed": seed}
        probe = GradientProbe(model, optimizer=optimizer, iterations=plan.window, conditions=facts)
        main: list[Tensor] = []
        inputs: str | None = None
        accuracies: dict[int, float] = {}
        seen = torch.zeros((), dtype=torch.float64)
        try:
            with probe:
                for step in train(
                    net, plan.batches, criterion, optimizer, plan.iterations, seed=1_000_003 * (seed + 1)
                ):
                    main.append(step.main)
                    inputs = kind_of(step.batch[0])
                    seen = seen.to(step.main.device) * 0.9 + fingerprint(step.batch).to(step.main.device)
                    done = step.iteration + 1
                    criterion.epoch = done * EPOCHS // plan.iterations
                    if plan.held_out is not None and _is_checkpoint(done, plan.iterations):
                        accuracies[step.iteration] = accuracy(model, plan.held_out)
                    if plan.on_iteration:
                        plan.on_iteration(Reached(arm, seed, done, plan.iterations, step.main, probe))
        except KeyboardInterrupt:
            history = concluded(probe.history, main[: plan.window], plan.loss_fn, seed, inputs)
            stopped = f"interrupted after {len(main)} of {plan.iterations} iterations of the {arm} training"
            facts = {**history.conditions, "complete": False, "stopped": stopped}
            raise Interrupted(replace(history, conditions=facts)) from None
        finally:
            for generator, state in generators.items():
                generator.set_state(state)
        losses = torch.stack([loss.float().reshape(()) for loss in main]).tolist()
        loss_fn = criterion if placement else plan.loss_fn
        history = concluded(probe.history, main[: plan.window], loss_fn, seed, inputs)
        return _Arm(history, losses, accuracies, float(seen))


def _is_checkpoint(done: int, iterations: int) -> bool:
    return done == iterations or done % max(1, iterations // CHECKPOINTS) == 0


def accuracy(model: nn.Module, held_out: Batches) -> float:
    """Fraction of held-out targets that the largest output names; NaN where that has no meaning.

    The model is in eval mode meanwhile; every module's own flag is put back.

    Example:
        >>> accuracy(nn.Identity(), Batches([(torch.eye(2), torch.tensor([0, 0]))]))
        0.5
    """
    flags = {module: module.training for module in model.modules()}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    right = total = 0
    try:
        model.eval()
        with torch.no_grad():
            for inputs, target in (to_device(batch, device) for batch in held_out.once()):
                with shapes_told(inputs, "held-out batch"):
                    output = main_tensor(forward(model, inputs))
                target = target.get("labels") if isinstance(target, dict) else target
                if output is None or not isinstance(target, Tensor) or not is_classified(output, target):
                    return float("nan")
                right += int((output.argmax(1) == target).sum())
                total += target.numel()
    finally:
        for module, flag in flags.items():
            module.training = flag
    return right / total if total else float("nan")


def is_classified(output: Tensor, target: Any) -> bool:
    """Whether the output has one score for each class and the target names one class for each score vector."""
    return (
        isinstance(target, Tensor)
        and not target.is_floating_point()
        and output.dim() == target.dim() + 1
        and output.shape[:1] + output.shape[2:] == target.shape
    )


def _compared(
    plan: _Plan,
    arms: Mapping[tuple[int, str], _Arm],
    placement: Placement,
    seeds: Sequence[int],
    found: Mapping[str, Any],
) -> Comparison:
    rows = [
        (seed, arm, iteration, loss, trained.accuracies.get(iteration, float("nan")))
        for (seed, arm), trained in arms.items()
        for iteration, loss in enumerate(trained.losses)
    ]
    size, chance = _held_out_facts(plan.held_out)
    conditions = {
        "iterations": plan.iterations,
        "window": plan.window,
        "seeds": list(seeds),
        "weight": plan.weight,
        "schedule": plan.schedule,
        "branch": plan.branch if isinstance(plan.branch, str) else loss_name(plan.branch),
        "held_out": size,
        "chance": chance,
        **found,
    }
    supervised = arms.get((seeds[0], "supervised"))
    return Comparison(
        arms[seeds[0], "plain"].history,
        supervised.history if supervised else None,
        placement,
        learning_frame(rows),
        conditions,
    )


def _held_out_facts(held_out: Batches | None) -> tuple[int, float]:
    """Number of held-out targets, and the share of the commonest: what a constant answer gets."""
    if held_out is None:
        return 0, 0.0
    targets: Iterable[Any] = (target for _, target in held_out.once())
    counted = [
        target.flatten() for target in targets if isinstance(target, Tensor) and not target.is_floating_point()
    ]
    if not counted:
        return 0, 0.0
    together = torch.cat(counted)
    return together.numel(), together.unique(return_counts=True)[1].max().item() / together.numel()
