"""Real data without a download: the 1797 handwritten digits of 8x8 pixels that scikit-learn carries."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
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
    pixels, targets = _pixels_and_targets()
    images = pixels.reshape(-1, 1, 8, 8) / 16
    images = _shaped((images - images.mean()) * pixel_range, shape)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    kept = len(targets) - round(len(targets) * held_out)
    train, test = order[:kept], order[kept:]
    whole = [part for part in train.split(batch_size) if len(part) == batch_size]
    if not whole:
        raise ValueError(f"expected a batch size of at most {kept}, got {batch_size}")
    return Digits(*([(images[i], targets[i]) for i in parts] for parts in (whole, test.split(batch_size))))


def _pixels_and_targets() -> tuple[Tensor, Tensor]:
    """The 64 pixels of each image, 0 to 16, and what it shows: from scikit-learn's file, without importing it.

    ``sklearn.datasets`` takes as long to import as torch, for a table of numbers.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ImportError("the digits need scikit-learn: pip install 'gradprobe[digits]'")
    file = Path(package.origin).with_name("datasets") / "data" / "digits.csv.gz"
    if file.is_file():
        with gzip.open(file) as table:
            values = np.loadtxt(table, delimiter=",", dtype=np.float32)
        return torch.from_numpy(values[:, :-1]), torch.from_numpy(values[:, -1]).long()
    from sklearn.datasets import load_digits  # a version that keeps them elsewhere

    pixels, targets = load_digits(return_X_y=True)
    return torch.tensor(pixels, dtype=torch.float32), torch.tensor(targets)


def _shaped(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    if shape == (64,):
        return images.flatten(1)
    if len(shape) != 3:
        raise ValueError(f"expected a shape of (C, H, W) or (64,), got {shape}")
    if shape[1:] != (8, 8):
        images = torch.nn.functional.interpolate(images, size=shape[1:], mode="bilinear")
    return images.expand(-1, shape[0], -1, -1).contiguous()
