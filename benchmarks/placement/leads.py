"""Leads: numbers of one window with the branches in place, which might show early where branches help."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.placement import records
from benchmarks.placement.policies import WINDOW
from benchmarks.placement.rows import WEIGHT, Key, build
from benchmarks.placement.tasks import TASKS
from gradprobe.insert.loss import DeepSupervisionLoss
from gradprobe.measure.batches import Batches
from gradprobe.measure.loop import train
from gradprobe.measure.probe import GradientProbe

FILE = records.FOLDER / "leads.csv"
QUANTITIES = {
    "output": "smallest layer's share of the largest, outputs",
    "weight": "smallest layer's share of the largest, weights",
    "agreement": "agreement of signs",
}


@dataclass(frozen=True)
class Lead:
    """The numbers of one window with one arm.

    Attributes:
        task: Its name.
        arm: Where the branches were.
        seed: As in the row of this training.
        output: The smallest magnitude of a layer of the trunk as a share of the largest, outputs.
        weight: The same for the weights.
        agreement: How far the signs of a weight's gradients agree over the batches, 0 to 1: the mean over the
            weights of a layer, in the layer where it is smallest.
    """

    task: str
    arm: str
    seed: int
    output: float
    weight: float
    agreement: float

    @property
    def key(self) -> Key:
        """Task, arm and seed."""
        return self.task, self.arm, self.seed


def lead(task: str, arm: str, seed: int) -> Lead:
    """Train for one window, as the training of the row begins, and measure."""
    net = build(task, arm, seed)
    criterion = DeepSupervisionLoss(nn.functional.cross_entropy, WEIGHT, "constant")
    optimizer = TASKS[task].make_optimizer(net)
    weights = [weight for weight in net.trunk.parameters() if weight.dim() > 1]
    signs = [torch.zeros_like(weight) for weight in weights]
    with GradientProbe(net.trunk, optimizer=optimizer, iterations=WINDOW) as probe:
        for _ in train(net, Batches(TASKS[task].batches(seed)), criterion, optimizer, WINDOW):
            _add_signs(signs, weights)
    shares = [_smallest_share(probe, of) for of in ("output", "weight")]
    agreement = min(float(total.abs().mean()) / WINDOW for total in signs)
    return Lead(task, arm, seed, *shares, agreement)


def _add_signs(signs: list[Tensor], weights: list[Tensor]) -> None:
    for total, weight in zip(signs, weights, strict=True):
        if weight.grad is not None:
            total += weight.grad.sign()


def _smallest_share(probe: GradientProbe, of: str) -> float:
    magnitudes = probe.history.aggregate(of, "median")
    largest = float(magnitudes.max())
    return float(magnitudes.min()) / largest if 0 < largest < math.inf else 0.0


class Leads:
    """The leads that were measured, in a CSV file that each is added to."""

    def __init__(self, path: Path = FILE) -> None:
        self.path = path
        self.by_key: dict[Key, Lead] = {}
        for line in records.read(path):
            numbers = (float(line[name]) for name in QUANTITIES)
            lead = Lead(line["task"], line["arm"], int(line["seed"]), *numbers)
            self.by_key[lead.key] = lead

    def add(self, lead: Lead) -> None:
        """Add a lead, in the file too."""
        records.append(self.path, [field.name for field in fields(Lead)], astuple(lead))
        self.by_key[lead.key] = lead
