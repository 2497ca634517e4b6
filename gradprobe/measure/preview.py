"""A look at a training that does not hold it up: copies on their way to the host, read when they have arrived."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradprobe.measure.accumulator import Iteration


class Preview:
    """The magnitudes of one iteration and its loss, on their way to the host.

    Nothing waits for the device: the copies queue up behind what it is doing, and `arrived` tells when they can be
    read. On the processor itself that is at once.

    Args:
        closed: The iteration, or none where none is complete yet.
        layers: Names of the layers in depth order.
        of: The quantity to look at.
        loss: A scalar.

    Example:
        >>> from gradprobe.measure.accumulator import ReducedGradients
        >>> part = ReducedGradients((("a", "output"), ("b", "output")), (4, 2), torch.tensor([[8.0], [float("nan")]]))
        >>> closed = Iteration((part,), {"output": 2.0}, False)
        >>> glimpse = Preview([closed], ["a", "b", "c"], "output", torch.tensor(0.5))
        >>> glimpse.arrived, glimpse.loss, glimpse.magnitudes
        (True, 0.5, {'a': 1.0, 'b': inf, 'c': None})
    """

    def __init__(self, closed: Sequence[Iteration], layers: Sequence[str], of: str, loss: Tensor) -> None:
        self._layers, self._of = layers, of
        self._parts = [part for one in closed for part in one.parts]
        self._unscaled = {name for one in closed for name, quantity in one.unscaled if quantity == of}
        scales = [one.scales.get(of, 1.0) for one in closed] or [1.0]
        self._sent = _Sent([loss, torch.as_tensor(scales[0]), *(part.rows[:, 0] for part in self._parts)])

    @property
    def arrived(self) -> bool:
        """Whether it can be read without waiting."""
        return self._sent.arrived

    @property
    def loss(self) -> float:
        """The loss."""
        return float(self._sent.copies[0])

    @property
    def magnitudes(self) -> dict[str, float | None]:
        """For each layer its mean |gradient|: None where none arrived, inf where it is not finite."""
        scale = float(self._sent.copies[1])
        found: dict[str, tuple[float, int]] = {}
        for part, sums in zip(self._parts, self._sent.copies[2:], strict=True):
            for (name, of), count, total in zip(part.slots, part.counts, sums.tolist(), strict=True):
                if of == self._of:
                    before = found.get(name, (0.0, 0))
                    found[name] = before[0] + total, before[1] + count
        scales = dict.fromkeys(found, scale) | dict.fromkeys(self._unscaled, 1.0)
        return {name: _mean(*found[name], scales[name]) if name in found else None for name in self._layers}


def _mean(total: float, count: int, scale: float) -> float:
    mean = total / count / scale
    return mean if math.isfinite(mean) else math.inf


class _Sent:
    """Copies of tensors on the host, and whether they are complete."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.copies = [tensor.detach().to("cpu", non_blocking=True) for tensor in tensors]
        self._marks = [
            _mark(device) for device in {tensor.device for tensor in tensors if tensor.device.type != "cpu"}
        ]

    @property
    def arrived(self) -> bool:
        return all(mark.query() for mark in self._marks)


def _mark(device: torch.device) -> torch.Event:
    """An event behind everything that the device was asked to do until now."""
    event = torch.Event(device)
    event.record(torch.accelerator.current_stream(device))
    return event
