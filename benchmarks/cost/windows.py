"""How much longer a whole window of training steps is with a probe: four processes that take turns, step by step.

Two of them train without a probe, one with, and one with hooks that do nothing: the same network, the same batch,
the same seed. They never run at the same time, and which goes first changes from step to step, so that what slows
the machine down slows all of them. A process of its own for each, since a probe wraps functions that every
training in its process calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.cost.loop import Loop
from benchmarks.cost.nets import NETS, layers_of
from benchmarks.cost.timing import DRAWS
from benchmarks.report import Report
from gradprobe.measure.evidence.sampling import is_sampled

ARMS = ("bare", "bare again", "empty hooks", "probed")
ITERATIONS = 50
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "CPU": time.process_time}
COLUMNS = [
    "",
    "clock",
    "bare step, ms",
    "to the bare step",
    "bare again",
    "empty hooks",
    "looked at",
    "not looked at",
    "once, s",
    "with that",
]
EXPLANATION = """\
For each iteration the ratio of the probed step to the bare step beside it; of these the median over the iterations
that are looked at for signal and update, and over those that are not, weighted by how many of each a window of 50
has. In brackets the 95 % bootstrap interval over the pairs. "Bare again" is a second bare training in the place of
the probed one: the noise. "Empty hooks": on the output of each layer a forward hook, and on its gradient one more,
which do nothing: the least that any tool in Python needs there. Once: what attaching, the first and the last step
of a window take beyond two bare steps; "with that" is the ratio of whole windows. CPU is the
time of all threads of the process."""


def measure(report: Report, nets: list[str], seconds: float, mode: dict[str, Any]) -> None:
    """Add a table to the report: about so many seconds for each network, and one window at least."""
    report.add("## Whole windows", "", EXPLANATION, "")
    report.columns(*COLUMNS)
    for net in nets:
        times = np.array(list(_windows(net, seconds, mode)))
        for index, clock in enumerate(CLOCKS):
            report.row(net, *_cells(clock, times[:, index]))
    report.add("")


def _windows(net: str, seconds: float, mode: dict[str, Any]) -> Iterator[np.ndarray]:
    """The seconds of each window: shape (clocks, arms, 1 + iterations), of which the first is to attach."""
    context = get_context("spawn")
    pipes = [context.Pipe() for _ in ARMS]
    processes = [
        context.Process(target=_train, args=(theirs, net, arm, mode), daemon=True)
        for arm, (_, theirs) in zip(ARMS, pipes, strict=True)
    ]
    for process in processes:
        process.start()
    for ours, _ in pipes:
        ours.recv()  # it is warmed up
    started, rng = time.perf_counter(), np.random.default_rng(0)
    longest = 0.0
    while not longest or time.perf_counter() - started + longest < seconds:
        began = time.perf_counter()
        times = np.zeros((len(CLOCKS), len(ARMS), 1 + ITERATIONS))
        for step in range(1 + ITERATIONS):
            for arm in rng.permutation(len(ARMS)):
                pipes[arm][0].send("step" if step else "open")
                times[:, arm, step] = pipes[arm][0].recv()
        longest = max(longest, time.perf_counter() - began)
        yield times
    for process, (ours, _) in zip(processes, pipes, strict=True):
        ours.send("end")
        process.join()


def _train(pipe: Connection, net: str, arm: str, mode: dict[str, Any]) -> None:
    """What a process does: one thing for each word that it gets, and the seconds of it back."""
    torch.manual_seed(0)
    loop = Loop(NETS[net](), momentum=0.9)
    if arm == "empty hooks":
        for layer in layers_of(loop.model):
            layer.register_forward_hook(_hook_its_gradient)
    pipe.send("ready")
    while (word := pipe.recv()) != "end":
        before = [clock() for clock in CLOCKS.values()]
        if word == "step":
            loop.step()
        elif arm == "probed":
            probe = loop.probe(ITERATIONS, **mode)  # it detaches with its last iteration
            probe.__enter__()
        pipe.send([clock() - start for clock, start in zip(CLOCKS.values(), before, strict=True)])


def _hook_its_gradient(_module: nn.Module, _args: Any, output: Any) -> None:
    if isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(_do_nothing)


def _do_nothing(_gradient: Tensor) -> None:
    pass


def _cells(clock: str, times: np.ndarray) -> list[str]:
    """A row of the table, from seconds of shape (windows, arms, 1 + iterations)."""
    bare, again, empty, probed = (times[:, arm] for arm in range(len(ARMS)))
    looked = np.array([is_sampled(iteration) for iteration in range(ITERATIONS)])[1:-1]
    kinds = [np.flatnonzero(looked), np.flatnonzero(~looked)]
    ratios, noise, least = (one[:, 2:-1] / bare[:, 2:-1] for one in (probed, again, empty))
    step = float(np.median(bare[:, 1:]))
    once = float(np.median(probed[:, [0, 1, -1]].sum(1))) - 2 * step
    each = _weighted(ratios, kinds)
    return [
        clock,
        f"{1e3 * step:.1f}",
        _with_interval(ratios, kinds),
        _with_interval(noise, kinds),
        _with_interval(least, kinds),
        *(f"{np.median(ratios[:, kind]):.3f}" for kind in kinds),
        f"{once:.2f}",
        f"{each + once / (ITERATIONS * step):.3f}",
    ]


def _weighted(ratios: np.ndarray, kinds: list[np.ndarray]) -> float:
    return float(sum(len(kind) * np.median(ratios[:, kind]) for kind in kinds)) / ratios.shape[1]


def _with_interval(ratios: np.ndarray, kinds: list[np.ndarray]) -> str:
    """The weighted median, and its interval: pairs are drawn anew within each kind of iteration.

    Example:
        >>> _with_interval(np.full((1, 4), 1.5), [np.array([0]), np.array([1, 2, 3])])
        '1.500 (1.500-1.500)'
    """
    rng = np.random.default_rng(0)
    drawn = np.zeros(DRAWS)
    for kind in kinds:
        values = ratios[:, kind].ravel()
        medians = np.median(rng.choice(values, (DRAWS, len(values))), axis=1)
        drawn += medians * len(kind) / ratios.shape[1]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{_weighted(ratios, kinds):.3f} ({low:.3f}-{high:.3f})"
