"""How the cost of a probe grows: with layers and iterations, in time and memory; and over ranks.

python benchmarks/cost/scaling.py [depth memory ranks] [--ranks 8] [--repeats 5] [--out FILE]
"""

from __future__ import annotations

import argparse
import gc
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.cost.inside import seconds_inside
from benchmarks.cost.loop import Loop
from benchmarks.cost.memory import python_bytes, tensor_bytes
from benchmarks.cost.nets import deep
from benchmarks.cost.ranks import on_ranks
from benchmarks.cost.timing import milliseconds, ratio, timed
from benchmarks.report import Report

LAYERS = [100, 300, 1000, 3000]
WINDOWS = [10, 50]
DEPTH = """\
Linear layers of width 64 with tanh, batch 32, SGD; outputs and weights, all statistics. Inside: the median time
in gradprobe's hooks in one iteration, divided by the layers; where the growth is linear, this column is constant.
In the first iteration the probe examines the network and finds its supervision points; in the last its numbers
become one table."""
MEMORY = """\
Bytes that the probe refers to after its tenth and its fiftieth iteration, the window still open: tensors that can
be reached from it, and Python's objects by tracemalloc. What is in both is constant: scratch buffers, and what
the probe knows of the network. The difference is what an iteration leaves; five float32 for an output and five
for a weight are 40 bytes."""
RANKS = """\
{ranks} processes with DistributedDataParallel over gloo on {cores} cores, one thread each; 100 linear layers of
width 64, batch 32 on each rank; outputs and weights, all statistics; windows of {window} iterations. Rank 0's
clocks; steps in ms with quartiles. The last step of a window includes the one collective (its sums and its peaks)
and the wait for the other ranks to reach it."""
DEPTH_COLUMNS = (
    "layers",
    "window",
    "bare step, ms",
    "probed step, ms",
    "to the bare step",
    "inside, µs a layer",
    "share of a step",
    "first iteration, ms",
    "last, ms",
)
MEMORY_COLUMNS = (
    "layers",
    "tensors, kB, after 10",
    "after 50",
    "Python, kB, after 10",
    "after 50",
    "bytes an iteration and layer: tensors",
    "Python",
)
RANKS_COLUMNS = (
    "bare step",
    "probed step",
    "to the bare step",
    "last step",
    "of it collective",
    "a rank sends, kB",
)


def deep_loop(layers: int) -> Loop:
    """The training of a deep network, the same weights each time."""
    torch.manual_seed(0)
    return Loop(deep(layers))


def depth(report: Report, options: argparse.Namespace) -> None:
    """Time against layers and iterations."""
    report.add("## Layers and iterations", "", DEPTH, "")
    report.columns(*DEPTH_COLUMNS)
    for layers in options.layers:
        loop = deep_loop(layers)
        for window in WINDOWS:
            report.row(layers, window, *depth_cells(loop, layers, window, options.repeats))
    report.add("")


def depth_cells(loop: Loop, layers: int, window: int, repeats: int) -> list[str]:
    """Bare steps, probed steps and the time inside the probe, in turns of one window each."""
    bare, whole, inside = [], [], []
    for _ in range(repeats):
        bare.append([timed(loop.step) for _ in range(window)])
        with loop.probe(window):
            whole.append([timed(loop.step) for _ in range(window)])
        with loop.probe(window):
            inside.append([seconds_inside(loop.step) for _ in range(window)])
    without, probed, within = np.array(bare), np.array(whole)[:, 1:-1], np.array(inside)
    usual = float(np.median(within[:, 1:-1]))
    return [
        milliseconds(without),
        milliseconds(probed),
        ratio(without, probed),
        f"{1e6 * usual / layers:.2f}",
        f"{100 * usual / np.median(without):.1f} %",
        f"{1e3 * np.median(within[:, 0]):.0f}",
        f"{1e3 * np.median(within[:, -1]):.1f}",
    ]


def memory(report: Report, options: argparse.Namespace) -> None:
    """The memory of a probe against layers and iterations."""
    report.add("## Memory", "", MEMORY, "")
    report.columns(*MEMORY_COLUMNS)
    for layers in options.layers:
        tensors, python = memory_after(layers, (10, 50))
        growth = [(last - first) / 40 / layers for first, last in (tensors, python)]
        kilobytes = [f"{size / 1e3:.0f}" for size in (*tensors, *python)]
        report.row(layers, *kilobytes, *(f"{each:.1f}" for each in growth))
    report.add("")


def memory_after(layers: int, iterations: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Bytes of tensors and of Python's objects after each of these iterations of an open window."""
    loop = deep_loop(layers)
    with loop.probe(iterations=1):
        loop.step()  # so that everything is imported
    gc.collect()
    tracemalloc.start()
    before = python_bytes()
    tensors, python = [], []
    with loop.probe(iterations=iterations[-1] + 1) as probe:
        for iteration in range(1, iterations[-1] + 1):
            loop.step()
            if iteration in iterations:
                tensors.append(tensor_bytes(probe, besides=loop.model))
                python.append(python_bytes() - before)
    tracemalloc.stop()
    return tensors, python


def ranks(report: Report, options: argparse.Namespace) -> None:
    """A probe on several ranks."""
    window = 30
    text = RANKS.format(ranks=options.ranks, cores=os.cpu_count(), window=window)
    report.add("## Ranks", "", text, "")
    measured = on_ranks(options.ranks, layers=100, iterations=window, rounds=options.repeats)
    report.columns(*RANKS_COLUMNS)
    report.row(
        milliseconds(measured.bare),
        milliseconds(measured.probed),
        ratio(measured.bare, measured.probed),
        milliseconds(measured.last),
        milliseconds(measured.collective),
        f"{measured.kilobytes:.0f}",
    )
    report.add("", f"The record says: {measured.ranks}.", "")


PARTS: dict[str, Callable[[Report, argparse.Namespace], None]] = {
    "depth": depth,
    "memory": memory,
    "ranks": ranks,
}


def main() -> None:
    """Measure all and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parser.add_argument(
        "--layers", type=int, nargs="+", default=LAYERS, help="of the networks of depth and memory"
    )
    parser.add_argument("--repeats", type=int, default=5, help="of each window")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = "With layers and iterations, in time and memory; and over ranks."
    report = Report("How the cost of a probe grows", text)
    for part in options.parts or PARTS:
        PARTS[part](report, options)
    report.write(options.out)


if __name__ == "__main__":
    main()
