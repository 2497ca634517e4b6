"""How the cost of a probe grows: with layers and iterations, in time and memory; over ranks; and on paper, at 70B.

python benchmarks/scaling.py [depth memory ranks paper] [--ranks 8] [--repeats 5] [--out FILE]
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
from held import python_bytes, tensor_bytes
from inside import Inside
from nets import Training, deep
from on_paper import TOKENS, WINDOW, count_pass, llama, of_outputs, of_weights
from ranks import on_ranks
from report import Report
from timing import milliseconds, ratio, timed

import gradprobe as gp

LAYERS = [100, 300, 1000, 3000]
WINDOWS = [10, 50]
DEPTH = """\
Linear layers of width 64 with tanh, batch 32, SGD; outputs and weights, all statistics. Inside: the median time
in gradprobe's hooks in one iteration, divided by the layers; linear growth is a column that stays the same. In
the first iteration the probe looks at the network and finds its supervision points; in the last its numbers
become one table."""
MEMORY = """\
Bytes that the probe holds behind its tenth and its fiftieth iteration, the window still open: tensors that can
be reached from it, and Python's objects by tracemalloc. What is in both is for good: scratch buffers, and what
the probe knows of the network. The difference is what an iteration leaves; five float32 for an output and five
for a weight are 40 bytes."""
RANKS = """\
{ranks} processes with DistributedDataParallel over gloo on {cores} cores, one thread each; 100 linear layers of
width 64, batch 32 on each rank; outputs and weights, all statistics; windows of {window} iterations. Rank 0's
clocks; steps in ms with quartiles. The last step of a window holds the one collective (its sums and its peaks),
and waiting for the other ranks to come there."""
PAPER = """\
The shapes of Llama 3 70B in bfloat16 on the meta device, for one rank and one iteration. Weights: sharded by
FSDP2. Outputs: of one sequence of {tokens} tokens, which no sharding makes smaller. Kernels: operator calls
other than views and allocations; one pass forward and backward of the bare network makes {bare}. Read: by these
calls, most of it again and again from the scratch buffers. Collective: the one table that the ranks add up at
the end of a window of {window} iterations, per rank."""


class Loop:
    """Training of a deep network by SGD."""

    def __init__(self, layers: int) -> None:
        torch.manual_seed(0)
        self.training: Training = deep(layers)
        self.optimizer = torch.optim.SGD(self.training.model.parameters(), lr=1e-4)
        for _ in range(3):
            self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.training.loss().backward()
        self.optimizer.step()

    def probe(self, iterations: int) -> gp.GradientProbe:
        return gp.GradientProbe(self.training.model, optimizer=self.optimizer, iterations=iterations)


def depth(report: Report, options: argparse.Namespace) -> None:
    """Time against layers and iterations."""
    report.add("## Layers and iterations", "", DEPTH, "")
    report.columns(
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
    for layers in LAYERS:
        loop = Loop(layers)
        for window in WINDOWS:
            bare, whole, inside = [], [], []
            for _ in range(options.repeats):
                bare.append([timed(loop.step) for _ in range(window)])
                with loop.probe(window):
                    whole.append([timed(loop.step) for _ in range(window)])
                with loop.probe(window):
                    inside.append([inside_of(loop.step) for _ in range(window)])
            without, probed, within = np.array(bare), np.array(whole)[:, 1:-1], np.array(inside)
            usual = float(np.median(within[:, 1:-1]))
            report.row(
                layers,
                window,
                milliseconds(without),
                milliseconds(probed),
                ratio(without, probed),
                f"{1e6 * usual / layers:.2f}",
                f"{100 * usual / np.median(without):.1f} %",
                f"{1e3 * np.median(within[:, 0]):.0f}",
                f"{1e3 * np.median(within[:, -1]):.1f}",
            )
    report.add("")


def inside_of(step: Callable[[], None]) -> float:
    """Seconds inside the probe in a step."""
    with Inside() as inside:
        step()
    return inside.seconds


def memory(report: Report, _: argparse.Namespace) -> None:
    """What a probe holds against layers and iterations."""
    report.add("## Memory", "", MEMORY, "")
    report.columns(
        "layers",
        "tensors, kB, after 10",
        "after 50",
        "Python, kB, after 10",
        "after 50",
        "bytes an iteration and layer: tensors",
        "Python",
    )
    for layers in LAYERS:
        loop = Loop(layers)
        with loop.probe(iterations=1):
            loop.step()  # so that everything is imported
        gc.collect()
        tracemalloc.start()
        before = python_bytes()
        tensors, python = [], []
        with loop.probe(iterations=51) as probe:
            for iteration in range(1, 51):
                loop.step()
                if iteration in (10, 50):
                    tensors.append(tensor_bytes(probe, besides=loop.training.model))
                    python.append(python_bytes() - before)
        tracemalloc.stop()
        grown = [(held[1] - held[0]) / 40 / layers for held in (tensors, python)]
        report.row(
            layers, *(f"{held / 1e3:.0f}" for held in (*tensors, *python)), *(f"{each:.1f}" for each in grown)
        )
    report.add("")


def ranks(report: Report, options: argparse.Namespace) -> None:
    """A probe on several ranks."""
    window = 30
    told = {"ranks": options.ranks, "cores": os.cpu_count(), "window": window}
    report.add("## Ranks", "", RANKS.format(**told), "")
    found = on_ranks(options.ranks, layers=100, iterations=window, rounds=options.repeats)
    report.columns(
        "bare step", "probed step", "to the bare step", "last step", "of it collective", "a rank gives, kB"
    )
    report.row(
        milliseconds(found.bare),
        milliseconds(found.probed),
        ratio(found.bare, found.probed),
        milliseconds(found.last),
        milliseconds(found.collective),
        f"{found.kilobytes:.0f}",
    )
    report.add("", f"The record says: {found.said}.", "")


def paper(report: Report, _: argparse.Namespace) -> None:
    """What it comes to for a network of 70 billion parameters."""
    bare = count_pass(llama()).kernels
    report.add("## On paper", "", PAPER.format(bare=f"{bare:,}", tokens=TOKENS, window=WINDOW), "")
    report.columns("ranks", "gradients of", "statistics", "GB", "kernels", "read, GB", "collective, MB")
    found = [of_weights(ranks, stats) for ranks in (64, 512) for stats in ("mean", "all")]
    for counted in [*found, *map(of_outputs, ("mean", "all"))]:
        gigabytes, kernels, *rest = counted[3:]
        report.row(*counted[:3], f"{gigabytes:.2f}", f"{kernels:,}", *(f"{number:.1f}" for number in rest))
    report.add("")


PARTS: dict[str, Callable[[Report, argparse.Namespace], None]] = {
    "depth": depth,
    "memory": memory,
    "ranks": ranks,
    "paper": paper,
}


def main() -> None:
    """Measure all and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parser.add_argument("--repeats", type=int, default=5, help="of each window")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = "With layers and iterations, in time and memory; over ranks; and on paper, for 70 billion parameters."
    report = Report("How the cost of a probe grows", text, packages=["torch", "transformers"])
    for part in options.parts or PARTS:
        PARTS[part](report, options)
    report.write(options.out)


if __name__ == "__main__":
    main()
