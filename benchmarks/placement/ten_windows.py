"""How ``auto`` decided before it went by the diagnosis: trials of every network, within ten windows. A baseline.

The network as it is, LSUV and normalisation; then a branch at the last point and branches at every second one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from gradprobe.measure.batches import Batches
from gradprobe.measure.loop import OptimizerFactory
from gradprobe.measure.scan import as_floats
from gradprobe.network.losses import LossFunction
from gradprobe.prove.plan import Plan, Supervision, Trainings
from gradprobe.prove.remedies import REMEDIES
from gradprobe.prove.training import UNCHANGED, Change, prepared
from gradprobe.prove.trials import BUDGET, Trial
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.record.points import Point

TRIED = ("lsuv", "normalised")


def decide(
    model: nn.Module,
    batches: list[tuple[torch.Tensor, torch.Tensor]],
    loss_fn: LossFunction,
    window: int,
    *,
    branch: str,
    weight: float,
    optimizer: OptimizerFactory,
    seed: int,
    history: GradientHistory,
) -> tuple[Placement, float]:
    """The placement, and how many windows it cost."""
    rest = (BUDGET * window - len(TRIED) * window) // 3
    spent = 0
    plan = Plan(
        Batches(batches), loss_fn, Trainings(rest, window, (seed,)), Supervision(branch, weight), optimizer
    )

    def run(name: str, iterations: int, change: Change) -> Trial:
        nonlocal spent
        spent += iterations
        with prepared(plan, model, seed, change) as training:
            steps = training.steps()
            losses = [next(steps).main for _ in range(iterations)]
        return Trial(name, change.placement.points if change.placement else (), tuple(as_floats(losses)))

    plain = run("none", rest, UNCHANGED)
    best = min((run(name, window, Change(REMEDIES[name])) for name in TRIED), key=Trial.end)
    if best.beats(plain):
        return Placement("trials", (), (), "", remedy=best.name), spent / window
    points = tuple(history.points)
    sets: Mapping[str, tuple[Point, ...]] = {"last": points[-1:], "second": points[::-1][::2][::-1]}
    chosen = {name: one for name, one in sets.items() if one and (name == "last" or len(points) >= 3)}
    placements = {name: Placement(name, (), one, "", **history.output) for name, one in chosen.items()}
    branched = [run(name, rest, Change(placement=one)) for name, one in placements.items()]
    best = min(branched, key=Trial.end, default=plain)
    return Placement("trials", (), best.points if best.beats(plain) else (), ""), spent / window
