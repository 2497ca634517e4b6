"""A look at a training that does not hold it up: copies on their way to the host, read when they have arrived."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gradprobe.measure.accumulator import whole
from gradprobe.measure.presence import settled
from gradprobe.measure.window import Iteration


class Preview:
    """The magnitudes of one iteration and its loss, on their way to the host.

    Nothing waits for the device: the copies are queued after what it is doing, and `arrived` says when they can be
    read. On the CPU that is at once.

    Args:
        iteration: The iteration, or None where none is complete yet.
        layers: Names of the layers in depth order.
        of: The quantity to look at.
        loss: A scalar.

    Example:
        >>> from gradprobe.measure.accumulator import ReducedGradients
        >>> rows = torch.tensor([[8.0], [float("nan")]])
        >>> reduced = ReducedGradients((("a", "output"), ("b", "output")), (4, 2), rows, divisor=2.0)
        >>> iteration = Iteration((reduced,))
        >>> preview = Preview(iteration, ["a", "b", "c"], "output", torch.tensor(0.5))
        >>> preview.arrived, preview.loss, preview.magnitudes
        (True, 0.5, {'a': 1.0, 'b': inf, 'c': None})
    """

    def __init__(self, iteration: Iteration | None, layers: Sequence[str], of: str, loss: Tensor) -> None:
        self._layers, self._of = layers, of
        iteration = iteration or Iteration(())
        self._reduced, self._averaged = iteration.reduced, iteration.averaged
        self._scales = _HostCopies([torch.as_tensor(part.divisor) for part in self._reduced])
        self._copies = _HostCopies([loss, *(part.rows[:, 0] for part in self._reduced)])

    @property
    def arrived(self) -> bool:
        """Whether it can be read without waiting."""
        return self._copies.arrived and self._scales.arrived

    @property
    def loss(self) -> float:
        """The loss."""
        return float(self._copies.tensors[0])

    @property
    def magnitudes(self) -> dict[str, float | None]:
        """For each layer its mean |gradient|: None where none arrived, inf where it is not finite."""
        totals: dict[str, tuple[float, int]] = {}
        parts = zip(self._reduced, self._scales.tensors, self._copies.tensors[1:], strict=True)
        for part, scale, sums in parts:
            divisor = float(scale) * (self._averaged if self._of == "output" else 1)
            for row, total in enumerate(sums.tolist()):
                key = part.keys[row]
                if (
                    key is not None
                    and whole(key)[1] == self._of
                    and (not part.gates or settled(part.gates[row]) == ())
                ):
                    before = totals.get(key[0], (0.0, 0))
                    totals[key[0]] = before[0] + total / divisor, before[1] + part.counts[row]
        return {name: _mean(*totals[name]) if name in totals else None for name in self._layers}


def _mean(total: float, count: int) -> float:
    mean = total / count
    return mean if math.isfinite(mean) else math.inf


class _HostCopies:
    """Copies of tensors on the host, and whether they are complete."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = [tensor.detach().to("cpu", non_blocking=True) for tensor in tensors]
        devices = {tensor.device for tensor in tensors if tensor.device.type != "cpu"}
        self._events = [_event_after_all_work(device) for device in devices]

    @property
    def arrived(self) -> bool:
        return all(event.query() for event in self._events)


def _event_after_all_work(device: torch.device) -> torch.Event:
    """An event that comes after everything that the device has been asked to do until now."""
    event = torch.Event(device)
    event.record(torch.accelerator.current_stream(device))
    return event
