"""Real data without a download: the 1797 handwritten digits of 8x8 pixels that scikit-learn carries."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]


class Digits(NamedTuple):
    """Batches to train on and batches held out."""

    batches: list[Batch]
    held_out: list[Batch]


def digits(
    shape: tuple[int, ...] = (1, 8, 8), batch_size: int = 64, pixel_range: float = 1.0, held_out: float = 0.2
) -> Digits:
    """Handwritten digits (Alpaydin and Kaynak 1998, UCI) in a fixed shuffled order, the mean subtracted.

    Args:
        shape: Of one input: ``(C, H, W)`` (resized bilinearly, the channel repeated) or ``(64,)``.
        batch_size: Every training batch has exactly this many; the rest is dropped.
        pixel_range: Black to white; the networks of 2015 got 255.
        held_out: Fraction that is kept from training.

    Raises:
        ImportError: scikit-learn is not installed; the message has the install line.

    Example:
        >>> data = digits((3, 16, 16), batch_size=32)
        >>> data.batches[0][0].shape, len(data.batches), sum(len(target) for _, target in data.held_out)
        (torch.Size([32, 3, 16, 16]), 44, 359)
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits need scikit-learn: pip install 'gradprobe[digits]'") from error
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    images = _shaped((images - images.mean()) * pixel_range, shape)
    targets = torch.tensor(data.target)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    kept = len(targets) - round(len(targets) * held_out)
    train, test = order[:kept], order[kept:]
    whole = [part for part in train.split(batch_size) if len(part) == batch_size]
    if not whole:
        raise ValueError(f"expected a batch size of at most {kept}, got {batch_size}")
    return Digits(*([(images[i], targets[i]) for i in parts] for parts in (whole, test.split(batch_size))))


def _shaped(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    if shape == (64,):
        return images.flatten(1)
    if len(shape) != 3:
        raise ValueError(f"expected a shape of (C, H, W) or (64,), got {shape}")
    if shape[1:] != (8, 8):
        images = torch.nn.functional.interpolate(images, size=shape[1:], mode="bilinear")
    return images.expand(-1, shape[0], -1, -1).contiguous()
