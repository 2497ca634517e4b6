"""What a terminal shows while a network trains: how far it is, its loss, and the gradient by depth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from gradprobe.decide.policies import Policy, RelativePolicy, ThresholdPolicy
from gradprobe.measure.preview import Glimpse
from gradprobe.measure.scan import TrainingProgress
from gradprobe.record.quantities import short
from gradprobe.show.tables import Profile

INTERVAL = 0.25  # seconds between two pictures, at least
SHARE = 0.01  # of the time that has passed: what the pictures may cost


class Display:
    """A picture of a training, a few times a second, gone when it ends. Nothing in it waits for the device.

    Args:
        console: The terminal.
        policy: Whose quantity to show, and whose threshold; None shows those of CNDS' rule.
        trainings: How many trainings there will be, at most.

    Attributes:
        seconds: What it has cost: the time between iterations that went into looking and drawing.
    """

    def __init__(self, console: Console, policy: Policy | None, trainings: int = 1) -> None:
        self.seconds = 0.0
        self._policy = policy or ThresholdPolicy()
        self._of = str(getattr(policy, "of", "output"))
        self._trainings, self._begun = trainings, 0
        columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, expand=True)
        self._task = self._progress.add_task("starting", total=None)
        self._live = Live(self._progress, console=console, auto_refresh=False, transient=True)
        self._training: tuple[str, int | None] | None = None
        self._glimpse: Glimpse | None = None
        self._at = ""
        self._started = self._next = time.monotonic()

    def __enter__(self) -> Display:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, reached: TrainingProgress) -> None:
        """Take note of an iteration; look and draw if it is time to."""
        started = time.monotonic()
        if (reached.arm, reached.seed) != self._training or reached.done == 1:
            self._begin(reached)
        if self._glimpse is None and started < self._next:
            return
        if self._glimpse is None:
            self._glimpse = reached.probe.glimpse(reached.loss, self._of)
            self._at = _iteration(reached)
        if self._glimpse.arrived:
            self._draw(reached, self._glimpse)
            self._glimpse = None
        now = time.monotonic()
        self.seconds += now - started
        self._next = max(now + INTERVAL, self._started + self.seconds / SHARE)

    def trial(self, name: str, done: int, total: int) -> None:
        """Take note of an iteration of a short trial, of which only the progress is shown."""
        started = time.monotonic()
        if done == 1:
            self._training = None
            self._progress.reset(self._task, total=total, description=f"trying {name}")
        if started < self._next:
            return
        self._progress.update(self._task, completed=done)
        self._live.update(self._progress, refresh=True)
        now = time.monotonic()
        self.seconds += now - started
        self._next = max(now + INTERVAL, self._started + self.seconds / SHARE)

    def part(self, what: str, done: int, total: int) -> None:
        """Take note of a part of a larger whole that is done, of which only how many is shown."""
        self._progress.update(self._task, completed=done, total=total, description=what)
        self._live.update(self._progress, refresh=True)

    def _begin(self, reached: TrainingProgress) -> None:
        self._training = reached.arm, reached.seed
        called = _called(reached)
        if self._trainings == 1 and reached.arm == "plain":
            called = "scanning"
        elif self._trainings > 1 and reached.arm != "repeated":
            self._begun += 1
            called += f" ({self._begun} of {self._trainings})"
        self._progress.reset(self._task, total=reached.total, description=called)

    def _draw(self, reached: TrainingProgress, glimpse: Glimpse) -> None:
        magnitudes = list(glimpse.magnitudes.values())
        threshold = _threshold(self._policy, magnitudes)
        said = [f"loss {glimpse.loss:.4g}"]
        if threshold is not None:
            low = sum(value is not None and value < threshold for value in magnitudes)
            said.append(f"{low} of {len(magnitudes)} layers below {short(threshold)}")
        line = Text(f"{', '.join(said)} ({self._at})", no_wrap=True, overflow="ellipsis")
        self._progress.update(self._task, completed=reached.done)
        self._live.update(Group(self._progress, line, Profile(magnitudes, threshold, self._of)), refresh=True)


def _threshold(policy: Policy, magnitudes: Sequence[float | None]) -> float | None:
    """The magnitude below which the policy would flag a layer, were this iteration all it had."""
    if isinstance(policy, ThresholdPolicy):
        return policy.threshold
    if isinstance(policy, RelativePolicy):
        finite = [value for value in magnitudes if value is not None and value < float("inf")]
        return policy.ratio * max(finite, default=0.0) or None
    return None


def _called(reached: TrainingProgress) -> str:
    arms = {"plain": "without branches", "supervised": "with branches", "repeated": "again, with branches"}
    return arms[reached.arm] + ("" if reached.seed is None else f", seed {reached.seed}")


def _iteration(reached: TrainingProgress) -> str:
    recorded = reached.probe.recorded
    if recorded < reached.done:
        return f"iteration {reached.done}; gradients of iteration {recorded}"
    return f"iteration {reached.done}"
