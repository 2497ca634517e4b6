"""A probe in a training that somebody else's loop runs: it ends by itself, then decides, writes and logs."""

from __future__ import annotations

import atexit
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from gradprobe.decide.policies import Policy, ThresholdPolicy, place
from gradprobe.integrations.loggers import log_to
from gradprobe.measure.probe import GradientProbe
from gradprobe.network.layers import unwrap
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.runs.folder import check_free, free_folder
from gradprobe.runs.run import save

RUNS = Path("gradprobe_runs")
Writers = Callable[[], Iterable[Any]]
_log = logging.getLogger("gradprobe")


@dataclass(eq=False)
class Settings:
    """What to record and where it goes: the same for every trainer.

    Attributes:
        iterations: Length of the window.
        out: Folder of the run; by default a free one in ``gradprobe_runs``, named after the model's class.
        force: Replace an existing run there.
        policy: How layers are flagged; CNDS' rule by default.
        writers: Where to log, see `gradprobe.integrations.loggers.log_to`: None takes whatever the trainer logs
            to, an empty list logs nowhere.
        of: See `gradprobe.GradientProbe`.
        stats: See `gradprobe.GradientProbe`.
        layers: See `gradprobe.GradientProbe`.
        conditions: Facts to keep with the record.
    """

    iterations: int = 50
    _: KW_ONLY
    out: str | Path | None = None
    force: bool = False
    policy: Policy | None = None
    writers: Sequence[Any] | None = None
    of: str | Iterable[str] = ("output", "weight")
    stats: str = "all"
    layers: Iterable[str] | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def attach(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        writers: Writers,
        *,
        name: str | None = None,
        facts: Mapping[str, Any] | None = None,
        rows: bool = True,
    ) -> Recorder:
        """Put a probe on a model.

        Args:
            model: The model, wrapped or not.
            optimizers: Those whose steps end the iterations, as torch made them.
            writers: Gives what the trainer logs to, asked when the record is complete.
            name: What to call it; the class of the model by default.
            facts: What the trainer knows of the conditions, such as the seed.
            rows: See `gradprobe.integrations.loggers.log_to`.

        Raises:
            FileExistsError: There is a run already, and it may not be replaced.
            ValueError: The model cannot be probed, or the policy looks at what is not recorded.
        """
        name = name or type(unwrap(model)).__name__
        folder = Path(self.out) if self.out is not None else free_folder(RUNS, name)
        if _first_rank():
            check_free(folder, force=self.force)
        given = self.writers
        recording = Recorder(
            model,
            optimizers,
            self,
            folder=folder,
            writers=writers if given is None else lambda: given,
            rows=rows,
            conditions={"target": name, **(facts or {}), **self.conditions},
        )
        looked_at = getattr(self.policy, "of", recording.of[0])
        if looked_at not in recording.of:
            raise ValueError(f"the policy looks at of={looked_at!r}, but only {list(recording.of)} is recorded")
        return recording.__enter__()


class Recorder(GradientProbe):
    """A probe that, when its window is full or the training ends, decides, writes the run and logs it. Once.

    Made by `Settings.attach`. What goes wrong in writing and logging is said, and training goes on.

    Attributes:
        folder: Where the run goes.
        placement: The decision, or None as long as there is none.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        settings: Settings,
        *,
        folder: Path,
        writers: Writers,
        rows: bool,
        conditions: Mapping[str, Any],
    ) -> None:
        super().__init__(
            model,
            optimizer=optimizers,
            iterations=settings.iterations,
            of=settings.of,
            stats=settings.stats,
            layers=settings.layers,
            conditions=conditions,
        )
        self.folder = folder
        self.placement: Placement | None = None
        self._settings, self._writers, self._rows = settings, writers, rows

    def __enter__(self) -> Recorder:
        if not self._attached:
            super().__enter__()
            # a loop that is left early says so to nobody: what was recorded is written at the end of the process
            atexit.register(self._left)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        attached = self._attached
        super().__exit__(kind, error, trace)  # comes to `detach`, but not after an error
        if attached and kind is not None:
            self._conclude()

    def detach(self) -> None:
        """Take every hook off, decide, write and log. Happens by itself when the window is full."""
        if self._attached:
            super().detach()
            self._conclude()

    def _left(self) -> None:
        self.__exit__(SystemExit, None, None)

    def _conclude(self) -> None:
        atexit.unregister(self._left)
        if not self.recorded:
            _log.warning("gradprobe recorded nothing: no optimizer step was seen")
            return
        if self.recorded < self.iterations:
            ended = f"the training ended after {self.recorded} of {self.iterations} iterations"
            self._given["stopped"] = ended
        history = self.history
        self.placement = self._decided(history)
        if _first_rank():
            self._write(history, self.placement)

    def _decided(self, history: GradientHistory) -> Placement:
        default = ThresholdPolicy(of=self.of[0])
        try:
            return place(history, self._settings.policy or default)
        except Exception as error:
            _log.warning("gradprobe could not ask the policy, so CNDS' rule decides: %s", error)
            return place(history, default)

    def _write(self, history: GradientHistory, placement: Placement) -> None:
        with _training_goes_on(f"write the run to {self.folder}"):
            save(self.folder, history, placement, force=self._settings.force)
            _log.info("%s\nrun written to %s", placement, self.folder)
        pictures = sorted(self.folder.glob("*.png")) or None
        with _training_goes_on("log the run"):
            for writer in self._writers():
                with _training_goes_on(f"log the run to {type(writer).__name__}"):
                    log_to(history, writer, placement, rows=self._rows, pictures=pictures)


@contextlib.contextmanager
def _training_goes_on(what: str) -> Iterator[None]:
    """Say what could not be done, whatever it is: a training is worth more than its record."""
    try:
        yield
    except Exception as error:
        _log.warning("gradprobe could not %s: %s", what, error)


def bare(optimizer: Any) -> Any:
    """The optimizer that torch made, inside the one that a trainer wrapped around it."""
    while not hasattr(optimizer, "_optimizer_step_pre_hooks") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _first_rank() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
