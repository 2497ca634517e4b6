"""The training loop whose steps are timed with and without a probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import gradprobe as gp
from benchmarks.cost.nets import Training

WARM_UP = 3  # steps


def nothing() -> None:
    """Nothing is done after the backward pass."""


class Loop:
    """Training by SGD, warmed up.

    Args:
        training: The network and its batch.
        momentum: Of SGD.
    """

    def __init__(self, training: Training, momentum: float = 0.0) -> None:
        self.training, self.model = training, training.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=momentum)
        for _ in range(WARM_UP):
            self.step()

    def step(self, after_backward: Callable[[], object] = nothing) -> None:
        """One training step."""
        self.optimizer.zero_grad()
        self.training.loss().backward()
        after_backward()
        self.optimizer.step()

    def probe(self, iterations: int, **options: Any) -> gp.GradientProbe:
        """A probe of this training."""
        return gp.GradientProbe(self.model, optimizer=self.optimizer, iterations=iterations, **options)
