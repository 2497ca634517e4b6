"""Small tasks that a sound network learns in some hundred steps; batches are drawn anew from torch's generator."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor

CLASSES = 5
TOKENS = 40
Batch = tuple[Tensor, Tensor]


def quadrants(size: int, side: int = 16, channels: int = 3, noise: float = 0.3) -> Batch:
    """Noisy images, and which quarter of them is bright; none is the fifth class."""
    labels = torch.randint(0, CLASSES, (size,))
    x = noise * torch.randn(size, channels, side, side)
    half = side // 2
    for image, label in zip(x, labels.tolist(), strict=True):
        if label < 4:
            row, column = half * (label // 2), half * (label % 2)
            image[:, row : row + half, column : column + half] += 1.0
    return x, labels


def masks(size: int, side: int = 16, channels: int = 3) -> Batch:
    """The same images, and which of their pixels are bright, (N, H, W) of 0 and 1."""
    x, labels = quadrants(size, side, channels)
    half = side // 2
    y = torch.zeros(size, side, side, dtype=torch.long)
    for mask, label in zip(y, labels.tolist(), strict=True):
        if label < 4:
            row, column = half * (label // 2), half * (label % 2)
            mask[row : row + half, column : column + half] = 1
    return x, y


def digits(size: int) -> Batch:
    """Handwritten digits, (N, 1, 8, 8), and what they are."""
    x, y = _all_digits()
    index = torch.randint(0, len(x), (size,))
    return x[index], y[index]


@cache
def _all_digits() -> Batch:
    bunch = load_digits()
    return torch.tensor(bunch.images[:, None] / 16, dtype=torch.float32), torch.tensor(bunch.target)


def counting(size: int) -> Batch:
    """Sequences of 16 tokens that count up, and the token after each."""
    x = (torch.randint(0, TOKENS, (size, 1)) + torch.arange(17)) % TOKENS
    return x[:, :-1], x[:, 1:]


def marked(size: int) -> Batch:
    """Sequences of 12 tokens of 120, and which of five markers stands somewhere among them."""
    labels = torch.randint(0, CLASSES, (size,))
    x = torch.randint(CLASSES, 120, (size, 12))
    x[torch.arange(size), torch.randint(0, 12, (size,))] = labels
    return x, labels


def series(size: int) -> Batch:
    """Series of 20 steps, and whether the sum of their first feature is positive."""
    x = torch.randn(size, 20, 4)
    return x, (x[..., 0].sum(1) > 0).long()


def circle(size: int) -> Tensor:
    """Points near a circle of radius 2."""
    angle = torch.rand(size) * 2 * torch.pi
    return torch.stack([angle.cos(), angle.sin()], 1) * 2 + 0.05 * torch.randn(size, 2)
