"""What a probe costs: training steps with it against bare ones, beside other tools and the floors of the machine.

All steps are of one network, in one process, in rounds of changing order. Two figures for each: the time inside
the probe, by clocks around everything of it that torch calls, as a share of the bare step; and the ratio of whole
steps, which has in it what the hooks cost torch itself.

    python benchmarks/overhead.py [NET...] [--modes weight-mean ...] [--no-peers] [--device cpu] [--out FILE]

A network takes about `--seconds`, a minute and a half, but three rounds at least.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from floor import floors
from inside import Inside
from nets import NETS, Training
from peers import BEHIND_BACKWARD, IN_HOOKS
from report import Report
from timing import milliseconds, ratio, timed

import gradprobe as gp

MODES: dict[str, dict[str, Any]] = {
    "weight-mean": {"of": "weight", "stats": "mean"},
    "weight-all": {"of": "weight", "stats": "all"},
    "both-mean": {"of": ("output", "weight"), "stats": "mean"},
    "both-all": {"of": ("output", "weight"), "stats": "all"},
}
COLUMNS = ["", "step, ms", "to the bare step", "inside, ms", "share of a step", "to a C loop", "to a flat sum"]
EXPLANATION = """\
Whole steps: medians with quartiles, and the ratio of the medians with its 95 % bootstrap interval over the rounds;
"bare again" is the bare step against itself, the noise. Inside: the median time in gradprobe's hooks (of peers
that are called behind the backward pass: in that call), its share of the bare step, and how often the floor fits
into it.

The modes: the gradients of weights, or of outputs and weights (both); the mean absolute value, or all statistics.
After the window: the probe is still in its `with` block, and has recorded what it was asked for.

The floors read as many bytes as the gradients have, again and again, so that small ones lie in the caches: a loop
in C that sums the absolute values of tensors of the same sizes, and `torch.sum` of one flat tensor. Both have as
many threads as torch."""
PACKAGES = ["torch", "transformers", "monai", "lightning", "wandb", "cockpit-for-pytorch"]
STEPS = 2  # timed in a row, behind one that is not: a probe looks at the network in its first
INSIDE = 5  # rounds with clocks, at most

Attach = Callable[[], contextlib.AbstractContextManager[Callable[[], object]]]


class Loop:
    """A training loop, and the ways to attach something to it: each gives what to call behind `backward`."""

    def __init__(self, training: Training) -> None:
        self.training, self.model = training, training.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9)

    def step(self, behind_backward: Callable[[], object]) -> None:
        self.optimizer.zero_grad()
        self.training.loss().backward()
        behind_backward()
        self.optimizer.step()

    @contextlib.contextmanager
    def bare(self) -> Iterator[Callable[[], object]]:
        yield nothing

    @contextlib.contextmanager
    def probed(self, iterations: int = 50, **mode: Any) -> Iterator[Callable[[], object]]:
        with gp.GradientProbe(self.model, optimizer=self.optimizer, iterations=iterations, **mode):
            yield nothing


def nothing() -> None:
    """Nothing is to be done behind the backward pass."""


def budget(most: int, seconds: float) -> Iterator[np.random.Generator]:
    """Rounds until the time is used up, three at least; gives each its generator."""
    started = time.perf_counter()
    for done in range(most):
        if done < 3 or time.perf_counter() - started < seconds:
            yield np.random.default_rng(done)


def whole_steps(
    loop: Loop, arms: dict[str, Attach], rounds: Iterable[np.random.Generator]
) -> dict[str, np.ndarray]:
    """Seconds of whole steps of each arm, of shape (rounds, STEPS)."""
    found: dict[str, list[list[float]]] = {name: [] for name in arms}
    for rng in rounds:
        for name in rng.permutation(list(arms)).tolist():
            with arms[name]() as behind_backward:
                loop.step(behind_backward)
                found[name].append([timed(partial(loop.step, behind_backward)) for _ in range(STEPS)])
    return {name: np.array(seconds) for name, seconds in found.items()}


def inside_steps(
    loop: Loop, arms: dict[str, Attach], rounds: Iterable[np.random.Generator]
) -> dict[str, np.ndarray]:
    """Seconds inside the probe, or behind the backward pass, of a step of each arm, of shape (rounds,)."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for rng in rounds:
        for name in rng.permutation(list(arms)).tolist():
            with arms[name]() as behind_backward:
                loop.step(behind_backward)
                with Inside() as inside:
                    loop.step(behind_backward if behind_backward is nothing else inside.around(behind_backward))
            found[name].append(inside.seconds)
    return {name: np.array(seconds) for name, seconds in found.items()}


