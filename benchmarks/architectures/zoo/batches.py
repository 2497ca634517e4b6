"""Batches that are the same each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def seeded(make: Callable[[], Any], seed: int = 7) -> Any:
    """What ``make`` returns with torch's generator set to a seed, and left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def normal(*shape: int) -> Callable[[], Tensor]:
    """A function that draws the same standard normal tensor each time."""
    return lambda: seeded(lambda: torch.randn(shape))


def integers(high: int, *shape: int, seed: int = 11) -> Callable[[], Tensor]:
    """A function that draws the same integers below ``high`` each time."""
    return lambda: seeded(lambda: torch.randint(high, shape), seed)


IDS = {"input_ids": integers(120, 4, 12, seed=3)}
IMAGES = {"pixel_values": normal(4, 3, 32, 32)}
IMAGES64 = {"pixel_values": normal(2, 3, 64, 64)}
FIVE = integers(5, 4)
NEXT = IDS["input_ids"]
