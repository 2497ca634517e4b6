"""A process that draws the figures and the page of runs: its imports take their time beside a training.

matplotlib and pandas take as long to import as half of torch, and need nothing of the training.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, NoReturn, TypeVar

from gradprobe.show.each import Each, every

T = TypeVar("T")

# the import path as it is now: the user's folder, which may hold a matplotlib.py, is not on it yet
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from gradprobe.runs.drawing import serve
serve()
"""


class DrawingProcess:
    """Another Python that has imported what draws by the time that a run is saved.

    Example:
        >>> from gradprobe.decide.policies import place
        >>> from gradprobe.record.history import GradientHistory, tidy
        >>> from gradprobe.runs.run import save
        >>> history = GradientHistory(tidy([]), {}, (), (), None)
        >>> with __import__("tempfile").TemporaryDirectory() as folder, DrawingProcess() as drawing:
        ...     run = save(Path(folder).resolve() / "run", history, place(history), figures=False)
        ...     drawing.begin(run, run)
        ...     drawing.finish(), (run / "report.html").exists()
        ([], True)
    """

    def __init__(self) -> None:
        command = [sys.executable, "-c", _START, json.dumps(sys.path)]
        self._task: tuple[Path, Path] | None = None
        self._process: subprocess.Popen[str] | None = None
        with contextlib.suppress(OSError):  # no more processes here: this one draws
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )

    def __enter__(self) -> DrawingProcess:
        return self

    def __exit__(self, *error: object) -> None:
        """End it, also amid a figure: the run is kept, and what is half written is not yet part of it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def begin(self, folder: Path, shown: Path) -> None:
        """Let it draw the run in a folder, while this process goes on.

        Args:
            folder: Where the run is, in full.
            shown: How the page names it.
        """
        self._task = folder, shown
        task = json.dumps([str(folder), str(shown)])
        with contextlib.suppress(OSError):  # it has ended: `finish` finds no answer
            _stream(self._process, "stdin").write(task + "\n")
            _stream(self._process, "stdin").flush()

    def finish(self) -> list[str]:
        """Wait until it has drawn the run; this process draws it if that one cannot.

        Returns:
            What could not be drawn, in sentences.
        """
        answer = ""
        with contextlib.suppress(OSError):
            answer = _stream(self._process, "stdout").readline()
        if answer.endswith("\n"):
            sentences: list[str] = json.loads(answer)
            return sentences
        return [] if self._task is None else draw(*self._task)


def _stream(process: subprocess.Popen[str] | None, name: str) -> IO[str]:
    stream: IO[str] | None = getattr(process, name, None)
    if stream is None:
        raise OSError("there is no process")
    return stream


def draw(folder: Path, shown: Path, each: Each = every) -> list[str]:
    """Draw the figures and the page of a saved run.

    Args:
        folder: Where it is.
        shown: How the page names it.
        each: Draws one figure after the other, or several at once.

    Returns:
        What could not be drawn, in sentences.
    """
    from gradprobe.runs.run import PictureWarning, add_pictures

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", PictureWarning)
        try:
            add_pictures(folder, shown, each)
        except (OSError, ValueError) as error:
            return [f"the record is kept in {shown}, but without its figures: {error}"]
    return [str(one.message) for one in caught]


def in_two(call: Callable[[T], object], items: Iterable[T]) -> None:
    """Make a call with each item, every second one in a copy of this process, which must have no threads.

    Example:
        >>> in_two(print, ["one"])
        one
    """
    todo = list(items)
    here, there = todo[::2], todo[1::2]
    copy = os.fork() if there and hasattr(os, "fork") else None
    if copy == 0:
        _exit_after(lambda: every(call, there))
    every(call, here)
    if copy is None or os.waitpid(copy, 0)[1]:
        every(call, there)  # an error comes again here, where it is dealt with


def _exit_after(call: Callable[[], object]) -> NoReturn:
    """Make a call and end the process, with code 0 where it raised nothing."""
    code = 1
    try:
        call()
        code = 0
    finally:
        os._exit(code)


def serve() -> None:
    """The process itself: a line with a run's folder in, a line with what could not be drawn out."""
    gc.disable()  # a process that draws one run
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training; what it has recorded is drawn
    import gradprobe.show.page
    import gradprobe.show.plots  # noqa: F401

    for line in sys.stdin:
        folder, shown = map(Path, json.loads(line))
        with contextlib.redirect_stdout(sys.stderr):  # a line of a library's would be taken for the answer
            sentences = draw(folder, shown, in_two)
        print(json.dumps(sentences), flush=True)
