"""Statistics of samples of what layers return: by torch, and on an accelerator all in one launch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradprobe.measure.reduction import on_device

STATISTICS = ("spread", "rms", "zeros", "beyond_3", "beyond_5", "nonfinite")


class UnitRange(NamedTuple):
    """The largest value and the smallest absolute value of each unit of some layers.

    Attributes:
        units: How many units each layer has.
        highest: Shape ``(units of all layers,)``.
        nearest: The same.
    """

    units: tuple[int, ...]
    highest: Tensor
    nearest: Tensor

    def joined(self, other: UnitRange) -> UnitRange:
        """Of both together; of the other alone if the layers have another number of units there."""
        if self.units != other.units:
            return other
        highest = torch.maximum(self.highest, other.highest)
        return UnitRange(self.units, highest, torch.minimum(self.nearest, other.nearest))

    def shares(self) -> list[tuple[float, float]]:
        """For each layer the shares of units that never are above 0, and never within 3. Waits for the device."""
        below = (self.highest <= 0).float().split(self.units)
        outside = (self.nearest > 3).float().split(self.units)
        return [(float(one.mean()), float(other.mean())) for one, other in zip(below, outside, strict=True)]


def takes_all_shapes(device: torch.device) -> bool:
    """Whether samples of different shapes are described together there.

    Example:
        >>> takes_all_shapes(torch.device("cpu"))
        False
    """
    return on_device.works(device)


def described(samples: Sequence[Tensor]) -> tuple[Tensor, UnitRange]:
    """`STATISTICS` of samples, and the range of each unit, without waiting for their device.

    Args:
        samples: Each of shape ``(rows, units, positions)``, float32, contiguous, all on one device; of one shape
            unless it `takes_all_shapes`.

    Returns:
        The statistics, of shape ``(samples, 6)``, and the ranges.

    Example:
        >>> rows, ranges = described([torch.tensor([[[-4.0], [1.0]], [[-4.0], [0.0]]])])
        >>> dict(zip(STATISTICS, rows[0].tolist()))
        {'spread': 0.174..., 'rms': 2.872..., 'zeros': 0.25, 'beyond_3': 0.5, 'beyond_5': 0.0, 'nonfinite': 0.0}
        >>> ranges.highest.tolist(), ranges.nearest.tolist(), ranges.shares()
        ([-4.0, 1.0], [4.0, 0.0], [(0.5, 0.5)])
    """
    found = on_device.attempt(samples[0].device, partial(by_kernel, samples))
    if found is not None:
        return found
    if len({sample.shape for sample in samples}) == 1:
        return by_torch(torch.stack(list(samples)))
    single = [by_torch(sample.unsqueeze(0)) for sample in samples]  # the kernel has failed just now
    ranges = [found for _, found in single]
    highest, nearest = torch.cat([one.highest for one in ranges]), torch.cat([one.nearest for one in ranges])
    return torch.cat([rows for rows, _ in single]), UnitRange(
        sum((one.units for one in ranges), ()), highest, nearest
    )


def by_kernel(samples: Sequence[Tensor]) -> tuple[Tensor, UnitRange]:
    """The same by one launch; raises what Triton raises."""
    device = samples[0].device
    shapes = np.array([sample.shape for sample in samples], dtype=np.int64)
    units = shapes[:, 1]
    addresses = np.array([sample.data_ptr() for sample in samples], dtype=np.int64)
    table = torch.from_numpy(np.column_stack([addresses, shapes, units.cumsum() - units]).ravel())
    rows = torch.empty(len(samples), len(STATISTICS), device=device)
    ranges = UnitRange(tuple(units.tolist()), *(torch.empty(int(units.sum()), device=device) for _ in range(2)))
    kernel = _kernels().describe
    on_device.launch(kernel, len(samples), on_device.sent(table, device), rows, ranges.highest, ranges.nearest)
    return rows, ranges


def _kernels() -> Any:
    import gradprobe.measure.reduction.sample_kernels as kernels  # needs Triton

    return kernels


def by_torch(stacked: Tensor) -> tuple[Tensor, UnitRange]:
    """The same of samples of one shape, ``(samples, rows, units, positions)``."""
    sizes = stacked.abs()
    units = (stacked.shape[2],) * len(stacked)
    ranges = UnitRange(units, stacked.amax((1, 3)).flatten(), sizes.amin((1, 3)).flatten())
    size = sizes.flatten(1)
    largest = size.amax(1)
    scale = torch.where(largest > 0, largest, 1.0)  # squares leave the range of float32 long before the values do
    scaled = stacked / scale.view(-1, 1, 1, 1)
    squares = scaled.flatten(1).square().mean(1)
    if stacked.shape[1] > 1:
        variance = (scaled - scaled.mean(1, keepdim=True)).square().flatten(1).mean(1)
        spread = (variance * (stacked.shape[1] / (stacked.shape[1] - 1)) / squares).sqrt()
    else:
        spread = torch.full_like(squares, float("nan"))
    shares = [(size == 0), (size > 3), (size > 5), ~(size < math.inf)]
    rows = torch.stack([spread, squares.sqrt() * scale, *(share.float().mean(1) for share in shares)], 1)
    return rows, ranges
