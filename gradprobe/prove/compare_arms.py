"""Train a network with several arms: policies and remedies, on the same seeds and batches, on any engine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from gradprobe.decide.policies import named_policy, place
from gradprobe.insert.branches import BranchFactory
from gradprobe.insert.loss import BranchLoss
from gradprobe.measure.batches import Source
from gradprobe.measure.loop import OptimizerFactory
from gradprobe.measure.scan import Interrupted, with_conditions
from gradprobe.network.losses import LossFunction
from gradprobe.prove.engines import Engine, open_engine
from gradprobe.prove.held_out.measure import HeldOut, MetricFunction
from gradprobe.prove.jobs import Job, JobResult
from gradprobe.prove.optimizers import as_factory
from gradprobe.prove.plan import ModelSource, Plan, Supervision, Trainings, build
from gradprobe.prove.repeat import decide_repeatedly
from gradprobe.prove.training import Change, Trained, held_out_facts, train_once
from gradprobe.prove.trials import decide_by_trials
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.verdict.arm import (
    AUTO,
    BRANCHES,
    DEFAULT_ARMS,
    DIAGNOSIS,
    NONE,
    POLICY_ARMS,
    REMEDIES,
    Arm,
    chosen_arms,
)
from gradprobe.verdict.arms_comparison import ArmsComparison
from gradprobe.verdict.comparison import learning_frame
from gradprobe.verdict.metric import ACCURACY

TRAIN_TO_DECIDE = ("repeated", AUTO)  # the other policies need the record alone
_POLICY_OF = {DIAGNOSIS: AUTO}  # by the record alone
BY_DIAGNOSIS = (DIAGNOSIS, AUTO)  # what these decide is an arm of its own, and has its name
OnTraining = Callable[[str, int, int], None]
ArmAndSeed = tuple[str, int]
Key = TypeVar("Key")


def compare_arms(  # noqa: D417, the others are those of `compare`
    model: ModelSource,
    batches: Source,
    loss_fn: LossFunction,
    arms: Iterable[str] = DEFAULT_ARMS,
    *,
    iterations: int = 300,
    window: int = 50,
    seeds: Sequence[int] = (0, 1, 2),
    optimizer: OptimizerFactory | Optimizer | None = None,
    held_out: Source | None = None,
    metric: str | MetricFunction | None = None,
    branch: str | BranchFactory = "auto",
    weight: float = 0.3,
    schedule: str = "cnds",
    branch_loss: BranchLoss = None,
    engine: str = "serial",
    jobs: int | None = None,
    conditions: Mapping[str, Any] | None = None,
    on_training: OnTraining | None = None,
) -> ArmsComparison:
    """Train a network with several arms and say which one to use, and how sure that is.

    All arms of a seed have the same initial weights (before a remedy changes them), batches and random numbers.
    Each training has one thread of torch: on a processor, all engines agree bit for bit. A policy decides once, on
    the first seed. What fails is tried once more. The rest is as in `gradprobe.compare`.

    Args:
        batches: See `gradprobe.scan`. Another process can be sent a list, a loader or a function.
        arms: ``"none"`` (always there); ``"diagnosis"`` (the remedy that the diagnosis names) and ``"auto"``
            (`gradprobe.place_by_trials`): what these decide is an arm with a name of its own; the policies
            ``"branches"`` (where they are usual), ``"cnds"`` (1e-7), ``"repeated"`` (again with the branches in
            place), ``"relative"``, ``"every"`` (a branch at every point); and the remedies, by their names in
            `gradprobe.remedies`.
        engine: ``"serial"``: one training after the other, here. ``"processes"``: several at a time, each in a
            process of its own. ``"ray"``: on the Ray cluster that is running, or that of ``RAY_ADDRESS``.
        jobs: How many at a time: one for each core by default, on Ray as many as the cluster takes.
        on_training: Called with what is done, how many trainings and decisions are, and of how many.

    Raises:
        TypeError: As `gradprobe.compare`, and if something cannot be sent to another process.
        ValueError: As `gradprobe.compare`, and if there is no such arm or engine.
        RuntimeError: If no training of the network as it is ended well, so that there is nothing to compare to.
        ImportError: If what the engine needs is not installed; the message has the install line.
        ConnectionError: If no Ray cluster is running.
        Interrupted: Ctrl-C; carries the gradients of the network as it is, as far as they were recorded.

    Example:
        >>> net, batches = nn.Linear(4, 2), [(torch.randn(16, 4), torch.randint(2, (16,)))]
        >>> result = compare_arms(net, batches, nn.functional.cross_entropy, ["cnds"], iterations=5, seeds=[0])
        >>> result.best, [arm.did for arm in result.arms]
        ('none', ['as it is', 'no branch: same as none'])
    """
    names = chosen_arms(arms)
    lengths, joint = Trainings(iterations, window, seeds), Supervision(branch, weight, schedule, branch_loss)
    measured, factory = HeldOut.checked(held_out, metric, loss_fn), as_factory(optimizer, model, loss_fn)
    plan = Plan.checked(batches, loss_fn, lengths, joint, factory, measured, conditions)
    gpus = float(any(parameter.is_cuda for parameter in build(model, seeds[0]).parameters()))
    with open_engine(engine, jobs, gpus) as running:
        return _compared(plan, model, names, _Runner(running, on_training))


class _Runner:
    """Runs jobs on an engine and reports how many are done; a job is known by its key."""

    def __init__(self, engine: Engine, on_training: OnTraining | None) -> None:
        self._engine, self._report = engine, on_training or (lambda what, done, total: None)
        self._done = 0
        self.total = 0

    def run(self, what: str, jobs: Mapping[Key, Job], describe: Callable[[Key], str]) -> dict[Key, JobResult]:
        keys = list(jobs)

        def on_done(position: int) -> None:
            self._done += 1
            self._report(describe(keys[position]), self._done, self.total)

        if keys:
            self._report(what, self._done, self.total)
        return dict(zip(keys, self._engine.run(list(jobs.values()), on_done), strict=True))


class _Timed(NamedTuple):
    trained: Trained
    seconds: float


class _Decided(NamedTuple):
    placement: Placement
    windows: float  # of training that the decision took


def _compared(plan: Plan, model: ModelSource, names: Sequence[str], runner: _Runner) -> ArmsComparison:
    seeds = plan.trainings.seeds
    # as if no two arms did the same; the trainings of those that do are subtracted later
    runner.total = len(names) * len(seeds) + sum(name in TRAIN_TO_DECIDE for name in names)
    results = runner.run("training", _trainings(plan, model, [Arm(NONE)]), _describe)
    seed, plain = _first_plain(results, seeds)
    try:
        decisions = _decisions(plan, model, names, plain.history, seed, runner)
        arms = _mark_alike([arm for name in names for arm in _arms_of(name, names, decisions)])
        new = [arm for arm in arms if arm.name != NONE and arm.like is None and not arm.failed]
        runner.total += (1 + len(new) - len(names)) * len(seeds)
        results |= runner.run("training", _trainings(plan, model, new, plain.history), _describe)
    except KeyboardInterrupt:
        stopped = "interrupted while other arms were trained"
        raise Interrupted(with_conditions(plain.history, complete=False, stopped=stopped)) from None
    trained = {key: result.value.trained for key, result in results.items() if result.failure is None}
    facts = {
        **held_out_facts({seed: one for (name, seed), one in trained.items() if name == NONE}),
        "same_batches": _same_batches(trained),
        "own_weights": not isinstance(model, nn.Module),
    }
    return ArmsComparison(
        plain.history,
        tuple(_with_costs(arm, results) for arm in arms),
        learning_frame(
            [row for (name, seed), one in trained.items() for row in one.rows(seed, name)],
            ACCURACY if plain.start is None else plain.start.metric,
        ),
        {**plan.facts(), **facts},
    )


def _trainings(
    plan: Plan, model: ModelSource, arms: Iterable[Arm], history: GradientHistory | None = None
) -> dict[ArmAndSeed, Job]:
    changes = {
        arm.name: Change.by_name(arm.remedy, arm.placement if arm.points else None, history) for arm in arms
    }
    return {
        (name, seed): partial(_train, plan, model, seed, change)
        for name, change in changes.items()
        for seed in plan.trainings.seeds
    }


def _describe(training: ArmAndSeed) -> str:
    name, seed = training
    return f"{name}, seed {seed}"


def _train(plan: Plan, model: ModelSource, seed: int, change: Change) -> _Timed:
    with _one_thread():
        started = time.perf_counter()
        trained = train_once(plan, build(model, seed), seed, change)
        return _Timed(trained, time.perf_counter() - started)


def _decisions(
    plan: Plan, model: ModelSource, names: Sequence[str], history: GradientHistory, seed: int, runner: _Runner
) -> dict[str, JobResult]:
    """What each policy decides: from the record of the network as it is, or by training a little."""
    policies = [name for name in names if name in POLICY_ARMS]
    placed = {
        name: JobResult(_Decided(place(history, named_policy(_POLICY_OF.get(name, name))), windows=0.0))
        for name in policies
        if name not in TRAIN_TO_DECIDE
    }
    jobs = {
        name: partial(_decide, plan, model, name, history, seed) for name in policies if name in TRAIN_TO_DECIDE
    }
    return placed | runner.run("deciding", jobs, "deciding {}".format)


def _decide(plan: Plan, model: ModelSource, name: str, history: GradientHistory, seed: int) -> _Decided:
    """What a policy decides that has to train for it."""
    iterations = 0

    def count(*_: Any) -> None:
        nonlocal iterations
        iterations += 1

    with _one_thread(), plan.batches.rewound():
        network = build(model, seed)
        if name == AUTO:
            placement = decide_by_trials(plan, network, seed, history, on_iteration=count)
        else:
            placement = decide_repeatedly(replace(plan, on_iteration=count), network, seed, history)
    return _Decided(placement, iterations / plan.trainings.window)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of torch: how a sum is divided among several changes its last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first_plain(results: Mapping[ArmAndSeed, JobResult], seeds: Sequence[int]) -> tuple[int, Trained]:
    """The first seed on which the network as it is was trained without failing, and what that gave."""
    plain = {seed: results[NONE, seed] for seed in seeds}
    for seed, result in plain.items():
        if result.failure is None:
            return seed, result.value.trained
    first = plain[seeds[0]]
    sentence = "no training of the network as it is ended well, so there is nothing to compare to"
    raise RuntimeError(f"{sentence}: {first.failure}") from first.error


def _arms_of(name: str, names: Sequence[str], decisions: Mapping[str, JobResult]) -> Iterator[Arm]:
    """The arm of a name; for what decides after the diagnosis the arm that it decided on, by that one's name.

    So a comparison says which remedy to use, and never "use auto".
    """
    if name not in decisions:
        yield Arm(name, remedy=name if name in REMEDIES else None)
        return
    decided = _decided_arm(name, decisions[name])
    called = decided.remedy or (BRANCHES if decided.points else None)
    is_new = name in BY_DIAGNOSIS and called is not None and called not in names
    if is_new and not (name == AUTO and _decides(DIAGNOSIS, called, decisions)):
        yield Arm(str(called), None if decided.remedy else decided.placement, decided.remedy)
    if not is_new or name == AUTO:  # what a decision by trials cost is told
        yield decided


def _decides(name: str, called: str | None, decisions: Mapping[str, JobResult]) -> bool:
    """Whether a policy is asked too, and decides on the same arm."""
    if name not in decisions or decisions[name].failure is not None:
        return False
    placement = decisions[name].value.placement
    return called == (placement.remedy or (BRANCHES if placement.points else None))


def _decided_arm(name: str, result: JobResult) -> Arm:
    if result.failure is not None:
        return Arm(name, failed={"deciding": result.failure})
    placement, windows = result.value
    return Arm(name, placement, placement.remedy, windows=windows)


def _mark_alike(arms: Sequence[Arm]) -> list[Arm]:
    """The arms; one that does the same as another has the name of that one in `Arm.like`.

    That other one is an arm that says what it does, if there is one, else the first.
    """
    first: dict[Any, str] = {}
    for arm in sorted(arms, key=lambda arm: arm.name in BY_DIAGNOSIS):
        first.setdefault(_change_of(arm), arm.name)
    return [
        arm if arm.failed or first[_change_of(arm)] == arm.name else replace(arm, like=first[_change_of(arm)])
        for arm in arms
    ]


def _change_of(arm: Arm) -> Any:
    return arm.name if arm.failed else (arm.remedy, tuple(point.name for point in arm.points))


def _with_costs(arm: Arm, results: Mapping[ArmAndSeed, JobResult]) -> Arm:
    """An arm with what its own trainings cost, and why some of them failed."""
    own = {seed: result for (name, seed), result in results.items() if name == arm.name}
    failed = {f"seed {seed}": result.failure for seed, result in own.items() if result.failure is not None}
    seconds = [result.value.seconds for result in own.values() if result.failure is None]
    return replace(arm, seconds=median(seconds) if seconds else None, failed={**arm.failed, **failed})


def _same_batches(trained: Mapping[ArmAndSeed, Trained]) -> bool:
    """Whether all arms of each seed saw the same."""
    seen = {(seed, one.seen) for (_, seed), one in trained.items()}
    return len(seen) == len({seed for seed, _ in seen})
