"""One row of the table: one training of one task, with one arm and one seed. The file of all rows."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.placement import records
from benchmarks.placement.arms import NONE, indices_of
from benchmarks.placement.tasks import TASKS, everywhere
from gradprobe.insert.loss import DeepSupervisionLoss
from gradprobe.insert.supervise import SupervisedModel, supervise
from gradprobe.measure.batches import Batches
from gradprobe.measure.loop import train
from gradprobe.measure.scan import scan
from gradprobe.network.preserve import seed_everything
from gradprobe.prove.held_out.accuracy import accuracy
from gradprobe.prove.plan import EPOCHS
from gradprobe.prove.remedies import REMEDIES, STEP_REMEDIES
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement

ROWS = records.FOLDER / "rows.csv"
WEIGHT = 0.3
WINDOW = 50
EARLY = (50, 100, 150, 200)
SMOOTHED = 20
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Row:
    """The result of one training.

    Attributes:
        task: Its name.
        arm: What was done about it.
        seed: Of the weights, the batches and all else that is drawn.
        accuracy: Held-out accuracy of the main output after as many steps as every arm has.
        at_operations: The same after as many operations as the arm ``none`` takes; those of branches count.
        steps: How many steps those operations are.
        loss: Mean loss of the main output over the last 20 steps.
        seconds: Wall-clock time, on a machine that others used too.
        early: Mean loss of the main output over the 20 steps before step 50, 100, 150 and 200.
    """

    task: str
    arm: str
    seed: int
    accuracy: float
    at_operations: float
    steps: int
    loss: float
    seconds: float
    early: tuple[float, ...]

    @property
    def key(self) -> Key:
        """Task, arm and seed."""
        return self.task, self.arm, self.seed


def placement_of(task: str, arm: str) -> Placement:
    """The placement that an arm stands for."""
    placement = everywhere(task)
    points = tuple(placement.points[index] for index in indices_of(arm))
    return replace(placement, policy=arm, points=points)


def build(task: str, arm: str, seed: int) -> SupervisedModel:
    """The network of a row, with its branches or remedy; everything random is seeded."""
    seed_everything(seed)
    trunk = TASKS[task].build()
    if arm in REMEDIES:
        REMEDIES[arm](trunk, TASKS[task].batches(seed)[0][0])
    return supervise(trunk, placement_of(task, arm), branch=TASKS[task].branch)


@cache
def window(task: str, seed: int) -> GradientHistory:
    """The record of the first window of a training without branches."""
    seed_everything(seed)
    definition = TASKS[task]
    batches = definition.batches(seed)
    return scan(
        definition.build(), batches, definition.loss, WINDOW, optimizer=definition.make_optimizer, seed=seed
    )


@cache
def operations(task: str, arm: str) -> int:
    """Floating point operations of one step, forward and backward, as torch counts them."""
    net = build(task, arm, 0)
    x, y = TASKS[task].batches(0)[0]
    criterion = DeepSupervisionLoss(nn.functional.cross_entropy, WEIGHT, "constant")
    # without mkldnn an LSTM consists of matrix products, which the counter knows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about an Intel GPU that is not there
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
            criterion(net(x), y).backward()
    return int(counter.get_total_flops())


def measure(task: str, arm: str, seed: int) -> Row:
    """Train one row.

    As `gradprobe.compare` trains: weight 0.3, the schedule of CNDS over 60 slices of the run.
    """
    started = time.perf_counter()
    definition = TASKS[task]
    steps = definition.iterations
    fewer = min(steps, round(steps * operations(task, NONE) / operations(task, arm)))
    net = build(task, arm, seed)
    criterion = DeepSupervisionLoss(nn.functional.cross_entropy, WEIGHT, "cnds", EPOCHS)
    optimizer = definition.make_optimizer(net)
    if arm in STEP_REMEDIES:
        STEP_REMEDIES[arm](optimizer, window(task, seed))
    held_out = Batches(definition.held_out())
    losses: list[torch.Tensor] = []
    at_operations = float("nan")
    for step in train(net, Batches(definition.batches(seed)), criterion, optimizer, steps):
        losses.append(step.main)
        done = step.iteration + 1
        criterion.epoch = done * EPOCHS // steps
        if done == fewer:
            at_operations = accuracy(net.trunk, held_out)
    last = at_operations if fewer == steps else accuracy(net.trunk, held_out)
    curve = torch.stack(losses)
    early = tuple(float(curve[done - SMOOTHED : done].mean()) for done in EARLY)
    loss = float(curve[-SMOOTHED:].mean())
    return Row(task, arm, seed, last, at_operations, fewer, loss, time.perf_counter() - started, early)


class Table:
    """The rows that were trained, in a CSV file that each row is added to.

    Args:
        path: Read if it exists, else created with the first row.
    """

    def __init__(self, path: Path = ROWS) -> None:
        self.path = path
        self.rows: dict[Key, Row] = {row.key: row for row in map(_row, records.read(path))}

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """The keys that have not been trained, each once."""
        return [key for key in dict.fromkeys(keys) if key not in self.rows]

    def add(self, row: Row) -> None:
        """Add a row, in the file too."""
        records.append(self.path, [field.name for field in fields(Row)], astuple(row))
        self.rows[row.key] = row

    def accuracies(self, task: str, arm: str, seeds: Sequence[int], *, operations: bool = False) -> list[float]:
        """The accuracies of one arm, one for each seed, at equal steps or at equal operations."""
        rows = [self.rows[task, arm, seed] for seed in seeds]
        return [row.at_operations if operations else row.accuracy for row in rows]

    def arms(self, task: str, seeds: Sequence[int]) -> list[str]:
        """The arms that were trained on all of these seeds."""
        trained = dict.fromkeys(arm for name, arm, _ in self.rows if name == task)
        return [arm for arm in trained if not self.missing((task, arm, seed) for seed in seeds)]


def _row(line: dict[str, str]) -> Row:
    return Row(
        line["task"],
        line["arm"],
        int(line["seed"]),
        float(line["accuracy"]),
        float(line["at_operations"]),
        int(line["steps"]),
        float(line["loss"]),
        float(line["seconds"]),
        tuple(map(float, line["early"].split())),
    )
