"""The iterations of a window: what each has collected, on the device, and one table of all of them on the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from gradprobe.measure import reduction
from gradprobe.measure.accumulator import Accumulator, Key, ReducedGradients, whole
from gradprobe.measure.presence import Gate, is_open
from gradprobe.measure.reduction.on_device import used_here
from gradprobe.measure.weight_gradients import WeightGradients

SUMS, SQUARES, ZEROS, NONFINITE, COUNT, PEAK = range(6)  # the columns of a `table`


@dataclass(frozen=True)
class Iteration:
    """What one iteration has collected.

    Attributes:
        reduced: One for each device, data type and scale.
        averaged: Over how many ranks the loss is averaged.
        skipped: Whether a gradient scaler skipped the step: a bool, or a tensor that is above zero if so.
    """

    reduced: tuple[ReducedGradients, ...]
    averaged: int = 1
    skipped: Tensor | bool = False


class Window:
    """Collects gradients iteration by iteration.

    Args:
        weights: Reads the weights' gradients.
        accumulator: Reduces them.

    Attributes:
        iterations: Those that are complete.
    """

    def __init__(self, weights: WeightGradients, accumulator: Accumulator) -> None:
        self._weights = weights
        self._accumulator = accumulator
        self.iterations: list[Iteration] = []
        self._begin()

    def _begin(self) -> None:
        self._reduced: list[ReducedGradients] = []
        self._skipped: Tensor | bool = False

    def read_weights(self, only: Set[int] | None, divisor: Callable[[str], Tensor | float]) -> None:
        """Read the weights' gradients as they stand.

        Args:
            only: The parameters, by `id`, that are read; None for all.
            divisor: What the gradients of a layer have to be divided by.
        """
        self._weights.read(self._accumulator, only)
        for part in self._accumulator.take():
            layers: dict[Tensor | float, dict[str, Gate]] = {}
            for key in part.keys:
                if key is not None:
                    layers.setdefault(divisor(key[0]), {})[key[0]] = ()
            chosen = [part.chosen(names, by) for by, names in layers.items()]
            self._reduced += [one for one in chosen if one is not None]

    def all_in(self, parameters: Set[int]) -> set[Key]:
        """The weights all of whose gradients are of parameters with these ids."""
        return self._weights.all_in(parameters)

    def add_outputs(self, reduced: Sequence[ReducedGradients]) -> None:
        """Add the gradients of outputs."""
        self._reduced += reduced

    def skip(self, skipped: Tensor | bool = True) -> None:
        """A gradient scaler skipped the step, or a fused optimizer will if this is above zero."""
        self._skipped = skipped

    def close(self, averaged: int) -> None:
        """End the iteration.

        Args:
            averaged: Over how many ranks the loss is averaged.
        """
        before = self.iterations[-1].reduced if self.iterations else ()
        # what is as in the iteration before is shared with it: memory must not grow with the window
        reduced = tuple(_with_shared_keys(part, before) for part in joined_by_device(self._reduced))
        self.iterations.append(Iteration(reduced, averaged, self._skipped))
        self._begin()

    def discard(self) -> None:
        """Forget what the iteration that is running has collected."""
        self._accumulator.clear()
        self._begin()

    def table(self, keys: Sequence[Key]) -> Tensor:
        """A `table` of the iterations."""
        return table(self.iterations, keys)

    @property
    def skipped(self) -> list[int]:
        """The iterations whose step was skipped."""
        return [index for index, iteration in enumerate(self.iterations) if bool(iteration.skipped)]


def joined_by_device(parts: Sequence[ReducedGradients]) -> list[ReducedGradients]:
    """All rows of one device, data type and scale in one."""
    alike: dict[tuple[torch.device, torch.dtype, int | float], list[ReducedGradients]] = {}
    for part in parts:
        scale = id(part.divisor) if isinstance(part.divisor, Tensor) else part.divisor
        alike.setdefault((part.rows.device, part.rows.dtype, scale), []).append(part)
    return [_joined(several) for several in alike.values()]


def _joined(parts: Sequence[ReducedGradients]) -> ReducedGradients:
    for part in parts:
        used_here(part.rows)
    keys = tuple(key for part in parts for key in part.keys)
    counts = tuple(count for part in parts for count in part.counts)
    gates: tuple[Gate, ...] = ()
    if any(part.gates for part in parts):
        gates = tuple(gate for part in parts for gate in part.gates or ((),) * len(part.keys))
    return ReducedGradients(keys, counts, torch.cat([part.rows for part in parts]), parts[0].divisor, gates)


def _with_shared_keys(part: ReducedGradients, known: Sequence[ReducedGradients]) -> ReducedGradients:
    """The same rows, with the keys and counts of one in ``known`` that has equal ones."""
    for other in known:
        if part.keys == other.keys and part.counts == other.counts:
            return part._replace(keys=other.keys, counts=other.counts)
    return part


def table(iterations: Sequence[Iteration], keys: Sequence[Key]) -> Tensor:
    """Everything on the host in float64, divided by the scales. Waits for the device.

    Returns:
        Shape ``(iterations, keys, 6)``: sum of absolute values, sum of squares, number of exact zeros, number of
        non-finite elements, number of elements, largest absolute value. Where no gradient arrived, the number of
        elements is 0. The table over several ranks is the sum of theirs, but for the largest value.
    """
    filled = torch.zeros(len(iterations), len(keys), 6, dtype=torch.float64, device="cpu")
    place = {key: index for index, key in enumerate(keys)}
    for sums, iteration in zip(filled, iterations, strict=True):
        for part in iteration.reduced:
            counted = [
                (row, place[one])
                for row, key in enumerate(part.keys)
                if key is not None and _is_counted(part, row)
                for one in dict.fromkeys((key, whole(key)))  # a layer's weight is all of its weights
                if one in place
            ]
            index = torch.tensor([at for _, at in counted], dtype=torch.long, device="cpu")
            columns = _columns(part, iteration.averaged)[[row for row, _ in counted]]
            sums[:, :PEAK].index_add_(0, index, columns[:, :PEAK])
            sums[:, PEAK].scatter_reduce_(0, index, columns[:, PEAK], "amax")
    return filled


def _is_counted(part: ReducedGradients, row: int) -> bool:
    return not part.gates or is_open(part.gates[row])


def _columns(part: ReducedGradients, averaged: int) -> Tensor:
    """The columns of a `table` from rows of sums; only weights' gradients are averaged over ranks by now."""
    rows = part.rows.double().cpu()
    ranks = [averaged if key is not None and key[1] == "output" else 1 for key in part.keys]
    divisor = torch.tensor(ranks, dtype=torch.float64, device="cpu") * float(part.divisor)
    columns = torch.full((len(rows), 6), math.nan, dtype=torch.float64, device="cpu")
    columns[:, SUMS] = rows[:, reduction.SUMS] / divisor
    columns[:, COUNT] = torch.tensor(part.counts, dtype=torch.float64, device="cpu")
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
