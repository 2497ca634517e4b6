"""Train a network with several arms: policies and remedies, on the same seeds and batches, on any engine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, TypeVar

import torch
from torch import nn

from gradprobe.decide.policies import EveryLayerPolicy, RelativePolicy, ThresholdPolicy, place
from gradprobe.insert.branches import BranchFactory
from gradprobe.measure.batches import Source
from gradprobe.measure.loop import OptimizerFactory
from gradprobe.measure.scan import Interrupted
from gradprobe.network.checks import check_trainable
from gradprobe.network.losses import LossFunction
from gradprobe.prove.engines import Engine, Job, JobResult, check, open_engine
from gradprobe.prove.repeat import place_repeatedly
from gradprobe.prove.training import Change, ModelSource, Plan, Trained, build, train_once
from gradprobe.prove.trials import place_by_trials
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.verdict.arm import NONE, POLICIES, REMEDIES, Arm, chosen_arms
from gradprobe.verdict.arms_comparison import ArmsComparison
from gradprobe.verdict.comparison import learning_frame

RULES = {"cnds": ThresholdPolicy, "relative": RelativePolicy, "every": EveryLayerPolicy}  # need the record alone
OnTraining = Callable[[str, int, int], None]
Training = tuple[str, int]  # an arm and a seed
Key = TypeVar("Key")


def compare_arms(
    model: ModelSource,
    batches: Source,
    loss_fn: LossFunction,
    arms: Iterable[str] = (NONE, "cnds", "auto", "kaiming", "lsuv"),
    *,
    iterations: int = 300,
    window: int = 50,
    seeds: Sequence[int] = (0, 1, 2),
    optimizer: OptimizerFactory | None = None,
    held_out: Source | None = None,
    branch: str | BranchFactory = "auto",
    weight: float = 0.3,
    schedule: str = "cnds",
    engine: str = "serial",
    jobs: int | None = None,
    conditions: Mapping[str, Any] | None = None,
    on_training: OnTraining | None = None,
) -> ArmsComparison:
    """Train a network with several arms and say which one to use, and how sure that is.

    All arms of a seed have the same initial weights (before a remedy changes them), the same batches and the same
    random numbers in every iteration, as in `gradprobe.compare`. A policy decides once, on the first seed. An arm
    that does what another does already is not trained again, and the table says so.

    Each training has one thread of torch and depends on nothing but its arm and seed, so on a processor the result
    is the same, bit for bit, on every engine. One that raises, or whose process dies, is tried once more; if it
    fails again the result says which and why, and the others stand.

    Args:
        model: A module, or a function that builds one: then each seed has its own initial weights.
        batches: See `gradprobe.scan`. Another process can be sent a list, a loader or a function.
        loss_fn: ``(output, target) -> scalar``.
        arms: ``"none"`` (which is always there); the policies ``"cnds"`` (the rule of 1e-7), ``"repeated"`` (that
            rule again with the branches in place), ``"relative"``, ``"every"`` (a branch at every point) and
            ``"auto"`` (`gradprobe.place_by_trials`: where it advises a remedy, it trains with that); and the
            remedies ``"kaiming"``, ``"lsuv"`` and ``"normalised"`` of `gradprobe.prove.remedies`.
        iterations: Length of each training.
        window: Iterations whose gradients are recorded.
        seeds: One training of each arm for each.
        optimizer: ``model -> Optimizer``; SGD with lr 0.01 by default.
        held_out: Batches on which the accuracy of the main output is taken.
        branch: See `gradprobe.supervise`.
        weight: ``a_0`` of the joint loss.
        schedule: Of the joint loss.
        engine: ``"serial"``: one training after the other, here. ``"processes"``: several at a time, each in a
            process of its own. ``"ray"``: on the Ray cluster that is running, or that of ``RAY_ADDRESS``.
        jobs: How many at a time: one for each core by default, on Ray as many as the cluster takes.
        conditions: Facts to keep with the record.
        on_training: Called with what is done, how many trainings and decisions are, and of how many.

    Raises:
        TypeError: As `gradprobe.scan`, or something that cannot be sent to another process.
        ValueError: As `gradprobe.scan`, or there is no such arm or engine.
        RuntimeError: No training of the network as it is ended well, so there is nothing to compare to.
        ImportError: What the engine needs is not installed; the message has the install line.
        ConnectionError: No Ray cluster is running.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> batches = [(torch.randn(16, 4), torch.randint(2, (16,)))]
        >>> result = compare_arms(net, batches, nn.functional.cross_entropy, ["cnds"], iterations=5, seeds=[0])
        >>> result.best, [arm.did for arm in result.arms]
        ('none', ['as it is', 'no branch: same as none'])
    """
    names = chosen_arms(arms)
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
    )
    check(engine, jobs)
    first = build(model, seeds[0])
    check_trainable(first)
    gpus = float(any(parameter.is_cuda for parameter in first.parameters()))
    try:
        with open_engine(engine, jobs, gpus) as made:
            return _compared(plan, model, names, seeds, _Runner(made, names, seeds, on_training))
    except Interrupted:  # it carries the record of one training, which is not what was asked for
        raise KeyboardInterrupt from None


class _Runner:
    """Has calls made by an engine and tells how many are done; a call is known by its arm and seed."""

    def __init__(
        self, engine: Engine, names: Sequence[str], seeds: Sequence[int], on_training: OnTraining | None
    ) -> None:
        self._engine, self._tell = engine, on_training or (lambda what, done, total: None)
        self._done = 0
        self.total = len(names) * len(seeds) + sum(name in POLICIES and name not in RULES for name in names)

    def run(self, what: str, calls: Mapping[Key, Job], said: Callable[[Key], str]) -> dict[Key, JobResult]:
        keys = list(calls)

        def on_done(position: int) -> None:
            self._done += 1
            self._tell(said(keys[position]), self._done, self.total)

        if keys:
            self._tell(what, self._done, self.total)
        return dict(zip(keys, self._engine.run(list(calls.values()), on_done), strict=True))


def _compared(
    plan: Plan, model: ModelSource, names: Sequence[str], seeds: Sequence[int], runner: _Runner
) -> ArmsComparison:
    known = [Arm(name, remedy=name if name in REMEDIES else None) for name in names if name not in POLICIES]
    trained = runner.run("training", _trainings(plan, model, known, seeds), _said)
    seed, plain = _plain(trained, seeds)
    decisions = _decisions(plan, model, names, plain.history, seed, runner)
    arms = _told_alike([*known, *(_decided(name, outcome) for name, outcome in decisions.items())])
    new = [arm for arm in arms if arm not in known and arm.placement is not None and arm.like is None]
    runner.total -= (len(arms) - len(known) - len(new)) * len(seeds)
    trained |= runner.run("training", _trainings(plan, model, new, seeds), _said)
    done = {key: outcome.value[0] for key, outcome in trained.items() if outcome.failure is None}
    found = {"same_batches": _same_batches(done), "own_weights": not isinstance(model, nn.Module)}
    return ArmsComparison(
        plain.history,
        tuple(_concluded(arm, trained) for arm in sorted(arms, key=lambda arm: names.index(arm.name))),
        learning_frame([row for (name, seed), one in done.items() for row in one.rows(seed, name)]),
        {**plan.facts(seeds), **found},
    )


def _trainings(plan: Plan, model: ModelSource, arms: Iterable[Arm], seeds: Sequence[int]) -> dict[Training, Job]:
    return {
        (arm.name, seed): partial(_training, plan, model, seed, _change(arm)) for arm in arms for seed in seeds
    }


def _said(training: Training) -> str:
    name, seed = training
    return f"{name}, seed {seed}"


def _change(arm: Arm) -> Change:
    return Change(arm.remedy, arm.placement if arm.points else None)


def _training(plan: Plan, model: ModelSource, seed: int, change: Change) -> tuple[Trained, float]:
    """One training, and the seconds that it took."""
    with _one_thread():
        started = time.perf_counter()
        trained = train_once(plan, build(model, seed), seed, change)
        return trained, time.perf_counter() - started


def _decisions(
    plan: Plan,
    model: ModelSource,
    names: Sequence[str],
    history: GradientHistory,
    seed: int,
    runner: _Runner,
) -> dict[str, JobResult]:
    """What each policy decides: from the record of the network as it is, or by training a little."""
    ruled = {name: JobResult((place(history, RULES[name]()), 0.0)) for name in names if name in RULES}
    trying = [name for name in names if name in POLICIES and name not in RULES]
    calls = {name: partial(_decision, plan, model, name, history, seed) for name in trying}
    return ruled | runner.run("deciding", calls, "deciding {}".format)


def _decision(
    plan: Plan, model: ModelSource, name: str, history: GradientHistory, seed: int
) -> tuple[Placement, float]:
    """What a policy decides that has to train for it, and the windows that it took."""
    done = []
    decide = place_by_trials if name == "auto" else place_repeatedly
    with _one_thread(), plan.batches.rewound():
        placement = decide(
            build(model, seed),
            plan.batches.source,
            plan.loss_fn,
            plan.window,
            branch=plan.branch,
            weight=plan.weight,
            optimizer=plan.optimizer,
            seed=seed,
            history=history,
            on_iteration=lambda *_: done.append(1),
        )
    return placement, len(done) / plan.window


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """With as many threads as there are cores, sums would come out otherwise on another machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _plain(trained: Mapping[Training, JobResult], seeds: Sequence[int]) -> tuple[int, Trained]:
    """The first seed on which the network as it is was trained, and what that gave."""
    outcomes = [(seed, trained[NONE, seed]) for seed in seeds]
    for seed, outcome in outcomes:
        if outcome.failure is None:
            return seed, outcome.value[0]
    why = outcomes[0][1].failure
    raise RuntimeError(f"no training of the network as it is ended well, so there is nothing to compare to: {why}")


