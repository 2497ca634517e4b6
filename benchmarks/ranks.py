"""A probe on several ranks: DistributedDataParallel over gloo, a process and a thread for each."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from nets import Training, deep
from timing import timed
from torch import Tensor, multiprocessing, nn

import gradprobe as gp


class OnRanks(NamedTuple):
    """What rank 0 found.

    Attributes:
        bare: Seconds of steps, of shape (rounds, steps).
        probed: The same within a window; its first step, in which the probe looks at the network, is left out, and
            so is the last.
        last: Seconds of the last step of each window: in it the ranks meet.
        collective: Seconds of each window within collectives.
        kilobytes: What a rank gives to them in a window.
        said: What the record says of the ranks.
    """

    bare: np.ndarray
    probed: np.ndarray
    last: np.ndarray
    collective: np.ndarray
    kilobytes: float
    said: str


class Collectives:
    """Clocks around `all_reduce` as it is called from Python: DistributedDataParallel's own is not."""

    def __init__(self) -> None:
        self.seconds, self.bytes = 0.0, 0

    def __enter__(self) -> Collectives:
        self._original = dist.all_reduce
        dist.all_reduce = self._clocked
        return self

    def __exit__(self, *_: object) -> None:
        dist.all_reduce = self._original

    def _clocked(self, tensor: Tensor, *args: Any, **kwargs: Any) -> None:
        started = time.perf_counter()
        self._original(tensor, *args, **kwargs)
        self.seconds += time.perf_counter() - started
        self.bytes += tensor.nbytes


def on_ranks(ranks: int, layers: int, iterations: int, rounds: int) -> OnRanks:
    """Train a deep network on so many ranks, in turns without and with a probe."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(rank, (ranks, Path(folder), layers, iterations, rounds), nprocs=ranks)
        return OnRanks(**torch.load(Path(folder, "found"), weights_only=False))


def rank(index: int, ranks: int, folder: Path, layers: int, iterations: int, rounds: int) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    torch.manual_seed(index)  # each has its own batch; DistributedDataParallel gives all the weights of rank 0
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=index, world_size=ranks)
    training = deep(layers)
    net = nn.parallel.DistributedDataParallel(training.model)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    times: dict[str, list[Any]] = {"bare": [], "probed": [], "last": [], "collective": []}
    for _ in range(rounds + 1):
        times["bare"].append(steps(training, net, optimizer, iterations))
        with Collectives() as clocks, gp.GradientProbe(net, optimizer=optimizer, iterations=iterations) as probe:
            _, *usual, last = steps(training, net, optimizer, iterations)
        times["probed"].append(usual)
        times["last"].append(last)
        times["collective"].append(clocks.seconds)
    if index == 0:
        found = {name: np.array(each[1:]) for name, each in times.items()}  # the first round warms up
        said = {"kilobytes": clocks.bytes / 1e3, "said": str(probe.history.conditions["ranks"])}
        torch.save(found | said, folder / "found")
    dist.barrier()  # nobody leaves while another still reads from the store
    dist.destroy_process_group()


def steps(training: Training, net: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    """Seconds of so many training steps."""

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(training.inputs), training.target).backward()
        optimizer.step()

    return [timed(step) for _ in range(count)]
