"""Set-ups that need an accelerator: in each the record has to be that of the same training on the CPU.

Each is a function that trains a network and returns the record. The training of reference is the plain one, in the
data type that is named, on the CPU.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import gradprobe as gp

STEPS = 6
COLUMNS = ["mean_abs", "rms", "max_abs", "zero_fraction"]


class Images(nn.Module):
    """A few layers of each usual kind; the first gradient of an output has more than a million elements."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 40, 3, padding=1), nn.BatchNorm2d(40)
        self.second, self.head = nn.Conv2d(40, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of five classes."""
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.tanh(self.second(x)).mean((2, 3)))


def network(device: str) -> nn.Module:
    """The same weights each time."""
    torch.manual_seed(0)
    return Images().to(device)


def batches(device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The same data each time."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x = torch.randn(8, 3, 64, 64, generator=generator)
        yield x.to(device), torch.randint(5, (8,), generator=generator).to(device)


def sgd(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    """Plain gradient descent."""
    return torch.optim.SGD(model.parameters(), lr=0.01, **options)


def train(
    model: nn.Module,
    device: str,
    optimizer: torch.optim.Optimizer,
    *,
    run: Callable[[Tensor], Tensor] | None = None,
    autocast: torch.dtype | None = None,
    scaler: Any = None,
    strict: bool = False,
) -> gp.GradientHistory:
    """Train with a probe; ``strict`` lets torch raise where anything in the window waits for the device."""
    given = list(batches(device))
    waiting = no_waiting() if strict else contextlib.nullcontext()
    with gp.GradientProbe(model, optimizer=optimizer, iterations=STEPS) as probe, waiting:
        for x, y in given[:-1] if strict else given:  # at its end the record is read
            optimizer.zero_grad()
            kind = torch.device(device).type
            with torch.autocast(kind, autocast) if autocast else contextlib.nullcontext():
                loss = nn.functional.cross_entropy((run or model)(x), y)
            (scaler.scale(loss) if scaler else loss).backward()
            scaler.step(optimizer) if scaler else optimizer.step()
            if scaler:
                scaler.update()
    history = probe.history
    evidence = history.evidence
    stopped = [history.conditions["stopped"], evidence and evidence.network["stopped"]]
    assert not any(stopped), stopped
    return history


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Let torch raise where anything waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def difference(found: gp.GradientHistory, expected: gp.GradientHistory) -> float:
    """The largest relative difference of the statistics of two records, beyond what is below 1e-12."""
    one, other = (history.frame.set_index(["iteration", "layer", "of"])[COLUMNS] for history in (found, expected))
    other = other.loc[one.index]
    assert (one.isna() == other.isna()).all(axis=None), "what is missing is not the same"
    apart = (one - other).abs() / other.abs().clip(lower=1e-12)
    return float(np.nanmax(apart["mean_abs"].to_numpy()))


class Setup(NamedTuple):
    """A set-up.

    Attributes:
        run: Trains, and returns the record.
        bound: How far it may be from the one of the CPU.
    """

    run: Callable[[str], gp.GradientHistory]
    bound: float = 1e-4


def plain(device: str) -> gp.GradientHistory:
    """In float32."""
    model = network(device)
    return train(model, device, sgd(model))


def without_waiting(device: str) -> gp.GradientHistory:
    """In float32, where torch raises if anything in the window waits for the device."""
    model = network(device)
    return train(model, device, sgd(model), strict=True)


def in_bfloat16(device: str) -> gp.GradientHistory:
    """Autocast to bfloat16."""
    model = network(device)
    return train(model, device, sgd(model), autocast=torch.bfloat16)


def scaled(device: str) -> gp.GradientHistory:
    """Autocast to float16 with a gradient scaler on the device."""
    model = network(device)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    return train(model, device, sgd(model), autocast=torch.float16, scaler=scaler)


def fused(device: str) -> gp.GradientHistory:
    """A fused optimizer, which takes the scale out in its kernel."""
    model = network(device)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    return train(model, device, sgd(model, fused=True), autocast=torch.float16, scaler=scaler)


def skipped(device: str) -> gp.GradientHistory:
    """A step that is skipped for overflow; the record says so."""
    model = network(device)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**60, backoff_factor=2.0**-50)
    history = train(model, device, sgd(model), autocast=torch.float16, scaler=scaler)
    assert history.conditions["skipped"] == [0], history.conditions["skipped"]
    raise Agrees


def capturable(device: str) -> gp.GradientHistory:
    """A capturable optimizer: its first step sees the gradients of the same weights."""
    model = network(device)
    train(model, device, torch.optim.Adam(model.parameters(), lr=1e-3, capturable=True, fused=True))
    raise Agrees


def channels_last(device: str) -> gp.GradientHistory:
    """Gradients that lie in memory in the order of channels last."""
    model = network(device).to(memory_format=torch.channels_last)
    return train(model, device, sgd(model), run=lambda x: model(x.to(memory_format=torch.channels_last)))


def compiled(device: str) -> gp.GradientHistory:
    """``torch.compile`` with inductor."""
    model = torch.compile(network(device))
    model(next(batches(device))[0]).sum().backward()
    model.zero_grad()
    model._orig_mod.load_state_dict(network(device).state_dict())
    return train(model, device, sgd(model))


def reduced_overhead(device: str) -> gp.GradientHistory:
    """``torch.compile`` in the mode that makes CUDA graphs."""
    model = torch.compile(network(device), mode="reduce-overhead")
    for _ in range(3):
        model(next(batches(device))[0]).sum().backward()
    model.zero_grad()
    model._orig_mod.load_state_dict(network(device).state_dict())
    return train(model, device, sgd(model))


def two_streams(device: str) -> gp.GradientHistory:
    """A part of the network in a stream of its own."""
    model, side = network(device), torch.cuda.Stream()
    forward = model.second.forward

    def beside(x: Tensor) -> Tensor:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            result = forward(x)
        torch.cuda.current_stream().wait_stream(side)
        result.record_stream(torch.cuda.current_stream())
        return result

    model.second.forward = beside  # type: ignore[method-assign]
    return train(model, device, sgd(model))


def copied(device: str) -> gp.GradientHistory:
    """A copy of the network is made while it is probed."""
    model = network(device)
    with gp.GradientProbe(model):
        other = copy.deepcopy(model)
    return train(other, device, sgd(other))


def captured(device: str) -> gp.GradientHistory:
    """A whole step in a CUDA graph: refused with the reason, and the graph is as without a probe."""
    model = network(device)
    x, y = next(batches(device))
    optimizer = sgd(model)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        nn.functional.cross_entropy(model(x), y).backward()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with gp.GradientProbe(model, optimizer=optimizer, iterations=2) as probe:
        optimizer.zero_grad()
        with torch.cuda.graph(graph):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        for _ in range(3):
            graph.replay()
    reasons = {text for layer in probe.history.layers for text in layer.unreached.values()}
    assert reasons, "no reason was given"
    assert all("CUDA graph" in text for text in reasons), reasons
    raise Agrees


def parallel(device: str) -> gp.GradientHistory:
    """``DataParallel`` on several devices is refused."""
    model = nn.DataParallel(network(device))
    model.device_ids = [0, 1]
    try:
        gp.GradientProbe(model)
    except ValueError:
        raise Agrees from None
    raise AssertionError("it was not refused")


class Agrees(Exception):  # noqa: N818
    """A set-up without numbers to compare did what it should."""


SETUPS = {
    "float32": Setup(plain),
    "float32, nothing waits": Setup(without_waiting),
    "autocast, bfloat16": Setup(in_bfloat16, 5e-2),
    "autocast, float16, `GradScaler`": Setup(scaled, 2e-2),
    "the same with a fused optimizer": Setup(fused, 2e-2),
    "a skipped step": Setup(skipped),
    "a capturable, fused optimizer": Setup(capturable),
    "channels last": Setup(channels_last),
    "two streams": Setup(two_streams),
    "`deepcopy` in the window": Setup(copied),
    "`DataParallel`": Setup(parallel),
    "`torch.compile`": Setup(compiled),
    '`mode="reduce-overhead"`': Setup(reduced_overhead),
    "CUDA graph": Setup(captured),
}