def _decided(name: str, outcome: JobResult) -> Arm:
    if outcome.failure is not None:
        return Arm(name, failed={"deciding": outcome.failure})
    placement, windows = outcome.value
    return Arm(name, placement, placement.remedy, windows=windows)


def _told_alike(arms: Sequence[Arm]) -> list[Arm]:
    """The arms, each that does what one before it does marked."""
    first: dict[Any, str] = {}
    told = []
    for arm in arms:
        if "deciding" in arm.failed:
            told.append(arm)
            continue
        does = arm.remedy, tuple(point.name for point in arm.points)
        told.append(replace(arm, like=first.get(does)))
        first.setdefault(does, arm.name)
    return told


def _concluded(arm: Arm, trained: Mapping[Training, JobResult]) -> Arm:
    """An arm with what its own trainings cost, and what failed of them."""
    own = {seed: outcome for (name, seed), outcome in trained.items() if name == arm.name}
    failed = {f"seed {seed}": outcome.failure for seed, outcome in own.items() if outcome.failure is not None}
    seconds = [outcome.value[1] for outcome in own.values() if outcome.failure is None]
    return replace(arm, seconds=median(seconds) if seconds else None, failed={**arm.failed, **failed})


def _same_batches(done: Mapping[Training, Trained]) -> bool:
    """Whether all arms of each seed saw the same."""
    seen = {(seed, trained.seen) for (_, seed), trained in done.items()}
    return len(seen) == len({seed for seed, _ in seen})
