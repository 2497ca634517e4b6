"""What a probe has collected: one stacked tensor an iteration on the device, one table on the host at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.magnitude import Tally

Slot = tuple[str, str]  # (layer, of)
SUMS, SQUARES, ZEROS, NONFINITE, COUNT, PEAK = range(6)


@dataclass(frozen=True)
class Closed:
    """One iteration: for each device its slots, their counts and their stacked sums, and the loss scales.

    Attributes:
        parts: Slots with their element counts, and a tensor ``(slots, 5)`` in the order of `Tally.sums`.
        scales: What each quantity has to be divided by, as it was multiplied into the loss.
        skipped: The step was skipped by a gradient scaler: True, or a tensor above zero.
    """

    parts: tuple[tuple[tuple[tuple[Slot, int], ...], Tensor], ...]
    scales: Mapping[str, Tensor | float]
    skipped: Tensor | bool

    @classmethod
    def of(
        cls, tallies: Mapping[Slot, Tally], scales: Mapping[str, Tensor | float], skipped: Tensor | bool
    ) -> Closed:
        """Stack the tallies of an iteration, device by device."""
        by_device: dict[torch.device, list[tuple[Slot, int, Tensor]]] = {}
        for slot, tally in tallies.items():
            if tally.sums is not None:
                by_device.setdefault(tally.sums.device, []).append((slot, tally.count, tally.sums))
        parts = tuple(
            (tuple((slot, count) for slot, count, _ in part), _stacked([sums for _, _, sums in part]))
            for part in by_device.values()
        )
        return cls(parts, scales, skipped)


def _stacked(sums: Sequence[Tensor]) -> Tensor:
    wide = any(vector.dtype == torch.float64 for vector in sums)
    return torch.stack([vector.double() for vector in sums] if wide else list(sums))


def table(iterations: Sequence[Closed], slots: Sequence[Slot]) -> Tensor:
    """Everything on the host in float64, unscaled; waits for the device.

    Returns:
        Shape ``(iterations, slots, 6)``: sum of absolute values, of squares, exact zeros, non-finite elements,
        count, largest absolute value. A count of 0 is a gradient that did not arrive. Sums over ranks are sums
        of this, but for the largest value.
    """
    filled = torch.zeros(len(iterations), len(slots), 6, dtype=torch.float64)
    row = {slot: index for index, slot in enumerate(slots)}
    for index, iteration in enumerate(iterations):
        scales = {of: float(scale) for of, scale in iteration.scales.items()}
        for described, stacked in iteration.parts:
            found = stacked.double().cpu()
            divisor = torch.tensor([scales.get(of, 1.0) for (_, of), _ in described], dtype=torch.float64)
            rows = [row[slot] for slot, _ in described]
            filled[index, rows, SUMS] = found[:, 0] / divisor
            filled[index, rows, SQUARES] = (found[:, 1] / divisor) ** 2
            filled[index, rows, PEAK] = found[:, 2] / divisor
            filled[index, rows, ZEROS] = found[:, 3]
            filled[index, rows, NONFINITE] = found[:, 4]
            filled[index, rows, COUNT] = torch.tensor([float(count) for _, count in described]).double()
    return filled


def statistics(sums: Sequence[float], true_count: int | None = None) -> tuple[float | None, ...]:
    """The statistics of one slot in the order of the history's columns, from its six numbers of a `table`.

    Args:
        sums: The six numbers.
        true_count: Number of elements, where the ranks may hold copies of the same ones.

    Example:
        >>> statistics([8.0, 26.0, 1.0, 0.0, 4.0, 4.0])
        (2.0, 2.549..., 4.0, 0.25, 0)
        >>> statistics([0.0] * 6)
        (None, None, None, None, None)
    """
    count = sums[COUNT]
    if not count:
        return (None,) * 5
    copies = count / true_count if true_count else 1.0
    nonfinite = sums[NONFINITE]
    return (
        sums[SUMS] / count,
        math.sqrt(sums[SQUARES] / count),
        sums[PEAK],
        sums[ZEROS] / count,
        round(nonfinite / copies) if math.isfinite(nonfinite) else 0,
    )
