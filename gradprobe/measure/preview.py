"""A look at a training that does not hold it up: copies on their way to the host, read when they have arrived."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

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
        >>> reduced = ReducedGradients((("a", "output"), ("b", "output")), (4, 2), rows)
        >>> iteration = Iteration((reduced,), {"output": 2.0})
        >>> preview = Preview(iteration, ["a", "b", "c"], "output", torch.tensor(0.5))
        >>> preview.arrived, preview.loss, preview.magnitudes
        (True, 0.5, {'a': 1.0, 'b': inf, 'c': None})
    """

    def __init__(self, iteration: Iteration | None, layers: Sequence[str], of: str, loss: Tensor) -> None:
        self._layers, self._of = layers, of
        iteration = iteration or Iteration((), {})
        self._reduced = iteration.reduced
        self._unscaled = {name for name, quantity in iteration.unscaled if quantity == of}
        scale = torch.as_tensor(iteration.scales.get(of, 1.0))
        self._copies = _HostCopies([loss, scale, *(part.rows[:, 0] for part in self._reduced)])

    @property
    def arrived(self) -> bool:
        """Whether it can be read without waiting."""
        return self._copies.arrived

    @property
    def loss(self) -> float:
        """The loss."""
        return float(self._copies.tensors[0])

    @property
    def magnitudes(self) -> dict[str, float | None]:
        """For each layer its mean |gradient|: None where none arrived, inf where it is not finite."""
        scale = float(self._copies.tensors[1])
        totals: dict[str, tuple[float, int]] = {}
        for part, sums in zip(self._reduced, self._copies.tensors[2:], strict=True):
            for (name, of), count, total in zip(part.keys, part.counts, sums.tolist(), strict=True):
                if of == self._of:
                    before = totals.get(name, (0.0, 0))
                    totals[name] = before[0] + total, before[1] + count
        scales = dict.fromkeys(totals, scale) | dict.fromkeys(self._unscaled, 1.0)
        return {name: _mean(*totals[name], scales[name]) if name in totals else None for name in self._layers}


def _mean(total: float, count: int, scale: float) -> float:
    mean = total / count / scale
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
