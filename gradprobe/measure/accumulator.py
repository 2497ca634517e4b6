"""Gradients as they arrive, reduced to rows of sums on their device; small ones wait, to be reduced together."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import NamedTuple

import torch
from torch import Tensor

from gradprobe.measure.presence import Gate
from gradprobe.measure.reduction import Kind, Reducer
from gradprobe.measure.reduction.values import PartialSumError, UnmeasurableError, is_plain, local_part

Key = tuple[str, str]  # (layer, of), as in the columns of a history; or (layer, one of its recurrent weights)
_SMALL = 8  # a gradient that fits into the scratch buffer this many times can wait for others


def whole(key: Key) -> Key:
    """The quantity that a key is a part of: the layer's weight, of one of its weights.

    Example:
        >>> whole(("rnn", "weight_hh_l0")), whole(("rnn", "output"))
        (('rnn', 'weight'), ('rnn', 'output'))
    """
    return key if key[1] == "output" else (key[0], "weight")


class ReducedGradients(NamedTuple):
    """Rows of sums, as `gradprobe.measure.reduction.Reducer` makes them, and what they are of.

    Attributes:
        keys: Layer and quantity of each row, one may occur several times; None for a row that does not count.
        counts: Elements of each row's gradient.
        rows: Shape ``(rows, 5)``, or ``(rows, 1)`` for the sum alone.
        divisor: What the gradients have to be divided by, since the loss was multiplied by it.
        gates: For each row, what it depends on whether it counts; ``()`` if all do.
    """

    keys: tuple[Key | None, ...]
    counts: tuple[int, ...]
    rows: Tensor
    divisor: Tensor | float = 1.0
    gates: tuple[Gate, ...] = ()

    def without(self, left_out: Set[Key]) -> ReducedGradients:
        """The rows of all others but these quantities of layers."""
        keys = (None if key is None or whole(key) in left_out else key for key in self.keys)
        return self._replace(keys=tuple(keys))

    def chosen(self, layers: Mapping[str, Gate], divisor: Tensor | float) -> ReducedGradients | None:
        """The rows of these layers, each with a gate, and what to divide them by; None if there are none.

        The rows of others stay, without a key: an accelerator would have to be told which ones to leave out.
        """
        keys = tuple(key if key is not None and key[0] in layers else None for key in self.keys)
        if not any(keys):
            return None
        gates: tuple[Gate, ...] = ()
        if any(layers.values()):
            gates = tuple(() if key is None else layers[key[0]] for key in keys)
        return ReducedGradients(self.keys if keys == self.keys else keys, self.counts, self.rows, divisor, gates)


class _Waiting(NamedTuple):
    """Gradients of one kind that are not reduced yet, and their versions when they came."""

    keys: list[Key]
    gradients: list[Tensor]
    versions: list[int]


class _Parted(NamedTuple):
    """A gradient whose pieces are measured, and the rows of these."""

    key: Key
    elements: int
    parts: Tensor


class Accumulator:
    """Reduces gradients as they are added; small ones wait until there are enough of them, or until `flush`.

    What cannot be measured is refused, and training goes on.

    Args:
        reducer: Reduces them.
        refused: Gets a sentence for each key that could not be measured.

    Example:
        >>> import torch
        >>> accumulator = Accumulator(Reducer(), {})
        >>> accumulator.add(("fc", "weight"), torch.tensor([3.0, -4.0]))
        >>> accumulator.take()[0].rows
        tensor([[7., 5., 4., 0., 0.]])
    """

    def __init__(self, reducer: Reducer, refused: dict[Key, str]) -> None:
        self._reducer = reducer
        self._refused = refused
        self._reduced: list[ReducedGradients] = []
        self._spoiled: set[Key] = set()
        self._waiting: dict[Kind, _Waiting] = {}
        self._elements_waiting = 0
        self._parted: dict[torch.device, list[_Parted]] = {}

    def __bool__(self) -> bool:
        return bool(self._reduced or self._waiting or self._parted)

    def add(self, key: Key, gradient: Tensor) -> None:
        """Add a gradient; a small one must not change until `flush`."""
        count = gradient.numel()
        if not count:
            self._refused[whole(key)] = "its output had no elements"
            return
        is_small = count * _SMALL <= self._reducer.capacity(gradient.device)
        if is_small and is_plain(gradient):
            self._add_later(key, gradient, count)
        else:
            self.add_now(key, gradient)

    def add_lasting(self, key: Key, gradient: Tensor) -> None:
        """Add a gradient that somebody else keeps as it is until `flush`: so a large one may wait as well."""
        try:
            part = local_part(gradient)  # of distributed ones as many in one launch as of others
        except UnmeasurableError as error:
            self._refuse(key, error)
            return
        if gradient.numel() and self._reducer.takes_any(part):
            self._add_later(key, part, 0)
        else:
            self.add(key, gradient)

    def add_now(self, key: Key, gradient: Tensor) -> None:
        """Add a gradient that may change afterwards."""
        try:
            parts = self._reducer.parts(gradient)
            if parts is not None:  # the pieces of many gradients become rows together
                self._parted.setdefault(parts.device, []).append(_Parted(key, gradient.numel(), parts))
                return
            row = self._reducer.one(gradient)
        except (PartialSumError, RuntimeError, NotImplementedError) as error:
            self._refuse(key, error)
        else:
            self._reduced.append(ReducedGradients((key,), (local_part(gradient).numel(),), row))

    def add_alike(self, keys: tuple[Key, ...], counts: tuple[int, ...], gradients: list[Tensor]) -> None:
        """Add gradients of one `kind`; they may change afterwards.

        Raises:
            RuntimeError: If they are not alike, or not plain.
        """
        first = gradients[0]
        is_large = counts[0] * _SMALL > self._reducer.capacity(first.device)
        if is_large and not self._reducer.takes_any(first):
            for key, gradient in zip(keys, gradients, strict=True):
                self.add(key, gradient)
        else:
            self._reduced.append(ReducedGradients(keys, counts, self._reducer.same(gradients)))

    def flush(self) -> None:
        """Reduce the gradients that wait: afterwards they may change."""
        parted, self._parted = self._parted, {}
        for several in parted.values():
            keys, counts, parts = zip(*several, strict=True)
            self._reduced.append(ReducedGradients(keys, counts, self._reducer.joined(parts)))
        waiting, self._waiting, self._elements_waiting = self._waiting, {}, 0
        self._reduce(waiting)

    def _reduce(self, waiting: Mapping[Kind, _Waiting]) -> None:
        for keys, gradients, versions in waiting.values():
            if [gradient._version for gradient in gradients] != versions:
                self._refuse_changed(keys, gradients, versions)
            if keys:
                try:
                    self.add_alike(tuple(keys), tuple(map(Tensor.numel, gradients)), gradients)
                except (RuntimeError, NotImplementedError) as error:
                    for key in keys:
                        self._refuse(key, error)

    @property
    def spoiled(self) -> Set[Key]:
        """Quantities of layers of which a part could not be measured, so that the rest counts for nothing."""
        return self._spoiled

    def take(self) -> list[ReducedGradients]:
        """Return everything that was added, and forget it."""
        self.flush()
        reduced, spoiled = self._reduced, self._spoiled
        self.clear()
        return [part.without(spoiled) for part in reduced] if spoiled else reduced

    def clear(self) -> None:
        """Forget everything that was added."""
        self._reduced, self._spoiled, self._elements_waiting = [], set(), 0
        self._waiting, self._parted = {}, {}

    def kind(self, gradient: Tensor) -> Kind:
        """What gradients have in common that `add_alike` takes together."""
        return self._reducer.kind(gradient)

    def _add_later(self, key: Key, gradient: Tensor, count: int) -> None:
        alike = self._reducer.kind(gradient)
        waiting = self._waiting.get(alike)
        if waiting is None:
            waiting = self._waiting[alike] = _Waiting([], [], [])
        waiting.keys.append(key)
        waiting.gradients.append(gradient)
        waiting.versions.append(gradient._version)
        self._elements_waiting += count
        if self._elements_waiting >= self._reducer.capacity(gradient.device):
            here = {kind: one for kind, one in self._waiting.items() if kind[:2] == alike[:2]}
            self._waiting = {kind: one for kind, one in self._waiting.items() if kind not in here}
            self._elements_waiting = 0
            self._reduce(here)

    def _refuse(self, key: Key, error: Exception | str) -> None:
        self._refused[whole(key)] = str(error).splitlines()[0]
        self._spoiled.add(whole(key))

    def _refuse_changed(self, keys: list[Key], gradients: list[Tensor], versions: list[int]) -> None:
        for index in reversed(range(len(keys))):
            if gradients[index]._version != versions[index]:
                self._refuse(keys[index], "its gradient was changed in place during the backward pass")
                del keys[index], gradients[index], versions[index]
