"""Run a training script as it is and record what its optimizers train: the first iterations of every model."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradprobe.script.execute import Ending, Script, Stopped, execute, replaced

if TYPE_CHECKING:
    from gradprobe.record.history import GradientHistory
    from gradprobe.script.session import Attachment, Session
    from gradprobe.script.source import Site

_OPTIMIZER = "torch.optim.optimizer"


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
class RecordedScript:
    """What became of a script under gradprobe.

    Attributes:
        ending: How it ended.
        models: Those of which something was recorded.
        sentences: What was not recorded, and why.
        rank: Number of this process among those that train together; only 0 reports.
    """

    ending: Ending
    models: tuple[RecordedModel, ...]
    sentences: tuple[str, ...]
    rank: int


def record_script(
    script: Script,
    iterations: int = 50,
    *,
    keep_going: bool = False,
    on_full: Callable[[RecordedScript], None] | None = None,
) -> RecordedScript:
    """Run a script as ``python`` would, unchanged, and record the first iterations of every model that it trains.

    Probes are attached when the script builds an optimizer, to the outermost modules that own its parameters,
    so that the first iteration is in the record. torch is not imported before the script does so.

    Args:
        script: What to run.
        iterations: Length of the window. When the windows of all models are full, the script is stopped after the
            optimizer's step, by an exception that its ``finally`` and ``with`` blocks see.
        keep_going: Let it train on instead, without hooks.
        on_full: With ``keep_going``: called with the recording as soon as it is complete.

    Returns:
        The recording. With ``keep_going``, too, its ending is that of the whole script.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "nothing.py"
        ...     _ = file.write_text("print('hello')")
        ...     record_script(Script(str(file))).sentences
        hello
        ('the script ended before it built an optimizer in this process',)
    """
    recorder = _ScriptRecorder(script, iterations, keep_going, on_full)
    with recorder.following_optimizers():
        ending = execute(script)
        return recorder.recording(ending)


class _ScriptRecorder:
    def __init__(
        self, script: Script, iterations: int, keep_going: bool, on_full: Callable[[RecordedScript], None] | None
    ) -> None:
        self.script, self.iterations = script, iterations
        self.keep_going, self.on_full = keep_going, on_full
        self.session: Session | None = None
        self._children_before = os.times().children_user

    @contextlib.contextmanager
    def following_optimizers(self) -> Iterator[None]:
        """Give the session every optimizer that is built, from the import of torch on."""
        with contextlib.ExitStack() as stack:
            patch = functools.partial(self._patch_optimizer, stack)
            if _OPTIMIZER in sys.modules:
                patch()
            else:
                hook = _ImportHook(_OPTIMIZER, patch)
                sys.meta_path.insert(0, hook)
                stack.callback(hook.remove)
            stack.callback(self._end)
            yield

    def _end(self) -> None:
        if self.session is not None:
            self.session.end()

    def _patch_optimizer(self, stack: contextlib.ExitStack) -> None:
        optimizer = sys.modules[_OPTIMIZER].Optimizer
        original = optimizer.__init__

        @functools.wraps(original)
        def init(this: Any, *args: Any, **kwargs: Any) -> None:
            original(this, *args, **kwargs)
            if self.session is None:
                from gradprobe.script.session import Session

                self.session = Session(self.iterations, self._on_full)
            self.session.optimizer_built(this, sys._getframe(1))

        stack.enter_context(replaced(optimizer, "__init__", init))

    def _on_full(self) -> None:
        if not self.keep_going:
            raise Stopped(0)
        assert self.session is not None
        self.session.close()
        if self.on_full is not None:
            try:
                self.on_full(self.recording(Ending(0, "trains on", stopped=True)))
            except Exception as error:  # a full disk does not end the training
                self.session.refusals.append(f"the run could not be written: {error}")

    def recording(self, ending: Ending) -> RecordedScript:
        """What was recorded until now; nothing is recorded after this call."""
        session = self.session
        if session is None:
            children = _work_of_children(self._children_before)
            why = f"the script {ending.words} before it built an optimizer in this process{children}"
            return RecordedScript(ending, (), (why,), int(os.environ.get("RANK", 0)))
        session.close(alone=ending.code != 0)
        models, sentences = [], list(session.refusals)
        for name, attachment in _named(session):
            recorded, wanted = attachment.probe.recorded, attachment.probe.iterations
            if not recorded:
                sentences.append(f"the script {ending.words} before an optimizer of {name} stepped")
                continue
            conditions = {"target": " ".join([Path(self.script.target).name, *self.script.args])}
            if recorded < wanted:
                conditions["stopped"] = f"the script {ending.words} after {recorded} of {wanted} iterations"
                sentences.append(f"{name}: {conditions['stopped']}")
            history = attachment.history
            history = replace(history, conditions={**history.conditions, **conditions})
            models.append(RecordedModel(name, history, attachment.site))
        return RecordedScript(ending, tuple(models), tuple(sentences), session.rank)


def _named(session: Session) -> Iterator[tuple[str, Attachment]]:
    """The attachments with a name for each: the script's own if it is known, else that of the class."""
    counts: dict[str, int] = {}
    for attachment in session.attachments:
        name = (attachment.site.model or type(attachment.model).__name__).removeprefix("self.")
        counts[name] = counts.get(name, 0) + 1
        yield (name if counts[name] == 1 else f"{name}-{counts[name]}"), attachment


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
