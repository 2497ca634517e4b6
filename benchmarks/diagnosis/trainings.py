"""Trainings that can be continued, and in which one window is recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import gradprobe as gp
from benchmarks.diagnosis.data import circle
from benchmarks.diagnosis.networks import SUBJECTS
from gradprobe.record.history import GradientHistory

GAN = "GAN"
_SCORED_ON = 256


@dataclass(frozen=True)
class Setting:
    """How a network is trained.

    Attributes:
        network: Its name.
        batch: Examples in a batch.
        optimizer: ``"Adam"`` or ``"SGD"``.
        precision: ``"fp32"`` or ``"bf16"``, by autocast.
    """

    network: str
    batch: int
    optimizer: str
    precision: str

    @property
    def cast(self) -> Any:
        """The context of the forward pass."""
        return torch.autocast("cpu", torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()


class Training:
    """The training of one network, from its initialisation.

    Args:
        setting: How it is trained.
    """

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(0)
        self.setting = setting
        self.parts = self.build()

    def build(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
        """The networks with their optimizers, by what is added to the name."""
        subject = SUBJECTS[self.setting.network]
        model = subject.build()
        return {"": (model, subject.optimizer(model, self.setting.optimizer))}

    def step(self) -> None:
        """One iteration."""
        model, optimizer = self.parts[""]
        subject = SUBJECTS[self.setting.network]
        batch = subject.batch(self.setting.batch)
        optimizer.zero_grad()
        with self.setting.cast:
            loss = subject.loss(model, batch)
        loss.backward()
        optimizer.step()

    def score(self) -> float:
        """What share of the task was learned; nothing of the training changes by it."""
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(1)
            for model, _ in self.parts.values():
                model.eval()
            try:
                return self.measure()
            finally:
                for model, _ in self.parts.values():
                    model.train()

    def measure(self) -> float:
        """The score on new examples."""
        subject = SUBJECTS[self.setting.network]
        return subject.score(self.parts[""][0], subject.batch(_SCORED_ON))

    def record(self, windows: Sequence[int]) -> dict[tuple[str, int], GradientHistory]:
        """Train for the longest of some windows, with a probe for each window and network."""
        with contextlib.ExitStack() as stack:
            probes = {
                (part, window): stack.enter_context(
                    gp.GradientProbe(model, optimizer=optimizer, iterations=window)
                )
                for part, (model, optimizer) in self.parts.items()
                for window in windows
            }
            self.run(max(windows))
        return {key: probe.history for key, probe in probes.items()}

    def run(self, iterations: int) -> None:
        """Train."""
        for _ in range(iterations):
            self.step()


class Adversarial(Training):
    """A GAN on points near a circle: the score is the share of what it makes that is near the circle."""

    def build(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
        """Generator and discriminator."""
        maker = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
        critic: list[nn.Module] = [nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2)]
        judge = nn.Sequential(*critic, nn.Linear(64, 1))
        return {name: (net, self._optimizer(net)) for name, net in ((", generator", maker), (", critic", judge))}

    def _optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        if self.setting.optimizer == "Adam":
            return torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.5, 0.999))
        return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.5)

    def step(self) -> None:
        """A step of the critic, then one of the generator."""
        (maker, maker_steps), (judge, judge_steps) = self.parts.values()
        size = self.setting.batch
        ones, zeros = torch.ones(size, 1), torch.zeros(size, 1)
        with self.setting.cast:
            fake = maker(torch.randn(size, 8))
            of_real = binary_cross_entropy_with_logits(judge(circle(size)), ones)
            of_fake = binary_cross_entropy_with_logits(judge(fake.detach()), zeros)
        judge_steps.zero_grad()
        (of_real + of_fake).backward()
        judge_steps.step()
        maker_steps.zero_grad()
        with self.setting.cast:
            loss = binary_cross_entropy_with_logits(judge(fake), ones)
        loss.backward()
        maker_steps.step()

    def measure(self) -> float:
        """The share of the generator's points within .5 of the circle."""
        radius = self.parts[", generator"][0](torch.randn(1000, 8)).norm(dim=1)
        return ((radius - 2).abs() < 0.5).float().mean().item()


def training(setting: Setting) -> Training:
    """The training of a setting."""
    return (Adversarial if setting.network == GAN else Training)(setting)


NETWORKS = (*SUBJECTS, GAN)
