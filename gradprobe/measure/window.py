"""The iterations of a window: what each has collected, on the device, and one table of all of them on the host."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.measure import reduction
from gradprobe.measure.accumulator import Accumulator, Key, ReducedGradients
from gradprobe.measure.amp import LossScale
from gradprobe.measure.weight_gradients import WeightGradients

SUMS, SQUARES, ZEROS, NONFINITE, COUNT, PEAK = range(6)  # the columns of a `table`


@dataclass(frozen=True)
class Iteration:
    """What one iteration has collected.

    Attributes:
        reduced: One for each device and data type.
        scales: What the gradients of each quantity have to be divided by, since the loss was multiplied by it.
        skipped: Whether a gradient scaler skipped the step: a bool, or a tensor that is above zero if so.
        unscaled: Keys whose gradients were divided by the scale of their quantity before they were read.
    """

    reduced: tuple[ReducedGradients, ...]
    scales: Mapping[str, Tensor | float]
    skipped: Tensor | bool = False
    unscaled: Set[Key] = frozenset()

    def divisors(self, keys: Sequence[Key]) -> list[float]:
        """What the gradients of these have to be divided by. Waits for the device."""
        scales = {of: float(scale) for of, scale in self.scales.items()}
        return [1.0 if key in self.unscaled else scales.get(key[1], 1.0) for key in keys]


class Window:
    """Collects gradients iteration by iteration.

    Args:
        weights: Reads the weights' gradients.
        accumulator: Reduces them.
        loss_scale: What a gradient scaler has done to the gradients of the iteration that is running.

    Attributes:
        iterations: Those that are complete.
    """

    def __init__(self, weights: WeightGradients, accumulator: Accumulator, loss_scale: LossScale) -> None:
        self._weights = weights
        self._accumulator = accumulator
        self._loss_scale = loss_scale
        self.iterations: list[Iteration] = []
        self._begin()

    def _begin(self) -> None:
        self._scales: dict[str, Tensor | float] = {}
        self._unscaled = set[Key]()
        self._skipped: Tensor | bool = False

    def read_weights(self, only: Set[int] | None = None) -> None:
        """Read the weights' gradients as they stand, all or only those of the parameters with these ids."""
        self._weights.read(self._accumulator, only)

    def add_outputs(self, reduced: Sequence[ReducedGradients]) -> None:
        """Add the gradients of outputs; the scale that is in the gradients now is that of this iteration."""
        self._accumulator.extend(reduced)
        scale = self._loss_scale
        if scale.value is not None:
            if reduced:
                self._scales["output"] = scale.value
            self._scales["weight"] = scale.value
            self._unscaled |= self._weights.all_in(scale.taken_out)

    def unscaled_by_kernel(self, scale: Tensor, found_inf: Tensor) -> None:
        """A fused optimizer will divide the weights' gradients in its kernel, or skip the step."""
        self._scales["weight"] = scale.detach().clone()
        self._skipped = found_inf.detach().clone()

    def skip(self) -> None:
        """A gradient scaler skipped the step."""
        self._skipped = True

    def close(self, averaged: int) -> None:
        """End the iteration.

        Args:
            averaged: Over how many ranks the loss is averaged.
        """
        scales = {**self._scales, "output": self._scales.get("output", 1.0) * averaged}
        before = self.iterations[-1] if self.iterations else Iteration((), {})
        joined = joined_by_device(self._accumulator.take())
        # what is as in the iteration before is shared with it: memory must not grow with the window
        reduced = tuple(_with_shared_keys(part, before.reduced) for part in joined)
        unscaled = before.unscaled if before.unscaled == self._unscaled else self._unscaled
        self.iterations.append(Iteration(reduced, scales, self._skipped, unscaled))
        self._begin()

    def discard(self) -> None:
        """Forget what the iteration that is running has collected."""
        self._accumulator.clear()

    def table(self, keys: Sequence[Key]) -> Tensor:
        """A `table` of the iterations."""
        return table(self.iterations, keys)

    @property
    def skipped(self) -> list[int]:
        """The iterations whose step was skipped."""
        return [index for index, iteration in enumerate(self.iterations) if bool(iteration.skipped)]

    @property
    def first_scale(self) -> Tensor | None:
        """The first scale that the outputs' gradients were multiplied by, or None without a gradient scaler."""
        scales = (iteration.scales["output"] for iteration in self.iterations)
        return next((scale for scale in scales if isinstance(scale, Tensor)), None)


def joined_by_device(parts: Sequence[ReducedGradients]) -> list[ReducedGradients]:
    """All rows of one device and data type in one."""
    alike: dict[tuple[torch.device, torch.dtype], list[ReducedGradients]] = {}
    for part in parts:
        alike.setdefault((part.rows.device, part.rows.dtype), []).append(part)
    return [_joined(several) for several in alike.values()]


def _joined(parts: Sequence[ReducedGradients]) -> ReducedGradients:
    keys = tuple(key for part in parts for key in part.keys)
    counts = tuple(count for part in parts for count in part.counts)
    return ReducedGradients(keys, counts, torch.cat([part.rows for part in parts]))


def _with_shared_keys(part: ReducedGradients, known: Sequence[ReducedGradients]) -> ReducedGradients:
    """The same rows, with the keys and counts of one in ``known`` that has equal ones."""
    for other in known:
        if part.keys == other.keys and part.counts == other.counts:
            return ReducedGradients(other.keys, other.counts, part.rows)
    return part


def table(iterations: Sequence[Iteration], keys: Sequence[Key]) -> Tensor:
    """Everything on the host in float64, divided by the scales. Waits for the device.

    Returns:
        Shape ``(iterations, keys, 6)``: sum of absolute values, sum of squares, number of exact zeros, number of
        non-finite elements, number of elements, largest absolute value. Where no gradient arrived, the number of
        elements is 0. The table over several ranks is the sum of theirs, but for the largest value.
    """
    filled = torch.zeros(len(iterations), len(keys), 6, dtype=torch.float64)
    place = {key: index for index, key in enumerate(keys)}
    for sums, iteration in zip(filled, iterations, strict=True):
        for part in iteration.reduced:
            index = torch.tensor([place[key] for key in part.keys])
            columns = _columns(part, iteration.divisors(part.keys))
            sums[:, :PEAK].index_add_(0, index, columns[:, :PEAK])
            sums[:, PEAK].scatter_reduce_(0, index, columns[:, PEAK], "amax")
    return filled


def _columns(part: ReducedGradients, divisors: Sequence[float]) -> Tensor:
    """The columns of a `table` from rows of sums."""
    rows, divisor = part.rows.double().cpu(), torch.tensor(divisors, dtype=torch.float64)
    columns = torch.full((len(rows), 6), math.nan, dtype=torch.float64)
    columns[:, SUMS] = rows[:, reduction.SUMS] / divisor
    columns[:, COUNT] = torch.tensor(part.counts, dtype=torch.float64)
    if rows.shape[1] > 1:
        columns[:, SQUARES] = (rows[:, reduction.NORM] / divisor) ** 2
        columns[:, ZEROS] = rows[:, reduction.ZEROS]
        columns[:, NONFINITE] = rows[:, reduction.NONFINITE]
        columns[:, PEAK] = rows[:, reduction.PEAK] / divisor
    return columns


def statistics(sums: Sequence[float], true_count: int | None = None) -> tuple[float | None, ...]:
    """The statistics of one key in the order of the history's columns, from its six numbers in a `table`.

    Args:
        sums: The six numbers.
        true_count: Number of elements, where several ranks may hold copies of the same ones.

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
