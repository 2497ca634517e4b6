"""A network on held-out batches: in eval mode, without gradients, and left as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gradprobe.measure.batches import Batches, forward, to_device
from gradprobe.measure.loop import explained_errors
from gradprobe.network.mismatch import Attempt
from gradprobe.network.tensors import main_tensor


class Meter(Protocol):
    """One evaluation: a metric's value from all batches."""

    def add(self, output: Any, target: Any) -> None:
        """Take in what a model returned for a batch, and the batch's target."""
        ...

    def value(self) -> float:
        """The metric on all batches so far."""
        ...


def through(model: nn.Module, held_out: Batches) -> Generator[tuple[Any, Any], None, None]:
    """What a model returns for each held-out batch, with the batch's target; on the model's device.

    Close it (``contextlib.closing``): until then the model is in eval mode and no gradient is recorded.

    Raises:
        ValueError: If there is no batch.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    empty = True
    with _in_eval(model), held_out.rewound(), torch.no_grad():
        for inputs, target in (to_device(batch, device) for batch in held_out.once()):
            empty = False
            with explained_errors(Attempt(model, inputs, target), "held-out batch"):
                output = forward(model, inputs)
            yield output, target
    if empty:
        raise ValueError("expected at least one batch in held_out=, got none")


@contextlib.contextmanager
def _in_eval(model: nn.Module) -> Iterator[None]:
    flags = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        # not model.train(flag): that would un-freeze a frozen normalisation (docs/facts.md, 11)
        for module, flag in flags.items():
            module.training = flag


def shapes_of(output: Any, target: Any) -> str:
    """The shapes of an output and a target, for an error.

    Example:
        >>> shapes_of(torch.zeros(2, 3), torch.zeros(2))
        'an output (2, 3) and a target (2,) of float32'
    """
    main = main_tensor(output)
    first = type(output).__name__ if main is None else f"{tuple(main.shape)}"
    if not isinstance(target, Tensor):
        return f"an output {first} and a target of type {type(target).__name__}"
    return f"an output {first} and a target {tuple(target.shape)} of {str(target.dtype).removeprefix('torch.')}"
