"""Run a training script in this interpreter as ``python`` would, and say how it ended. Needs no torch."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import runpy
import sys
import threading
import types
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, cast

INTERRUPTED = 130
_OURS = str(Path(__file__).parents[1]) + os.sep


class Stopped(SystemExit):
    """Ends a script whose gradients are recorded.

    A kind of ``SystemExit``, because threads, asyncio and the trainers let that pass without a word.
    """


@dataclass(frozen=True)
class Script:
    """What to run.

    Attributes:
        target: A file, a folder or archive with a ``__main__.py``, or with ``module`` the name of a module.
        args: The script's own arguments.
        module: Run it as ``python -m`` does.
    """

    target: str
    args: tuple[str, ...] = ()
    module: bool = False

    @property
    def name(self) -> str:
        """What to call its runs.

        Example:
            >>> Script("examples/train.py").name, Script("package.train", module=True).name
            ('train', 'train')
        """
        return self.target.rpartition(".")[2] if self.module else Path(self.target).resolve().stem

    @property
    def exists(self) -> bool:
        """Whether there is such a file; modules are looked for when they are run."""
        return self.module or Path(self.target).exists()


@dataclass(frozen=True)
class Ending:
    """How a script ended.

    Attributes:
        code: The exit code that ``python`` would give; 130 after Ctrl-C.
        words: The same in words, behind "the script".
        stopped: It was ended by `Stopped`.
    """

    code: int
    words: str
    stopped: bool = False


def execute(script: Script) -> Ending:
    """Run a script to its end: its own ``__main__``, arguments and import path; its own traceback where it fails.

    What the script replaces in ``sys`` of these, and of the streams and ``sys.exit``, is put back. Threads that
    the interpreter would wait for are waited for.

    Raises:
        SystemExit: In a process that the script has forked, so that it ends here.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "three.py"
        ...     _ = file.write_text("import sys; sys.exit(3)")
        ...     execute(Script(str(file))).code
        3
    """
    process = os.getpid()
    with _as_main(script):
        ending = _ending(script)
    if os.getpid() != process:
        raise SystemExit(ending.code)
    return ending


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute, and put back what was there."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _as_main(script: Script) -> Iterator[None]:
    main = types.ModuleType("__main__")
    vars(main).update(__builtins__=builtins, __doc__=None)
    before = sys.modules["__main__"]
    path = list(sys.path)
    if not getattr(sys.flags, "safe_path", False):  # from Python 3.11 on
        path[:1] = [_first_on_path(script)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(sys, "argv", ["-m" if script.module else script.target, *script.args]))
        stack.enter_context(replaced(sys, "path", path))
        for name in ("exit", "stdin", "stdout", "stderr", "excepthook"):
            stack.enter_context(replaced(sys, name, getattr(sys, name)))
        sys.modules["__main__"] = main
        try:
            yield
        finally:
            sys.modules["__main__"] = before


def _first_on_path(script: Script) -> str:
    if script.module:
        return str(Path.cwd())
    return os.path.realpath(script.target if _holds_main(script) else Path(script.target).resolve().parent)


def _holds_main(script: Script) -> bool:
    """Whether it is a folder or an archive, which ``python`` looks into for a ``__main__.py``."""
    return Path(script.target).is_dir() or zipfile.is_zipfile(script.target)


def _ending(script: Script) -> Ending:
    before = set(threading.enumerate())
    try:
        _start(script)
        for thread in set(threading.enumerate()) - before:
            if not thread.daemon:
                thread.join()
        return Ending(0, "ended")
    except Stopped:
        return Ending(0, "was stopped", stopped=True)
    except SystemExit as error:
        code = _code(error)
        return Ending(code, f"ended with exit code {code}" if code else "ended")
    except KeyboardInterrupt as error:
        _show(error)
        return Ending(INTERRUPTED, "was interrupted")
    except BaseException as error:
        _show(error)
        return Ending(1, f"failed ({type(error).__name__})")


def _start(script: Script) -> None:
    if script.module or _holds_main(script):
        # what `python -m` itself calls: its messages, its frames in a traceback
        run = cast(Any, runpy)._run_module_as_main
        run(script.target if script.module else "__main__", script.module)
        return
    file = str(Path.cwd() / script.target)
    with io.open_code(file) as opened:
        code = compile(opened.read(), file, "exec", dont_inherit=True)
    space = vars(sys.modules["__main__"])
    space.update(__file__=file, __loader__=SourceFileLoader("__main__", file), __cached__=None)
    exec(code, space)


def _code(error: SystemExit) -> int:
    """The exit code, as the interpreter finds it; anything but a number is a message."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _show(error: BaseException) -> None:
    """Hand an uncaught error to ``sys.excepthook``, as the interpreter would, without our frames in it."""
    for told in _chain(error):
        told.__traceback__ = _without_ours(told.__traceback__)
    sys.excepthook(type(error), error, error.__traceback__)


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    ahead: list[BaseException | None] = [error]
    while ahead:
        told = ahead.pop()
        if told is not None and all(told is not other for other in found):
            found.append(told)
            ahead += [told.__cause__, told.__context__]
    return found


def _without_ours(trace: types.TracebackType | None) -> types.TracebackType | None:
    steps = []
    while trace is not None:
        steps.append(trace)
        trace = trace.tb_next
    kept: types.TracebackType | None = None
    for step in reversed(steps):
        if not step.tb_frame.f_code.co_filename.startswith(_OURS):
            kept = types.TracebackType(kept, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return kept
