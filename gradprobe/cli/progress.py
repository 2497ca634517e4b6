"""What a terminal shows while a network trains: how far it is, its loss, and the gradient by depth."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from gradprobe.decide.policies import Policy, RelativePolicy, ThresholdPolicy
from gradprobe.measure.preview import Preview
from gradprobe.measure.scan import TrainingProgress
from gradprobe.record.quantities import label, short
from gradprobe.show.tables import Profile

INTERVAL = 0.25  # seconds between two pictures, at least
SHARE = 0.01  # of the time that has passed: the most that the pictures may cost


class Display:
    """A picture of a training, drawn a few times a second, gone when it ends. Nothing in it waits for the device.

    Args:
        console: The terminal.
        policy: Whose quantity to show, and whose threshold; None shows those of CNDS' rule.
        trainings: How many trainings there will be, at most.

    Attributes:
        seconds: What it has cost: the time between iterations that was spent on reading and drawing.
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
        self._preview: Preview | None = None
        self._at = ""
        self._started = self._next = time.monotonic()

    def __enter__(self) -> Display:
        with contextlib.suppress(OSError):
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._live.stop()

    def __call__(self, progress: TrainingProgress) -> None:
        """Draw after an iteration, if it is time to."""
        started = time.monotonic()
        if (progress.arm, progress.seed) != self._training or progress.done == 1:
            self._begin(progress)
        if self._preview is None and started < self._next:
            return
        if self._preview is None:
            self._preview = progress.probe.glimpse(progress.loss, self._of)
            self._at = _iteration(progress)
        if self._preview.arrived:
            self._draw(progress, self._preview)
            self._preview = None
        self._count(started)

    def trial(self, name: str, done: int, total: int) -> None:
        """Show how far a short trial is; nothing else of it is shown."""
        started = time.monotonic()
        if done == 1:
            self._training = None
            self._progress.reset(self._task, total=total, description=f"trying {name}")
        if started < self._next:
            return
        self._progress.update(self._task, completed=done)
        self._show(self._progress)
        self._count(started)

    def part(self, name: str, done: int, total: int) -> None:
        """Show how many of several trainings are done."""
        self._progress.update(self._task, completed=done, total=total, description=name)
        self._show(self._progress)

    def _count(self, started: float) -> None:
        """Add the time since ``started`` to the cost, and say when the next picture may be drawn."""
        now = time.monotonic()
        self.seconds += now - started
        self._next = max(now + INTERVAL, self._started + self.seconds / SHARE)

    def _begin(self, progress: TrainingProgress) -> None:
        self._training = progress.arm, progress.seed
        name = _training_name(progress)
        if self._trainings == 1 and progress.arm == "plain":
            name = "scanning"
        elif self._trainings > 1 and progress.arm != "repeated":
            self._begun += 1
            name += f" ({self._begun} of {self._trainings})"
        self._progress.reset(self._task, total=progress.total, description=name)

    def _draw(self, progress: TrainingProgress, preview: Preview) -> None:
        magnitudes = list(preview.magnitudes.values())
        threshold = _threshold(self._policy, magnitudes)
        parts = [f"loss {preview.loss:.4g}"]
        if threshold is not None:
            low = sum(value is not None and value < threshold for value in magnitudes)
            parts.append(f"{low} of {len(magnitudes)} layers below {short(threshold)}")
        line = Text(f"{', '.join(parts)} ({self._at})", no_wrap=True, overflow="ellipsis")
        self._progress.update(self._task, completed=progress.done)
        self._show(Group(self._progress, line, Profile(magnitudes, threshold, label(self._of))))

    def _show(self, picture: RenderableType) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone: no training ends with it
            self._live.update(picture, refresh=True)


def _threshold(policy: Policy, magnitudes: Sequence[float | None]) -> float | None:
    """The magnitude below which the policy would flag a layer, were this iteration all it had."""
    if isinstance(policy, ThresholdPolicy):
        return policy.threshold
    if isinstance(policy, RelativePolicy):
        finite = [value for value in magnitudes if value is not None and value < float("inf")]
        return policy.ratio * max(finite, default=0.0) or None
    return None


def _training_name(progress: TrainingProgress) -> str:
    arms = {"plain": "without branches", "supervised": "with branches", "repeated": "again, with branches"}
    return arms[progress.arm] + ("" if progress.seed is None else f", seed {progress.seed}")


def _iteration(progress: TrainingProgress) -> str:
    recorded = progress.probe.recorded
    if recorded < progress.done:
        return f"iteration {progress.done}; gradients of iteration {recorded}"
    return f"iteration {progress.done}"
