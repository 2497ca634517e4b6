"""What a probe costs: training steps with it against bare ones, beside other tools and the floors of the machine.

All steps are of one network, in one process, in rounds of changing order. There are two figures for each: the time
inside the probe, by clocks around everything of it that torch calls, as a share of the bare step; and the ratio of
whole steps, which includes what the hooks cost torch itself.

    python benchmarks/cost/overhead.py [NET...] [--modes weight-mean ...] [--no-peers] [--device cpu] [--out FILE]

A network takes about `--seconds`, a minute and a half, but three rounds at least.

    python benchmarks/cost/overhead.py resnet50 deep --windows --seconds 120

measures whole windows instead, signal and update included, in seven minutes: see `benchmarks/cost/windows.py`.
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

from benchmarks.cost.floor import Floor, floors
from benchmarks.cost.inside import Inside
from benchmarks.cost.loop import Loop, nothing
from benchmarks.cost.nets import NETS, Training
from benchmarks.cost.peers import AFTER_BACKWARD, IN_HOOKS
from benchmarks.cost.timing import milliseconds, ratio, timed
from benchmarks.cost.windows import measure as measure_windows
from benchmarks.report import Report

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
that are called after the backward pass: in that call), its share of the bare step, and how many times the floor it
is.

The modes: the gradients of weights, or of outputs and weights (both); the mean absolute value, or all statistics.
After the window: the probe is still in its `with` block, and has recorded its one iteration.

The floors read as many bytes as the gradients have, again and again, so that small ones lie in the caches: a loop
in C that sums the absolute values of tensors of the same sizes, and `torch.sum` of one flat tensor. Both have as
many threads as torch."""
PACKAGES = ["torch", "transformers", "monai", "lightning", "wandb", "cockpit-for-pytorch"]
STEPS = 2  # timed in a row, after one that is not: in its first step a probe examines the network
INSIDE = 5  # rounds with clocks, at most

Attach = Callable[[], contextlib.AbstractContextManager[Callable[[], object]]]


@contextlib.contextmanager
def bare() -> Iterator[Callable[[], object]]:
    """Attach nothing."""
    yield nothing


@contextlib.contextmanager
def probed(loop: Loop, iterations: int = 50, **mode: Any) -> Iterator[Callable[[], object]]:
    """Attach a probe, which needs no call after the backward pass."""
    with loop.probe(iterations, **mode):
        yield nothing


def rounds(most: int, seconds: float) -> Iterator[np.random.Generator]:
    """A generator of random numbers for each round, until the time is used up; three rounds at least."""
    started = time.perf_counter()
    for done in range(most):
        if done < 3 or time.perf_counter() - started < seconds:
            yield np.random.default_rng(done)


def whole_steps(
    loop: Loop, arms: dict[str, Attach], generators: Iterable[np.random.Generator]
) -> dict[str, np.ndarray]:
    """Seconds of whole steps of each arm, of shape (rounds, STEPS)."""
    times: dict[str, list[list[float]]] = {name: [] for name in arms}
    for rng in generators:
        for name in rng.permutation(list(arms)).tolist():
            with arms[name]() as after_backward:
                loop.step(after_backward)
                times[name].append([timed(partial(loop.step, after_backward)) for _ in range(STEPS)])
    return {name: np.array(seconds) for name, seconds in times.items()}


def inside_steps(
    loop: Loop, arms: dict[str, Attach], generators: Iterable[np.random.Generator]
) -> dict[str, np.ndarray]:
    """Seconds that a step of each arm spends in the probe, or in the call after backward, of shape (rounds,)."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for rng in generators:
        for name in rng.permutation(list(arms)).tolist():
            with arms[name]() as after_backward:
                loop.step(after_backward)
                with Inside() as inside:
                    loop.step(after_backward if after_backward is nothing else inside.clocked(after_backward))
            times[name].append(inside.seconds)
    return {name: np.array(seconds) for name, seconds in times.items()}


def working(loop: Loop, peers: dict[str, Attach]) -> tuple[dict[str, Attach], dict[str, str]]:
    """The peers that work here, and why the others do not."""
    reasons: dict[str, str] = {}
    for name, attach in peers.items():
        try:
            with attach() as after_backward:
                loop.step(after_backward)
        except ImportError as error:  # noqa: PERF203
            reasons[name] = f"not installed ({error})"
        except Exception as error:
            reasons[name] = f"raises {type(error).__name__}"
    return {name: attach for name, attach in peers.items() if name not in reasons}, reasons


def examine(name: str, make: Callable[[], Training], options: argparse.Namespace, report: Report) -> None:
    """Measure one network and add its section to the report."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    training = make().to(device)
    loop = Loop(training, momentum=0.9)
    modes: dict[str, Attach] = {mode: partial(probed, loop, **MODES[mode]) for mode in options.modes}
    modes["after the window"] = partial(probed, loop, iterations=1)
    peers = {} if options.no_peers else AFTER_BACKWARD | IN_HOOKS
    others, reasons = working(loop, {peer: partial(attach, loop.model) for peer, attach in peers.items()})
    arms: dict[str, Attach] = {"bare": bare, "bare again": bare, **modes, **others}
    clocked = modes | {peer: attach for peer, attach in others.items() if peer in AFTER_BACKWARD}
    whole = whole_steps(loop, arms, rounds(options.rounds, 0.75 * options.seconds))
    inside = inside_steps(loop, clocked, rounds(min(INSIDE, options.rounds), 0.25 * options.seconds))
    least = floors(training, device)
    report.add(f"## {name}: {make.__doc__}", "", f"{len(whole['bare'])} rounds of {STEPS} steps.")
    report.add(*(f"- {of}: {floor}" for of, floor in least.items()), "")
    report.columns(*COLUMNS)
    for arm, seconds in whole.items():
        against = "" if arm == "bare" else ratio(whole["bare"], seconds)
        shares = inside_cells(arm, inside[arm], whole["bare"], least) if arm in inside else []
        report.row(arm, *padded([milliseconds(seconds), against, *shares]))
    for peer, reason in reasons.items():
        report.row(peer, *padded(["", reason]))
    report.add("")


def inside_cells(arm: str, inside: np.ndarray, bare: np.ndarray, least: dict[str, Floor]) -> list[str]:
    """Time inside, its share of the bare step, and for a mode of the probe the ratio to each floor."""
    median = float(np.median(inside))
    cells = [f"{1e3 * median:.2f}", f"{100 * median / np.median(bare):.2f} %"]
    if arm in MODES:
        floor = least[arm.partition("-")[0]]
        cells += [f"{median / seconds:.1f}x" if seconds else "" for seconds in (floor.all_threads, floor.flat)]
    return cells


def padded(cells: list[str]) -> list[str]:
    """The cells of a row after its name, with empty ones up to the last column."""
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
    parser.add_argument("--windows", action="store_true", help="whole windows, by processes that take turns")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    explanation = "" if options.windows else EXPLANATION
    report = Report("What a probe costs", explanation, packages=PACKAGES, device=options.device)
    if options.windows:
        measure_windows(report, options.nets or ["resnet50", "deep"], options.seconds, MODES["both-all"])
    for name in () if options.windows else options.nets or NETS:
        examine(name, NETS[name], options, report)
    report.write(options.out)


if __name__ == "__main__":
    main()
