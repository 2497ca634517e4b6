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

INTERRUPTED = 130  # the exit code of a shell's command after Ctrl-C
_PACKAGE = str(Path(__file__).parents[1]) + os.sep


class Stopped(SystemExit):
    """Ends a script whose gradients are recorded.

    A kind of ``SystemExit``, because threads, asyncio and the trainers let that pass without a message.
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
        words: The same in words: what follows "the script".
        stopped: Whether `Stopped` ended it.
    """

    code: int
    words: str
    stopped: bool = False


def execute(script: Script) -> Ending:
    """Run a script to its end, with its own ``__main__``, arguments and import path.

    If it fails, its own traceback is printed. What it replaces of ``sys.argv``, ``sys.path``, the streams,
    ``sys.exit`` and ``sys.excepthook`` is put back. Threads that the interpreter would wait for are waited for.

    Raises:
        SystemExit: In a process that the script has forked, so that this process ends here.

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
    """Whether it is a folder or an archive, in which ``python`` looks for a ``__main__.py``."""
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
        code = _exit_code(error)
        return Ending(code, f"ended with exit code {code}" if code else "ended")
    except KeyboardInterrupt as error:
        _print_traceback(error)
        return Ending(INTERRUPTED, "was interrupted")
    except BaseException as error:
        _print_traceback(error)
        return Ending(1, f"failed ({type(error).__name__})")


def _start(script: Script) -> None:
    if script.module or _holds_main(script):
        # the function that `python -m` itself calls, for the same messages and the same frames in a traceback
        run = cast(Any, runpy)._run_module_as_main
        run(script.target if script.module else "__main__", script.module)
        return
    file = str(Path.cwd() / script.target)
    with io.open_code(file) as stream:
        code = compile(stream.read(), file, "exec", dont_inherit=True)
    namespace = vars(sys.modules["__main__"])
    namespace.update(__file__=file, __loader__=SourceFileLoader("__main__", file), __cached__=None)
    exec(code, namespace)


def _exit_code(error: SystemExit) -> int:
    """The exit code that the interpreter takes; anything but a number is a message, which is printed."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def is_gradprobe_file(file: str) -> bool:
    """Whether a file is one of gradprobe's own.

    Example:
        >>> is_gradprobe_file(__file__), is_gradprobe_file("train.py")
        (True, False)
    """
    return file.startswith(_PACKAGE)


def _print_traceback(error: BaseException) -> None:
    """Hand an uncaught error to ``sys.excepthook``, as the interpreter would, without gradprobe's frames in it."""
    for link in _chain(error):
        link.__traceback__ = _without_gradprobe(link.__traceback__)
    sys.excepthook(type(error), error, error.__traceback__)


def _chain(error: BaseException) -> list[BaseException]:
    """The error, its causes, and the errors that were being handled."""
    chain: list[BaseException] = []
    ahead: list[BaseException | None] = [error]
    while ahead:
        link = ahead.pop()
        if link is not None and all(link is not other for other in chain):
            chain.append(link)
            ahead += [link.__cause__, link.__context__]
    return chain


def _without_gradprobe(trace: types.TracebackType | None) -> types.TracebackType | None:
    steps = []
    while trace is not None:
        steps.append(trace)
        trace = trace.tb_next
    remaining: types.TracebackType | None = None
    for step in reversed(steps):
        if not is_gradprobe_file(step.tb_frame.f_code.co_filename):
            remaining = types.TracebackType(remaining, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return remaining
