"""What a window of fifty iterations tells with the branches in place: leads to where they help."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from gradprobe.insert.loss import DeepSupervisionLoss
from gradprobe.measure.batches import Batches
from gradprobe.measure.probe import GradientProbe
from gradprobe.measure.scan import train
from placement import kept
from placement.policies import WINDOW
from placement.rows import WEIGHT, Key, build
from placement.tasks import TASKS

FILE = kept.FOLDER / "leads.csv"
QUANTITIES = {
    "output": "least-fed layer's share, outputs",
    "weight": "least-fed layer's share, weights",
    "agreement": "agreement of signs",
}


@dataclass(frozen=True)
class Lead:
    """What one window told about one arm.

    Attributes:
        task: Its name.
        arm: Where the branches were.
        seed: As in its row.
        output: Magnitude of the least-fed layer of the trunk as a share of the best-fed one's, outputs.
        weight: The same of the weights.
        agreement: How far the signs of a weight's gradients agree over the batches, 0 to 1: the mean over a
            layer's weights, of the layer where it is least.
    """

    task: str
    arm: str
    seed: int
    output: float
    weight: float
    agreement: float


def lead(task: str, arm: str, seed: int) -> Lead:
    """Train for one window as the row's training begins, and look."""
    net = build(task, arm, seed)
    criterion = DeepSupervisionLoss(nn.functional.cross_entropy, WEIGHT, "constant")
    optimizer = TASKS[task].make_optimizer(net)
    weights = [weight for weight in net.trunk.parameters() if weight.dim() > 1]
    signs = [torch.zeros_like(weight) for weight in weights]
    with GradientProbe(net.trunk, optimizer=optimizer, iterations=WINDOW) as probe:
        for _ in train(net, Batches(TASKS[task].batches(seed)), criterion, optimizer, WINDOW):
            _add_signs(signs, weights)
    shares = [_least(probe, of) for of in ("output", "weight")]
    return Lead(task, arm, seed, *shares, min(float(each.abs().mean()) / WINDOW for each in signs))


def _add_signs(signs: list[Tensor], weights: list[Tensor]) -> None:
    for total, weight in zip(signs, weights, strict=True):
        if weight.grad is not None:
            total += weight.grad.sign()


def _least(probe: GradientProbe, of: str) -> float:
    magnitudes = probe.history.aggregate(of, "median")
    largest = float(magnitudes.max())
    return float(magnitudes.min()) / largest if 0 < largest < math.inf else 0.0


class Leads:
    """The leads that were followed, kept in a CSV file as they come."""

    def __init__(self, path: Path = FILE) -> None:
        self.path = path
        self.found: dict[Key, Lead] = {}
        for line in kept.lines(path):
            numbers = (float(line[name]) for name in QUANTITIES)
            self._keep(Lead(line["task"], line["arm"], int(line["seed"]), *numbers))

    def add(self, lead: Lead) -> None:
        """Keep one, in the file too."""
        kept.append(self.path, [field.name for field in fields(Lead)], astuple(lead))
        self._keep(lead)

    def _keep(self, lead: Lead) -> None:
        self.found[lead.task, lead.arm, lead.seed] = lead
