"""Accelerate: ``probe(accelerator, model, optimizer)`` after ``accelerator.prepare``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from gradprobe.integrations.loggers import knows
from gradprobe.integrations.recording import Recorder, Settings, bare

if TYPE_CHECKING:
    from accelerate import Accelerator


def probe(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    iterations: int = 50,
    **settings: Any,
) -> Recorder:
    """Record the first iterations of a training, write the run and log it to the accelerator's trackers.

    Attaches at once and ends by itself when the window is full. A shorter training is written when the process
    ends, or at the end of a ``with`` block around the loop: ``with probe(accelerator, model, optimizer): ...``.

    Args:
        accelerator: Its trackers are logged to.
        model: As ``prepare`` gave it.
        optimizer: As ``prepare`` gave it, or several.
        iterations: Length of the window.
        **settings: See `gradprobe.integrations.recording.Settings`.

    Returns:
        The probe, with ``history``, ``placement`` and ``folder``.

    Raises:
        ValueError: If the model cannot be probed; the message says why.

    Example:
        >>> import tempfile, torch
        >>> from accelerate import Accelerator
        >>> accelerator, net = Accelerator(cpu=True), nn.Linear(4, 1)
        >>> net, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))
        >>> recording = probe(accelerator, net, optimizer, iterations=1, out=tempfile.mkdtemp())
        >>> accelerator.backward(net(torch.ones(8, 4)).mean())
        >>> optimizer.step()
        >>> recording.history.aggregate("output")[""]  # of a mean over 8 numbers
        np.float64(0.125)
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    # rows=False: Weights & Biases drops what the user later logs at a smaller step than the last row of ours
    return Settings(iterations, **settings).attach(
        model, [bare(one) for one in optimizers], lambda: _writers(accelerator), rows=False
    )


def _writers(accelerator: Accelerator) -> Iterator[Any]:
    for tracker in accelerator.trackers:
        client = tracker.tracker
        yield client if knows(client) else _as_function(tracker)


def _as_function(tracker: Any) -> Any:
    return lambda name, value, step: tracker.log({name: value}, step=step)
