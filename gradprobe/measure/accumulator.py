"""What a probe has collected: rows of sums on the device, iteration by iteration, and one table on the host."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gradprobe.measure import reduction
from gradprobe.measure.reduction import PartialSumError, Reducer, is_plain, local_part

Key = tuple[str, str]  # (layer, of)
SUMS, SQUARES, ZEROS, NONFINITE, COUNT, PEAK = range(6)
_SMALL = 8  # a gradient that this many times goes into the scratch can wait for others


class ReducedGradients(NamedTuple):
    """Rows of sums, as `gradprobe.measure.reduction.Reducer` makes them, and what they are of.

    Attributes:
        slots: Of each row; one may occur several times.
        counts: Elements of each row's gradient.
        rows: Shape ``(rows, 5)``, or ``(rows, 1)`` for the sum alone.
    """

    slots: tuple[Key, ...]
    counts: tuple[int, ...]
    rows: Tensor


class Accumulator:
    """The gradients that came by, reduced; small ones are held until it is worth it, or until `flush`.

    What cannot be measured is refused, and training goes on.

    Args:
        reducer: Reduces them.
        refused: Where to say what could not be measured, and why.

    Example:
        >>> collected = Accumulator(Reducer(), {})
        >>> collected.add(("fc", "weight"), torch.tensor([3.0, -4.0]))
        >>> collected.take()[0].rows
        tensor([[7., 5., 4., 0., 0.]])
    """

    def __init__(self, reducer: Reducer, refused: dict[Key, str]) -> None:
        self._reducer = reducer
        self._refused = refused
        self._parts: list[ReducedGradients] = []
        self._spoiled: set[Key] = set()  # a part of them is missing, so the rest counts for nothing
        self._held: dict[object, tuple[list[Key], list[Tensor], list[int]]] = {}
        self._room = 0

    def __bool__(self) -> bool:
        return bool(self._parts or self._held)

    def add(self, slot: Key, gradient: Tensor) -> None:
        """A gradient of a slot: a small one must stay as it is until `flush`."""
        count = gradient.numel()
        if not count:
            self._refused[slot] = "its output had no elements"
            return
        room = self._reducer.room(gradient.device)
        if count * _SMALL <= room and is_plain(gradient):
            self._hold(slot, gradient, count, room)
        else:
            self.at_once(slot, gradient)

    def at_once(self, slot: Key, gradient: Tensor) -> None:
        """A gradient of a slot that may change afterwards."""
        try:
            row = self._reducer.one(gradient)
        except (PartialSumError, RuntimeError, NotImplementedError) as error:
            self._refuse(slot, error)
        else:
            self._parts.append(ReducedGradients((slot,), (local_part(gradient).numel(),), row))

    def together(self, slots: tuple[Key, ...], counts: tuple[int, ...], gradients: list[Tensor]) -> None:
        """Gradients of one shape, data type and device, all small or all large; they may change afterwards.

        Raises:
            RuntimeError: They are not alike, or not plain.
        """
        if counts[0] * _SMALL > self._reducer.room(gradients[0].device):
            for slot, gradient in zip(slots, gradients, strict=True):
                self.add(slot, gradient)
        else:
            self._parts.append(ReducedGradients(slots, counts, self._reducer.same(gradients)))

    def put(self, parts: Sequence[ReducedGradients]) -> None:
        """What was taken before."""
        self._parts.extend(parts)

    def flush(self) -> None:
        """Reduce what is held: from here on it may change."""
        held, self._held, self._room = self._held, {}, 0
        for slots, gradients, versions in held.values():
            if [gradient._version for gradient in gradients] != versions:
                self._refuse_changed(slots, gradients, versions)
            if slots:
                counts = (gradients[0].numel(),) * len(slots)
                try:
                    self.together(tuple(slots), counts, gradients)
                except (RuntimeError, NotImplementedError) as error:
                    for slot in slots:
                        self._refuse(slot, error)

    def take(self) -> list[ReducedGradients]:
        """All that was added; from here on it is empty."""
        self.flush()
        parts, spoiled = self._parts, self._spoiled
        self.clear()
        return [_without(part, spoiled) for part in parts] if spoiled else parts

    def clear(self) -> None:
        """Forget it."""
        self._parts, self._spoiled, self._held, self._room = [], set(), {}, 0

    def _hold(self, slot: Key, gradient: Tensor, count: int, room: int) -> None:
        alike = (gradient.shape, gradient.dtype, gradient.device)
        held = self._held.get(alike)
        if held is None:
            held = self._held[alike] = [], [], []
        held[0].append(slot)
        held[1].append(gradient)
        held[2].append(gradient._version)
        self._room += count
        if self._room >= room:
            self.flush()

    def _refuse(self, slot: Key, why: Exception | str) -> None:
        self._refused[slot] = str(why).splitlines()[0]
        self._spoiled.add(slot)

    def _refuse_changed(self, slots: list[Key], gradients: list[Tensor], versions: list[int]) -> None:
        for index in reversed(range(len(slots))):
            if gradients[index]._version != versions[index]:
                self._refuse(slots[index], "its gradient was changed in place during the backward pass")
                del slots[index], gradients[index], versions[index]


def _without(part: ReducedGradients, spoiled: Set[Key]) -> ReducedGradients:
    kept = [index for index, slot in enumerate(part.slots) if slot not in spoiled]
    return ReducedGradients(
        tuple(part.slots[i] for i in kept), tuple(part.counts[i] for i in kept), part.rows[kept]
    )


@dataclass(frozen=True)
class Iteration:
    """One iteration.

    Attributes:
        parts: One for each device (and data type).
        scales: What each quantity has to be divided by, as it was multiplied into the loss.
        skipped: The step was skipped by a gradient scaler: True, or a tensor above zero.
        unscaled: Slots from which the scale of their quantity was taken out before they were read.
    """

    parts: tuple[ReducedGradients, ...]
    scales: Mapping[str, Tensor | float]
    skipped: Tensor | bool
    unscaled: Set[Key] = frozenset()

    @classmethod
    def of(
        cls,
        parts: Sequence[ReducedGradients],
        scales: Mapping[str, Tensor | float],
        skipped: Tensor | bool,
        unscaled: Set[Key] = frozenset(),
        like: Iteration | None = None,
    ) -> Iteration:
        """Join the parts of an iteration; what is as in the iteration before, ``like``, is shared with it."""
        alike: dict[tuple[torch.device, torch.dtype], list[ReducedGradients]] = {}
        for part in parts:
            alike.setdefault((part.rows.device, part.rows.dtype), []).append(part)
        joined = (_joined(several) for several in alike.values())
        shared = tuple(_shared(part, like.parts if like else ()) for part in joined)
        return cls(shared, scales, skipped, like.unscaled if like and like.unscaled == unscaled else unscaled)


def _joined(parts: Sequence[ReducedGradients]) -> ReducedGradients:
    slots = tuple(slot for part in parts for slot in part.slots)
    counts = tuple(count for part in parts for count in part.counts)
    return ReducedGradients(slots, counts, torch.cat([part.rows for part in parts]))


def _shared(part: ReducedGradients, known: Sequence[ReducedGradients]) -> ReducedGradients:
    for other in known:
        if part.slots == other.slots and part.counts == other.counts:
            return ReducedGradients(other.slots, other.counts, part.rows)
    return part


def table(iterations: Sequence[Iteration], slots: Sequence[Key]) -> Tensor:
    """Everything on the host in float64, unscaled; waits for the device.

    Returns:
        Shape ``(iterations, slots, 6)``: sum of absolute values, of squares, exact zeros, non-finite elements,
        count, largest absolute value. A count of 0 is a gradient that did not arrive. Sums over ranks are sums
        of this, but for the largest value.
    """
    filled = torch.zeros(len(iterations), len(slots), 6, dtype=torch.float64)
    place = {slot: index for index, slot in enumerate(slots)}
    for sums, iteration in zip(filled, iterations, strict=True):
        scales = {of: float(scale) for of, scale in iteration.scales.items()}
        for part in iteration.parts:
            rows = part.rows.double().cpu()
            divisors = [1.0 if slot in iteration.unscaled else scales.get(slot[1], 1.0) for slot in part.slots]
            divisor = torch.tensor(divisors, dtype=torch.float64)
            index = torch.tensor([place[slot] for slot in part.slots])
            counts = torch.tensor(part.counts, dtype=torch.float64)
            total = rows[:, reduction.SUMS] / divisor
            if rows.shape[1] == 1:
                unknown = torch.full_like(total, math.nan)
                added = torch.stack([total, unknown, unknown, unknown, counts], 1)
                peaks = unknown
            else:
                squares = (rows[:, reduction.NORM] / divisor) ** 2
                zeros, nonfinite = rows[:, reduction.ZEROS], rows[:, reduction.NONFINITE]
                added = torch.stack([total, squares, zeros, nonfinite, counts], 1)
                peaks = rows[:, reduction.PEAK] / divisor
            sums[:, :PEAK].index_add_(0, index, added)
            sums[:, PEAK].scatter_reduce_(0, index, peaks, "amax")
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