def that_run(loop: Loop, peers: dict[str, Attach]) -> tuple[dict[str, Attach], dict[str, str]]:
    """The peers that run here, and why the others do not."""
    absent: dict[str, str] = {}
    for name, attach in peers.items():
        try:
            with attach() as behind_backward:
                loop.step(behind_backward)
        except ImportError as error:  # noqa: PERF203
            absent[name] = f"not installed ({error})"
        except Exception as error:
            absent[name] = f"raises {type(error).__name__}"
    return {name: attach for name, attach in peers.items() if name not in absent}, absent


def examine(name: str, options: argparse.Namespace, report: Report) -> None:
    """The section of a network."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    training = NETS[name]().to(device)
    loop = Loop(training)
    for _ in range(3):
        loop.step(nothing)
    modes: dict[str, Attach] = {mode: partial(loop.probed, **MODES[mode]) for mode in options.modes}
    modes["after the window"] = partial(loop.probed, iterations=1)
    peers = {} if options.no_peers else BEHIND_BACKWARD | IN_HOOKS
    others, absent = that_run(loop, {peer: partial(attach, loop.model) for peer, attach in peers.items()})
    arms: dict[str, Attach] = {"bare": loop.bare, "bare again": loop.bare, **modes, **others}
    clocked = modes | {peer: attach for peer, attach in others.items() if peer in BEHIND_BACKWARD}
    whole = whole_steps(loop, arms, budget(options.rounds, 0.75 * options.seconds))
    inside = inside_steps(loop, clocked, budget(min(INSIDE, options.rounds), 0.25 * options.seconds))
    least = floors(training, device)
    report.add(f"## {name}: {NETS[name].__doc__}", "", f"{len(whole['bare'])} rounds of {STEPS} steps.")
    report.add(*(f"- {of}: {floor}" for of, floor in least.items()), "")
    report.columns(*COLUMNS)
    for arm, seconds in whole.items():
        cells = [milliseconds(seconds), "" if arm == "bare" else ratio(whole["bare"], seconds)]
        if arm in inside:
            within = float(np.median(inside[arm]))
            cells += [f"{1e3 * within:.2f}", f"{100 * within / np.median(whole['bare']):.2f} %"]
        if arm in MODES:
            floor = least[arm.partition("-")[0]]
            cells += [f"{within / it:.1f}x" if it else "" for it in (floor.all_threads, floor.flat)]
        report.row(arm, *filled(cells))
    for peer, why in absent.items():
        report.row(peer, *filled(["", why]))
    report.add("")


def filled(cells: list[str]) -> list[str]:
    """As many as there are columns behind the first."""
    return cells + [""] * (len(COLUMNS) - 1 - len(cells))


def main() -> None:
    """Measure all and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", choices=[[], *NETS], default=[])
    parser.add_argument("--rounds", type=int, default=30, help="at most")
    parser.add_argument("--seconds", type=float, default=90, help="for each network, about")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = Report("What a probe costs", EXPLANATION, packages=PACKAGES, device=options.device)
    for name in options.nets or NETS:
        examine(name, options, report)
    report.write(options.out)


if __name__ == "__main__":
    main()
