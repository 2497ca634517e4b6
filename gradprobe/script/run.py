"""Run a training script as it is and record what its optimizers train: the first iterations of every model."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradprobe.script.advice.words import no_batch, no_optimizer, only_step
from gradprobe.script.execute import Ending, Script, execute, replaced, shown_text
from gradprobe.script.stop import stop

if TYPE_CHECKING:
    from gradprobe.record.history import GradientHistory
    from gradprobe.script.advice.site import Site
    from gradprobe.script.births import Births
    from gradprobe.script.seeds import SeedListener
    from gradprobe.script.session import Session
    from gradprobe.script.training import Training

_OPTIMIZER, _RANDOM, _MODULE = "torch.optim.optimizer", "torch.random", "torch.nn.modules.module"
MANY_CALLS = 25  # of a closure in a step: what LBFGS makes at most with its default settings


@dataclass(frozen=True)
class RecordedModel:
    """What was recorded of one model of a script.

    Attributes:
        name: What the script calls the model.
        history: The record.
        site: Where the script builds the model and its optimizer, and computes its loss.
    """

    name: str
    history: GradientHistory
    site: Site


@dataclass(frozen=True)
class SeenTraining:
    """One of a script's trainings, recorded or not.

    Attributes:
        number: Which one it is, from 1.
        name: What the script calls the model, or the name of its class.
        steps: How often an optimizer of it stepped.
        recorded: Whether it is one of the recorded models.
    """

    number: int
    name: str
    steps: int
    recorded: bool


@dataclass(frozen=True)
class RecordedScript:
    """What became of a script under gradprobe.

    Attributes:
        ending: How it ended.
        models: Those of which something was recorded.
        sentences: What was not recorded, and why.
        rank: Number of this process among those that train together; only 0 reports.
        trainings: All that were seen, in the order in which they began.
        more: How many there were beyond these.
    """

    ending: Ending
    models: tuple[RecordedModel, ...]
    sentences: tuple[str, ...]
    rank: int
    trainings: tuple[SeenTraining, ...] = ()
    more: int = 0


def record_script(
    script: Script,
    iterations: int = 50,
    *,
    keep_going: bool = False,
    every: bool = False,
    layers: Sequence[str] = (),
    on_full: Callable[[RecordedScript], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> RecordedScript:
    """Run a script as ``python`` would, unchanged, and record the first iterations of every model that it trains.

    Probes are attached when the script builds an optimizer, to the outermost modules that own its parameters,
    so that the first iteration is in the record. torch is not imported before the script does so. Of many
    trainings of one kind (classes, shapes and optimizer) the first is recorded.

    Args:
        script: What to run.
        iterations: Length of the window. When the windows of all models are full, the script is stopped after the
            optimizer's step, by an exception that its ``finally`` and ``with`` blocks see.
        keep_going: Let it train on instead, without hooks.
        every: Record every training of a kind, and let the script run to its end.
        layers: Names or shell patterns of the layers to record; all of them if there is none.
        on_full: With ``keep_going``: called with the recording as soon as it is complete.
        say: Called with a sentence that is for a person who waits.

    Returns:
        The recording. With ``keep_going``, too, its ending is that of the whole script.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "nothing.py"
        ...     _ = file.write_text("print('hello')")
        ...     record_script(Script(str(file))).sentences
        hello
        ('the script ended before it built an optimizer of torch.optim in this process',)
    """
    recorder = ScriptRecorder(
        script,
        iterations,
        keep_going=keep_going,
        every=every,
        layers=layers,
        on_full=on_full,
        say=say or (lambda sentence: None),
    )
    with recorder.following_optimizers():
        ending = execute(script)
        return recorder.recording(ending)


class ScriptRecorder:
    """What is recorded of a script, or of a notebook's cell; see `record_script`."""

    def __init__(
        self,
        script: Script,
        iterations: int,
        *,
        keep_going: bool,
        every: bool = False,
        layers: Sequence[str] = (),
        on_full: Callable[[RecordedScript], None] | None = None,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.script, self.iterations = script, iterations
        self.keep_going, self.every, self.layers = keep_going, every, tuple(layers)
        self.on_full, self.say = on_full, say
        self.session: Session | None = None
        self._seeds: SeedListener | None = None
        self._births: Births | None = None
        self._lock = threading.Lock()
        self._children_before = os.times().children_user

    @contextlib.contextmanager
    def following_optimizers(self) -> Iterator[None]:
        """Give the session every optimizer that is built, from the import of torch on."""
        with contextlib.ExitStack() as stack:
            self._when_imported(stack, _RANDOM, self._listen_to_seeds)
            self._when_imported(stack, _MODULE, self._note_births)
            self._when_imported(stack, _OPTIMIZER, functools.partial(self._patch_optimizer, stack))
            stack.callback(self._end)
            yield

    def _when_imported(self, stack: contextlib.ExitStack, module: str, call: Callable[[], None]) -> None:
        if module in sys.modules:
            call()
            return
        hook = _ImportHook(module, call)
        sys.meta_path.insert(0, hook)
        stack.callback(hook.remove)

    def _listen_to_seeds(self) -> None:
        from gradprobe.script.seeds import SeedListener

        self._seeds = SeedListener()

    def _note_births(self) -> None:
        from gradprobe.script.births import Births

        self._births = Births()

    def _seed(self) -> int | None:
        return self._seeds.seed if self._seeds is not None else None

    def _end(self) -> None:
        if self.session is not None:
            self.session.end()
        if self._seeds is not None:
            self._seeds.remove()
        if self._births is not None:
            self._births.remove()

    def _patch_optimizer(self, stack: contextlib.ExitStack) -> None:
        optimizer = sys.modules[_OPTIMIZER].Optimizer
        original = optimizer.__init__

        @functools.wraps(original)
        def init(this: Any, *args: Any, **kwargs: Any) -> None:
            original(this, *args, **kwargs)
            self.take(this, sys._getframe(1))

        stack.enter_context(replaced(optimizer, "__init__", init))

    def take(self, optimizer: Any, frame: Any) -> None:
        """Record what an optimizer trains.

        Args:
            optimizer: A ``torch.optim.Optimizer``.
            frame: From where it is seen, with the names that the script has for it.
        """
        self._the_session().optimizer_built(optimizer, frame)

    def _the_session(self) -> Session:
        with self._lock:  # threads may build the first optimizers at the same time
            if self.session is None:
                from gradprobe.script.untouched import untouched

                with untouched():  # much is imported with it
                    from gradprobe.script.session import Session

                self.session = Session(
                    self.iterations,
                    self._on_full,
                    stops=not self.keep_going,
                    every=self.every,
                    layers=self.layers,
                    seed=self._seed,
                    say=self.say,
                    made=self._births.of if self._births is not None else lambda model: (),
                )
            return self.session

    def _on_full(self) -> None:
        if not self.keep_going:
            stop()
        assert self.session is not None
        from gradprobe.script.untouched import untouched

        with untouched():
            self.session.close()
            if self.on_full is not None:
                try:
                    self.on_full(self.recording(Ending(0, "trains on", stopped=True, trains_on=True)))
                except Exception as error:  # a full disk does not end the training
                    self.session.refusals.append(f"the run could not be written: {error}")

    def recording(self, ending: Ending) -> RecordedScript:
        """What was recorded until now; nothing is recorded after this call."""
        session = self.session
        if session is None:
            children = _work_of_children(self._children_before)
            why = no_optimizer(ending.words, sys.modules.keys(), children, bool(self._births and self._births.any))
            return RecordedScript(ending, (), (why,), int(os.environ.get("RANK", 0)))
        from gradprobe.script.training import names, shown_name

        session.close(alone=ending.code != 0)
        models, sentences = [], list(session.refusals)
        given = names(session.trainings)
        for name, training in zip(given, session.trainings, strict=True):
            if training.history is None:
                sentences.append(f"the {self.script.kind} {ending.words} before an optimizer of {name} stepped")
                continue
            sentences += _sentences(name, training, f"{self.script.kind} {ending.words}")
            models.append(RecordedModel(name, self._history(training, ending), training.site))
        seen = [
            SeenTraining(one.number, name, one.steps, one.history is not None)
            for name, one in (
                *zip(given, session.trainings, strict=True),
                *((shown_name(o), o) for o in session.others),
            )
        ]
        seen.sort(key=lambda one: one.number)
        return RecordedScript(ending, tuple(models), tuple(sentences), session.rank, tuple(seen), session.more)

    def _history(self, training: Training, ending: Ending) -> GradientHistory:
        """The record, with how it came about."""
        assert training.history is not None
        target = shown_text(" ".join([Path(self.script.target).name, *self.script.args]))
        conditions = {**training.history.conditions, "target": target}
        if not training.full:
            conditions["stopped"] = _early(training, f"{self.script.kind} {ending.words}")
        return replace(training.history, conditions=conditions)


def _sentences(name: str, training: Training, ended: str) -> Iterator[str]:
    """What a person should know of a record."""
    assert training.history is not None
    if not training.full:
        yield f"{name}: {_early(training, ended)}"
        if training.calls > MANY_CALLS and training.recorded <= 2:
            yield only_step(training.recorded, training.calls)
    if training.history.conditions.get("batch_size") is None:
        yield no_batch(name)


def _early(training: Training, ended: str) -> str:
    return f"the {ended} after {training.recorded} of {training.iterations} iterations"


def _work_of_children(before: float) -> str:
    """A hint if child processes worked, in which the models may be: their optimizers cannot be followed."""
    seconds = os.times().children_user - before
    if seconds < 1:
        return ""
    return (
        f" (its child processes, which worked {seconds:.0f} s, are not recorded: start each of them with "
        "gradprobe, for instance by torchrun ... -m gradprobe run)"
    )


class _ImportHook:
    """Calls a function when a module has just been imported, once."""

    def __init__(self, name: str, call: Callable[[], None]) -> None:
        self._name, self._call = name, call

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find the module as the other finders would, and make the call right after its execution."""
        if name != self._name:
            return None
        self.remove()
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute_module = loader.exec_module

            def exec_module(module: Any) -> None:
                execute_module(module)
                self._call()

            loader.exec_module = exec_module
        return spec

    def remove(self) -> None:
        """Take this finder off ``sys.meta_path``."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
