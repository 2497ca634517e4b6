"""``%load_ext gradprobe`` and ``%%gradprobe``: run a cell as it is, and show what its training does."""

from __future__ import annotations

import ast
import contextlib
import gc
import sys
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from gradprobe.network.hooks import GuardedHook
from gradprobe.script.execute import Ending, Script
from gradprobe.script.notebook.view import CellView
from gradprobe.script.run import RecordedScript, ScriptRecorder

try:
    from IPython.core import magic_arguments as _arguments
    from IPython.display import display as _display
except ImportError as error:
    raise ImportError("%%gradprobe needs IPython: pip install 'gradprobe[notebook]'") from error

magic_arguments: Any = _arguments  # IPython has no types for these
display: Any = _display

_NOTHING = "no optimizer of torch.optim stepped in this cell: train in it, whether or not it builds the optimizer"


def load_ipython_extension(shell: Any) -> None:
    """Add the magic to a shell: what ``%load_ext gradprobe`` calls.

    Args:
        shell: An ``IPython.core.interactiveshell.InteractiveShell``.
    """
    about = "Run a training cell as it is, and show what is wrong with what it trains, and why."
    parser = magic_arguments.MagicArgumentParser("%%gradprobe", description=about)
    parser.add_argument("name", nargs="?", help="Variable for the record; of several models for a dict.")
    parser.add_argument("-n", "--iterations", type=int, default=50, help="Iterations to record.  [default: 50]")

    def gradprobe(line: str, cell: str) -> Any:
        options = parser.parse_argstring(line)
        return _ObservedCell(shell, options.iterations).run(cell, options.name)

    gradprobe.__doc__ = parser.format_help()
    shell.register_magic_function(gradprobe, "cell", "gradprobe")


class _ObservedCell:
    """One run of a cell: the probes on what it trains, and its place in the notebook."""

    def __init__(self, shell: Any, iterations: int) -> None:
        self._shell = shell
        self._recorder = ScriptRecorder(
            Script("cell", kind="cell"), iterations, keep_going=True, on_full=self._show
        )
        self._view = CellView(iterations)
        self._shown: Any = None

    def run(self, cell: str, name: str | None) -> Any:
        """Run it, show the result, also of a cell that fails or is interrupted, and return its last value."""
        words = "failed"
        self._shown = display(self._view, display_id=True)
        with contextlib.ExitStack() as stack:
            # before those of the session: a model that waits in another cell is left as soon as it can be told
            handle = register_optimizer_step_post_hook(GuardedHook(self._after_step, lambda error: None))
            stack.callback(handle.remove)
            stack.enter_context(self._recorder.following_optimizers())
            for optimizer in _optimizers():
                self._recorder.take(optimizer, sys._getframe())
            try:
                value = _execute(self._shell, cell)
                words = "ended"
            finally:
                self._leave_idle(self._view.training)
                recording = self._recorder.recording(Ending(int(words == "failed"), words))
                self._finish(recording, name)
        return value

    def _after_step(self, *_: Any) -> None:
        session = self._recorder.session
        if session is None or self._view.full:
            return
        self._leave_idle(any(one.full for one in session.trainings))
        training = next((one for one in session.trainings if one.probe is not None and one.steps), None)
        if training is not None and self._view.look_at(training):
            self._shown.update(self._view)

    def _leave_idle(self, others_are_full: bool) -> None:
        """Leave the models that are not trained in this cell, whose optimizers an earlier one has built."""
        session = self._recorder.session
        if session is None or not others_are_full:
            return
        for training in list(session.trainings):
            if not training.steps:
                training.leave()
                session.trainings.remove(training)

    def _show(self, recording: RecordedScript) -> None:
        """Show the verdict as soon as the window is full: the cell trains on."""
        self._view.conclude(recording.models, ())
        self._shown.update(self._view)

    def _finish(self, recording: RecordedScript, name: str | None) -> None:
        nothing = () if recording.models else (_NOTHING,)
        self._view.conclude(recording.models, nothing or recording.sentences)
        self._view.draw()
        self._shown.update(self._view)
        if name and recording.models:
            histories = {model.name: model.history for model in recording.models}
            self._shell.user_ns[name] = histories if len(histories) > 1 else next(iter(histories.values()))


def _optimizers() -> list[Optimizer]:
    """Those that there are, whoever holds them: a variable of an earlier cell, or an object of the user's."""
    # by the type: some objects give warnings when they are asked for their class
    return [one for one in gc.get_objects() if issubclass(type(one), Optimizer)]


def _execute(shell: Any, cell: str) -> Any:
    """Run a cell with the notebook's variables, and return what its last line gives."""
    text = shell.transform_cell(cell)
    file = shell.compile.cache(text, raw_code=cell)
    tree = shell.transform_ast(shell.compile.ast_parse(text, file))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(shell.compile(tree, file, "exec"), shell.user_ns)
    if last is None:
        return None
    value = eval(shell.compile(ast.Expression(last.value), file, "eval"), shell.user_ns)
    return None if text.rstrip().endswith(";") else value
