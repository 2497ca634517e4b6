"""A probe on several ranks: DistributedDataParallel over gloo, a process and a thread for each."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn

from benchmarks.cost.loop import Loop
from benchmarks.cost.nets import deep
from benchmarks.cost.timing import timed


class OnRanks(NamedTuple):
    """What rank 0 measured.

    Attributes:
        bare: Seconds of steps, of shape (rounds, steps).
        probed: The same within a window, without its first step, in which the probe examines the network, and
            its last.
        last: Seconds of the last step of each window, in which the ranks exchange their numbers.
        collective: Seconds of each window within collectives.
        kilobytes: What a rank sends in a window.
        ranks: What the record says of the ranks.
    """

    bare: np.ndarray
    probed: np.ndarray
    last: np.ndarray
    collective: np.ndarray
    kilobytes: float
    ranks: str


class Collectives:
    """Clocks around `all_reduce` where Python calls it, as gradprobe does and DistributedDataParallel does not."""

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
        return OnRanks(**torch.load(Path(folder, "measured"), weights_only=False))


def rank(index: int, ranks: int, folder: Path, layers: int, iterations: int, rounds: int) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    torch.manual_seed(index)  # for a batch of its own; DistributedDataParallel copies the weights of rank 0 to all
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=index, world_size=ranks)
    training = deep(layers)
    net = nn.parallel.DistributedDataParallel(training.model)
    loop = Loop(training._replace(model=net), momentum=0.9)
    times: dict[str, list[Any]] = {"bare": [], "probed": [], "last": [], "collective": []}
    for _ in range(rounds + 1):
        times["bare"].append([timed(loop.step) for _ in range(iterations)])
        with Collectives() as clocks, loop.probe(iterations) as probe:
            _, *usual, last = [timed(loop.step) for _ in range(iterations)]
        times["probed"].append(usual)
        times["last"].append(last)
        times["collective"].append(clocks.seconds)
    if index == 0:
        measured = {name: np.array(seconds[1:]) for name, seconds in times.items()}  # the first round warms up
        sent = {"kilobytes": clocks.bytes / 1e3, "ranks": str(probe.history.conditions["ranks"])}
        torch.save(measured | sent, folder / "measured")
    dist.barrier()  # no process leaves while another still reads from the store
    dist.destroy_process_group()
