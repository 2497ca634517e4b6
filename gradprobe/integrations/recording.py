"""A probe for a training loop that is not the user's own: it ends by itself, then decides, writes and logs."""

from __future__ import annotations

import atexit
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradprobe.decide.policies import Policy, ThresholdPolicy, as_policy, place
from gradprobe.integrations.loggers import log_to
from gradprobe.measure.probe import GradientProbe
from gradprobe.network.layers import unwrap
from gradprobe.record.history import GradientHistory
from gradprobe.record.placement import Placement
from gradprobe.runs.folder import RUNS, Reserved, is_first_rank, kept_elsewhere, reserve, reserve_free
from gradprobe.runs.run import save

Writers = Callable[[], Iterable[Any]]
REFUSALS = (ValueError, TypeError, OSError)  # before the training begins, what was asked for is refused with these
_log = logging.getLogger("gradprobe")


@dataclass(eq=False)
class Settings:
    """What to record and where to put it: the same for every trainer.

    Attributes:
        iterations: Length of the window.
        out: Folder of the run; by default a free one in ``gradprobe_runs``, named after the model's class.
        force: Replace an existing run there.
        policy: How layers are flagged; see `gradprobe.place`.
        writers: Where to log, see `gradprobe.integrations.loggers.log_to`. None: to whatever the trainer logs to;
            an empty list: nowhere.
        of: See `gradprobe.GradientProbe`.
        stats: See `gradprobe.GradientProbe`.
        layers: See `gradprobe.GradientProbe`.
        conditions: Facts to keep with the record.
    """

    iterations: int = 50
    _: KW_ONLY
    out: str | Path | None = None
    force: bool = False
    policy: Policy | str | None = None
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
            writers: Returns what the trainer logs to; called when the record is complete.
            name: What to call the run; the class of the model by default.
            facts: What the trainer knows of the conditions, such as the seed.
            rows: See `gradprobe.integrations.loggers.log_to`.

        Raises:
            FileExistsError: If there is a run already, and it may not be replaced.
            ValueError: If the model cannot be probed, or the policy looks at what is not recorded.
        """
        name = name or type(unwrap(model)).__name__
        own = self.writers
        recorder = Recorder(
            model,
            optimizers,
            self,
            writers=writers if own is None else lambda: own,
            rows=rows,
            conditions={"target": name, **(facts or {}), **self.conditions},
        )
        policy = None if self.policy is None else as_policy(self.policy)
        looked_at = getattr(policy, "of", recorder.of[0])
        if looked_at not in recorder.of:
            raise ValueError(f"the policy looks at of={looked_at!r}, but only {list(recorder.of)} is recorded")
        if is_first_rank():
            recorder.reserve(self._reserved(name))
        return recorder.__enter__()

    def _reserved(self, name: str) -> Reserved:
        if self.out is not None:
            return reserve(self.out, force=self.force)
        return reserve_free(RUNS, name)


class Recorder(GradientProbe):
    """A probe that, when its window is full or the training ends, decides, writes the run and logs it, once.

    Made by `Settings.attach`. An error in writing or logging becomes a warning, and the training goes on.

    Attributes:
        folder: Where the run goes; None on other ranks than the first.
        placement: The decision, or None before there is one.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        settings: Settings,
        *,
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
        self.folder: Path | None = None
        self._reserved: Reserved | None = None
        self.placement: Placement | None = None
        self._settings, self._writers, self._rows = settings, writers, rows

    def reserve(self, folder: Reserved) -> None:
        """Take a folder for the run, which is given back when it is written."""
        self.folder, self._reserved = folder.shown, folder

    def __enter__(self) -> Recorder:
        if not self._attached:
            super().__enter__()
            # a loop may be left early without a call: then what was recorded is written when the process ends
            atexit.register(self._at_exit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        attached = self._attached
        with errors_logged("take its hooks off"):
            super().__exit__(kind, error, trace)  # calls `detach`, but not after an error
        if attached and kind is not None:
            self._conclude()

    def detach(self) -> None:
        """Take every hook off, decide, write and log. Called by the probe itself when the window is full."""
        if self._attached:
            with errors_logged("complete the record"):
                super().detach()
            self._conclude()

    def _at_exit(self) -> None:
        self.__exit__(SystemExit, None, None)

    def _conclude(self) -> None:
        atexit.unregister(self._at_exit)
        with errors_logged("complete the record"), self._reserved or contextlib.nullcontext():
            self._decide_and_write()

    def _decide_and_write(self) -> None:
        if not self.recorded:
            _log.warning("gradprobe recorded nothing: no optimizer step was seen")
            return
        if self.recorded < self.iterations:
            ended = f"the training ended after {self.recorded} of {self.iterations} iterations"
            self._conditions["stopped"] = ended
        history = self.history
        self.placement = self._decide(history)
        if self._reserved is not None:
            self._write(history, self.placement, self._reserved)

    def _decide(self, history: GradientHistory) -> Placement:
        default = ThresholdPolicy(of=self.of[0])
        try:
            return place(history, self._settings.policy or default)
        except Exception as error:
            _log.warning("gradprobe could not apply the policy, so CNDS' rule decides: %s", error)
            return place(history, default)

    def _write(self, history: GradientHistory, placement: Placement, folder: Reserved) -> None:
        with errors_logged(f"write the run to {folder}"):
            self.folder = _saved(folder, lambda place: save(place, history, placement))
            _log.info("%s\nrun written to %s", placement, self.folder)
        pictures = sorted(Path(self.folder or folder).glob("*.png")) or None
        with errors_logged("log the run"):
            for writer in self._writers():
                with errors_logged(f"log the run to {type(writer).__name__}"):
                    log_to(history, writer, placement, rows=self._rows, pictures=pictures)


def _saved(folder: Reserved, write: Callable[[Reserved], Path]) -> Path:
    """Write a run, to a temporary folder if its own has no place for it."""
    try:
        return write(folder)
    except OSError as error:
        where = kept_elsewhere(folder, error, write)
        _log.warning("gradprobe could not write the run to %s: %s; it is kept in %s", folder, error, where)
        return where


@contextlib.contextmanager
def errors_logged(action: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn any error into a warning: no record is worth the end of a training.

    Args:
        action: What gradprobe could not do, if there is one.
        but: Errors that are raised all the same.
    """
    try:
        yield
    except but:
        raise
    except Exception as error:
        _log.warning("gradprobe could not %s: %s", action, error)


def bare(optimizer: Any) -> Any:
    """The optimizer of torch inside the one that a trainer wrapped around it."""
    while not hasattr(optimizer, "_optimizer_step_pre_hooks") and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer
